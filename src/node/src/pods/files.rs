//! Generates the files that each pod gets: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.

use std::net::IpAddr;

use rkube_config::ClusterConfig;

use crate::kinds::*;

/// Maximum length of a host name in bytes, the kernel's limit.
const MAX_HOSTNAME_BYTES: usize = 64;
/// Maximum number of name servers of a resolv.conf.
const MAX_SERVERS: usize = 3;
/// Maximum number of search domains of a resolv.conf.
const MAX_SEARCH_DOMAINS: usize = 32;
/// Maximum length of a search domain in bytes. Some resolvers abort at longer ones.
const MAX_DOMAIN_BYTES: usize = 253;
/// Maximum length of all search domains with the spaces between them, in bytes.
const MAX_SEARCH_BYTES: usize = 2048;

/// A pod's host name and its DNS domain.
pub(crate) struct Hostname {
    /// Kernel host name: fully qualified if the pod sets `setHostnameAsFQDN`.
    pub name: String,
    /// Host name without the domain.
    pub short: String,
    /// `<subdomain>.<namespace>.svc.<cluster domain>`; empty if the pod has no subdomain.
    pub domain: String,
}

/// Returns the host name and domain of a pod.
///
/// # Errors
///
/// Fails if the fully qualified name exceeds the kernel's limit.
pub(crate) fn hostname(pod: &Pod, node: &str, dns_domain: &str) -> Result<Hostname, String> {
    let spec = pod.spec();
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return Ok(Hostname {
            name: name.to_owned(),
            short: name.to_owned(),
            domain: String::new(),
        });
    }
    if pod.host_network() {
        return Ok(Hostname {
            name: node.to_owned(),
            short: node.to_owned(),
            domain: String::new(),
        });
    }
    let mut short = match spec.hostname.as_deref().filter(|h| !h.is_empty()) {
        Some(name) => name.to_owned(),
        None => pod.name().to_owned(),
    };
    if short.len() > 63 {
        short.truncate(63);
        short.truncate(short.trim_end_matches(['-', '.']).len());
    }
    let domain = spec
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())
        .map(|s| format!("{s}.{}.svc.{dns_domain}", pod.namespace()))
        .unwrap_or_default();
    let mut name = short.clone();
    if spec.set_hostname_as_fqdn == Some(true) && !domain.is_empty() {
        name = format!("{short}.{domain}");
        if name.len() > MAX_HOSTNAME_BYTES {
            return Err(format!(
                "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {name} is too long (64 characters is the max, {} characters requested)",
                name.len()
            ));
        }
    }
    Ok(Hostname {
        name,
        short,
        domain,
    })
}

/// Returns the content of the pod's `/etc/hosts`.
///
/// `node_hosts` is the content of the node's file; pods on the host network get it.
pub(crate) fn hosts(pod: &Pod, names: &Hostname, ips: &[IpAddr], node_hosts: &str) -> String {
    let mut text = if pod.host_network() {
        format!("# Kubernetes-managed hosts file (host network).\n{node_hosts}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for ip in ips {
            if names.domain.is_empty() {
                text.push_str(&format!("{ip}\t{}\n", names.short));
            } else {
                text.push_str(&format!(
                    "{ip}\t{}.{}\t{}\n",
                    names.short, names.domain, names.short
                ));
            }
        }
        text
    };
    let aliases = pod.spec().host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
            text.push_str(&format!("{}\t{names}\n", alias.ip));
        }
    }
    text
}

