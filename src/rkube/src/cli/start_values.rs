//! The values of the flags of `rkube start`.

use std::path::PathBuf;

use ipnet::Ipv4Net;
use rkube_cluster::{KubeletChanges, Progress as _};
use rkube_config::ResourceOptions;
use rkube_drivers::HostMount;
use rkube_failure::Failure;
use rkube_resource_managers::Settings;

use super::Output;
use super::unsupported::unsupported;
use super::values::parse_bool;

/// A limit of a node's resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// `no-limit`
    None,
    /// `max`: what the machine has.
    Max,
    /// Millicores or bytes.
    Amount(u64),
}

impl Limit {
    pub(super) fn parse(
        text: &str,
        amount: fn(&str) -> Result<u64, String>,
    ) -> Result<Self, String> {
        match text {
            // An empty value is minikube's default.
            "no-limit" | "" => Ok(Self::None),
            "max" => Ok(Self::Max),
            text => amount(text).map(Self::Amount),
        }
    }

    pub(super) fn cpus(text: &str) -> Result<Self, String> {
        Self::parse(text, super::node::parse_cpus)
    }

    pub(super) fn memory(text: &str) -> Result<Self, String> {
        Self::parse(text, super::node::parse_size)
    }

    /// Returns the limit, if there is one. `most` returns what the machine has.
    pub(super) fn amount(self, most: impl FnOnce() -> Option<u64>) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Max => most(),
            Self::Amount(amount) => Some(amount),
        }
    }
}

/// The target of `--wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// The API server and all nodes.
    All,
    /// Nothing.
    None,
}

/// The components that minikube waits for. rkube's nodes are ready when all of them are.
pub(super) const COMPONENTS: &[&str] = &[
    "apiserver",
    "system_pods",
    "default_sa",
    "apps_running",
    "node_ready",
    "kubelet",
    "extra",
];

impl Wait {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text == "none" || parse_bool(text) == Ok(false) {
            return Ok(Self::None);
        }
        let known = |word: &str| COMPONENTS.contains(&word);
        if text == "all" || parse_bool(text) == Ok(true) || text.split(',').all(known) {
            return Ok(Self::All);
        }
        Err(format!(
            "'{text}' is neither all, none, true or false, nor a list of {}",
            COMPONENTS.join(", ")
        ))
    }
}

/// The value of `--mount`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MountFlag {
    /// minikube's switch, which needs `--mount-string`.
    Switch(bool),
    /// A directory.
    Directory(HostMount),
}

impl MountFlag {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match parse_bool(text) {
            Ok(on) => Ok(Self::Switch(on)),
            Err(_) => text.parse().map(Self::Directory),
        }
    }
}

/// Returns the directories of `--mount-string` and `--mount`.
pub(super) fn mounts(
    strings: Vec<HostMount>,
    flags: Vec<MountFlag>,
    output: &Output,
) -> Vec<HostMount> {
    let switched = flags.contains(&MountFlag::Switch(true));
    let mut mounts = strings;
    mounts.extend(flags.into_iter().filter_map(|flag| match flag {
        MountFlag::Directory(mount) => Some(mount),
        MountFlag::Switch(_) => None,
    }));
    if switched && mounts.is_empty() {
        output.warn("--mount has no effect: name the directory with --mount-string HOST:NODE");
    }
    mounts
}

/// Parses the number of a cluster's nodes.
pub(super) fn parse_nodes(text: &str) -> Result<u32, String> {
    parse_count(text)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| format!("'{text}' is not a number of nodes"))
}

pub(super) fn parse_count(text: &str) -> Result<u32, String> {
    text.parse()
        .map_err(|_| format!("'{text}' is not a number of nodes"))
}

/// A component option of `--extra-config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    /// `apiserver.audit-policy-file`
    AuditPolicy(PathBuf),
    /// `kubeadm.pod-network-cidr`, which is `--pod-network-cidr` here.
    PodNetwork(Ipv4Net),
    /// `kubelet.allowed-unsafe-sysctls`
    UnsafeSysctls(Vec<String>),
    /// `kubelet.pod-max-pids`
    PodPids(i64),
    /// `kubelet.seccomp-default`
    SeccompDefault(bool),
    /// An option about the resources of nodes, such as `kubelet.cpu-manager-policy`.
    Resources(String, String),
    /// An option that changes nothing, for this reason.
    Harmless(String, &'static str),
    /// An option that rkube does not have.
    Unknown(String),
}

