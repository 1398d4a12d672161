//! `rkube server`, the first process of the node image: a cluster of one node that configures itself.
//!
//! It keeps the part of k3s' contract that test libraries rely on: the command and its flags, the port,
//! the place of the kubeconfig, and the line in the log.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use rkube_cluster::{Home, Standalone};
use rkube_config::paths;

/// Port of the API server, k3s' and upstream's.
const API_PORT: u16 = 6443;
/// Place of the kubeconfig, k3s'.
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";
/// Another one, for people.
const OWN_KUBECONFIG: &str = "/etc/rkube/kubeconfig";
/// The line that test libraries wait for; k3s writes it when its node is there.
const READY: &str = "Node controller sync successful";
/// Period of the checks whether the node is ready.
const POLL_PERIOD: Duration = Duration::from_millis(100);
/// Parts of k3s that a cluster does without, and parts that it cannot do without.
const ABSENT: [&str; 4] = ["traefik", "servicelb", "helm-controller", "runtimes"];
const BUILT_IN: [&str; 4] = [
    "coredns",
    "local-storage",
    "metrics-server",
    "network-policy",
];

/// Runs a cluster of one node in this container
#[derive(Parser)]
#[command(name = "rkube server", version = rkube_config::VERSION)]
struct Options {
    /// Further names and addresses of the API server, for its certificate
    #[arg(long, value_delimiter = ',', value_name = "NAMES", env = "K3S_TLS_SAN")]
    tls_san: Vec<String>,
    /// Parts to do without: traefik, servicelb, helm-controller and runtimes, which are not there anyway
    #[arg(long, value_delimiter = ',', value_name = "PARTS", value_parser = part)]
    disable: Vec<String>,
    /// Name of the node [default: the container's host name]
    #[arg(long, value_name = "NAME", env = "K3S_NODE_NAME")]
    node_name: Option<String>,
    /// Address range of pods
    #[arg(long, value_name = "RANGE")]
    cluster_cidr: Option<Ipv4Net>,
    /// Address range of services
    #[arg(long, value_name = "RANGE")]
    service_cidr: Option<Ipv4Net>,
    /// DNS domain of the cluster
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    cluster_domain: String,
    /// Registries to use over plain HTTP
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "HOST[:PORT]",
        value_parser = registry
    )]
    insecure_registry: Vec<String>,
    /// Another file to write the kubeconfig to
    #[arg(short = 'o', long, value_name = "FILE", env = "K3S_KUBECONFIG_OUTPUT")]
    write_kubeconfig: Option<PathBuf>,
    /// Permissions of the kubeconfig, octal
    #[arg(
        long,
        default_value = "600",
        value_name = "MODE",
        value_parser = mode,
        env = "K3S_KUBECONFIG_MODE"
    )]
    write_kubeconfig_mode: u32,
    /// Wait until the node is ready and say so; the server starts it itself
    #[arg(long, hide = true)]
    announce: bool,
}

fn part(name: &str) -> Result<String, String> {
    if ABSENT.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(match BUILT_IN.contains(&name) {
        true => format!("'{name}' is part of the node and cannot be left out"),
        false => format!(
            "there is no part '{name}'; the parts are {}",
            ABSENT.join(", ")
        ),
    })
}

/// Checks the name of a registry; a URL would never match one.
fn registry(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains("://") || text.contains(char::is_whitespace) {
        true => Err(format!(
            "'{text}' is neither HOST[:PORT] nor a range of addresses"
        )),
        false => Ok(text.to_owned()),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("'{text}' is not a mode such as 644"))
}

/// Whether the first argument means the role: only the first process of a container can be it, for it
/// replaces file systems.
pub fn is_here() -> bool {
    std::process::id() == 1 || std::env::var_os(ANNOUNCER).is_some()
}

/// Marks the process that waits for the node.
const ANNOUNCER: &str = "RKUBE_SERVER_ANNOUNCER";

