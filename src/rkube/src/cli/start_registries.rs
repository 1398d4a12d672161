//! The flags of `rkube start` about registries and proxies.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use rkube_cluster::Progress as _;
use rkube_cluster::{Home, ImageCache, Profile, ProxyChoice, RegistryChanges, RegistrySources};
use rkube_config::registries::Registry;
use rkube_failure::Failure;

use super::unsupported::unsupported;
use super::values::parse_bool;
use super::{Output, usage_failure};

/// Flags that say how nodes reach registries.
#[derive(clap::Args, Debug, Default)]
pub struct RegistryFlags {
    /// URL of a mirror of Docker Hub, which is asked first; can be repeated, in order
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    registry_mirror: Vec<String>,
    /// Mirrors, credentials and certificates of registries, in the form of k3s' registries.yaml
    #[arg(long, value_name = "FILE")]
    registry_config: Option<PathBuf>,
    /// Directory with a directory for each registry, as containerd's certs.d with hosts.toml
    #[arg(long, value_name = "DIR")]
    registry_hosts: Option<PathBuf>,
    /// Certificates (PEM) to trust for registries, besides those of this machine; can be repeated
    #[arg(long, value_name = "FILE", value_delimiter = ',')]
    extra_ca: Vec<PathBuf>,
    /// Proxy of the nodes: auto for that of HTTP_PROXY, HTTPS_PROXY and NO_PROXY, none, or a URL
    #[arg(long, default_value = "auto", value_name = "PROXY")]
    proxy: String,
    /// Give the variables of the proxy to containers of pods, too
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", value_parser = parse_bool)]
    pod_proxy: Option<bool>,
    /// Pull through a cache of this user, which all clusters share; its largest size may be given,
    /// such as 20g [default: 10g] (Linux)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "SIZE", value_parser = CacheFlag::parse)]
    image_cache: Option<CacheFlag>,
    /// Variable of the proxy, as minikube has it: HTTP_PROXY=URL
    #[arg(long, hide = true, value_name = "NAME=VALUE")]
    docker_env: Vec<String>,
}

/// The value of `--image-cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CacheFlag {
    /// Whether there is a cache.
    Switch(bool),
    /// A cache of this size in bytes.
    Size(u64),
}

impl CacheFlag {
    fn parse(text: &str) -> Result<Self, String> {
        match parse_bool(text) {
            Ok(on) => Ok(Self::Switch(on)),
            Err(_) => super::node::parse_size(text).map(Self::Size),
        }
    }
}

