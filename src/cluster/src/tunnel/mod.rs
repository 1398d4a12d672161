//! Addresses for services of type LoadBalancer, reachable from the host.
//!
//! Every such service gets an address from the upper half of the nodes' range and keeps
//! it: assignments are stored in the profile. The host routes the address to the
//! control-plane node, whose service proxy forwards to the pods. If the host has no
//! route to the nodes, services get loopback addresses, and connections are forwarded
//! over SSH.

mod carry;
#[cfg(not(target_os = "linux"))]
mod no_routes;
mod outage;
#[cfg(target_os = "linux")]
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::TryLockError;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};
use rkube_failure::{Failure, Kind, Source, command};

#[cfg(not(target_os = "linux"))]
use no_routes as routes;

use crate::access;
use crate::files::{Home, Lock, io_failure, write_private};
use crate::profile::Profile;
use crate::sudo::act_for_owner_of;
use outage::Outage;

/// The interval between checks whether the routes are still there. A restart of the nodes removes
/// them, and the removal of the profile ends the tunnel.
const CHECK_PERIOD: Duration = Duration::from_secs(1);

/// Field manager of the status that the tunnel writes.
const MANAGER: &str = "rkube-tunnel";

/// A change of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The service can be reached at the address.
    Up {
        /// `namespace/name`.
        service: String,
        /// Its address.
        address: Ipv4Addr,
        /// Its ports.
        ports: Vec<u16>,
    },
    /// The service was deleted, or no longer needs an address.
    Down {
        /// `namespace/name`.
        service: String,
    },
    /// An operation that failed and is retried.
    Trouble(String),
    /// The cluster was deleted, which ends the tunnel.
    Deleted,
}

/// Whether a tunnel for the profile is running.
pub fn is_open(home: &Home, profile: &Profile) -> bool {
    let Ok(file) = std::fs::File::options()
        .write(true)
        .open(lock_of(&profile.plan(home).dir))
    else {
        return false;
    };
    Lock::take(file).is_err()
}

/// Returns the path of the file that a running tunnel holds locked.
fn lock_of(dir: &std::path::Path) -> std::path::PathBuf {
    dir.join("tunnel.lock")
}

/// Prepares a tunnel, and removes the routes of one that was killed. Also returns the lock that marks
/// it as running.
async fn open(home: &Home, profile: &Profile) -> Result<(Tunnel, Lock), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let plan = profile.plan(home);
    if !driver.is_up(&plan).await {
        return Err(Failure::new(
            Source::Guest,
            Kind::NotRunning,
            format!("the cluster '{}' is not running", profile.name),
        )
        .advise(format!(
            "start it with: {}",
            command("start", &profile.name)
        )));
    }
    let path = lock_of(&plan.dir);
    let owner = act_for_owner_of(&path);
    let file = std::fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| io_failure("open", &path, &e))?;
    drop(owner);
    let lock = Lock::take(file).map_err(|e| match e {
        TryLockError::WouldBlock => Failure::new(
            Source::Program,
            Kind::Conflict,
            format!("a tunnel for '{}' is already running", profile.name),
        ),
        TryLockError::Error(e) => io_failure("lock", &path, &e),
    })?;
    let route = if driver.endpoints(&plan).routable {
        RouteKind::Route(routes::Routes {
            via: profile.control_plane().ip,
        })
    } else {
        RouteKind::Ssh(Box::new(carry::Carrier::new(home, profile)))
    };
    let tunnel = Tunnel {
        client: access::client(home, profile).await?,
        assignments: AddressAssignments::load(home, profile, route.range(profile))?,
        route,
        up: BTreeMap::new(),
    };
    tunnel.route.begin(profile)?;
    Ok((tunnel, lock))
}

