//! Starting, stopping and deleting a whole cluster.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use rkube_drivers::{Driver, MachineOptions, PortMapping};
use rkube_failure::{Failure, Kind, Source};

use crate::Progress;
use crate::access;
use crate::choice::{self, empty_plan};
use crate::files::{Home, io_failure, make_private_dir, remove_tree, write_private};
use crate::kubeconfig::Kubeconfig;
use crate::pki::Pki;
use crate::profile::{NewProfile, Node, Profile, check_name};
use crate::publish;
use crate::ready::{Booted, wait_for_api, wait_for_nodes};
use crate::store::StoreOptions;
use crate::sudo::act_for_owner_of;

/// What `rkube start` is asked to do. Options that shape a cluster count only
/// when the profile is new.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The profile's name.
    pub profile: String,
    /// Number of nodes; 1 for a new profile when `None`.
    pub nodes: Option<u32>,
    /// The driver; the best that works here when `None`.
    pub driver: Option<String>,
    /// CPU limit a node, in millicores.
    pub cpu_millis: Option<u64>,
    /// Memory limit a node, in bytes.
    pub memory_bytes: Option<u64>,
    /// Where nodes' addresses come from; a free range when `None`.
    pub node_cidr: Option<Ipv4Net>,
    /// Where pods' addresses come from.
    pub pod_cidr: Ipv4Net,
    /// Where services' addresses come from.
    pub service_cidr: Ipv4Net,
    /// Suffix of service names.
    pub dns_domain: String,
    /// Registries reached over plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Ports of the first node to publish on the host.
    pub ports: Vec<PortMapping>,
    /// The etcd to keep objects in; the embedded store when `None`.
    pub store: Option<StoreOptions>,
    /// What nodes that are virtual machines are made of.
    pub machine: MachineOptions,
    /// The API server's audit policy, a file of this machine; kept for later starts.
    pub audit_policy: Option<PathBuf>,
    /// The kubeconfig to write; `None` leaves it alone.
    pub kubeconfig: Option<Kubeconfig>,
    /// Whether the context becomes the current one.
    pub set_context: bool,
}

/// The audit policy, in the profile's folder and in a control plane's `etc`.
const AUDIT_POLICY: &str = "audit-policy.yaml";

/// The largest cluster that a profile may have.
const MAX_NODES: u32 = 100;

/// A cluster that was started.
#[derive(Debug)]
pub struct Started {
    /// The cluster.
    pub profile: Profile,
    booted: Booted,
}

/// Starts a cluster, making it first if it is new. What a failed first start made
/// is removed again. Does not wait: see [`wait_ready`].
///
/// Not to be dropped half-way: the driver would go on with its step.
pub async fn start(
    home: &Home,
    options: &StartOptions,
    progress: &dyn Progress,
) -> Result<Started, Failure> {
    check_name(&options.profile)?;
    // Before anything is made that would have to be taken back.
    let audit_policy = match &options.audit_policy {
        Some(file) => Some(std::fs::read(file).map_err(|e| io_failure("read", file, &e))?),
        None => None,
    };
    let _lock = home.lock(&options.profile)?;
    let existing = Profile::try_load(home, &options.profile)?;
    let new = existing.is_none();
    let mut profile = match existing {
        Some(profile) => {
            warn_of_ignored(&profile, options, progress);
            profile
        }
        None => plan(home, options).await.inspect_err(|_| {
            home.forget_lock(&options.profile);
            home.tidy();
        })?,
    };
    if !options.insecure_registries.is_empty() {
        let running = rkube_drivers::by_name(&profile.driver)?
            .is_up(&profile.plan(home))
            .await;
        if running && profile.insecure_registries != options.insecure_registries {
            progress
                .warn("--insecure-registry takes effect at the next: rkube stop && rkube start");
        }
        profile
            .insecure_registries
            .clone_from(&options.insecure_registries);
    }
    if let Some(text) = &audit_policy {
        let dir = home.profile_dir(&profile.name);
        make_private_dir(&dir)?;
        write_private(&dir.join(AUDIT_POLICY), text)?;
    }
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let booted = match new {
        true => Booted::nobody(),
        // Where the states cannot be had, the start below says why.
        false => Booted::those_down(driver.as_ref(), home, &profile)
            .await
            .unwrap_or_else(|_| Booted::nobody()),
    };
    let started = start_profile(home, &mut profile, driver.as_ref(), options, progress).await;
    match started {
        Ok(()) => Ok(Started { profile, booted }),
        Err(failure) => {
            if new {
                undo(home, &profile, driver.as_ref()).await;
            }
            Err(failure)
        }
    }
}

