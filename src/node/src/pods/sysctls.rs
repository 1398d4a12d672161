//! The sysctls that a pod may set, as in the kubelet's allow list.

use std::borrow::Cow;

use crate::kinds::*;

/// Sysctls that affect neither other pods nor the node (upstream's list).
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// The kernel namespace that a sysctl belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Network,
}

impl Namespace {
    /// Returns the namespace of a sysctl or of all sysctls with a prefix; `None` if it is the
    /// node's.
    fn of(name: &str) -> Option<Self> {
        let among = |prefixes: &[&str]| prefixes.iter().any(|p| name.starts_with(p));
        if name == "kernel.sem" || among(&["kernel.shm", "kernel.msg", "fs.mqueue."]) {
            return Some(Self::Ipc);
        }
        among(&["net."]).then_some(Self::Network)
    }

    /// Returns the name in upstream's messages.
    fn name(self) -> &'static str {
        match self {
            Self::Ipc => "ipc",
            Self::Network => "net",
        }
    }
}

/// The sysctls that pods of a node may set.
#[derive(Debug)]
pub(crate) struct Sysctls {
    /// Names, and prefixes that end with `*`.
    allowed: Vec<(String, Namespace)>,
}

impl Sysctls {
    /// Returns the list of the safe sysctls and of `unsafe_patterns`: names, or prefixes that end
    /// with `*`. Patterns outside a pod's namespaces are left out: no pod may set them.
    pub(crate) fn new(unsafe_patterns: &[String]) -> Self {
        let patterns = unsafe_patterns.iter().map(String::as_str);
        let allowed = SAFE
            .into_iter()
            .chain(patterns)
            .filter_map(|pattern| {
                let pattern = with_dots(pattern).into_owned();
                let namespace = Namespace::of(pattern.trim_end_matches('*'))?;
                Some((pattern, namespace))
            })
            .collect();
        Self { allowed }
    }

    /// Checks the sysctls of a pod.
    ///
    /// # Errors
    ///
    /// Returns upstream's message for the first one that the pod may not set.
    pub(crate) fn check(&self, pod: &Pod) -> Result<(), String> {
        let context = pod.spec().security_context.as_ref();
        for sysctl in context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
            let name = with_dots(&sysctl.name);
            let Some(namespace) = self.namespace(&name) else {
                return Err(format!("{name:?} not allowlisted"));
            };
            let of_node = match namespace {
                Namespace::Ipc => pod.spec().host_ipc == Some(true),
                Namespace::Network => pod.host_network(),
            };
            if of_node {
                let kind = namespace.name();
                return Err(format!("{name:?} not allowed with host {kind} enabled"));
            }
        }
        Ok(())
    }

    /// Returns the namespace of an allowed sysctl.
    fn namespace(&self, name: &str) -> Option<Namespace> {
        self.allowed
            .iter()
            .find(|(pattern, _)| match pattern.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == pattern,
            })
            .map(|(_, namespace)| *namespace)
    }
}

/// Returns a sysctl's name with dots as separators. The first separator decides which one the name
/// uses; in a name with slashes, dots are part of the words.
fn with_dots(name: &str) -> Cow<'_, str> {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSecurityContext, Sysctl};

    fn pod(name: &str, host_network: bool, host_ipc: bool) -> Pod {
        Pod {
            spec: Some(PodSpec {
                host_network: Some(host_network),
                host_ipc: Some(host_ipc),
                security_context: Some(PodSecurityContext {
                    sysctls: Some(vec![Sysctl {
                        name: name.into(),
                        value: "1".into(),
                    }]),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn safe_and_allowed_sysctls_are_set() {
        let list = Sysctls::new(&["kernel.msg*".into(), "net/core/somaxconn".into()]);
        for (name, network, ipc, message) in [
            ("kernel.shm_rmid_forced", false, false, None),
            ("kernel/shm_rmid_forced", false, false, None),
            ("net.ipv4.ip_local_port_range", false, true, None),
            ("net.ipv4.tcp_wmem", false, false, None),
            ("net.core.somaxconn", false, false, None),
            ("kernel.msgmax", true, false, None),
            ("kernel.sem", false, false, Some("not allowlisted")),
            ("net.ipv4.ip_forward", false, false, Some("not allowlisted")),
            ("vm.swappiness", false, false, Some("not allowlisted")),
            (
                "kernel.msgmax",
                false,
                true,
                Some("not allowed with host ipc enabled"),
            ),
            (
                "net.ipv4.tcp_syncookies",
                true,
                false,
                Some("not allowed with host net enabled"),
            ),
        ] {
            let wanted = message.map_or(Ok(()), |m| Err(format!("{name:?} {m}")));
            assert_eq!(list.check(&pod(name, network, ipc)), wanted, "{name}");
        }
        assert_eq!(list.check(&Pod::default()), Ok(()));
    }

    #[test]
    fn sysctls_of_the_node_cannot_be_allowed() {
        let list = Sysctls::new(&["vm.*".into(), "kernel.*".into()]);
        assert!(list.check(&pod("vm.swappiness", false, false)).is_err());
        assert!(
            list.check(&pod("kernel.core_pattern", false, false))
                .is_err()
        );
    }

    #[test]
    fn separators_are_normalized() {
        for (name, dotted) in [
            ("net.ipv4.conf.eth0/1.x", "net.ipv4.conf.eth0/1.x"),
            ("net/ipv4/conf/eth0.1/x", "net.ipv4.conf.eth0/1.x"),
            ("a", "a"),
        ] {
            assert_eq!(with_dots(name), dotted);
        }
    }
}