/// Runs the tunnel until `stop` resolves, then removes all addresses and routes. Also ends when the
/// cluster is deleted. Survives restarts of the nodes.
pub async fn run(
    home: &Home,
    profile: &Profile,
    stop: impl Future<Output = ()>,
    mut report: impl FnMut(Change),
) -> Result<(), Failure> {
    let (mut tunnel, _lock) = open(home, profile).await?;

    tokio::pin!(stop);
    let mut events = tunnel.services();
    let mut seen = BTreeSet::new();
    let mut outage = Outage::default();
    let mut check = tokio::time::interval(CHECK_PERIOD);
    loop {
        let event = tokio::select! {
            () = &mut stop => break,
            what = tunnel.route.trouble() => {
                report(Change::Trouble(what));
                continue;
            }
            _ = check.tick() => {
                // The same name may be another cluster by now. A profile that cannot be read
                // is looked at again at the next check.
                let same = Profile::try_load(home, &profile.name).map_or(true, |now| {
                    now.is_some_and(|now| now.created == profile.created)
                });
                if !same {
                    tunnel.forget(&mut report);
                    return Ok(());
                }
                if tunnel.mend() {
                    // The nodes were restarted, perhaps without closing the watch's connection.
                    events = tunnel.services();
                }
                continue;
            }
            event = outage.over(events.next()) => event,
        };
        match event {
            None => break,
            Some(Err(e)) => {
                if let Some(what) = outage.begin(&e, &profile.name) {
                    report(Change::Trouble(what));
                }
            }
            Some(Ok(watcher::Event::Init)) => seen.clear(),
            Some(Ok(watcher::Event::InitApply(service))) => {
                seen.insert(key(&service));
                tunnel.apply(&service, &mut report).await;
            }
            Some(Ok(watcher::Event::InitDone)) => {
                outage = Outage::default();
                let gone: Vec<String> = tunnel
                    .up
                    .keys()
                    .filter(|k| !seen.contains(*k))
                    .cloned()
                    .collect();
                for service in gone {
                    tunnel.take_down(&service, &mut report);
                }
            }
            Some(Ok(watcher::Event::Apply(service))) => tunnel.apply(&service, &mut report).await,
            Some(Ok(watcher::Event::Delete(service))) => {
                let key = key(&service);
                tunnel.take_down(&key, &mut report);
                tunnel.assignments.forget(&key)?;
            }
        }
    }
    tunnel.withdraw(&mut report).await;
    Ok(())
}

fn key(service: &Service) -> String {
    format!(
        "{}/{}",
        service.namespace().unwrap_or_default(),
        service.name_any()
    )
}

/// Whether the tunnel assigns an address to the service. Services with a load balancer class are
/// left to the implementation of that class.
fn wants_address(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| {
        s.type_.as_deref() == Some("LoadBalancer") && s.load_balancer_class.is_none()
    }) && service.metadata.deletion_timestamp.is_none()
}

/// How packets for a load balancer's address reach the cluster.
enum RouteKind {
    /// The host routes them to a node.
    Route(routes::Routes),
    /// The host listens on loopback addresses and forwards connections over SSH.
    Ssh(Box<carry::Carrier>),
}

impl RouteKind {
    /// Returns the range of addresses to assign.
    fn range(&self, profile: &Profile) -> Ipv4Net {
        match self {
            Self::Route(_) => profile.load_balancer_range(),
            Self::Ssh(carrier) => carrier.range(),
        }
    }

    /// Removes the routes of a tunnel that was killed.
    fn begin(&self, profile: &Profile) -> Result<(), Failure> {
        match self {
            Self::Route(routes) => routes.clear(profile.load_balancer_range()),
            // Listeners are closed with their process.
            Self::Ssh(_) => Ok(()),
        }
    }

    fn up(&mut self, key: &str, service: &Service, address: Ipv4Addr) -> Result<(), Failure> {
        match self {
            Self::Route(routes) => routes.add(address),
            Self::Ssh(carrier) => carrier.add(key, service, address),
        }
    }

    fn down(&mut self, key: &str, address: Ipv4Addr) -> Result<(), Failure> {
        match self {
            Self::Route(routes) => routes.remove(address),
            Self::Ssh(carrier) => {
                carrier.remove(key);
                Ok(())
            }
        }
    }

    /// Returns the `ipMode` of the address: whether nodes may bypass the load balancer for it.
    fn ip_mode(&self) -> &'static str {
        match self {
            Self::Route(_) => "VIP",
            // On every node, a loopback address refers to the node itself.
            Self::Ssh(_) => "Proxy",
        }
    }

    /// Restores the routes to `addresses` if some of them are missing. Returns whether they were
    /// restored, which fails while the nodes are stopped.
    fn mend(&self, addresses: &[Ipv4Addr]) -> bool {
        let Self::Route(routes) = self else {
            // Forwards connect to the node again on their own.
            return false;
        };
        // If the routes cannot be read, they are read at the next check.
        !routes.has_all(addresses).unwrap_or(true)
            && addresses.iter().all(|address| routes.add(*address).is_ok())
    }

    async fn trouble(&mut self) -> String {
        match self {
            Self::Route(_) => std::future::pending().await,
            Self::Ssh(carrier) => carrier.trouble().await,
        }
    }
}