fn warn_of_ignored(profile: &Profile, options: &StartOptions, progress: &dyn Progress) {
    let count = profile.nodes.len();
    if let Some(wanted) = options.nodes
        && wanted as usize != count
    {
        progress.warn(&format!(
            "the profile '{}' has {count} nodes already; change their number with: rkube node add | delete",
            profile.name
        ));
    }
    if let Some(store) = &options.store
        && profile.store != Some(store.config(&profile.name))
    {
        progress.warn(&format!(
            "the profile '{}' keeps its objects elsewhere; delete it to change that",
            profile.name
        ));
    }
    if options
        .driver
        .as_ref()
        .is_some_and(|d| *d != profile.driver)
    {
        progress.warn(&format!(
            "the profile '{}' uses the driver {}; delete it to change that",
            profile.name, profile.driver
        ));
    }
}

async fn plan(home: &Home, options: &StartOptions) -> Result<Profile, Failure> {
    if let Some(store) = &options.store {
        store.check()?;
    }
    let nodes = options.nodes.unwrap_or(1);
    if nodes == 0 || nodes > MAX_NODES {
        return Err(Failure::new(
            Source::Program,
            Kind::Usage,
            format!("--nodes is {nodes}, it can be 1 to {MAX_NODES}"),
        ));
    }
    let driver_name = match options.driver.as_deref() {
        Some(name) => name,
        None => choice::first(home, &options.profile, &options.machine).await?,
    };
    let driver = rkube_drivers::by_name(driver_name)?;
    let run_dir = home.run_dir(&options.profile);
    if run_dir.join("control.sock").exists() {
        return Err(Failure::new(
            Source::Program,
            Kind::Conflict,
            format!(
                "a cluster '{}' of another RKUBE_HOME runs on this machine",
                options.profile
            ),
        )
        .advise("choose another name with -p, or delete that cluster under its own RKUBE_HOME"));
    }
    if !options.ports.is_empty() && !driver.publishes() {
        return Err(Failure::new(
            Source::Program,
            Kind::Usage,
            format!("the driver {driver_name} publishes no ports (--ports)"),
        )
        .advise("reach the nodes at their own addresses: rkube ip"));
    }
    let mut taken: Vec<Ipv4Net> = Vec::new();
    for name in home.profile_names()? {
        // A damaged profile keeps its addresses to itself, which is what delete is for.
        if let Ok(Some(other)) = Profile::try_load(home, &name) {
            taken.push(other.node_cidr);
        }
    }
    let node_cidr = match options.node_cidr {
        Some(range) => range.trunc(),
        None => driver.free_range(&taken).await?,
    };
    for (flag, range, largest) in [
        ("--subnet", node_cidr, 28),
        ("--pod-network-cidr", options.pod_cidr, 24),
        ("--service-cluster-ip-range", options.service_cidr, 24),
    ] {
        if range.prefix_len() > largest {
            return Err(Failure::new(
                Source::Program,
                Kind::Usage,
                format!("{flag} {range} is too small, /{largest} is the smallest"),
            ));
        }
    }
    let ranges = [node_cidr, options.pod_cidr, options.service_cidr];
    for (i, a) in ranges.iter().enumerate() {
        if let Some(b) = ranges[i + 1..]
            .iter()
            .find(|b| a.contains(*b) || b.contains(a))
        {
            return Err(Failure::new(
                Source::Program,
                Kind::Usage,
                format!("the ranges {a} and {b} overlap: nodes, pods and services need one each"),
            ));
        }
    }
    Profile::new(&NewProfile {
        name: &options.profile,
        driver: driver_name,
        nodes,
        node_cidr,
        pod_cidr: options.pod_cidr,
        service_cidr: options.service_cidr,
        dns_domain: &options.dns_domain,
        cpu_millis: options.cpu_millis,
        memory_bytes: options.memory_bytes,
        insecure_registries: &options.insecure_registries,
        ports: &options.ports,
        store: options.store.as_ref().map(|s| s.config(&options.profile)),
        machine: &options.machine,
    })
}

