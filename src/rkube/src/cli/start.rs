//! `rkube start`

use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use rkube_cluster::{Home, Kubeconfig, Profile, StartOptions, StoreOptions, default_kubeconfig};
use rkube_drivers::{MachineOptions, PortMapping};
use rkube_failure::{Failure, Kind, Source};

use super::{Global, Output, interrupted};

/// Flags of `rkube start`. All but --insecure-registry, --extra-config, --addons, --wait
/// and the kubeconfig's count only when the cluster is new.
#[derive(clap::Args)]
pub struct Args {
    /// Number of nodes [default for a new cluster: 1]
    #[arg(short, long, env = "RKUBE_NODES", value_name = "N")]
    nodes: Option<u32>,
    /// How nodes are made: native, docker or qemu [default: the first that works here]
    #[arg(short, long, env = "RKUBE_DRIVER", value_name = "NAME")]
    driver: Option<String>,
    /// CPUs that each node may use, 1.5 for example [default: all]
    #[arg(long, env = "RKUBE_CPUS", value_name = "N", value_parser = super::node::parse_cpus)]
    cpus: Option<u64>,
    /// Memory that each node may use, 2g or 512m for example [default: all]
    #[arg(long, env = "RKUBE_MEMORY", value_name = "SIZE", value_parser = super::node::parse_size)]
    memory: Option<u64>,
    /// Where nodes' and load balancers' addresses come from [default: a free 192.168.x.0/24]
    #[arg(long, value_name = "CIDR")]
    subnet: Option<Ipv4Net>,
    /// Where pods' addresses come from
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pod_network_cidr: Ipv4Net,
    /// Where services' addresses come from
    #[arg(long, default_value = "10.96.0.0/12", value_name = "CIDR")]
    service_cluster_ip_range: Ipv4Net,
    /// Suffix of services' names
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    dns_domain: String,
    /// A registry to reach over plain HTTP, HOST[:PORT]; may be repeated
    #[arg(long, value_name = "REGISTRY")]
    insecure_registry: Vec<String>,
    /// A port of the first node to publish on this machine, [IP:]HOST:NODE[/udp]; may be
    /// repeated (drivers docker and qemu)
    #[arg(long, value_name = "PORTS")]
    ports: Vec<PortMapping>,
    /// The kernel of nodes that are virtual machines (driver qemu) [default: the best in /boot]
    #[arg(long, env = "RKUBE_KERNEL", value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The folder of that kernel's modules [default: looked for beside it]
    #[arg(long, env = "RKUBE_MODULES", value_name = "DIR")]
    modules: Option<PathBuf>,
    /// How big the disk of a node is that is a virtual machine [default: 20g]
    #[arg(long, value_name = "SIZE", value_parser = super::node::parse_size)]
    disk_size: Option<u64>,
    /// A component's own setting, COMPONENT.KEY=VALUE; there is
    /// apiserver.audit-policy-file=FILE, which switches the audit log on
    #[arg(long, value_name = "SETTING", value_parser = parse_extra)]
    extra_config: Vec<Extra>,
    /// Addons to enable once the cluster is ready, NAME[,...]; may be repeated
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    addons: Vec<String>,
    /// Only tell which driver would be used and why; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Where objects are kept: embedded, or etcd=https://HOST:2379[,...]
    #[arg(
        long,
        env = "RKUBE_STORE",
        default_value = "embedded",
        value_name = "STORE"
    )]
    store: String,
    /// The authority that etcd's certificate is of, PEM
    #[arg(long, value_name = "FILE")]
    store_ca: Option<std::path::PathBuf>,
    /// The client certificate for etcd, PEM
    #[arg(long, value_name = "FILE")]
    store_cert: Option<std::path::PathBuf>,
    /// The key of --store-cert, PEM
    #[arg(long, value_name = "FILE")]
    store_key: Option<std::path::PathBuf>,
    /// Leave the kubeconfig's current context as it is
    #[arg(long)]
    keep_context: bool,
    /// Wait until all nodes are ready
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    wait: bool,
    /// How long to wait for that, 90s or 6m for example
    #[arg(long, default_value = "6m", value_name = "TIME", value_parser = parse_duration)]
    wait_timeout: Duration,
}

/// A setting of `--extra-config`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Extra {
    /// `apiserver.audit-policy-file`
    AuditPolicy(PathBuf),
}

fn parse_extra(text: &str) -> Result<Extra, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("'{text}' is not COMPONENT.KEY=VALUE"))?;
    match key {
        "apiserver.audit-policy-file" if !value.is_empty() => Ok(Extra::AuditPolicy(value.into())),
        "apiserver.audit-policy-file" => Err(format!("{key} needs a file")),
        _ => Err(format!(
            "rkube has no setting {key}; there is apiserver.audit-policy-file"
        )),
    }
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time like 90s, 6m or 1h");
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