pub(super) fn parse_extra(text: &str) -> Result<Extra, String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("'{text}' does not have the form COMPONENT.KEY=VALUE"))?;
    match key {
        "apiserver.audit-policy-file" if !value.is_empty() => Ok(Extra::AuditPolicy(value.into())),
        "apiserver.audit-policy-file" => Err(format!("{key} requires a file name")),
        "kubeadm.pod-network-cidr" => match value.parse() {
            Ok(range) => Ok(Extra::PodNetwork(range)),
            Err(_) => Err(format!("{key}: '{value}' is not an address range")),
        },
        "kubelet.allowed-unsafe-sysctls" => {
            // An empty value takes all back.
            let names: Vec<String> = match value {
                "" => Vec::new(),
                names => names.split(',').map(str::to_owned).collect(),
            };
            match names.iter().find(|name| !is_sysctl_pattern(name)) {
                Some(name) => Err(format!(
                    "{key}: '{name}' is not a sysctl of a pod's namespaces"
                )),
                None => Ok(Extra::UnsafeSysctls(names)),
            }
        }
        "kubelet.pod-max-pids" => match value.parse() {
            Ok(limit @ (-1 | 1..=4_194_304)) => Ok(Extra::PodPids(limit)),
            _ => Err(format!(
                "{key}: '{value}' is not a number of processes, or -1"
            )),
        },
        "kubelet.seccomp-default" => match value.parse() {
            Ok(on) => Ok(Extra::SeccompDefault(on)),
            Err(_) => Err(format!("{key}: '{value}' is neither true nor false")),
        },
        _ if resource_option(key).is_some() => {
            let name = resource_option(key).unwrap_or_default();
            let values = [(name.to_owned(), value.to_owned())].into();
            // What goes with other options is checked with them.
            match Settings::parse(&ResourceOptions { values }) {
                Err(e) if !e.starts_with("[cpumanager]") && !e.starts_with("new none policy") => {
                    Err(format!("{key}: {e}"))
                }
                _ => Ok(Extra::Resources(name.to_owned(), value.to_owned())),
            }
        }
        "kubelet.cgroup-driver" | "kubelet.runtime-cgroups" | "kubelet.kubelet-cgroups" => {
            Ok(Extra::Harmless(
                key.to_owned(),
                "the nodes manage their control groups themselves",
            ))
        }
        "kubeadm.ignore-preflight-errors" | "kubeadm.skip-phases" => Ok(Extra::Harmless(
            key.to_owned(),
            "rkube sets nodes up itself, without kubeadm",
        )),
        _ => Ok(Extra::Unknown(key.to_owned())),
    }
}

/// Returns the name of an option about the resources of nodes.
fn resource_option(key: &str) -> Option<&str> {
    let name = key.strip_prefix("kubelet.")?;
    ResourceOptions::NAMES.contains(&name).then_some(name)
}

/// Returns whether a text names sysctls of a network or IPC namespace: one, or all with a prefix.
fn is_sysctl_pattern(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    let of_namespace = ["net.", "kernel.shm", "kernel.msg", "fs.mqueue."]
        .iter()
        .any(|prefix| name.replace('/', ".").starts_with(prefix));
    let words = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    words && (of_namespace || text == "kernel.sem")
}

/// Returns the driver that a name stands for: rkube's own, or minikube's for the same kind of nodes.
pub(super) fn driver(name: String, output: &Output) -> Option<String> {
    let (own, why) = match name.as_str() {
        "" | "auto" => return None,
        "none" | "bare-metal" => ("native", "its nodes are isolated processes of this machine"),
        "podman" => ("docker", "it works with every engine that has Docker's API"),
        "qemu2" | "kvm2" | "kvm" => ("qemu", "it makes virtual machines with QEMU"),
        _ => return Some(name),
    };
    output.warn(&format!(
        "the driver '{name}' is called '{own}' here: {why}"
    ));
    Some(own.to_owned())
}

/// The options of components.
#[derive(Default)]
pub(super) struct Extras {
    /// The API server's audit policy.
    pub(super) audit_policy: Option<PathBuf>,
    /// The address range of pods.
    pub(super) pods: Option<Ipv4Net>,
    /// Those of the kubelet.
    pub(super) kubelet: KubeletChanges,
}