/// Starts the cache of images if a cluster uses it. `flag` is that of this start. Returns the change.
pub(super) async fn image_cache(
    home: &Home,
    profile: &str,
    flag: Option<CacheFlag>,
    output: &Output,
) -> Result<Option<Option<ImageCache>>, Failure> {
    let uses = Profile::load(home, profile).is_ok_and(|profile| profile.image_cache.is_some());
    let limit = match flag {
        Some(CacheFlag::Switch(false)) => return Ok(Some(None)),
        Some(CacheFlag::Size(bytes)) => Some(bytes),
        None if !uses => return Ok(None),
        Some(CacheFlag::Switch(true)) | None => None,
    };
    #[cfg(target_os = "linux")]
    match super::image::cache::ensure(home, profile, limit).await {
        Ok(cache) => Ok(Some(Some(cache))),
        Err(failure) if flag.is_none() => {
            // Nodes then pull from the registries themselves.
            output.warn(&failure.message);
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: Option<u64> = limit;
        output.warn("--image-cache has no effect: there is a cache on Linux only");
        Ok(None)
    }
}

impl RegistryFlags {
    /// Takes the value of `--image-cache`.
    pub(super) fn take_image_cache(&mut self) -> Option<CacheFlag> {
        self.image_cache.take()
    }

    /// Returns what the flags, the cluster file and the environment say.
    pub(super) fn changes(
        self,
        section: Option<BTreeMap<String, Registry>>,
        of_file: Option<Vec<PathBuf>>,
        output: &Output,
    ) -> Result<RegistryChanges, Failure> {
        let has_extra_ca = of_file.is_some();
        let mut extra_ca = self.extra_ca;
        extra_ca.extend(of_file.unwrap_or_default());
        let sources = RegistrySources {
            mirrors: self.registry_mirror,
            config: self.registry_config,
            hosts_dir: self.registry_hosts,
            section,
            extra_ca,
            has_extra_ca,
        };
        let mut changes = sources.read()?;
        changes.proxies = proxies(&self.proxy, &self.docker_env, output)?;
        changes.pod_proxies = self.pod_proxy;
        Ok(changes)
    }
}

/// Warns if kubectl in this environment would ask a proxy for the nodes.
pub(super) fn warn_of_proxy(profile: &Profile, output: &Output) {
    let get = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if get("HTTPS_PROXY").or_else(|| get("https_proxy")).is_none() {
        return;
    }
    let excluded = get("NO_PROXY").or_else(|| get("no_proxy"));
    if !excludes(&excluded.unwrap_or_default(), profile.nodes[0].ip) {
        output.warn(&format!(
            "kubectl would reach the cluster through the proxy of this shell: export NO_PROXY=\"$NO_PROXY,{}\"",
            profile.node_cidr
        ));
    }
}

/// Returns whether a value of `NO_PROXY` has an address.
fn excludes(value: &str, ip: Ipv4Addr) -> bool {
    value.split(',').map(str::trim).any(|entry| {
        entry == "*"
            || entry == ip.to_string()
            || entry
                .parse::<Ipv4Net>()
                .is_ok_and(|range| range.contains(&ip))
    })
}

/// Returns the proxies of `--proxy`, `--docker-env` and the environment.
fn proxies(flag: &str, given: &[String], output: &Output) -> Result<ProxyChoice, Failure> {
    let mut variables = BTreeMap::new();
    for text in given {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let upper = name.to_ascii_uppercase();
        if !matches!(upper.as_str(), "HTTP_PROXY" | "HTTPS_PROXY" | "NO_PROXY") {
            return Err(unsupported(
                format!("--docker-env={name} is not supported"),
                "only HTTP_PROXY, HTTPS_PROXY and NO_PROXY have a meaning: the nodes run no container engine",
            ));
        }
        variables.insert(upper, value.to_owned());
    }
    let named = ["HTTP_PROXY", "HTTPS_PROXY"].map(|name| variables.contains_key(name));
    if !matches!(flag, "auto" | "") && named.contains(&true) {
        return Err(usage_failure(
            "--proxy and a proxy in --docker-env cannot be combined".to_owned(),
        ));
    }
    let get = |name: &str| {
        let found = variables.get(name).cloned();
        found.or_else(|| std::env::var(name).ok())
    };
    match ProxyChoice::parse(flag, get) {
        Ok(choice) => Ok(choice),
        Err(why) if flag == "auto" && variables.is_empty() => {
            // Nobody asked for it, and many clusters need no proxy.
            output.warn(&format!(
                "nodes do not use the proxy of the environment: {why}"
            ));
            Ok(ProxyChoice::Keep)
        }
        Err(why) => Err(usage_failure(format!("--proxy: {why}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_proxy() {
        let output = Output::new(crate::cli::output::Format::Text);
        let of = |flag: &str, given: &str| proxies(flag, &[given.to_owned()], &output);
        for flag in ["none", "http://p:1"] {
            assert!(of(flag, "HTTP_PROXY=http://q:1").is_err(), "{flag}");
            assert!(of(flag, "NO_PROXY=a").is_ok(), "{flag}");
        }
        assert!(of("auto", "https_proxy=http://q:1").is_ok());
    }

    #[test]
    fn addresses_are_excluded_by_themselves_or_a_range() {
        let ip = Ipv4Addr::new(192, 168, 58, 2);
        for (value, expected) in [
            ("", false),
            ("*", true),
            ("corp.example, 192.168.58.2", true),
            ("192.168.58.0/24", true),
            ("192.168.59.0/24,10.0.0.0/8", false),
        ] {
            assert_eq!(excludes(value, ip), expected, "{value}");
        }
    }
}