async fn start_profile(
    home: &Home,
    profile: &mut Profile,
    driver: &dyn Driver,
    options: &StartOptions,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    if !driver.is_up(&profile.plan(home)).await {
        progress.step(
            "preflight",
            &format!("Checking the machine for the {} driver", driver.name()),
        );
        for problem in driver.preflight(&profile.plan(home)).await {
            if problem.fatal {
                return Err(problem.failure);
            }
            let advice = problem
                .failure
                .advice
                .map(|a| format!(" ({a})"))
                .unwrap_or_default();
            progress.warn(&format!("{}{advice}", problem.failure.message));
        }
        publish::check(&profile.ports)?;
        if driver.publishes() {
            publish::assign(home, profile)?;
        }
    }
    let plan = profile.plan(home);
    progress.step("certificates", "Preparing certificates and configuration");
    profile.save(home)?;
    if let Some(store) = &options.store
        && profile.store.is_some()
    {
        let pki = home.profile_dir(&profile.name).join("pki");
        crate::files::make_private_dir(&pki)?;
        store.keep_files(&pki)?;
    }
    provision(home, profile, &driver.binary().await?)?;

    let wanted = running(profile);
    let count = wanted.len();
    progress.step(
        "nodes",
        &format!(
            "Starting {count} {} node{}",
            driver.name(),
            if count == 1 { "" } else { "s" }
        ),
    );
    driver.start(&plan, &wanted).await?;

    if let Some(kubeconfig) = &options.kubeconfig {
        kubeconfig.put(&access::entry(home, profile)?, options.set_context)?;
    }
    Ok(())
}

/// Waits until the API server answers and every node that is meant to run is ready.
pub async fn wait_ready(
    home: &Home,
    started: &Started,
    limit: Duration,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let profile = &started.profile;
    progress.step("control-plane", "Waiting for the API server");
    let client = access::client(home, profile).await?;
    let deadline = Instant::now() + limit;
    wait_for_api(&client, deadline).await?;
    progress.step("ready", "Waiting for the nodes to be ready");
    wait_for_nodes(&client, &running(profile), &started.booted, deadline).await
}

/// Names of the nodes that are meant to run.
pub(crate) fn running(profile: &Profile) -> Vec<String> {
    profile
        .nodes
        .iter()
        .filter(|n| !n.stopped)
        .map(|n| n.name.clone())
        .collect()
}

/// Writes everything that the nodes boot from, `binary` being what they run; what
/// is there stays.
pub(crate) fn provision(home: &Home, profile: &Profile, binary: &Path) -> Result<(), Failure> {
    install_binary(binary, &profile.plan(home).binary)?;
    configure(home, profile)
}

/// Writes what tells the nodes who they are; what is there stays.
pub(crate) fn configure(home: &Home, profile: &Profile) -> Result<(), Failure> {
    let dir = home.profile_dir(&profile.name);
    let pki = Pki::open(&dir.join("pki"))?;
    make_private_dir(&dir.join("ssh"))?;
    let key = access::ssh_key(home, profile);
    if !key.exists() {
        let _owner = act_for_owner_of(&key);
        rkube_ssh::keys::generate_files(&key, &format!("rkube-{}", profile.name))
            .map_err(|e| ssh_failure(&e))?;
    }
    let mut public = key.into_os_string();
    public.push(".pub");
    let public =
        std::fs::read_to_string(&public).map_err(|e| io_failure("read", Path::new(&public), &e))?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let dns = driver.resolvers().unwrap_or_else(upstream_dns);
    for node in &profile.nodes {
        provision_node(home, profile, node, &pki, &public, &dns)?;
    }
    Ok(())
}