/// Takes the options of components apart.
///
/// # Errors
/// Fails at the first one that rkube does not have.
pub(super) fn extras(extras: Vec<Extra>, output: &Output) -> Result<Extras, Failure> {
    let mut found = Extras::default();
    for extra in extras {
        match extra {
            Extra::AuditPolicy(file) => found.audit_policy = Some(file),
            Extra::PodNetwork(range) => found.pods = Some(range),
            Extra::UnsafeSysctls(names) => {
                found.kubelet.allowed_unsafe_sysctls = Some(names);
            }
            Extra::PodPids(limit) => found.kubelet.pod_pids_limit = Some(limit),
            Extra::SeccompDefault(on) => found.kubelet.no_seccomp_default = Some(!on),
            Extra::Resources(name, value) => {
                found.kubelet.resources.values.insert(name, value);
            }
            Extra::Harmless(key, why) => {
                output.warn(&format!("--extra-config={key} has no effect: {why}"));
            }
            Extra::Unknown(key) => {
                let resources = ResourceOptions::NAMES.map(|name| format!("kubelet.{name}"));
                return Err(unsupported(
                    format!("--extra-config={key} is not supported"),
                    format!(
                        "supported are apiserver.audit-policy-file, kubeadm.pod-network-cidr, kubelet.allowed-unsafe-sysctls, kubelet.pod-max-pids, kubelet.seccomp-default, {}",
                        resources.join(", ")
                    ),
                ));
            }
        }
    }
    Ok(found)
}

/// Checks the name of a registry; a URL would never match one.
pub fn parse_registry(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains("://") || text.contains(char::is_whitespace) {
        true => Err(format!(
            "'{text}' is neither HOST[:PORT] nor a range of addresses"
        )),
        false => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_may_be_words() {
        assert_eq!(Limit::memory("4096"), Ok(Limit::Amount(4 << 30)));
        assert_eq!(Limit::memory("max"), Ok(Limit::Max));
        assert_eq!(Limit::cpus("no-limit"), Ok(Limit::None));
        assert!(Limit::cpus("-1").is_err());
    }

    #[test]
    fn options_of_the_kubelet_are_checked() {
        let names = vec!["net.core.*".to_owned(), "kernel.sem".to_owned()];
        for (text, option) in [
            (
                "kubelet.allowed-unsafe-sysctls=net.core.*,kernel.sem",
                Extra::UnsafeSysctls(names),
            ),
            (
                "kubelet.allowed-unsafe-sysctls=",
                Extra::UnsafeSysctls(Vec::new()),
            ),
            ("kubelet.pod-max-pids=100", Extra::PodPids(100)),
            ("kubelet.pod-max-pids=-1", Extra::PodPids(-1)),
            (
                "kubelet.cpu-manager-policy=static",
                Extra::Resources("cpu-manager-policy".into(), "static".into()),
            ),
            (
                "kubelet.system-reserved=cpu=1,memory=1Gi",
                Extra::Resources("system-reserved".into(), "cpu=1,memory=1Gi".into()),
            ),
            (
                "kubelet.seccomp-default=false",
                Extra::SeccompDefault(false),
            ),
        ] {
            assert_eq!(parse_extra(text), Ok(option), "{text}");
        }
        for bad in [
            "kubelet.allowed-unsafe-sysctls=,",
            "kubelet.allowed-unsafe-sysctls=vm.swappiness",
            "kubelet.allowed-unsafe-sysctls=net.a b",
            "kubelet.allowed-unsafe-sysctls=kernel.sem*",
            "kubelet.pod-max-pids=0",
            "kubelet.pod-max-pids=4194305",
            "kubelet.pod-max-pids=many",
            "kubelet.seccomp-default=1",
            "kubelet.cpu-manager-policy=dynamic",
            "kubelet.system-reserved=gpu=1",
        ] {
            assert!(parse_extra(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn waiting_takes_lists() {
        for all in ["all", "true", "apiserver", "apiserver,node_ready"] {
            assert_eq!(Wait::parse(all), Ok(Wait::All), "{all}");
        }
        for none in ["none", "false"] {
            assert_eq!(Wait::parse(none), Ok(Wait::None), "{none}");
        }
        assert!(Wait::parse("apiserver,etcd").is_err());
    }
}