struct Tunnel {
    client: Client,
    route: RouteKind,
    assignments: AddressAssignments,
    up: BTreeMap<String, (Ipv4Addr, Vec<u16>)>,
}

impl Tunnel {
    /// Watches the services from now on.
    fn services(&self) -> BoxStream<'static, watcher::Result<watcher::Event<Service>>> {
        let services: Api<Service> = Api::all(self.client.clone());
        watcher(services, watcher::Config::default()).boxed()
    }

    /// Restores missing routes. Returns whether there were any.
    fn mend(&self) -> bool {
        let addresses: Vec<Ipv4Addr> = self.up.values().map(|(address, _)| *address).collect();
        self.route.mend(&addresses)
    }

    /// Removes all addresses from the host, after the cluster was deleted.
    fn forget(&mut self, report: &mut impl FnMut(Change)) {
        for (key, (address, _)) in std::mem::take(&mut self.up) {
            // The route went with the nodes' network, if not, it leads nowhere.
            let _ = self.route.down(&key, address);
        }
        report(Change::Deleted);
    }

    async fn apply(&mut self, service: &Service, report: &mut impl FnMut(Change)) {
        let key = key(service);
        if !wants_address(service) {
            let was_ours = self.up.contains_key(&key);
            self.take_down(&key, report);
            if was_ours && let Err(e) = self.set_status(service, None).await {
                report(Change::Trouble(format!(
                    "cannot take back the address of {key}: {e}"
                )));
            }
            return;
        }
        let wished = service
            .spec
            .as_ref()
            .and_then(|s| s.load_balancer_ip.as_deref())
            .and_then(|ip| ip.parse().ok());
        let address = match self.assignments.address(&key, wished) {
            Ok(address) => address,
            Err(e) => return report(Change::Trouble(format!("no address for {key}: {e}"))),
        };
        let ports: Vec<u16> = service
            .spec
            .iter()
            .flat_map(|s| s.ports.iter().flatten())
            .filter_map(|p| u16::try_from(p.port).ok())
            .collect();
        let now = (address, ports);
        if self.up.get(&key) != Some(&now) {
            self.take_down(&key, report);
            if let Err(e) = self.route.up(&key, service, address) {
                let advice = e.advice.map(|a| format!(" ({a})")).unwrap_or_default();
                return report(Change::Trouble(format!(
                    "cannot lead {address} to the cluster: {}{advice}",
                    e.message
                )));
            }
            self.up.insert(key.clone(), now.clone());
            report(Change::Up {
                service: key.clone(),
                address,
                ports: now.1,
            });
        }
        if published(service) != [address.to_string()]
            && let Err(e) = self.set_status(service, Some(address)).await
        {
            report(Change::Trouble(format!(
                "cannot publish the address of {key}: {e}"
            )));
        }
    }

    fn take_down(&mut self, key: &str, report: &mut impl FnMut(Change)) {
        let Some((address, _)) = self.up.remove(key) else {
            return;
        };
        match self.route.down(key, address) {
            Ok(()) => report(Change::Down {
                service: key.to_owned(),
            }),
            Err(e) => report(Change::Trouble(format!(
                "cannot take {address} back: {}",
                e.message
            ))),
        }
    }

    async fn set_status(
        &self,
        service: &Service,
        address: Option<Ipv4Addr>,
    ) -> Result<(), kube::Error> {
        let api: Api<Service> = Api::namespaced(
            self.client.clone(),
            &service.namespace().unwrap_or_default(),
        );
        let load_balancer = match address {
            Some(ip) => {
                serde_json::json!({ "ingress": [{ "ip": ip, "ipMode": self.route.ip_mode() }] })
            }
            None => serde_json::json!({ "ingress": null }),
        };
        let patch = serde_json::json!({ "status": { "loadBalancer": load_balancer } });
        let params = PatchParams {
            field_manager: Some(MANAGER.into()),
            ..PatchParams::default()
        };
        match api
            .patch_status(&service.name_any(), &params, &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            // The service was deleted in the meantime; its event follows.
            Err(kube::Error::Api(e)) if e.code == 404 => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes all addresses from the host and from the services' status. Reports errors of the API
    /// server.
    async fn withdraw(&mut self, report: &mut impl FnMut(Change)) {
        for key in self.up.keys().cloned().collect::<Vec<_>>() {
            self.take_down(&key, report);
            let Some((namespace, name)) = key.split_once('/') else {
                continue;
            };
            let service = Service {
                metadata: kube::core::ObjectMeta {
                    namespace: Some(namespace.into()),
                    name: Some(name.into()),
                    ..kube::core::ObjectMeta::default()
                },
                ..Service::default()
            };
            if let Err(e) = self.set_status(&service, None).await {
                report(Change::Trouble(format!(
                    "cannot take back the address of {key}: {e}"
                )));
            }
        }
    }
}

/// Returns the addresses in the service's status.
fn published(service: &Service) -> Vec<String> {
    service
        .status
        .iter()
        .filter_map(|s| s.load_balancer.as_ref())
        .flat_map(|l| l.ingress.iter().flatten())
        .filter_map(|i| i.ip.clone())
        .collect()
}

/// The addresses of services, stored in the profile so that they survive restarts.
struct AddressAssignments {
    path: std::path::PathBuf,
    range: Ipv4Net,
    entries: BTreeMap<String, Ipv4Addr>,
}

impl AddressAssignments {
    fn load(home: &Home, profile: &Profile, range: Ipv4Net) -> Result<Self, Failure> {
        let path = home.profile_dir(&profile.name).join("load-balancers.yaml");
        let mut entries: BTreeMap<String, Ipv4Addr> = match std::fs::read_to_string(&path) {
            Ok(text) => serde_yaml::from_str(&text).map_err(|e| {
                Failure::new(
                    Source::Program,
                    Kind::Config,
                    format!("{} is damaged: {e}", path.display()),
                )
                .advise("remove that file; services may get other addresses then")
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(io_failure("read", &path, &e)),
        };
        // The kind of route may have changed since the last run.
        entries.retain(|_, address| range.contains(&*address));
        Ok(Self {
            path,
            range,
            entries,
        })
    }

    /// Returns the service's address: its previous one, the requested one if it is free and in
    /// range, or the next free one.
    fn address(&mut self, key: &str, wished: Option<Ipv4Addr>) -> Result<Ipv4Addr, String> {
        // A range of one address is shared by all services, which differ by their ports.
        let shared = self.range.prefix_len() == 32;
        let free = |ip: &Ipv4Addr, entries: &BTreeMap<String, Ipv4Addr>| {
            shared || entries.values().all(|taken| taken != ip)
        };
        if let Some(address) = self.entries.get(key)
            && wished.is_none_or(|w| w == *address)
        {
            return Ok(*address);
        }
        let address = match wished {
            Some(ip) if !self.range.contains(&ip) => {
                return Err(format!("{ip} is not in {}", self.range));
            }
            Some(ip) if !free(&ip, &self.entries) => return Err(format!("{ip} is taken")),
            Some(ip) => ip,
            None => self
                .range
                .hosts()
                .find(|ip| free(ip, &self.entries))
                .ok_or_else(|| format!("{} has no address left", self.range))?,
        };
        self.entries.insert(key.to_owned(), address);
        self.save().map_err(|e| e.message)?;
        Ok(address)
    }

    fn forget(&mut self, key: &str) -> Result<(), Failure> {
        if self.entries.remove(key).is_some() {
            self.save()?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), Failure> {
        let text = serde_yaml::to_string(&self.entries)
            .map_err(|e| Failure::new(Source::Program, Kind::Error, e.to_string()))?;
        write_private(&self.path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_wished_for_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book.yaml");
        let mut assignments = AddressAssignments {
            path,
            range: "192.168.58.128/25".parse().unwrap(),
            entries: BTreeMap::new(),
        };
        let first = assignments.address("a/x", None).unwrap();
        assert_eq!(first, Ipv4Addr::new(192, 168, 58, 129));
        assert_eq!(assignments.address("a/x", None).unwrap(), first);
        assert!(assignments.address("a/y", Some(first)).is_err());
        assert!(
            assignments
                .address("a/y", Some(Ipv4Addr::new(10, 0, 0, 1)))
                .is_err()
        );
        let wish = Ipv4Addr::new(192, 168, 58, 200);
        assert_eq!(assignments.address("a/y", Some(wish)).unwrap(), wish);
        assignments.forget("a/x").unwrap();
        assert_eq!(assignments.address("a/z", None).unwrap(), first);
    }

    #[test]
    fn services_share_the_only_address_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut assignments = AddressAssignments {
            path: dir.path().join("book.yaml"),
            range: Ipv4Net::from(Ipv4Addr::LOCALHOST),
            entries: BTreeMap::new(),
        };
        for service in ["a/x", "a/y"] {
            assert_eq!(
                assignments.address(service, None).unwrap(),
                Ipv4Addr::LOCALHOST
            );
        }
    }
}