fn provision_node(
    home: &Home,
    profile: &Profile,
    node: &Node,
    pki: &Pki,
    public_key: &str,
    dns: &[IpAddr],
) -> Result<(), Failure> {
    let etc = profile.plan(home).node_etc(&node.name);
    let ssh = etc.join("ssh");
    make_private_dir(&ssh)?;
    pki.provision(profile, node, &etc)?;
    let host_key = ssh.join("ssh_host_ed25519_key");
    if !host_key.exists() {
        let _owner = act_for_owner_of(&host_key);
        rkube_ssh::keys::generate_files(&host_key, &node.name).map_err(|e| ssh_failure(&e))?;
    }
    write_private(&ssh.join("authorized_keys"), public_key.as_bytes())?;
    let policy = home.profile_dir(&profile.name).join(AUDIT_POLICY);
    if node.control_plane && policy.exists() {
        let text = std::fs::read(&policy).map_err(|e| io_failure("read", &policy, &e))?;
        write_private(&etc.join(AUDIT_POLICY), &text)?;
    }
    write_private(
        &etc.join("node.yaml"),
        profile.node_config(node, dns).to_yaml().as_bytes(),
    )
}

fn ssh_failure(e: &rkube_ssh::SshError) -> Failure {
    Failure::new(
        Source::Program,
        Kind::Error,
        format!("cannot make an SSH key: {e}"),
    )
}

/// Puts the program where the nodes run it from, unless it is there.
fn install_binary(own: &Path, target: &Path) -> Result<(), Failure> {
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| {
        a.len() == b.len()
            && a.modified()
                .ok()
                .zip(b.modified().ok())
                .is_some_and(|(a, b)| a <= b)
    };
    if let (Ok(source), Ok(there)) = (own.metadata(), target.metadata())
        && same(&source, &there)
    {
        return Ok(());
    }
    if let Some(dir) = target.parent() {
        make_private_dir(dir)?;
    }
    let temporary = target.with_extension("new");
    let _owner = act_for_owner_of(target);
    let install = || {
        std::fs::copy(own, &temporary)?;
        crate::files::make_executable(&temporary)?;
        std::fs::rename(&temporary, target)
    };
    install().map_err(|e| io_failure("write", target, &e))
}

/// The host's resolvers as nodes can use them: one that listens on the host's
/// loopback is out of their reach, and then systemd's upstream list helps.
fn upstream_dns() -> Vec<IpAddr> {
    for path in ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"] {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let found = resolvers(&text);
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

fn resolvers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|l| l.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse::<IpAddr>().ok())
        .filter(|ip| !ip.is_loopback())
        .collect()
}

/// Writes the cluster's entry in `kubeconfig` and makes it the current one.
pub fn write_context(
    home: &Home,
    profile: &Profile,
    kubeconfig: &Kubeconfig,
) -> Result<(), Failure> {
    kubeconfig.put(&access::entry(home, profile)?, true)
}

async fn undo(home: &Home, profile: &Profile, driver: &dyn Driver) {
    // The failure that led here is the one to tell.
    let _ = driver.destroy(&profile.plan(home)).await;
    let _ = remove_tree(&home.profile_dir(&profile.name));
    home.forget_lock(&profile.name);
    home.tidy();
}

/// Stops a cluster, keeping everything that a start needs.
pub async fn stop(home: &Home, name: &str, progress: &dyn Progress) -> Result<(), Failure> {
    let profile = Profile::load(home, name)?;
    let _lock = home.lock(name)?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let nodes: Vec<String> = profile.nodes.iter().map(|n| n.name.clone()).collect();
    progress.step(
        "stop",
        &format!(
            "Stopping {} node{}",
            nodes.len(),
            if nodes.len() == 1 { "" } else { "s" }
        ),
    );
    driver.stop(&profile.plan(home), &nodes).await
}

