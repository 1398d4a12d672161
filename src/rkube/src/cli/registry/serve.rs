//! The process that serves the registry.
//!
//! It listens on the loopback of the host and, for each cluster, at the gateway of the nodes' network,
//! where it serves the nodes and pods of that cluster only. A port of the loopback that is declared for
//! a cluster's nodes leads them to the loopback instead, so they are served there, too. It ends when its
//! settings are taken away.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::Ipv4Net;
use rkube_cluster::{Home, Lock, Profile, RegistrySettings, io_failure, registry_dir};
use rkube_failure::Failure;
use rkube_registry::{Admitted, Auth, Options, Registry, Scheme, Tls};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::super::detach;

/// The period of the checks of settings and clusters.
const CHECK_PERIOD: Duration = Duration::from_millis(250);
/// The times that the lock is tried, and the period.
const LOCK_ATTEMPTS: u32 = 10;
const LOCK_PERIOD: Duration = Duration::from_millis(20);
/// The period of the collection of garbage.
const COLLECT_PERIOD: Duration = Duration::from_secs(3600);
/// The age of what nobody refers to when it is removed. Uploads may pause for that long.
const GRACE: Duration = Duration::from_secs(24 * 3600);

/// Serves the registry until its settings are removed.
pub async fn run(home: &Home) -> Result<(), Failure> {
    detach::leave_terminal();
    let settings = RegistrySettings::load(home)?.ok_or_else(rkube_cluster::no_registry)?;
    let Some(_lock) = lock(home).await? else {
        return Ok(());
    };
    #[cfg(target_os = "linux")]
    raise_file_limit();
    let ready = registry_dir(home).join("serving");
    // Of a process that was killed.
    drop(std::fs::remove_file(&ready));
    let storage = registry_dir(home).join("storage");
    let registry = Registry::open(&storage, options(home, &settings)?)
        .map_err(|e| io_failure("open", &storage, &e))?;
    let mut server = Server {
        home: home.clone(),
        settings,
        registry,
        tasks: JoinSet::new(),
        clusters: BTreeMap::new(),
        guests: watch::Sender::default(),
    };
    server.listen_on_loopback().await?;
    std::fs::write(&ready, std::process::id().to_string())
        .map_err(|e| io_failure("write", &ready, &e))?;
    server.follow().await;
    // Removed with the directory, too, if the registry is deleted.
    drop(std::fs::remove_file(&ready));
    Ok(())
}

/// Takes the lock of the process; `None` if another one has it. Commands have it for a moment when they
/// look who has it.
async fn lock(home: &Home) -> Result<Option<Lock>, Failure> {
    for _ in 0..LOCK_ATTEMPTS {
        if let Some(lock) = rkube_cluster::registry_lock(home)? {
            return Ok(Some(lock));
        }
        tokio::time::sleep(LOCK_PERIOD).await;
    }
    Ok(None)
}

/// Each connection and open upload needs a file.
#[cfg(target_os = "linux")]
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
}

fn options(home: &Home, settings: &RegistrySettings) -> Result<Options, Failure> {
    let mut options = Options {
        control: Some(settings.control.clone()),
        ..Options::default()
    };
    if let Some(max) = settings.max_blob {
        options.max_blob = max;
    }
    if let Some(scheme) = &settings.auth {
        let path = registry_dir(home).join("htpasswd");
        let text = std::fs::read_to_string(&path).map_err(|e| io_failure("read", &path, &e))?;
        let scheme = match scheme.as_str() {
            "token" => Scheme::Token,
            _ => Scheme::Basic,
        };
        let auth = Auth::parse(&text, scheme)
            .map_err(|e| io_failure("use", &path, &std::io::Error::other(e)))?;
        options.auth = Some(auth);
    }
    Ok(options)
}

struct Server {
    home: Home,
    settings: RegistrySettings,
    registry: Arc<Registry>,
    tasks: JoinSet<()>,
    /// What is served to each cluster.
    clusters: BTreeMap<String, Served>,
    /// Whom the loopback's listeners admit besides this machine.
    guests: watch::Sender<Vec<Guests>>,
}

/// What is known of a cluster, and its listener.
#[derive(Default)]
struct Served {
    /// When the profile and the certificate were written, and whether the cluster knows the registry.
    seen: Option<(Option<SystemTime>, Option<SystemTime>, bool)>,
    /// `None` if the cluster reaches the loopback, or is not to reach the registry.
    network: Option<Network>,
    guests: Option<Guests>,
    /// Whether the log has that it cannot be listened.
    warned: bool,
    /// `None` while the host does not have the address.
    task: Option<AbortHandle>,
}

/// What a listener depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Network {
    address: Ipv4Addr,
    nodes: Ipv4Net,
    pods: Ipv4Net,
    certificate: Option<SystemTime>,
    names: Vec<String>,
}

/// The nodes and pods of a cluster.
#[derive(Clone)]
struct Guests {
    nodes: Ipv4Net,
    pods: Ipv4Net,
    admitted: Admitted,
}

