//! Settings of registries: flags, the file of k3s and k3d, and containerd's directories.

mod hosts;
mod k3s;
mod proxies;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use rkube_config::registries::{DOCKER_HUB, Endpoint, Registries, Registry, is_loopback};
use rkube_failure::{Failure, Kind, Source};

use crate::files::io_failure;

pub use k3s::from_value;
pub use proxies::{ProxyChoice, no_proxy};

/// What flags and the cluster file say about registries. What they do not mention stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryChanges {
    /// Settings of registries by name.
    pub hosts: Option<BTreeMap<String, Registry>>,
    /// Whether these are only mirrors, which leave everything else as it is.
    pub only_mirrors: bool,
    /// PEM bundles of certificates to trust.
    pub roots: Option<Vec<String>>,
    /// Proxies of the nodes.
    pub proxies: ProxyChoice,
    /// Whether containers of pods get the variables of proxies.
    pub pod_proxies: Option<bool>,
}

/// The places where settings of registries are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySources {
    /// URLs of mirrors of Docker Hub, in order.
    pub mirrors: Vec<String>,
    /// A file as k3s and k3d have it.
    pub config: Option<PathBuf>,
    /// A directory as containerd has it (`config_path`).
    pub hosts_dir: Option<PathBuf>,
    /// The section of the cluster file.
    pub section: Option<BTreeMap<String, Registry>>,
    /// Files with certificates to trust.
    pub extra_ca: Vec<PathBuf>,
    /// Whether the cluster file lists certificates, so that an empty list means none.
    pub has_extra_ca: bool,
}

impl RegistrySources {
    /// Reads all sources. `--registry-mirror` comes before what files say about Docker Hub.
    ///
    /// # Errors
    /// Fails with the place of the first mistake.
    pub fn read(self) -> Result<RegistryChanges, Failure> {
        let files = self.section.is_some() || self.config.is_some() || self.hosts_dir.is_some();
        let mut hosts = self.section;
        if let Some(path) = &self.config {
            merge(&mut hosts, k3s::read(path)?);
        }
        if let Some(path) = &self.hosts_dir {
            merge(&mut hosts, hosts::read(path)?);
        }
        if !self.mirrors.is_empty() {
            let hosts = hosts.get_or_insert_default();
            let hub = hosts.entry(DOCKER_HUB.to_owned()).or_default();
            let mut mirrors = Vec::new();
            for url in &self.mirrors {
                mirrors.push(mirror(url).map_err(|why| usage("--registry-mirror", why))?);
            }
            mirrors.append(&mut hub.mirrors);
            hub.mirrors = mirrors;
        }
        let mut roots = self.has_extra_ca.then(Vec::new);
        for path in &self.extra_ca {
            let text = read_text(path)?;
            check_bundle(text.as_bytes()).map_err(|why| wrong(path, why))?;
            roots.get_or_insert_default().push(text);
        }
        Ok(RegistryChanges {
            only_mirrors: hosts.is_some() && !files,
            hosts,
            roots,
            proxies: ProxyChoice::default(),
            pod_proxies: None,
        })
    }
}

impl RegistryChanges {
    /// Returns the settings with the changes. `excluded` are names and ranges that no proxy reaches.
    pub(crate) fn applied(&self, now: &Registries, excluded: &[String]) -> Registries {
        let mut proxies = self.proxies.applied(&now.proxies, excluded);
        if let Some(pods) = self.pod_proxies {
            proxies.pods = pods;
        }
        let hosts = match &self.hosts {
            None => now.hosts.clone(),
            Some(hosts) if self.only_mirrors => {
                let mut all = now.hosts.clone();
                for (name, registry) in hosts {
                    let known = all.entry(name.clone()).or_default();
                    known.mirrors.clone_from(&registry.mirrors);
                }
                all
            }
            Some(hosts) => hosts.clone(),
        };
        Registries {
            hosts,
            roots: self.roots.clone().unwrap_or_else(|| now.roots.clone()),
            proxies,
        }
    }
}

/// Adds settings of further registries, which replace those of the same names.
fn merge(all: &mut Option<BTreeMap<String, Registry>>, more: BTreeMap<String, Registry>) {
    all.get_or_insert_default().extend(more);
}

/// Returns the mirror with a URL, which only serves pulls.
fn mirror(url: &str) -> Result<Endpoint, String> {
    Ok(Endpoint {
        url: with_version(&check_url(url)?),
        push: false,
        ..Endpoint::default()
    })
}

/// Returns a URL with the path of the protocol's version, unless it has a path that ends so.
fn with_version(url: &str) -> String {
    let url = url.trim_end_matches('/');
    match url.ends_with("/v2") {
        true => url.to_owned(),
        false => format!("{url}/v2"),
    }
}

/// Checks a URL of an endpoint. Without a scheme it is HTTP on the loopback, else HTTPS.
fn check_url(text: &str) -> Result<String, String> {
    let text = text.trim();
    let url = match text.split_once("://") {
        Some(_) => text.to_owned(),
        None => {
            let place = text.split('/').next().unwrap_or_default();
            let (host, port) = match place.rsplit_once(':') {
                Some((host, port)) if !place.ends_with(']') => (host, port),
                _ => (place, ""),
            };
            let plain = is_loopback(host) && port != "443";
            format!("{}://{text}", if plain { "http" } else { "https" })
        }
    };
    let parsed = reqwest::Url::parse(&url).map_err(|e| format!("'{text}' is not a URL: {e}"))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(format!("'{text}' is neither an HTTP nor an HTTPS URL"));
    }
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(format!("'{text}' has more than a host and a path"));
    }
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err("credentials are not part of the URL of a registry".to_owned());
    }
    Ok(url)
}

/// Checks that a registry is named as image names do.
fn check_name(name: &str) -> Result<(), String> {
    let ok = !name.is_empty()
        && !name.contains("://")
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c));
    match ok {
        true => Ok(()),
        false => Err(format!(
            "'{name}' is not a registry as image names have it, HOST[:PORT]"
        )),
    }
}

fn check_bundle(pem: &[u8]) -> Result<(), String> {
    match rkube_x509::Roots::from_pem(pem) {
        Ok(_) => Ok(()),
        Err(e) => Err(e.to_string()),
    }
}

fn check_identity(certificate: &str, key: &str) -> Result<(), String> {
    rkube_x509::Identity::from_pem(certificate.as_bytes(), key.as_bytes()).map(drop)
}

fn read_text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| io_failure("read", path, &e))
}

/// Returns the failure of a mistake in a file.
fn wrong(path: &Path, why: impl Display) -> Failure {
    Failure::new(
        Source::Program,
        Kind::Config,
        format!("{}: {why}", path.display()),
    )
}

fn usage(flag: &str, why: impl Display) -> Failure {
    Failure::new(Source::Program, Kind::Usage, format!("{flag}: {why}"))
}