/// Deletes a cluster and everything that it left, whatever state it is in.
pub async fn delete(
    home: &Home,
    name: &str,
    kubeconfig: Option<&Kubeconfig>,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    check_name(name)?;
    let dir = home.profile_dir(name);
    let run_dir = home.run_dir(name);
    if !dir.exists() && !run_dir.exists() {
        return Err(Failure::new(
            Source::Guest,
            Kind::NotFound,
            format!("there is no profile '{name}'"),
        )
        .advise("list what there is with: rkube profile list"));
    }
    let _lock = home.lock(name)?;
    progress.step("delete", &format!("Deleting the cluster '{name}'"));
    let profile = match Profile::try_load(home, name) {
        Ok(profile) => profile,
        Err(e) => {
            progress.warn(&format!("{}; deleting what can be found", e.message));
            None
        }
    };
    match &profile {
        Some(profile) => {
            rkube_drivers::by_name(&profile.driver)?
                .destroy(&profile.plan(home))
                .await?;
        }
        None => destroy_by_name(home, name, progress).await?,
    }
    if let Some(store) = profile.as_ref().and_then(|p| p.store.as_ref())
        && let Err(why) = crate::store::wipe(store, &dir.join("pki")).await
    {
        progress.warn(&format!(
            "what the cluster kept in etcd below {} is still there: {why}",
            store.root
        ));
    }
    if let Some(kubeconfig) = kubeconfig {
        kubeconfig.remove(name)?;
    }
    remove_tree(&dir)?;
    home.forget_lock(name);
    home.tidy();
    Ok(())
}

/// A damaged or lost profile says nothing of its driver: whatever any of them
/// left is found by the profile's name alone.
async fn destroy_by_name(home: &Home, name: &str, progress: &dyn Progress) -> Result<(), Failure> {
    let plan = empty_plan(home, name);
    for driver in rkube_drivers::NAMES {
        // One that this rkube lacks has made nothing.
        let Ok(driver) = rkube_drivers::by_name(driver) else {
            continue;
        };
        if let Err(e) = driver.destroy(&plan).await {
            // One that does not work here has most likely made nothing either.
            if driver.preflight(&plan).await.iter().any(|p| p.fatal) {
                progress.warn(&format!(
                    "nodes of the {} driver, if there were any, are left: {}",
                    driver.name(),
                    e.message
                ));
            } else {
                return Err(e);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> StartOptions {
        StartOptions {
            profile: "p".into(),
            nodes: Some(2),
            driver: Some("native".into()),
            cpu_millis: None,
            memory_bytes: None,
            node_cidr: Some("192.168.99.0/24".parse().unwrap()),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            dns_domain: "cluster.local".into(),
            insecure_registries: Vec::new(),
            ports: Vec::new(),
            store: None,
            machine: MachineOptions::default(),
            audit_policy: None,
            kubeconfig: None,
            set_context: false,
        }
    }

    #[tokio::test]
    async fn bad_plans_are_usage_errors() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        plan(&home, &options()).await.unwrap();
        let bad = [
            StartOptions {
                nodes: Some(0),
                ..options()
            },
            StartOptions {
                nodes: Some(101),
                ..options()
            },
            StartOptions {
                node_cidr: Some("10.96.0.0/24".parse().unwrap()),
                ..options()
            },
            StartOptions {
                service_cidr: "10.0.0.0/30".parse().unwrap(),
                ..options()
            },
        ];
        for bad in bad {
            assert_eq!(plan(&home, &bad).await.unwrap_err().exit_code(), 14);
        }
        assert_eq!(
            plan(
                &home,
                &StartOptions {
                    driver: Some("x".into()),
                    ..options()
                }
            )
            .await
            .unwrap_err()
            .exit_code(),
            55
        );
    }

    #[test]
    fn resolvers_on_loopback_are_left_out() {
        assert_eq!(
            resolvers("nameserver 127.0.0.53\nsearch x\nnameserver 9.9.9.9\n"),
            ["9.9.9.9".parse::<IpAddr>().unwrap()]
        );
    }
}