impl Guests {
    fn admit(&self, ip: IpAddr) -> Option<Admitted> {
        let IpAddr::V4(ip) = ip else {
            return None;
        };
        let admits = self.nodes.contains(&ip) || self.pods.contains(&ip);
        admits.then(|| self.admitted.clone())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Server {
    async fn listen_on_loopback(&mut self) -> Result<(), Failure> {
        let port = self.settings.port;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |e: std::io::Error| io_failure("listen at", address.to_string().as_ref(), &e);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let guests = self.guests.subscribe();
        let admits = move |ip: IpAddr| match ip.is_loopback() {
            true => Some(Admitted::default()),
            false => guests.borrow().iter().find_map(|guests| guests.admit(ip)),
        };
        let serve = self.registry.clone().serve(listener, admits);
        self.tasks.spawn(serve);
        // `localhost` means this one first on some systems. Clients would reach another program there.
        match TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
            Ok(listener) => {
                let admits = |ip: IpAddr| ip.is_loopback().then(Admitted::default);
                let serve = self.registry.clone().serve(listener, admits);
                self.tasks.spawn(serve);
            }
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
                let address = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
                return Err(io_failure("listen at", address.to_string().as_ref(), &e));
            }
            Err(e) => tracing::debug!("there is no IPv6: {e}"),
        }
        Ok(())
    }

    /// Follows the clusters, and collects garbage, until the settings are removed.
    async fn follow(&mut self) {
        let mut clock = tokio::time::interval(CHECK_PERIOD);
        let mut collect = tokio::time::interval(COLLECT_PERIOD);
        loop {
            tokio::select! {
                _ = clock.tick() => {
                    match RegistrySettings::load(&self.home) {
                        Ok(Some(settings)) if settings == self.settings => {}
                        Ok(_) => return,
                        // Too many open files, for example. Only a file that is gone is an order.
                        Err(failure) => tracing::debug!("{}", failure.message),
                    }
                    while self.tasks.try_join_next().is_some() {}
                    self.listen_for_clusters().await;
                }
                _ = collect.tick() => {
                    let registry = self.registry.clone();
                    self.tasks.spawn(async move {
                        if let Err(e) = registry.collect(GRACE, false).await {
                            tracing::warn!("cannot collect garbage: {e}");
                        }
                    });
                }
            }
        }
    }

    async fn listen_for_clusters(&mut self) {
        // A directory that cannot be read now may be readable later.
        let Ok(names) = self.home.profile_names() else {
            return;
        };
        self.clusters.retain(|name, _| names.contains(name));
        for name in names {
            let mut served = self.clusters.remove(&name).unwrap_or_default();
            self.update(&name, &mut served);
            if served.task.is_none()
                && let Some(network) = &served.network
            {
                match self
                    .listen_for(network.address, served.guests.clone())
                    .await
                {
                    Ok(task) => {
                        served.task = Some(task);
                        served.warned = false;
                    }
                    // While the cluster is stopped.
                    Err(e) if e.kind() == std::io::ErrorKind::AddrNotAvailable => {}
                    Err(e) if served.warned => tracing::debug!("cannot listen for {name}: {e}"),
                    Err(e) => {
                        served.warned = true;
                        tracing::warn!("cannot listen for the cluster {name}: {e}");
                    }
                }
            }
            self.clusters.insert(name, served);
        }
        let guests = self.clusters.values().filter_map(|s| s.guests.clone());
        self.guests.send_replace(guests.collect());
    }

    /// Reads the profile of a cluster if it has changed.
    fn update(&self, name: &str, served: &mut Served) {
        let written = |path: &Path| path.metadata().and_then(|found| found.modified()).ok();
        let (certificate, _) = rkube_cluster::registry_certificate(&self.home, name);
        let certificate = written(&certificate);
        let profile = self.home.profile_dir(name).join("profile.yaml");
        let known = rkube_cluster::registry_is_known(&self.home, name);
        let seen = Some((written(&profile), certificate, known));
        if served.seen == seen {
            return;
        }
        // It is being created or deleted, or is damaged, which its commands report.
        let Ok(profile) = Profile::load(&self.home, name) else {
            return;
        };
        let address = rkube_cluster::registry_listens(&profile).filter(|_| known);
        let network = address.map(|address| Network {
            address,
            nodes: profile.node_cidr,
            pods: profile.pod_cidr,
            certificate,
            names: rkube_cluster::registry_names(&profile),
        });
        if served.network != network {
            if let Some(task) = served.task.take() {
                task.abort();
            }
            served.guests = network.as_ref().map(|network| Guests {
                nodes: network.nodes,
                pods: network.pods,
                admitted: Admitted {
                    tls: self.certificate(name),
                    names: network.names.clone().into(),
                },
            });
        }
        served.network = network;
        served.seen = seen;
    }

    /// Listens at the gateway of a cluster, which the host has as its address while the cluster runs.
    async fn listen_for(
        &mut self,
        address: Ipv4Addr,
        guests: Option<Guests>,
    ) -> std::io::Result<AbortHandle> {
        let listener = TcpListener::bind((address, self.settings.port)).await?;
        let admits = move |ip: IpAddr| guests.as_ref()?.admit(ip);
        let serve = self.registry.clone().serve(listener, admits);
        Ok(self.tasks.spawn(serve))
    }

    /// Returns the certificate for a cluster, if it has one yet.
    fn certificate(&self, profile: &str) -> Option<Tls> {
        let (certificate, key) = rkube_cluster::registry_certificate(&self.home, profile);
        let read = || Tls::from_pem(&std::fs::read(certificate)?, &std::fs::read(key)?);
        match read() {
            Ok(tls) => Some(tls),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => {
                tracing::warn!("no TLS for the cluster {profile}: {e}");
                None
            }
        }
    }
}
