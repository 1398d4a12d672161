//! `rkube start`

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use rkube_cluster::{
    Cidrs, Families, Home, Ipv6Options, Kubeconfig, NodeSpec, Profile, Progress as _, StartOptions,
    StoreOptions, default_kubeconfig,
};
use rkube_config::families::Ipv6Place;
use rkube_drivers::{HostMount, MachineOptions, PortMapping};
use rkube_failure::{Failure, Kind, Source};

use super::file::{self, File};
use super::start_values::{
    Extra, Limit, MountFlag, Wait, driver, extras, mounts, parse_extra, parse_nodes,
};
use super::values::parse_duration;
use super::yaml::Document;
use super::{Global, Output, interrupted, usage_failure};

/// The default address range of pods.
pub const POD_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16);
/// The default address range of services.
pub const SERVICE_RANGE: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12);

/// The ranges by default. Those of IPv6 are only there with its family.
const POD_RANGES: Cidrs = Cidrs {
    ipv4: Some(POD_RANGE),
    ipv6: None,
};
const SERVICE_RANGES: Cidrs = Cidrs {
    ipv4: Some(SERVICE_RANGE),
    ipv6: None,
};

// Only a new cluster uses all of them; on an existing one --insecure-registry,
// --extra-config, --no-load-balancer, --addons, --wait and --keep-context take effect.
#[derive(clap::Args)]
#[command(
    after_help = "Every flag can also be set by an environment variable (RKUBE_WAIT_TIMEOUT for --wait-timeout), or for good: rkube config set memory 4g"
)]
pub struct Args {
    /// YAML file that describes the cluster; - for standard input. `rkube config init` prints one
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Names of the flags on the command line.
    #[arg(skip)]
    pub(super) given: Vec<String>,
    /// Number of nodes [default for a new cluster: 1]
    #[arg(short, long, env = "RKUBE_NODES", value_name = "N", value_parser = parse_nodes)]
    nodes: Option<u32>,
    /// Driver that creates the nodes: native, docker or qemu [default: the first usable one]
    #[arg(
        short,
        long,
        alias = "vm-driver",
        env = "RKUBE_DRIVER",
        value_name = "NAME"
    )]
    driver: Option<String>,
    /// CPU limit of each node, such as 2 or 1.5, max or no-limit [default: no limit]
    #[arg(long, env = "RKUBE_CPUS", value_name = "N", value_parser = Limit::cpus)]
    cpus: Option<Limit>,
    /// Memory limit of each node, such as 2g, 512m, max or no-limit [default: no limit]
    #[arg(short, long, env = "RKUBE_MEMORY", value_name = "SIZE", value_parser = Limit::memory)]
    memory: Option<Limit>,
    /// Address range for nodes and load balancers [default: an unused 192.168.x.0/24]
    #[arg(long, env = "RKUBE_SUBNET", value_name = "CIDR")]
    subnet: Option<Ipv4Net>,
    /// IP families of pods and services: ipv4, ipv6, ipv4,ipv6 or ipv6,ipv4 [default: ipv4]
    #[arg(long, value_name = "FAMILIES")]
    ip_families: Option<Families>,
    /// Address range for pods, or one per family: 10.244.0.0/16,fd00:10:244::/56
    #[arg(long, alias = "pod-cidr", default_value_t = POD_RANGES, value_name = "CIDR")]
    pod_network_cidr: Cidrs,
    /// Address range for service cluster IPs, or one per family
    #[arg(long, alias = "service-cidr", default_value_t = SERVICE_RANGES, value_name = "CIDR")]
    service_cluster_ip_range: Cidrs,
    /// Assign no addresses to services of type LoadBalancer; =false assigns them again
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    no_load_balancer: Option<bool>,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    dns_domain: String,
    /// Image registry to access over plain HTTP, or HTTPS with any certificate: HOST[:PORT] or a
    /// range of addresses; can be repeated
    #[arg(long, value_name = "REGISTRY", value_delimiter = ',', value_parser = super::start_values::parse_registry)]
    insecure_registry: Vec<String>,
    #[command(flatten)]
    registries: super::start_registries::RegistryFlags,
    /// Publish a port of the first node, [HOST_IP:]HOST_PORT:NODE_PORT[/udp]; can be
    /// repeated (drivers docker and qemu)
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    ports: Vec<PortMapping>,
    /// Directory or file of this machine that all nodes see, HOST:NODE[:ro]; can be repeated
    /// (drivers native and docker)
    #[arg(long, value_name = "MOUNT")]
    mount_string: Vec<HostMount>,
    /// As --mount-string, with an equals sign: --mount=HOST:NODE[:ro]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "MOUNT", value_parser = MountFlag::parse)]
    mount: Vec<MountFlag>,
    /// Kernel image of virtual-machine nodes (driver qemu) [default: the newest usable in /boot]
    #[arg(long, env = "RKUBE_KERNEL", value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Directory of kernel modules for --kernel (driver qemu) [default: the kernel's own]
    #[arg(long, env = "RKUBE_MODULES", value_name = "DIR")]
    modules: Option<PathBuf>,
    /// Disk size of each virtual machine, such as 20g (driver qemu) [default: 20g]
    #[arg(long, value_name = "SIZE", value_parser = super::node::parse_size)]
    disk_size: Option<u64>,
    /// Set an option of a component: apiserver.audit-policy-file=FILE enables the audit log
    #[arg(long, value_name = "SETTING", value_parser = parse_extra)]
    extra_config: Vec<Extra>,
    /// Addons to enable after the cluster is ready, NAME[,...]; can be repeated
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    addons: Vec<String>,
    /// Show which driver would be used and why, without changing anything
    #[arg(long)]
    dry_run: bool,
    /// Storage of API objects: embedded, or etcd=https://HOST:2379[,...]
    #[arg(
        long,
        env = "RKUBE_STORE",
        default_value = "embedded",
        value_name = "STORE"
    )]
    store: String,
    /// CA certificate (PEM) that signed etcd's server certificate, with --store
    #[arg(long, value_name = "FILE")]
    store_ca: Option<std::path::PathBuf>,
    /// Client certificate for etcd (PEM)
    #[arg(long, value_name = "FILE")]
    store_cert: Option<std::path::PathBuf>,
    /// Private key of --store-cert (PEM)
    #[arg(long, value_name = "FILE")]
    store_key: Option<std::path::PathBuf>,
    /// Do not switch kubectl's current context to this cluster
    #[arg(long)]
    keep_context: bool,
    /// Components to wait for: all (or true), none (or false), or names, any of which means all
    #[arg(long, default_value = "all", value_name = "WHAT", value_parser = Wait::parse)]
    wait: Wait,
    /// Namespace of the cluster's context in the kubeconfig
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
    /// Maximum time to wait for what --wait names, such as 90s or 6m
    #[arg(long, default_value = "6m", value_name = "TIME", value_parser = parse_duration)]
    wait_timeout: Duration,
    #[command(flatten)]
    k3d: super::k3d::Flags,
}