/// Content of a resolv.conf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// Parses the content of a resolv.conf as the kubelet does; unknown lines are ignored.
    pub(crate) fn parse(text: &str) -> Self {
        let mut r = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => r.servers.extend(words.next().map(str::to_owned)),
                // Each line replaces the previous one. A domain with and without the dot at its end
                // is the same.
                Some("search") => {
                    r.search = words
                        .filter(|domain| *domain != ".")
                        .map(|domain| domain.strip_suffix('.').unwrap_or(domain).to_owned())
                        .collect();
                }
                Some("options") => words.for_each(|option| r.set_option(option)),
                _ => {}
            }
        }
        r
    }

    /// Sets an option, written as `name` or `name:value`; replaces an earlier value.
    fn set_option(&mut self, option: &str) {
        let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
        let new = name(option);
        self.options.retain(|old| name(old) != new);
        self.options.push(option.to_owned());
    }

    /// Reduces the configuration to the kubelet's limits. Returns a message for each kind of entry
    /// of which some were left out.
    pub(crate) fn limit(&mut self) -> Vec<String> {
        let mut messages = Vec::new();
        if self.servers.len() > MAX_SERVERS {
            self.servers.truncate(MAX_SERVERS);
            messages.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                self.servers.join(" ")
            ));
        }
        let all = self.search.len();
        self.search.truncate(MAX_SEARCH_DOMAINS);
        self.search
            .retain(|domain| domain.len() <= MAX_DOMAIN_BYTES);
        while self.search.join(" ").len() > MAX_SEARCH_BYTES {
            self.search.pop();
        }
        if self.search.len() < all {
            messages.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                self.search.join(" ")
            ));
        }
        messages
    }

    /// Replaces name servers on the node's loopback addresses, which pods cannot reach.
    ///
    /// The cluster's name server takes their place and forwards external names to them.
    fn reachable_from_pods(&self, cluster: &ClusterConfig) -> Self {
        let mut r = self.clone();
        let is_loopback = |s: &String| s.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if r.servers.iter().any(is_loopback) {
            r.servers.retain(|s| !is_loopback(s));
            r.servers.extend(name_server(cluster));
        }
        r
    }

    /// Formats the configuration as a resolv.conf.
    pub(crate) fn render(&self) -> String {
        let mut text = String::new();
        if !self.search.is_empty() {
            text.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// Returns the pod's resolver configuration according to its `dnsPolicy` and `dnsConfig`, before
/// [`Resolver::limit`].
pub(crate) fn resolver(pod: &Pod, cluster: &ClusterConfig, node: &Resolver) -> Resolver {
    let spec = pod.spec();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let mut r = match policy {
        "None" => Resolver::default(),
        "ClusterFirstWithHostNet" => cluster_first(pod, cluster, node),
        "ClusterFirst" if !pod.host_network() => cluster_first(pod, cluster, node),
        _ if pod.host_network() => node.clone(),
        _ => node.reachable_from_pods(cluster),
    };
    if let Some(config) = &spec.dns_config {
        let extend = |list: &mut Vec<String>, more: Option<&Vec<String>>| {
            for item in more.into_iter().flatten() {
                if !list.contains(item) {
                    list.push(item.clone());
                }
            }
        };
        extend(&mut r.servers, config.nameservers.as_ref());
        extend(&mut r.search, config.searches.as_ref());
        for option in config.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else {
                continue;
            };
            match option.value.as_deref() {
                Some(value) if !value.is_empty() => r.set_option(&format!("{name}:{value}")),
                _ => r.set_option(name),
            }
        }
    }
    r
}

/// Returns the address of the cluster's name server of the first family.
fn name_server(cluster: &ClusterConfig) -> Option<String> {
    cluster.dns_ips().first().map(ToString::to_string)
}

fn cluster_first(pod: &Pod, cluster: &ClusterConfig, node: &Resolver) -> Resolver {
    let domain = &cluster.dns_domain;
    let mut search = vec![
        format!("{}.svc.{domain}", pod.namespace()),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    for s in &node.search {
        if !search.contains(s) {
            search.push(s.clone());
        }
    }
    Resolver {
        servers: name_server(cluster).into_iter().collect(),
        search,
        options: vec!["ndots:5".into()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{HostAlias, PodDNSConfig, PodDNSConfigOption};

    fn cluster() -> ClusterConfig {
        ClusterConfig {
            name: "c".into(),
            dns_domain: "cluster.local".into(),
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            dns_ip: "10.96.0.10".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            node_cidr: "10.77.0.0/24".parse().unwrap(),
            ipv6: None,
            api_server_ip: "10.77.0.2".parse().unwrap(),
            api_server_port: 8443,
            load_balancers: None,
            nodes: vec![],
        }
    }

    fn pod() -> Pod {
        Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                ..Default::default()
            },
            spec: Some(PodSpec::default()),
            ..Default::default()
        }
    }

    #[test]
    fn cluster_dns_and_its_changes() {
        let node = Resolver::parse("nameserver 1.1.1.1\nsearch lan\noptions edns0\n");
        let mut p = pod();
        assert_eq!(
            resolver(&p, &cluster(), &node).render(),
            "search ns.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
        let spec = p.spec.as_mut().unwrap();
        spec.dns_config = Some(PodDNSConfig {
            nameservers: Some(vec!["9.9.9.9".into()]),
            searches: Some(vec!["x".into()]),
            options: Some(vec![PodDNSConfigOption {
                name: Some("ndots".into()),
                value: Some("2".into()),
            }]),
        });
        let r = resolver(&p, &cluster(), &node);
        assert_eq!(r.servers, ["10.96.0.10", "9.9.9.9"]);
        assert_eq!(r.options, ["ndots:2"]);
        p.spec.as_mut().unwrap().dns_policy = Some("None".into());
        assert_eq!(resolver(&p, &cluster(), &node).servers, ["9.9.9.9"]);
        p.spec.as_mut().unwrap().dns_policy = None;
        p.spec.as_mut().unwrap().dns_config = None;
        p.spec.as_mut().unwrap().host_network = Some(true);
        assert_eq!(resolver(&p, &cluster(), &node), node);
    }

    #[test]
    fn a_server_on_the_nodes_loopback_is_the_nodes_alone() {
        let node = Resolver::parse("nameserver 127.0.0.11\nnameserver 1.1.1.1\noptions edns0\n");
        let mut p = pod();
        p.spec.as_mut().unwrap().dns_policy = Some("Default".into());
        let r = resolver(&p, &cluster(), &node);
        assert_eq!(r.servers, ["1.1.1.1", "10.96.0.10"]);
        assert_eq!(r.options, ["edns0"]);
        p.spec.as_mut().unwrap().host_network = Some(true);
        assert_eq!(resolver(&p, &cluster(), &node), node);
    }

    #[test]
    fn names_and_hosts() {
        let mut p = pod();
        let spec = p.spec.as_mut().unwrap();
        spec.hostname = Some("h".into());
        spec.subdomain = Some("sub".into());
        spec.host_aliases = Some(vec![HostAlias {
            ip: "1.2.3.4".into(),
            hostnames: Some(vec!["a".into(), "b".into()]),
        }]);
        let names = hostname(&p, "node", "cluster.local").unwrap();
        assert_eq!(names.name, "h");
        let text = hosts(&p, &names, &["10.244.0.5".parse().unwrap()], "");
        assert!(text.contains("10.244.0.5\th.sub.ns.svc.cluster.local\th\n"));
        assert!(text.ends_with("1.2.3.4\ta\tb\n"));
        p.spec.as_mut().unwrap().set_hostname_as_fqdn = Some(true);
        assert_eq!(
            hostname(&p, "node", "cluster.local").unwrap().name,
            "h.sub.ns.svc.cluster.local"
        );
        p.spec.as_mut().unwrap().hostname = Some("x".repeat(60));
        assert!(hostname(&p, "node", "cluster.local").is_err());
    }

    #[test]
    fn names_are_cut_to_a_label() {
        let mut p = pod();
        p.metadata.name = Some(format!("{}-b", "a".repeat(62)));
        assert_eq!(hostname(&p, "n", "d").unwrap().name, "a".repeat(62));
        p.metadata.name = Some("a".repeat(70));
        assert_eq!(hostname(&p, "n", "d").unwrap().name.len(), 63);
    }

    #[test]
    fn names_on_the_nodes_network_are_the_nodes() {
        let mut p = pod();
        let spec = p.spec.as_mut().unwrap();
        spec.host_network = Some(true);
        spec.hostname = Some("h".into());
        assert_eq!(hostname(&p, "node", "d").unwrap().name, "node");
        p.spec.as_mut().unwrap().hostname_override = Some("other".into());
        assert_eq!(hostname(&p, "node", "d").unwrap().name, "other");
    }

    #[test]
    fn hosts_on_the_nodes_network_begin_with_the_nodes() {
        let mut p = pod();
        let spec = p.spec.as_mut().unwrap();
        spec.host_network = Some(true);
        spec.host_aliases = Some(vec![HostAlias {
            ip: "1.2.3.4".into(),
            hostnames: None,
        }]);
        let names = hostname(&p, "node", "d").unwrap();
        assert_eq!(
            hosts(&p, &names, &[], "10.0.0.1\tnode\n"),
            "# Kubernetes-managed hosts file (host network).\n10.0.0.1\tnode\n\n# Entries added by HostAliases.\n1.2.3.4\t\n"
        );
    }

    /// Cases of upstream's `TestParseResolvConf`.
    #[test]
    fn resolvers_are_parsed() {
        for (text, servers, search, options) in [
            ("", &[][..], &[][..], &[][..]),
            (" ", &[], &[], &[]),
            ("\n", &[], &[], &[]),
            ("nameserver", &[], &[], &[]),
            ("nameserver 1.2.3.4", &["1.2.3.4"], &[], &[]),
            ("\tnameserver\t1.2.3.4\n", &["1.2.3.4"], &[], &[]),
            ("nameserver 1.2.3.4 a comment", &["1.2.3.4"], &[], &[]),
            (
                "nameserver 1.2.3.4\nnameserver 5.6.7.8",
                &["1.2.3.4", "5.6.7.8"],
                &[],
                &[],
            ),
            ("search foo", &[], &["foo"], &[]),
            ("search foo bar bat\n", &[], &["foo", "bar", "bat"], &[]),
            ("search foo\nsearch bar", &[], &["bar"], &[]),
            (
                "options ndots:5 attempts:2",
                &[],
                &[],
                &["ndots:5", "attempts:2"],
            ),
            ("#nameserver 1.2.3.4", &[], &[], &[]),
        ] {
            let r = Resolver::parse(text);
            assert_eq!(r.servers, servers, "{text}");
            assert_eq!(r.search, search, "{text}");
            assert_eq!(r.options, options, "{text}");
        }
    }

    #[test]
    fn resolvers_are_limited() {
        let mut p = pod();
        let spec = p.spec.as_mut().unwrap();
        spec.dns_policy = Some("None".into());
        spec.dns_config = Some(PodDNSConfig {
            nameservers: Some((1..6).map(|i| format!("9.9.9.{i}")).collect()),
            searches: Some((0..40).map(|i| format!("s{i}")).collect()),
            options: Some(vec![PodDNSConfigOption {
                name: Some("edns0".into()),
                value: None,
            }]),
        });
        let mut r = resolver(&p, &cluster(), &Resolver::default());
        assert_eq!(r.limit().len(), 2);
        assert_eq!((r.servers.len(), r.search.len()), (3, 32));
        assert_eq!(r.options, ["edns0"]);
    }
}
