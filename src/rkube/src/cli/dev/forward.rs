//! The ports of this machine that lead into the cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Api, Client};
use rkube_cluster::{Forward, Home, Profile};
use rkube_dev::pods::{Workload, origins};
use rkube_dev::ports::{self, Forwarded, Kind as Target};
use rkube_failure::{Failure, Kind, Source};
use serde_json::json;
use tokio::task::JoinHandle;

use super::live::Live;
use super::show::Show;

/// A port that is forwarded.
struct Open {
    local: SocketAddr,
    target: SocketAddr,
    task: JoinHandle<()>,
}

/// The ports of a session.
pub struct Forwards {
    home: Home,
    profile: Profile,
    client: Client,
    live: Arc<Live>,
    show: Arc<Show>,
    open: BTreeMap<Forwarded, Open>,
    /// What was told about ports that cannot be forwarded.
    told: BTreeMap<Forwarded, String>,
}

impl Forwards {
    pub fn new(
        home: &Home,
        profile: &Profile,
        client: Client,
        live: Arc<Live>,
        show: Arc<Show>,
    ) -> Self {
        Self {
            home: home.clone(),
            profile: profile.clone(),
            client,
            live,
            show,
            open: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    /// Learns of nodes that were added or removed.
    pub fn set_profile(&mut self, profile: &Profile) {
        self.profile = profile.clone();
    }

    /// Returns the ports of services.
    pub async fn of_services(&self, services: &[(String, String)]) -> Vec<Forwarded> {
        let mut found = Vec::new();
        for (namespace, name) in services {
            let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
            // A service that cannot be read is looked at again after the next change.
            if let Ok(Some(service)) = api.get_opt(name).await {
                found.extend(ports::all_of(&service));
            }
        }
        found
    }

    /// Forwards these ports and no others. Targets that have moved are followed. Troubles are told
    /// once.
    pub async fn set(&mut self, wanted: Vec<Forwarded>, namespace: &str) {
        let gone = self.open.extract_if(.., |port, _| !wanted.contains(port));
        gone.for_each(|(_, open)| open.task.abort());
        for port in wanted {
            match self.one(&port, namespace).await {
                Ok(()) => {
                    self.told.remove(&port);
                }
                Err(failure) => {
                    let told = self.told.insert(port, failure.message.clone());
                    if told.as_deref() != Some(&failure.message) {
                        self.show.warn(&failure.message);
                    }
                }
            }
        }
    }

    async fn one(&mut self, port: &Forwarded, namespace: &str) -> Result<(), Failure> {
        let namespace = port.namespace.as_deref().unwrap_or(namespace);
        let target = self.target(port, namespace).await?;
        let mut local = None;
        if let Some(open) = self.open.remove(port) {
            if open.target == target && !open.task.is_finished() {
                self.open.insert(port.clone(), open);
                return Ok(());
            }
            local = Some(open.local.port());
            open.task.abort();
            // The listener is closed when the task has ended, with or without an error.
            let _ = open.task.await;
        }
        let choices = match (local.or(port.local), target.port()) {
            (Some(local), _) => vec![local],
            (None, remote) => ports::candidates(remote).to_vec(),
        };
        let forward = bind(&choices, target)?;
        let local = forward.address();
        let show = self.show.clone();
        let trouble = move |text: String| show.warn(&text);
        let run = forward.run(self.home.clone(), self.profile.clone(), trouble);
        let task = tokio::spawn(run);
        let (kind, name) = (port.kind.name(), &port.name);
        self.show.event(
            "forwarding",
            &format!(
                "{local} leads to {kind} {namespace}/{name}, port {}",
                port.remote
            ),
            json!({
                "address": local.to_string(), "kind": kind, "namespace": namespace,
                "name": name, "port": port.remote,
            }),
        );
        self.open.insert(
            port.clone(),
            Open {
                local,
                target,
                task,
            },
        );
        Ok(())
    }

    /// Returns the address that a port leads to: that of the service, or of one of the pods.
    async fn target(&self, port: &Forwarded, namespace: &str) -> Result<SocketAddr, Failure> {
        let (kind, name) = (port.kind.name(), &port.name);
        let failed = |why: String| {
            let message = format!("cannot forward a port of {kind} {namespace}/{name}: {why}");
            Failure::new(Source::Service, Kind::Unavailable, message)
        };
        if port.kind == Target::Service {
            let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
            let service = api.get_opt(name).await.map_err(|e| failed(e.to_string()))?;
            let service = service.ok_or_else(|| failed("it does not exist".to_owned()))?;
            return self.of_service(&service, port).map_err(failed);
        }
        let number = port.remote.parse();
        let number: u16 = number.map_err(|_| failed("the port must be a number".to_owned()))?;
        let workload = Workload {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.clone(),
        };
        let own = |pod: &Pod| {
            let by_name = port.kind == Target::Pod && pod.metadata.name.as_ref() == Some(name);
            let here = pod.metadata.namespace.as_deref() == Some(namespace);
            here && (by_name || origins(pod).contains(&workload))
        };
        let found = self.live.address(own);
        let (address, _) = found.ok_or_else(|| failed("it has no pod yet".to_owned()))?;
        Ok(SocketAddr::new(address, number))
    }

    fn of_service(&self, service: &Service, port: &Forwarded) -> Result<SocketAddr, String> {
        let Some(number) = ports::of_service(service, &port.remote) else {
            return Err(format!("it has no port {}", port.remote));
        };
        let spec = service.spec.as_ref();
        let address = spec.and_then(|spec| spec.cluster_ip.as_deref()?.parse::<IpAddr>().ok());
        if let Some(address) = address {
            return Ok(SocketAddr::new(address, number));
        }
        // Headless: its pods have the addresses.
        let selector = spec
            .and_then(|spec| spec.selector.clone())
            .unwrap_or_default();
        if selector.is_empty() {
            return Err("it has neither an address nor a selector".to_owned());
        }
        let ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let mut targets = ports.filter(|p| p.port == i32::from(number));
        let target = targets.find_map(|p| p.target_port.clone());
        let selected = |pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            let has = |(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value);
            pod.metadata.namespace == service.metadata.namespace && selector.iter().all(has)
        };
        let (address, pod) = self.live.address(selected).ok_or("it has no pod yet")?;
        let number = match target {
            None => number,
            Some(IntOrString::Int(target)) => {
                u16::try_from(target).map_err(|_| format!("{target} is not a port"))?
            }
            Some(IntOrString::String(name)) => ports::of_pod(&pod, &name)
                .ok_or_else(|| format!("its pod has no port named {name}"))?,
        };
        Ok(SocketAddr::new(address, number))
    }

    /// Ends all.
    pub fn stop(&mut self) {
        for (_, open) in std::mem::take(&mut self.open) {
            open.task.abort();
        }
    }
}

/// Listens at the first port that is free.
fn bind(choices: &[u16], target: SocketAddr) -> Result<Forward, Failure> {
    let mut last = None;
    for port in choices {
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
        match Forward::bind(local, target) {
            Ok(forward) => return Ok(forward),
            Err(failure) => last = Some(failure),
        }
    }
    Err(last.unwrap_or_else(|| {
        Failure::new(
            Source::LocalNetwork,
            Kind::Usage,
            "there is no port to listen at",
        )
    }))
}