/// Configures the node and becomes its first process. Returns only on failure, or as the process that
/// waits for the node.
pub fn run(args: &[OsString]) -> anyhow::Result<()> {
    let words = std::iter::once(OsString::from("rkube server")).chain(args.iter().cloned());
    let options = match Options::try_parse_from(words) {
        Ok(options) => options,
        Err(e) => e.exit(),
    };
    if options.announce {
        return announce();
    }
    let standalone = Standalone {
        node: match &options.node_name {
            Some(name) => name.clone(),
            None => host_name()?,
        },
        address: address()?,
        pod_cidr: options.cluster_cidr,
        service_cidr: options.service_cidr,
        dns_domain: options.cluster_domain,
        api_port: API_PORT,
        api_names: options.tls_san,
        insecure_registries: options.insecure_registry,
    };
    let home = Home::at(Path::new(paths::STATE).join("server"));
    let etc = Path::new(paths::NODE_CONFIG)
        .parent()
        .context("no directory")?;
    let kubeconfig = standalone
        .configure(&home, etc)
        .map_err(|failure| anyhow::anyhow!("{}", failure.message))?;
    let more = options.write_kubeconfig.as_deref().into_iter();
    for path in [KUBECONFIG, OWN_KUBECONFIG]
        .map(Path::new)
        .into_iter()
        .chain(more)
    {
        write(path, &kubeconfig, options.write_kubeconfig_mode)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    rkube_fsutil::say!(
        "rkube {} serves the API at https://{}:{API_PORT}; kubeconfig: {KUBECONFIG}",
        env!("CARGO_PKG_VERSION"),
        standalone.ip()
    );
    std::process::Command::new("/proc/self/exe")
        .args([rkube_config::roles::SERVER, "--announce"])
        .env(ANNOUNCER, "1")
        .spawn()
        .context("cannot start the process that waits for the node")?;
    make_room().context("cannot prepare the container's file system")?;
    rkube_drivers::docker::docker_init()
        .context("the container lacks rights; run it with --privileged")
}

/// Name under which this program prints files.
pub const CAT: &str = "cat";

/// Prints files, as `cat` does. The image has no other programs, and test libraries read the kubeconfig
/// with it.
pub fn cat(files: &[OsString]) -> std::io::Result<()> {
    for file in files {
        std::io::copy(
            &mut std::fs::File::open(file)?,
            &mut std::io::stdout().lock(),
        )?;
    }
    Ok(())
}

/// Makes `/bin/cat`, and undoes what test libraries mount on `/var/run`, a link to `/run` in nodes.
fn make_room() -> std::io::Result<()> {
    use std::os::unix::fs::symlink;
    let cat = Path::new("/bin").join(CAT);
    std::fs::create_dir_all("/bin")?;
    if cat.symlink_metadata().is_err() {
        symlink("/rkube", &cat)?;
    }
    let run = Path::new("/var/run");
    if run.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        unmount_all(run)?;
        set_aside(run)?;
    }
    Ok(())
}

/// Unmounts what is mounted on a directory and below. What is mounted there may be the host's.
fn unmount_all(dir: &Path) -> std::io::Result<()> {
    let mounts = || std::fs::read("/proc/self/mountinfo").map(|info| mounts_in(&info, dir));
    // The last one first: it may hide others.
    for mount in mounts()?.iter().rev() {
        match nix::mount::umount2(mount, nix::mount::MntFlags::MNT_DETACH) {
            // It went with another one.
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(e) => return Err(e.into()),
        }
    }
    match mounts()?.first() {
        None => Ok(()),
        Some(left) => Err(std::io::Error::other(format!(
            "{} cannot be unmounted",
            left.display()
        ))),
    }
}

/// Returns the mount points that are `dir` or below it, in the order of `mountinfo`.
fn mounts_in(mountinfo: &[u8], dir: &Path) -> Vec<PathBuf> {
    let lines = mountinfo.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    points
        .map(unescaped)
        .filter(|point| point.starts_with(dir))
        .collect()
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescaped(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

/// Removes an empty directory and renames any other: its files may be somebody's.
fn set_aside(dir: &Path) -> std::io::Result<()> {
    if std::fs::remove_dir(dir).is_ok() {
        return Ok(());
    }
    let free = (1..).map(|i| dir.with_extension(format!("before-{i}")));
    for other in free {
        if other.symlink_metadata().is_err() {
            return std::fs::rename(dir, other);
        }
    }
    Ok(())
}

/// Writes a file with keys. It has its permissions from the start, and replaces a link instead of
/// following it.
fn write(path: &Path, content: &str, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let new = path.with_extension(format!("tmp-{}", std::process::id()));
    match std::fs::remove_file(&new) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let fill = |mut file: std::fs::File| {
        file.write_all(content.as_bytes())?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).mode(0o600);
    fill(options.clone().create_new(true).open(&new)?)?;
    match std::fs::rename(&new, path) {
        // A file that is a mount of its own cannot be replaced.
        Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
            std::fs::remove_file(&new)?;
            let options = options.truncate(true).custom_flags(nix::libc::O_NOFOLLOW);
            fill(options.open(path)?)
        }
        Err(e) => {
            // The first error is the one that matters.
            let _ = std::fs::remove_file(&new);
            Err(e)
        }
        Ok(()) => Ok(()),
    }
}

/// Returns the container's host name as the name of a node: its first label, in lower case.
fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host name")?;
    let name = name.to_string_lossy().to_ascii_lowercase();
    Ok(name.split('.').next().unwrap_or_default().to_owned())
}

