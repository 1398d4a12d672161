//! The description of a new cluster, from the options of `rkube start`.

use std::path::PathBuf;

use ipnet::Ipv4Net;
use rkube_config::{KubeletOptions, ResourceOptions};
use rkube_drivers::{Driver, HostMount, MachineOptions, PortMapping};
use rkube_failure::{Failure, Kind, Source, command};

use crate::Progress;
use crate::choice;
use crate::families::{self, Families, Ipv6Options};
use crate::files::Home;
use crate::image_cache::ImageCache;
use crate::kubeconfig::Kubeconfig;
use crate::profile::{NewProfile, NodeSpec, Profile};
use crate::registries::RegistryChanges;
use crate::reservation::Reservation;
use crate::store::StoreOptions;

/// The maximum number of nodes of a cluster.
const MAX_NODES: u32 = 100;

/// Options of `rkube start`. Those that describe the cluster apply only to a new one.
#[derive(Clone, Debug)]
pub struct StartOptions {
    /// The profile's name.
    pub profile: String,
    /// Number of nodes; 1 for a new profile when `None`.
    pub nodes: Option<u32>,
    /// The nodes of a new profile, the first of which runs the control plane. If it is empty, all
    /// of them have the same limits.
    pub node_specs: Vec<NodeSpec>,
    /// The driver; the first usable one when `None`.
    pub driver: Option<String>,
    /// CPU limit of each node, in millicores.
    pub cpu_millis: Option<u64>,
    /// Memory limit of each node, in bytes.
    pub memory_bytes: Option<u64>,
    /// Address range of the nodes; an unused one when `None`.
    pub node_cidr: Option<Ipv4Net>,
    /// Address range of pods.
    pub pod_cidr: Ipv4Net,
    /// Address range of services.
    pub service_cidr: Ipv4Net,
    /// The families of pods and services, and their IPv6 ranges.
    pub ipv6: Ipv6Options,
    /// DNS domain of the cluster.
    pub dns_domain: String,
    /// Registries reached over plain HTTP.
    pub insecure_registries: Vec<String>,
    /// Mirrors, certificates, credentials and proxies.
    pub registries: RegistryChanges,
    /// The cache that nodes pull through, or none; unchanged if `None`.
    pub image_cache: Option<Option<ImageCache>>,
    /// Ports of the first node to publish on the host.
    pub ports: Vec<PortMapping>,
    /// The etcd that stores API objects; the embedded store when `None`.
    pub store: Option<StoreOptions>,
    /// Options of virtual-machine nodes.
    pub machine: MachineOptions,
    /// The API server's audit policy, a file on the host; kept for later starts.
    pub audit_policy: Option<PathBuf>,
    /// Changes of the options of the nodes' agents.
    pub kubelet: KubeletChanges,
    /// Directories of the host that all nodes see.
    pub mounts: Vec<HostMount>,
    /// Whether the cluster assigns no addresses to services of type LoadBalancer; `None` keeps what
    /// an existing cluster does.
    pub no_load_balancer: Option<bool>,
    /// Whether nodes and the context are named as kind names them.
    pub kind: bool,
    /// Whether a new cluster whose start fails is kept, for a look at it.
    pub retain: bool,
    /// The kubeconfig file to update, if any.
    pub kubeconfig: Option<Kubeconfig>,
    /// Whether to make the context the current one.
    pub set_context: bool,
}

/// Changes of the options of the nodes' agents. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KubeletChanges {
    /// Unsafe sysctls that pods may set.
    pub allowed_unsafe_sysctls: Option<Vec<String>>,
    /// Maximum number of processes of a pod; not limited if negative.
    pub pod_pids_limit: Option<i64>,
    /// Whether containers without a seccomp profile run without one.
    pub no_seccomp_default: Option<bool>,
    /// Options about the resources of nodes; an empty value takes one back.
    pub resources: ResourceOptions,
}

impl KubeletChanges {
    /// Returns the options with the changes.
    pub(crate) fn applied(&self, options: &KubeletOptions) -> KubeletOptions {
        let Self {
            allowed_unsafe_sysctls,
            pod_pids_limit,
            no_seccomp_default,
            resources,
        } = self;
        KubeletOptions {
            allowed_unsafe_sysctls: match allowed_unsafe_sysctls {
                Some(names) => names.clone(),
                None => options.allowed_unsafe_sysctls.clone(),
            },
            pod_pids_limit: match pod_pids_limit {
                Some(limit) => Some(*limit).filter(|limit| *limit > 0),
                None => options.pod_pids_limit,
            },
            no_seccomp_default: no_seccomp_default.unwrap_or(options.no_seccomp_default),
            resources: options.resources.changed(resources),
        }
    }
}

