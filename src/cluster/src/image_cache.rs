//! The user's cache of images: where it is, and which clusters need it.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;

use rkube_config::registries::{ANY, Endpoint, PROFILE_HEADER, Registries, TOKEN_HEADER};
use rkube_failure::Failure;
use serde::{Deserialize, Serialize};

use crate::files::Home;
use crate::profile::Profile;
use crate::registry::network_gateway;

/// The longest time to wait for a connection to the cache, in milliseconds.
const DIAL_MILLIS: u64 = 1000;

/// The place of the cache on the host's loopback, and how a cluster and the cache know each other.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageCache {
    /// The TCP port.
    pub port: u16,
    /// The secret of the cluster.
    pub token: String,
    /// The certificate of the cache, PEM. Whoever has another port or certificate gets neither the
    /// secret nor credentials of registries.
    #[serde(default)]
    pub certificate: String,
}

impl std::fmt::Debug for ImageCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageCache")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// Returns the directory of the cache, which all profiles share.
pub fn image_cache_dir(home: &Home) -> PathBuf {
    home.root().join("cache").join("images")
}

/// Returns the address at which the cache listens for a cluster besides the loopback, and the range of
/// the nodes that it serves there. `None` if its nodes reach the loopback, or have no cache.
pub fn image_cache_listens(profile: &Profile) -> Option<(Ipv4Addr, Ipv4Net)> {
    let needed = profile.image_cache.is_some() && profile.driver == "docker";
    needed.then(|| (network_gateway(profile), profile.node_cidr))
}

/// Returns the settings of registries as nodes get them: the cache is asked first.
pub(crate) fn with_cache(profile: &Profile) -> Registries {
    let mut all = profile.registries.clone();
    let Some(cache) = &profile.image_cache else {
        return all;
    };
    // Earlier versions made none; the next start with a cache does.
    if cache.certificate.is_empty() {
        return all;
    }
    // The loopback is that of this machine.
    let address = image_cache_listens(profile).map_or(Ipv4Addr::LOCALHOST, |(address, _)| address);
    let endpoint = Endpoint {
        url: format!("https://{address}:{}/v2", cache.port),
        push: false,
        ca: vec![cache.certificate.clone()],
        passes_login: true,
        headers: vec![
            (TOKEN_HEADER.to_owned(), cache.token.clone()),
            (PROFILE_HEADER.to_owned(), profile.name.clone()),
        ],
        dial_timeout_millis: Some(DIAL_MILLIS),
        ..Endpoint::default()
    };
    all.hosts.entry(ANY.to_owned()).or_default();
    for registry in all.hosts.values_mut() {
        registry.mirrors.insert(0, endpoint.clone());
    }
    all
}

/// Returns whether a cluster that uses the cache runs.
///
/// # Errors
/// Fails if the profiles cannot be read.
pub async fn image_cache_is_needed(home: &Home) -> Result<bool, Failure> {
    for name in home.profile_names()? {
        // A damaged profile does not run.
        let Ok(Some(profile)) = Profile::try_load(home, &name) else {
            continue;
        };
        if profile.image_cache.is_none() {
            continue;
        }
        if let Ok(driver) = rkube_drivers::by_name(&profile.driver)
            && driver.is_up(&profile.plan(home)).await
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Gives up the rights of root if the home is another user's, as with sudo.
///
/// # Errors
/// Fails if that is not possible.
#[cfg(target_os = "linux")]
pub fn become_owner(home: &Home) -> Result<(), Failure> {
    use std::os::unix::fs::MetadataExt as _;

    use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
    use rkube_failure::{Kind, Source};

    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let metadata = home
        .root()
        .metadata()
        .map_err(|e| crate::files::io_failure("read", home.root(), &e))?;
    let (uid, gid) = (metadata.uid(), metadata.gid());
    if uid == 0 {
        return Ok(());
    }
    setgroups(&[])
        .and_then(|()| setgid(Gid::from_raw(gid)))
        .and_then(|()| setuid(Uid::from_raw(uid)))
        .map_err(|e| {
            let message = format!("cannot become the user {uid}: {e}");
            Failure::new(Source::Host, Kind::Permission, message)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_is_asked_first() {
        let mut profile = Profile::new(&crate::profile::NewProfile {
            name: "p",
            driver: "native",
            nodes: &[crate::NodeSpec::default()],
            node_cidr: "192.168.77.0/24".parse().unwrap(),
            pod_cidr: "10.244.0.0/16".parse().unwrap(),
            service_cidr: "10.96.0.0/12".parse().unwrap(),
            ipv6: None,
            dns_domain: "cluster.local",
            insecure_registries: &[],
            ports: &[],
            mounts: &[],
            kind: false,
            store: None,
            machine: &rkube_drivers::MachineOptions::default(),
        })
        .unwrap();
        let hub = rkube_config::registries::Registry {
            mirrors: vec![Endpoint {
                url: "https://m/v2".into(),
                ..Endpoint::default()
            }],
            server: None,
        };
        profile.registries.hosts.insert("docker.io".into(), hub);
        assert_eq!(with_cache(&profile), profile.registries);
        let mut cache = ImageCache {
            port: 4000,
            token: "secret".into(),
            certificate: String::new(),
        };
        profile.image_cache = Some(cache.clone());
        assert_eq!(with_cache(&profile), profile.registries);
        cache.certificate = "pem".into();
        profile.image_cache = Some(cache);
        let all = with_cache(&profile);
        let urls = |name: &str| -> Vec<String> {
            let mirrors = all.hosts[name].mirrors.iter();
            mirrors.map(|mirror| mirror.url.clone()).collect()
        };
        assert_eq!(
            urls("docker.io"),
            ["https://127.0.0.1:4000/v2", "https://m/v2"]
        );
        assert_eq!(urls(ANY), ["https://127.0.0.1:4000/v2"]);
        assert_eq!(all.hosts[ANY].mirrors[0].ca, ["pem"]);
        assert_eq!(image_cache_listens(&profile), None);
        // Containers have a loopback of their own.
        profile.driver = "docker".into();
        let (address, nodes) = image_cache_listens(&profile).unwrap();
        assert_eq!(
            (address, nodes),
            ([192, 168, 77, 1].into(), profile.node_cidr)
        );
        let all = with_cache(&profile);
        assert_eq!(
            all.hosts[ANY].mirrors[0].url,
            "https://192.168.77.1:4000/v2"
        );
        assert!(!format!("{profile:?}").contains("secret"));
    }
}