/// Returns the machine's memory in bytes, where the system tells it.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Makes a path independent of the current directory, for later runs of rkube.
fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|e| {
        Failure::new(
            Source::Program,
            Kind::Usage,
            format!("invalid path {}: {e}", path.display()),
        )
    })
}

/// Flags whose subject a cluster file has. The environment and the settings give way to it.
const OF_FILE: &[&str] = &[
    "nodes",
    "cpus",
    "memory",
    "subnet",
    "ip-families",
    "pod-network-cidr",
    "service-cluster-ip-range",
    "dns-domain",
    "no-load-balancer",
    "ports",
    "port",
    "agents",
    "servers",
    "agents-memory",
    "servers-memory",
    "k3s-node-label",
    "store",
    "store-ca",
    "store-cert",
    "store-key",
];

/// The steps of a start, and those after the cluster is ready.
pub(super) struct Plan {
    pub(super) options: StartOptions,
    namespace: Option<String>,
    addons: Vec<String>,
    images: Vec<String>,
    manifests: Vec<String>,
}

/// Combines the flags with the cluster file, which they complete.
pub(super) fn plan(
    global: &Global,
    args: &mut Args,
    file: File,
    output: &Output,
) -> Result<Plan, Failure> {
    let dns_domain = file.dns_domain.unwrap_or(args.dns_domain.clone());
    check_domain(&dns_domain)?;
    let extras = extras(std::mem::take(&mut args.extra_config), output)?;
    let cpu_millis = args.cpus.and_then(|limit| {
        limit.amount(|| {
            let count = std::thread::available_parallelism().ok()?.get();
            u64::try_from(count).ok().map(|count| count * 1000)
        })
    });
    let memory_bytes = args.memory.and_then(|limit| limit.amount(machine_memory));
    let mut node_specs = file.nodes;
    for spec in &mut node_specs {
        spec.cpu_millis = spec.cpu_millis.or(cpu_millis);
        spec.memory_bytes = spec.memory_bytes.or(memory_bytes);
    }
    let mut mounts = mounts(
        std::mem::take(&mut args.mount_string),
        std::mem::take(&mut args.mount),
        output,
    );
    let base = NodeSpec {
        cpu_millis,
        memory_bytes,
        ..NodeSpec::default()
    };
    let k3d = std::mem::take(&mut args.k3d);
    let described = k3d.nodes(args.nodes, &base, machine_memory)?;
    mounts.extend(described.mounts);
    if node_specs.is_empty() {
        node_specs = described.specs;
    }
    mounts.extend(file.mounts);
    let mut insecure_registries = std::mem::take(&mut args.insecure_registry);
    insecure_registries.extend(file.insecure_registries);
    let registries =
        std::mem::take(&mut args.registries).changes(file.registries, file.extra_ca, output)?;
    let mut addons = std::mem::take(&mut args.addons);
    addons.extend(file.addons);
    let store = StoreOptions::parse(
        &args.store,
        args.store_ca.take(),
        args.store_cert.take(),
        args.store_key.take(),
    )?;
    let kernel = args.kernel.take().map(absolute).transpose()?;
    let modules = args.modules.take().map(absolute).transpose()?;
    let name = file.name.filter(|_| !global.profile_given);
    if let Some(name) = &name {
        super::audit::about(name);
    }
    let named = args.driver.take().and_then(|name| driver(name, output));
    args.keep_context |= file.keep_context;
    let pods = file.pods.unwrap_or(args.pod_network_cidr);
    let services = file.services.unwrap_or(args.service_cluster_ip_range);
    let families = file.families.or(args.ip_families);
    refuse_unused(families, &[(pods, POD_RANGE), (services, SERVICE_RANGE)])?;
    Ok(Plan {
        options: StartOptions {
            profile: name.unwrap_or_else(|| global.profile.clone()),
            nodes: args.nodes,
            node_specs,
            driver: named.or(file.driver),
            cpu_millis,
            memory_bytes,
            node_cidr: file.subnet.or(args.subnet),
            pod_cidr: extras.pods.or(pods.ipv4).unwrap_or(POD_RANGE),
            service_cidr: services.ipv4.unwrap_or(SERVICE_RANGE),
            ipv6: Ipv6Options {
                families,
                pods: pods.ipv6,
                services: services.ipv6,
            },
            dns_domain,
            insecure_registries,
            registries,
            image_cache: None,
            ports: std::mem::take(&mut args.ports),
            mounts,
            no_load_balancer: file.load_balancer.map(|on| !on).or(args.no_load_balancer),
            kind: false,
            retain: false,
            store: file.store.or(store),
            machine: MachineOptions {
                kernel: kernel.or(file.machine.kernel),
                modules: modules.or(file.machine.modules),
                disk_bytes: args.disk_size.or(file.machine.disk_bytes),
            },
            audit_policy: extras.audit_policy.or(file.audit_policy),
            kubelet: extras.kubelet,
            kubeconfig: Some(Kubeconfig::at(default_kubeconfig()?)),
            set_context: !args.keep_context,
        },
        namespace: args.namespace.take().or(file.namespace),
        addons,
        images: file.images,
        manifests: file.manifests,
    })
}