impl StartOptions {
    /// Returns the number of nodes of a new cluster.
    ///
    /// # Errors
    /// Fails if a cluster cannot have that many.
    pub fn node_count(&self) -> Result<u32, Failure> {
        let (nodes, what) = match self.node_specs.len() {
            0 => (self.nodes.unwrap_or(1), "--nodes"),
            count => (
                u32::try_from(count).unwrap_or(u32::MAX),
                "the number of nodes",
            ),
        };
        if nodes == 0 || nodes > MAX_NODES {
            return Err(usage(format!(
                "{what} is {nodes}, it can be 1 to {MAX_NODES}"
            )));
        }
        Ok(nodes)
    }

    /// Returns the nodes of a new cluster.
    fn specs(&self) -> Result<Vec<NodeSpec>, Failure> {
        let count = self.node_count()?;
        if !self.node_specs.is_empty() {
            return Ok(self.node_specs.clone());
        }
        let spec = NodeSpec {
            cpu_millis: self.cpu_millis,
            memory_bytes: self.memory_bytes,
            ..NodeSpec::default()
        };
        Ok(vec![spec; count as usize])
    }

    /// Returns the directories of the host that nodes are to see.
    fn all_mounts(&self) -> impl Iterator<Item = &HostMount> {
        let of_nodes = self.node_specs.iter().flat_map(|spec| &spec.mounts);
        self.mounts.iter().chain(of_nodes)
    }

    /// Checks what needs no driver: address ranges that were given, and directories of this machine.
    ///
    /// # Errors
    /// Fails as a start would.
    pub fn check(&self) -> Result<(), Failure> {
        if let Some(range) = self.node_cidr {
            check_ranges(range.trunc(), self)?;
        }
        for spec in &self.specs()? {
            let mounts: Vec<HostMount> = self.mounts.iter().chain(&spec.mounts).cloned().collect();
            check_mounts(&mounts)?;
        }
        Ok(())
    }

    /// Returns why a driver cannot do what these options ask for.
    pub fn unsuitable(&self, driver: &dyn Driver) -> Option<Failure> {
        let of_nodes = self.node_specs.iter().flat_map(|spec| &spec.ports);
        if !driver.publishes() && self.ports.iter().chain(of_nodes).next().is_some() {
            let message = format!(
                "the driver {} cannot publish ports of nodes on this machine",
                driver.name()
            );
            return Some(Failure::new(Source::Program, Kind::Usage, message).advise(
                "leave the ports out: the nodes' own addresses are reachable from this machine",
            ));
        }
        self.all_mounts().next()?;
        refuse_mounts(driver).err()
    }
}

/// Fails if the nodes of a driver cannot see directories of the host.
pub(crate) fn refuse_mounts(driver: &dyn Driver) -> Result<(), Failure> {
    let Some(why) = driver.no_mounts() else {
        return Ok(());
    };
    Err(Failure::new(
        Source::Driver,
        Kind::Unsupported,
        format!(
            "the driver {} cannot mount directories: {why}",
            driver.name()
        ),
    )
    .advise("copy files to the nodes with the command cp, or use the driver native or docker"))
}

/// Fails if a directory of the host does not exist, or if two are to be at the same place.
pub(crate) fn check_mounts(mounts: &[HostMount]) -> Result<(), Failure> {
    for (i, mount) in mounts.iter().enumerate() {
        if let Err(e) = std::fs::metadata(&mount.host) {
            return Err(crate::files::io_failure("mount", &mount.host, &e)
                .advise("create the directory first, or name another one"));
        }
        if mounts[i + 1..].iter().any(|other| other.node == mount.node) {
            return Err(usage(format!(
                "two directories cannot both be mounted on {}",
                mount.node.display()
            )));
        }
    }
    Ok(())
}