/// Returns the container's first address, with the size of its network.
fn address() -> anyhow::Result<Ipv4Net> {
    let interfaces = nix::ifaddrs::getifaddrs().context("cannot read the addresses")?;
    for interface in interfaces {
        let v4 = |address: Option<nix::sys::socket::SockaddrStorage>| {
            Some(address?.as_sockaddr_in()?.ip())
        };
        let (address, mask) = (v4(interface.address), v4(interface.netmask));
        if let (Some(address), Some(mask)) = (address, mask)
            && !address.is_loopback()
        {
            return network(address, mask);
        }
    }
    bail!(
        "the container has no IPv4 address; run it with a network, such as the engine's default one"
    )
}

fn network(address: Ipv4Addr, mask: Ipv4Addr) -> anyhow::Result<Ipv4Net> {
    Ipv4Net::with_netmask(address, mask)
        .with_context(|| format!("{mask} is not the mask of a network"))
}

/// Waits until the node is ready and writes the line that test libraries wait for.
fn announce() -> anyhow::Result<()> {
    // Errors only if a provider is already installed, which is fine.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let kubeconfig = Kubeconfig::read_from(KUBECONFIG)?;
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        let start = jiff::Timestamp::now();
        let nodes: Api<Node> = Api::all(Client::try_from(config)?);
        loop {
            // The API server does not answer yet.
            if let Ok(list) = nodes.list(&Default::default()).await
                && list.items.iter().any(|node| is_ready(node, start))
            {
                break;
            }
            tokio::time::sleep(POLL_PERIOD).await;
        }
        println!("{READY}");
        Ok(())
    })
}

/// Whether a node is ready, and has said so since `start`: after a restart the API server remembers
/// what was before.
fn is_ready(node: &Node, start: jiff::Timestamp) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| {
        let heartbeat = condition.last_heartbeat_time.as_ref();
        condition.type_ == "Ready"
            && condition.status == "True"
            && heartbeat.is_some_and(|time| time.0.as_second() >= start.as_second())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_that_test_libraries_use() {
        for (line, valid) in [
            ("--disable traefik --tls-san=localhost", true),
            ("--disable=traefik --disable=servicelb", true),
            ("--tls-san=a,b --tls-san c", true),
            ("--write-kubeconfig-mode=644", true),
            ("--write-kubeconfig-mode=9", false),
            ("--disable=coredns", false),
            ("--disable=nonsense", false),
            ("--flannel-backend=none", false),
            ("--insecure-registry=registry:5000", true),
            ("--insecure-registry=http://registry", false),
        ] {
            let words = std::iter::once("server").chain(line.split(' '));
            assert_eq!(Options::try_parse_from(words).is_ok(), valid, "{line}");
        }
    }

    #[test]
    fn only_mounts_in_a_directory_are_found() {
        let info = b"21 1 0:19 / / rw - overlay overlay rw\n\
            22 21 0:20 / /var/run rw - tmpfs tmpfs rw\n\
            23 22 8:1 /host /var/run/a\\040b rw - ext4 /dev/sda1 rw\n\
            24 21 8:1 /other /var/runner rw - ext4 /dev/sda1 rw\n";
        let found = mounts_in(info, Path::new("/var/run"));
        assert_eq!(found, ["/var/run", "/var/run/a b"].map(PathBuf::from));
    }

    #[test]
    fn files_in_the_way_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        std::fs::create_dir(&run).unwrap();
        set_aside(&run).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for i in 1..=2 {
            std::fs::create_dir(&run).unwrap();
            std::fs::write(run.join("file"), "x").unwrap();
            set_aside(&run).unwrap();
            let kept = dir.path().join(format!("run.before-{i}/file"));
            assert!(!run.exists() && kept.exists());
        }
    }

    #[test]
    fn kubeconfigs_are_private_and_replace_links() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("k3s.yaml"), dir.path().join("target"));
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &path).unwrap();
        write(&path, "new", 0o640).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "old");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        let found = path.symlink_metadata().unwrap();
        assert!(found.is_file());
        assert_eq!(found.permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn the_network_has_the_size_of_the_mask() {
        let [address, mask] = ["172.17.0.2", "255.255.0.0"].map(|a| a.parse().unwrap());
        assert_eq!(network(address, mask).unwrap().to_string(), "172.17.0.2/16");
        assert!(network(address, "255.0.255.0".parse().unwrap()).is_err());
    }
}