/// Refuses ranges of IPv4 that a cluster of IPv6 alone would not use.
fn refuse_unused(families: Option<Families>, ranges: &[(Cidrs, Ipv4Net)]) -> Result<(), Failure> {
    if families != Some(Families(Some(Ipv6Place::Only))) {
        return Ok(());
    }
    for (given, default) in ranges {
        if let Some(range) = given.ipv4.filter(|range| range != default) {
            return Err(Failure::new(
                Source::Program,
                Kind::Usage,
                format!("{range} is a range of IPv4, and the cluster has IPv6 only"),
            )
            .advise("give a range of IPv6, or use --ip-families ipv4,ipv6"));
        }
    }
    Ok(())
}

fn check_domain(text: &str) -> Result<(), Failure> {
    let is_label = |label: &str| {
        !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    if text.split('.').all(is_label) {
        return Ok(());
    }
    Err(Failure::new(
        Source::Program,
        Kind::Usage,
        format!("--dns-domain: '{text}' is not a domain name"),
    ))
}

/// The steps of a start that creates a cluster, in order.
const STEPS: [&str; 5] = [
    "preflight",
    "certificates",
    "nodes",
    "control-plane",
    "ready",
];

/// Runs the command.
pub async fn run(
    home: &Home,
    global: &Global,
    mut args: Args,
    output: &Output,
) -> Result<(), Failure> {
    let doubled = args
        .given
        .iter()
        .find(|flag| OF_FILE.contains(&flag.as_str()));
    if let (Some(_), Some(flag)) = (&args.file, doubled) {
        return Err(
            usage_failure(format!("--{flag} and --file cannot be combined"))
                .advise("change the file, which says this about the cluster"),
        );
    }
    let file = match &args.file {
        Some(path) => file::read(&Document::read(path)?)?,
        None => File::default(),
    };
    let image_cache = args.registries.take_image_cache();
    let plan = plan(global, &mut args, file, output)?;
    let mut options = plan.options;
    // Unknown addons and missing files are reported before anything is created.
    let mut addons = super::addons::find(home, &plan.addons, output)?;
    addons.extend(file::manifests(&plan.manifests)?);
    if args.dry_run {
        return dry_run(home, &options, output).await;
    }
    let name = &options.profile;
    options.image_cache =
        super::start_registries::image_cache(home, name, image_cache, output).await?;
    output.plan(&STEPS);
    let started = std::time::Instant::now();
    let new = !home.profile_dir(&options.profile).exists();
    let wait = (args.wait == Wait::All).then_some(args.wait_timeout);
    let Some(profile) = start(home, &options, wait, output).await? else {
        // An existing cluster is kept, with the nodes that already run.
        if new {
            let kubeconfig = options.kubeconfig.as_ref();
            rkube_cluster::delete(home, &options.profile, kubeconfig, output).await?;
            output.finish();
        }
        return Err(Failure::interruption());
    };
    if let Some(namespace) = &plan.namespace
        && let Some(kubeconfig) = &options.kubeconfig
    {
        kubeconfig.set_namespace(&profile.context(), namespace)?;
    }
    super::start_registries::warn_of_proxy(&profile, output);
    let count = profile.nodes.len();
    let state = if args.wait == Wait::All {
        "is ready"
    } else {
        "has been started"
    };
    output.say(&format!(
        "The cluster '{}' {state}: {count} node{}, Kubernetes {}, in {:.1} s. {}",
        profile.name,
        if count == 1 { "" } else { "s" },
        rkube_config::version(),
        started.elapsed().as_secs_f64(),
        if args.keep_context {
            "kubectl's current context is unchanged.".to_owned()
        } else {
            format!("kubectl's current context is '{}'.", profile.context())
        },
    ));
    let complete = async {
        // An API server that nobody waited for may not answer yet.
        if args.wait == Wait::All {
            super::registry::after_start(home, &profile, output).await;
            super::image::catch_up::run(home, &profile.name, output).await;
        }
        if !plan.images.is_empty() {
            super::load::run(home, &profile.name, plan.images, output).await?;
        }
        super::addons::enable(home, &profile, &addons, output).await
    };
    // The cluster is kept if one of these fails.
    tokio::select! {
        done = complete => done,
        () = interrupted() => Err(Failure::interruption()),
    }
}

/// The result of `rkube start --dry-run`.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct DryRun {
    profile: String,
    exists: bool,
    driver: Option<String>,
    reason: String,
    drivers: Vec<super::driver::Entry>,
}