/// Warns about options that do not apply to an existing cluster.
pub(crate) fn warn_of_ignored(profile: &Profile, options: &StartOptions, progress: &dyn Progress) {
    let count = profile.nodes.len();
    let wanted = match options.node_specs.len() {
        0 => options.nodes.map(|nodes| nodes as usize),
        specs => Some(specs),
    };
    if wanted.is_some_and(|wanted| wanted != count) {
        progress.warn(&format!(
            "the cluster '{name}' already has {count} node{}; to change that use: {}, {}",
            if count == 1 { "" } else { "s" },
            command("node add", &profile.name),
            command("node delete NODE", &profile.name),
            name = profile.name
        ));
    }
    if let Some(store) = &options.store
        && profile.store != Some(store.config(&profile.name))
    {
        progress.warn(&format!(
            "--store is ignored: the cluster '{}' uses another store, which cannot be changed",
            profile.name
        ));
    }
    if options
        .driver
        .as_ref()
        .is_some_and(|d| *d != profile.driver)
    {
        progress.warn(&format!(
            "--driver is ignored: the cluster '{}' uses the driver {}, which cannot be changed",
            profile.name, profile.driver
        ));
    }
    let first = profile.control_plane();
    let has = Families(profile.ipv6.map(|ipv6| ipv6.place));
    let fixed = [
        (
            "--ip-families",
            options.ipv6.families.is_some_and(|wanted| wanted != has),
        ),
        (
            "--pod-network-cidr",
            options
                .ipv6
                .pods
                .is_some_and(|c| profile.ipv6.is_none_or(|has| has.pod_cidr != c.trunc())),
        ),
        (
            "--service-cluster-ip-range",
            options
                .ipv6
                .services
                .is_some_and(|c| profile.ipv6.is_none_or(|has| has.service_cidr != c.trunc())),
        ),
        (
            "--subnet",
            options
                .node_cidr
                .is_some_and(|c| c.trunc() != profile.node_cidr),
        ),
        (
            "--cpus",
            options.cpu_millis.is_some() && options.cpu_millis != first.cpu_millis,
        ),
        (
            "--memory",
            options.memory_bytes.is_some() && options.memory_bytes != first.memory_bytes,
        ),
        (
            "--ports",
            !options.ports.is_empty() && options.ports != profile.ports,
        ),
    ];
    for (node, spec) in profile.nodes.iter().zip(&options.node_specs) {
        if !node.is_as(spec, &profile.ports) {
            progress.warn(&format!(
                "what the file says about the node {} is ignored: it applies to new clusters only; to create '{}' again, first run: {}",
                node.name,
                profile.name,
                command("delete", &profile.name)
            ));
        }
    }
    for (flag, _) in fixed.iter().filter(|(_, differs)| *differs) {
        progress.warn(&format!(
            "{flag} is ignored: it applies to new clusters only; to create '{}' again, first run: {}",
            profile.name,
            command("delete", &profile.name)
        ));
    }
}

/// Creates the profile of a new cluster, in memory, and reserves its nodes' address range.
pub(crate) async fn new_profile(
    home: &Home,
    options: &StartOptions,
) -> Result<(Profile, Reservation), Failure> {
    if let Some(store) = &options.store {
        store.check()?;
    }
    let nodes = options.specs()?;
    let driver_name = match options.driver.as_deref() {
        Some(name) => name,
        None => choice::first(home, options).await?,
    };
    let driver = rkube_drivers::by_name(driver_name)?;
    if home.run_dir(&options.profile).join("control.sock").exists() {
        return Err(Failure::new(
            Source::Program,
            Kind::Conflict,
            format!(
                "a cluster '{}' of another RKUBE_HOME is running on this machine",
                options.profile
            ),
        )
        .advise("choose another name with -p, or delete that cluster with its RKUBE_HOME"));
    }
    if let Some(failure) = options.unsuitable(&*driver) {
        return Err(failure);
    }
    for spec in &nodes {
        let mounts: Vec<HostMount> = options.mounts.iter().chain(&spec.mounts).cloned().collect();
        check_mounts(&mounts)?;
    }
    let reservation = match options.node_cidr {
        Some(range) => {
            check_ranges(range.trunc(), options)?;
            Reservation::of(range.trunc())?
        }
        None => {
            let chosen = Reservation::choose(driver.as_ref(), &used_ranges(home)?).await?;
            check_ranges(chosen.range, options)?;
            chosen
        }
    };
    let profile = Profile::new(&NewProfile {
        name: &options.profile,
        driver: driver_name,
        nodes: &nodes,
        node_cidr: reservation.range,
        pod_cidr: options.pod_cidr,
        service_cidr: options.service_cidr,
        ipv6: families::ranges(options, driver_name, reservation.range)?,
        dns_domain: &options.dns_domain,
        insecure_registries: &options.insecure_registries,
        ports: &options.ports,
        mounts: &options.mounts,
        kind: options.kind,
        store: options.store.as_ref().map(|s| s.config(&options.profile)),
        machine: &options.machine,
    })?;
    Ok((profile, reservation))
}

