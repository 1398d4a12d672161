//! Load-balancer addresses on the host's loopback, with connections forwarded over SSH.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use rkube_failure::{Failure, Kind, Source};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::files::Home;
use crate::forward::Forward;
use crate::profile::Profile;

/// The listeners of services, and their errors.
pub(super) struct Carrier {
    home: Home,
    profile: Profile,
    tasks: BTreeMap<String, Vec<AbortHandle>>,
    tell: mpsc::UnboundedSender<String>,
    told: mpsc::UnboundedReceiver<String>,
}

impl Carrier {
    /// Creates a carrier without listeners.
    pub fn new(home: &Home, profile: &Profile) -> Self {
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            home: home.clone(),
            profile: profile.clone(),
            tasks: BTreeMap::new(),
            tell,
            told,
        }
    }

    /// Returns the range of addresses. If all of 127.0.0.0/8 belongs to the loopback (Linux,
    /// Windows), each profile has a range, and each service an address. Otherwise all services
    /// share 127.0.0.1.
    pub fn range(&self) -> Ipv4Net {
        if !cfg!(any(target_os = "linux", windows)) {
            return Ipv4Net::from(Ipv4Addr::LOCALHOST);
        }
        let [_, _, third, _] = self.profile.node_cidr.network().octets();
        Ipv4Net::new(Ipv4Addr::new(127, 66, third, 0), 24)
            .unwrap_or_else(|_| Ipv4Net::from(Ipv4Addr::LOCALHOST))
    }

    /// Listens on the service's ports.
    pub fn add(&mut self, key: &str, service: &Service, address: Ipv4Addr) -> Result<(), Failure> {
        let cluster_ip: IpAddr = service
            .spec
            .as_ref()
            .and_then(|s| s.cluster_ip.as_deref())
            .and_then(|ip| ip.parse().ok())
            .ok_or_else(|| {
                Failure::new(Source::Service, Kind::Config, "the service has no address")
            })?;
        let ports = service.spec.iter().flat_map(|s| s.ports.iter().flatten());
        let mut forwards = Vec::new();
        for port in ports {
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            if port.protocol.as_deref().is_some_and(|p| p != "TCP") {
                let _ = self.tell.send(format!(
                    "port {number} of {address} is not carried: SSH carries TCP only"
                ));
                continue;
            }
            forwards.push(Forward::bind(
                SocketAddr::from((address, number)),
                SocketAddr::from((cluster_ip, number)),
            )?);
        }
        let tasks = self.tasks.entry(key.to_owned()).or_default();
        for forward in forwards {
            let tell = self.tell.clone();
            let run = forward.run(self.home.clone(), self.profile.clone(), move |what| {
                // The receiver is dropped when the tunnel ends.
                let _ = tell.send(what);
            });
            tasks.push(tokio::spawn(run).abort_handle());
        }
        Ok(())
    }

    /// Closes the service's listeners.
    pub fn remove(&mut self, key: &str) {
        for task in self.tasks.remove(key).unwrap_or_default() {
            task.abort();
        }
    }

    /// Waits for the next error.
    pub async fn trouble(&mut self) -> String {
        match self.told.recv().await {
            Some(what) => what,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        for task in self.tasks.values().flatten() {
            task.abort();
        }
    }
}