/// Prints which driver a start would use and why.
async fn dry_run(home: &Home, options: &StartOptions, output: &Output) -> Result<(), Failure> {
    let existing = match Profile::load(home, &options.profile) {
        Ok(profile) => Some(profile),
        Err(e) if e.kind == Kind::NotFound => None,
        Err(e) => return Err(e),
    };
    if existing.is_none() {
        options.check()?;
    }
    let candidates = rkube_cluster::candidates(home, &options.profile, &options.machine).await;
    let unsuitable = |c: &rkube_cluster::Candidate| {
        let driver = rkube_drivers::by_name(c.name).ok()?;
        options.unsuitable(&*driver)
    };
    let lacks = |c: &rkube_cluster::Candidate| {
        let problem = c.problems.iter().find(|p| p.fatal);
        unsuitable(c).or_else(|| Some(problem?.failure.clone()))
    };
    // The error that `rkube start` would return.
    let mut refusal = None;
    let (driver, reason) = if let Some(profile) = &existing {
        let reason = "the cluster was created with it".to_owned();
        (Some(profile.driver.clone()), reason)
    } else if let Some(name) = &options.driver {
        options.node_count()?;
        rkube_drivers::by_name(name)?;
        refusal = candidates.iter().find(|c| c.name == name).and_then(lacks);
        (Some(name.clone()), "selected by --driver".to_owned())
    } else {
        options.node_count()?;
        let tried = rkube_drivers::NAMES.join(", ");
        match candidates.iter().find(|c| lacks(c).is_none()) {
            Some(c) => (
                Some(c.name.to_owned()),
                format!("the first usable one of {tried}"),
            ),
            None => {
                let why = candidates.iter().filter_map(|c| Some((c.name, lacks(c)?)));
                refusal = Some(rkube_cluster::none_works(why.collect()));
                (None, format!("none of {tried} can be used on this machine"))
            }
        }
    };
    let nodes = match &existing {
        Some(profile) => profile.nodes.len(),
        None => options.node_count()? as usize,
    };
    let result = DryRun {
        profile: options.profile.clone(),
        exists: existing.is_some(),
        driver,
        reason,
        drivers: super::driver::entries(candidates),
    };
    output.result(&result, || {
        let action = if result.exists { "start" } else { "create" };
        let plural = if nodes == 1 { "" } else { "s" };
        let (name, reason) = (&result.profile, &result.reason);
        let head = match &result.driver {
            Some(driver) if refusal.is_some() => format!(
                "Cannot {action} the cluster '{name}' with the driver {driver} ({reason})."
            ),
            Some(driver) => format!(
                "Would {action} the cluster '{name}' with {nodes} node{plural} and the driver {driver}: {reason}."
            ),
            None => format!("Cannot {action} the cluster '{name}': {reason}."),
        };
        let head = super::messages::text(&head);
        format!("{head}\n\n{}", super::driver::text(&result.drivers))
    });
    match refusal {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Starts a cluster and waits for it. Returns `None` on Ctrl-C. The steps that change the
/// machine are short and always completed; only the waiting is interrupted.
pub(super) async fn start(
    home: &Home,
    options: &StartOptions,
    wait: Option<Duration>,
    output: &Output,
) -> Result<Option<Profile>, Failure> {
    let interrupt = std::pin::pin!(interrupted());
    let mut interrupt = futures::FutureExt::fuse(interrupt);
    let mut begun = std::pin::pin!(rkube_cluster::start(home, options, output));
    let mut stop = false;
    let started = loop {
        tokio::select! {
            outcome = &mut begun => break outcome?,
            () = &mut interrupt => stop = true,
        }
    };
    if stop {
        return Ok(None);
    }
    // Before the wait, whose end by a timeout leaves a cluster that runs.
    if let Err(failure) = super::port::begin(home, &started.profile).await {
        output.warn(&failure.message);
    }
    if let Some(limit) = wait {
        tokio::select! {
            outcome = rkube_cluster::wait_ready(home, &started, limit, output) => outcome?,
            () = &mut interrupt => return Ok(None),
        }
    }
    Ok(Some(started.profile))
}