pub(crate) fn usage(message: String) -> Failure {
    Failure::new(Source::Program, Kind::Usage, message)
}

/// Returns the address ranges of the nodes of all profiles.
fn used_ranges(home: &Home) -> Result<Vec<Ipv4Net>, Failure> {
    let mut used = Vec::new();
    for name in home.profile_names()? {
        // The range of a damaged profile is not known; only delete works on it.
        if let Ok(Some(profile)) = Profile::try_load(home, &name) {
            used.push(profile.node_cidr);
        }
    }
    Ok(used)
}

/// Fails if an address range is too small or two of them overlap.
fn check_ranges(node_cidr: Ipv4Net, options: &StartOptions) -> Result<(), Failure> {
    for (flag, range, longest) in [
        ("--subnet", node_cidr, 28),
        ("--pod-network-cidr", options.pod_cidr, 24),
        ("--service-cluster-ip-range", options.service_cidr, 24),
    ] {
        if range.prefix_len() > longest {
            return Err(usage(format!(
                "{flag} {range} is too small, the minimum is a /{longest}"
            )));
        }
    }
    let ranges = [node_cidr, options.pod_cidr, options.service_cidr];
    for (i, a) in ranges.iter().enumerate() {
        if let Some(b) = ranges[i + 1..]
            .iter()
            .find(|b| a.contains(*b) || b.contains(a))
        {
            return Err(usage(format!(
                "the address ranges {a} and {b} overlap; nodes, pods and services need separate ranges"
            )));
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
            node_specs: Vec::new(),
            driver: Some("native".into()),
            cpu_millis: None,
            memory_bytes: None,
            node_cidr: Some("192.168.99.0/24".parse().unwrap()),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            ipv6: Ipv6Options::default(),
            dns_domain: "cluster.local".into(),
            insecure_registries: Vec::new(),
            registries: RegistryChanges::default(),
            image_cache: None,
            ports: Vec::new(),
            store: None,
            machine: MachineOptions::default(),
            audit_policy: None,
            kubelet: KubeletChanges::default(),
            mounts: Vec::new(),
            no_load_balancer: None,
            kind: false,
            retain: false,
            kubeconfig: None,
            set_context: false,
        }
    }

    #[test]
    fn options_of_the_kubelet_change_one_by_one() {
        let old = KubeletOptions {
            allowed_unsafe_sysctls: vec!["net.a".to_owned()],
            pod_pids_limit: Some(100),
            no_seccomp_default: true,
            resources: ResourceOptions {
                values: [("system-reserved".to_owned(), "cpu=1".to_owned())].into(),
            },
        };
        let none = KubeletChanges::default();
        assert_eq!(none.applied(&old), old);
        let limit = KubeletChanges {
            pod_pids_limit: Some(-1),
            ..none.clone()
        };
        let unlimited = KubeletOptions {
            pod_pids_limit: None,
            ..old.clone()
        };
        assert_eq!(limit.applied(&old), unlimited);
        let all = KubeletChanges {
            allowed_unsafe_sysctls: Some(Vec::new()),
            no_seccomp_default: Some(false),
            resources: ResourceOptions {
                values: [("system-reserved".to_owned(), String::new())].into(),
            },
            ..limit
        };
        assert!(all.applied(&old).is_default());
    }

    #[tokio::test]
    async fn bad_plans_are_usage_errors() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        new_profile(&home, &options()).await.unwrap();
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
            StartOptions {
                ports: vec!["80:80".parse().unwrap()],
                ..options()
            },
            StartOptions {
                mounts: vec!["/tmp:/a".parse().unwrap(), "/:/a".parse().unwrap()],
                ..options()
            },
        ];
        for bad in bad {
            assert_eq!(new_profile(&home, &bad).await.unwrap_err().exit_code(), 14);
        }
        assert_eq!(
            new_profile(
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
}