/// Where a path leads whatever folder rkube is run in later.
fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|e| {
        Failure::new(
            Source::Program,
            Kind::Usage,
            format!("{} is not a path: {e}", path.display()),
        )
    })
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    if args.dns_domain.is_empty()
        || !args
            .dns_domain
            .split('.')
            .all(|l| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
    {
        return Err(Failure::new(
            Source::Program,
            Kind::Usage,
            format!("--dns-domain: '{}' is not a domain name", args.dns_domain),
        ));
    }
    // A misspelt one is told before anything is made.
    let addons = super::addons::find(home, &args.addons)?;
    let options = StartOptions {
        profile: global.profile.clone(),
        nodes: args.nodes,
        driver: args.driver,
        cpu_millis: args.cpus,
        memory_bytes: args.memory,
        node_cidr: args.subnet,
        pod_cidr: args.pod_network_cidr,
        service_cidr: args.service_cluster_ip_range,
        dns_domain: args.dns_domain,
        insecure_registries: args.insecure_registry,
        ports: args.ports,
        store: StoreOptions::parse(&args.store, args.store_ca, args.store_cert, args.store_key)?,
        machine: MachineOptions {
            kernel: args.kernel.map(absolute).transpose()?,
            modules: args.modules.map(absolute).transpose()?,
            disk_bytes: args.disk_size,
        },
        audit_policy: args
            .extra_config
            .into_iter()
            .map(|Extra::AuditPolicy(file)| file)
            .next_back(),
        kubeconfig: Some(Kubeconfig::at(default_kubeconfig()?)),
        set_context: !args.keep_context,
    };
    if args.dry_run {
        return dry_run(home, &options, output).await;
    }
    let started = std::time::Instant::now();
    let new = !home.profile_dir(&options.profile).exists();
    let wait = args.wait.then_some(args.wait_timeout);
    let Some(profile) = start(home, &options, wait, output).await? else {
        // A cluster that was there before stays, with what runs of it.
        if new {
            let kubeconfig = options.kubeconfig.as_ref();
            rkube_cluster::delete(home, &options.profile, kubeconfig, output).await?;
            output.finish();
        }
        return Err(Failure::interruption());
    };
    let count = profile.nodes.len();
    let state = if args.wait {
        "is ready"
    } else {
        "has been started"
    };
    output.say(&format!(
        "The cluster '{}' {state}: {count} node{}, Kubernetes {}, in {:.1} s. kubectl's context is '{}'.",
        profile.name,
        if count == 1 { "" } else { "s" },
        rkube_config::version(),
        started.elapsed().as_secs_f64(),
        if args.keep_context { "unchanged" } else { &profile.name },
    ));
    // Whatever becomes of them, the cluster stays.
    tokio::select! {
        enabled = super::addons::enable(home, &profile, &addons, output) => enabled,
        () = interrupted() => Err(Failure::interruption()),
    }
}

/// What `rkube start` would do.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct DryRun {
    profile: String,
    exists: bool,
    driver: Option<String>,
    reason: String,
    drivers: Vec<super::driver::Entry>,
}

/// Tells which driver a start would use and why.
async fn dry_run(home: &Home, options: &StartOptions, output: &Output) -> Result<(), Failure> {
    let existing = match Profile::load(home, &options.profile) {
        Ok(profile) => Some(profile),
        Err(e) if e.kind == Kind::NotFound => None,
        Err(e) => return Err(e),
    };
    let candidates = rkube_cluster::candidates(home, &options.profile, &options.machine).await;
    let lacks = |c: &rkube_cluster::Candidate| {
        let problem = c.problems.iter().find(|p| p.fatal)?;
        Some(problem.failure.clone())
    };
    // Why `rkube start` would fail.
    let mut refusal = None;
    let (driver, reason) = if let Some(profile) = &existing {
        let reason = "the profile was made with it".to_owned();
        (Some(profile.driver.clone()), reason)
    } else if let Some(name) = &options.driver {
        rkube_drivers::by_name(name)?;
        refusal = candidates.iter().find(|c| c.name == name).and_then(lacks);
        (Some(name.clone()), "--driver asks for it".to_owned())
    } else {
        let tried = rkube_drivers::NAMES.join(", ");
        match candidates.iter().find(|c| c.works()) {
            Some(c) => (
                Some(c.name.to_owned()),
                format!("the first that works here of {tried}"),
            ),
            None => {
                let why = candidates.iter().filter_map(|c| Some((c.name, lacks(c)?)));
                refusal = Some(rkube_cluster::none_works(why.collect()));
                (None, format!("none works here of {tried}"))
            }
        }
    };
    let nodes = match &existing {
        Some(profile) => profile.nodes.len(),
        None => options.nodes.unwrap_or(1) as usize,
    };
    let result = DryRun {
        profile: options.profile.clone(),
        exists: existing.is_some(),
        driver,
        reason,
        drivers: super::driver::entries(candidates),
    };
    output.result(&result, || {
        let action = if result.exists { "start" } else { "make" };
        let plural = if nodes == 1 { "" } else { "s" };
        let (name, reason) = (&result.profile, &result.reason);
        let head = match &result.driver {
            Some(driver) if refusal.is_some() => format!(
                "Could not {action} the cluster '{name}' with the driver {driver} ({reason})."
            ),
            Some(driver) => format!(
                "Would {action} the cluster '{name}' of {nodes} node{plural} with the driver {driver}: {reason}."
            ),
            None => format!("Could not {action} the cluster '{name}': {reason}."),
        };
        format!("{head}\n\n{}", super::driver::text(&result.drivers))
    });
    match refusal {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}

/// Starts and waits; `None` when Ctrl-C came first. What changes the machine is
/// short and runs to its end; only the waiting is cut short.
async fn start(
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
    if let Some(limit) = wait {
        tokio::select! {
            outcome = rkube_cluster::wait_ready(home, &started, limit, output) => outcome?,
            () = &mut interrupt => return Ok(None),
        }
    }
    Ok(Some(started.profile))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse_duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("6m"), Ok(Duration::from_secs(360)));
        for bad in ["", "s", "6", "6d", "-1s", "6µ"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
