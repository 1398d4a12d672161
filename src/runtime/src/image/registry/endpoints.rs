//! The endpoints of a repository: mirrors, then the registry itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rkube_config::registries::{
    DOCKER_HUB, DOCKER_HUB_HOST, Endpoint, Registry as Settings, at_host, is_declared,
};

use super::connection::{Registry, Tries};
use super::http::is_loopback;
use crate::error::ImageError;
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::spec::{RegistryAuth, RuntimeConfig};

/// An endpoint as it is used from this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The settings, with a URL.
    pub(super) endpoint: Endpoint,
    /// Whether it stands for another registry.
    pub(super) mirror: bool,
}

/// A use of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// A tag is looked up.
    Resolve,
    /// Content is fetched by its digest.
    Pull,
    /// An image is pushed.
    Push,
}

impl Use {
    fn of(self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Resolve => endpoint.resolve,
            Self::Pull => endpoint.pull,
            Self::Push => endpoint.push,
        }
    }
}

/// Returns the endpoints of a repository, in the order in which they are tried.
pub(super) fn candidates(config: &RuntimeConfig, reference: &Reference) -> Vec<Candidate> {
    let name = reference.registry();
    let none = Settings::default();
    let settings = config.registries.of(name).unwrap_or(&none);
    let server = settings.server.clone().unwrap_or_default();
    // Nobody stands for the host's own registry.
    if let Some(address) = super::local::address(config, name) {
        let endpoint = at(&server, format!("http://{address}/v2"));
        return vec![Candidate {
            endpoint,
            mirror: false,
        }];
    }
    let declared = is_declared(&config.insecure_registries, name);
    // What is near is not worth a place in the cache.
    let near = declared || is_loopback(name);
    let mut all: Vec<Candidate> = settings
        .mirrors
        .iter()
        .filter(|mirror| !(mirror.passes_login && near))
        // What gets secrets must be known by its certificate.
        .filter(|mirror| {
            !mirror.passes_login || mirror.url.starts_with("https://") && !mirror.ca.is_empty()
        })
        .map(|mirror| Candidate {
            endpoint: at(mirror, at_host(&mirror.url, config.loopback_gateway)),
            mirror: true,
        })
        .collect();
    if !server.url.is_empty() {
        let url = at_host(&server.url, config.loopback_gateway);
        let mirror = host_of(&url) != default_host(name);
        let endpoint = at(&server, url);
        all.push(Candidate { endpoint, mirror });
        return all;
    }
    let host = default_host(name);
    // Where the host's loopback is meant, see `RuntimeConfig::loopback_gateway`.
    let gateway = config.loopback_gateway.filter(|_| declared);
    let encrypted = !server.ca.is_empty() || server.identity.is_some() || server.skip_verify;
    let mut push = |scheme: &str, skip_verify: bool| {
        let url = at_host(&format!("{scheme}://{host}/v2"), gateway);
        let mut endpoint = at(&server, url);
        endpoint.skip_verify |= skip_verify;
        let mirror = false;
        all.push(Candidate { endpoint, mirror });
    };
    if declared {
        // Either may be what "insecure" means, as with other engines.
        push("http", false);
        push("https", true);
    } else if is_loopback(name) && !encrypted {
        push("http", false);
    } else {
        push("https", false);
    }
    all
}

fn at(endpoint: &Endpoint, url: String) -> Endpoint {
    Endpoint {
        url,
        ..endpoint.clone()
    }
}

fn default_host(name: &str) -> &str {
    if name == DOCKER_HUB {
        DOCKER_HUB_HOST
    } else {
        name
    }
}

/// Returns the `host[:port]` of a URL.
pub(super) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Clients of the endpoints of a repository.
pub(super) struct Hub {
    endpoints: Vec<(Endpoint, Arc<Registry>)>,
    /// Which of the last two endpoints is not needed, if they are one place with two protocols.
    protocol: Option<tokio::sync::OnceCell<usize>>,
    image: String,
}

/// Returns whether two endpoints are the registry itself with two protocols.
fn same_place(one: &Candidate, other: &Candidate) -> bool {
    !one.mirror && !other.mirror && host_of(&one.endpoint.url) == host_of(&other.endpoint.url)
}

impl Hub {
    /// Returns clients of all endpoints of the repository of `reference`.
    pub(super) fn new(
        config: &RuntimeConfig,
        reference: &Reference,
        auth: &[RegistryAuth],
        tell: &Arc<dyn Fn(String) + Send + Sync>,
    ) -> Result<Self, ImageError> {
        let all = candidates(config, reference);
        let two = matches!(all.as_slice(), [.., a, b] if same_place(a, b));
        // The registry itself is asked patiently, with either protocol.
        let last = all.len() - if two { 2 } else { 1 };
        let endpoints = all.into_iter().enumerate().map(|(i, candidate)| {
            let mut registry = Registry::at(config, reference, auth, &candidate)?;
            registry.tell = Some(tell.clone());
            if i < last {
                registry.tries = Tries::Few;
            }
            Ok((candidate.endpoint, Arc::new(registry)))
        });
        Ok(Self {
            endpoints: endpoints.collect::<Result<_, ImageError>>()?,
            protocol: two.then(tokio::sync::OnceCell::new),
            image: reference.to_string(),
        })
    }

    /// Returns clients as [`Self::new`] does, which do not wait long for an answer.
    pub(super) fn impatient(
        config: &RuntimeConfig,
        reference: &Reference,
        auth: &[RegistryAuth],
        tell: &Arc<dyn Fn(String) + Send + Sync>,
    ) -> Result<Self, ImageError> {
        let mut hub = Self::new(config, reference, auth, tell)?;
        for (_, registry) in &mut hub.endpoints {
            if let Some(registry) = Arc::get_mut(registry) {
                registry.tries = Tries::Few;
            }
        }
        Ok(hub)
    }

    /// Returns the place of an endpoint that need not be asked, because its registry speaks the
    /// other protocol. Until the registry has answered, that is looked up again.
    async fn other_protocol(&self) -> Option<usize> {
        let count = self.endpoints.len();
        let choose = || async {
            for place in [count - 2, count - 1] {
                if self.endpoints[place].1.speaks().await {
                    return Ok(2 * count - 3 - place);
                }
            }
            Err::<usize, ()>(())
        };
        let chosen = self.protocol.as_ref()?.get_or_try_init(choose).await;
        Some(chosen.copied().unwrap_or(count - 1))
    }

    /// Asks the endpoints in turn, until one succeeds. Fails with the error of the registry itself,
    /// and says what was wrong with its mirrors.
    pub(super) async fn ask<T, F>(
        &self,
        what: Use,
        work: impl Fn(Arc<Registry>) -> F,
    ) -> Result<T, ImageError>
    where
        F: Future<Output = Result<T, ImageError>>,
    {
        let mut own: Option<ImageError> = None;
        let mut of_mirror: Option<ImageError> = None;
        let mut remarks = Vec::new();
        for (place, (endpoint, registry)) in self.endpoints.iter().enumerate() {
            if !what.of(endpoint) {
                continue;
            }
            if place + 2 >= self.endpoints.len() && self.other_protocol().await == Some(place) {
                continue;
            }
            if let Some(reason) = registry.lost.get() {
                remarks.push(format!("{}: {reason}", registry.name));
                continue;
            }
            let error = match work(registry.clone()).await {
                Ok(done) => return Ok(done),
                Err(e @ (ImageError::Io { .. } | ImageError::Platform { .. })) => return Err(e),
                Err(e) => e,
            };
            tracing::info!(image = self.image, registry = registry.name, "{error}");
            if registry.mirror {
                if !matches!(error, ImageError::NotFound(_)) {
                    remarks.push(error.to_string());
                }
                of_mirror = Some(error);
            } else if own.is_none() || !matches!(error, ImageError::Registry { .. }) {
                own = Some(error);
            }
        }
        let error = own.or(of_mirror);
        Err(match error {
            Some(ImageError::Registry { registry, reason }) if !remarks.is_empty() => {
                let others: Vec<&String> =
                    remarks.iter().filter(|r| !r.contains(&reason)).collect();
                let mut reason = reason;
                for other in others {
                    reason += &format!("; {other}");
                }
                ImageError::Registry { registry, reason }
            }
            Some(error) => error,
            None => ImageError::Registry {
                registry: self.image.clone(),
                reason: match remarks.is_empty() {
                    true => "the settings of registries name no endpoint for this".to_owned(),
                    false => remarks.join("; "),
                },
            },
        })
    }

    /// Fetches a manifest or index; see [`Registry::manifest`].
    pub(super) async fn manifest(
        &self,
        key: &str,
        expected: Option<&Digest>,
    ) -> Result<(Digest, Vec<u8>), ImageError> {
        let what = match expected {
            Some(_) => Use::Pull,
            None => Use::Resolve,
        };
        self.ask(what, |registry| async move {
            registry.manifest(key, expected).await
        })
        .await
    }

    /// Fetches a small blob; see [`Registry::small_blob`].
    pub(super) async fn small_blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        self.ask(Use::Pull, |registry| async move {
            registry.small_blob(descriptor).await
        })
        .await
    }
}

/// Returns a client of the endpoint that images are pushed to: the first one that takes pushes.
pub(super) async fn push_target(
    config: &RuntimeConfig,
    reference: &Reference,
    auth: &[RegistryAuth],
) -> Result<Registry, ImageError> {
    let all = candidates(config, reference);
    let mut able = all.into_iter().filter(|c| Use::Push.of(&c.endpoint));
    let Some(first) = able.next() else {
        return Err(ImageError::Denied {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            reason: "the settings of registries let no endpoint take pushes".to_owned(),
        });
    };
    let registry = Registry::at(config, reference, auth, &first)?;
    // A registry that was declared insecure speaks one of two protocols.
    if let Some(second) = able.next()
        && !first.mirror
        && !registry.speaks().await
    {
        let other = Registry::at(config, reference, auth, &second)?;
        if other.speaks().await {
            return Ok(other);
        }
    }
    registry.lost.forget();
    Ok(registry)
}

/// Why an endpoint is not asked again.
#[derive(Default)]
pub(super) struct Lost {
    known: std::sync::atomic::AtomicBool,
    reason: parking_lot::Mutex<String>,
}

impl Lost {
    pub(super) fn set(&self, reason: &str) {
        reason.clone_into(&mut self.reason.lock());
        self.known.store(true, Ordering::Release);
    }

    pub(super) fn get(&self) -> Option<String> {
        let known = self.known.load(Ordering::Acquire);
        known.then(|| self.reason.lock().clone())
    }

    fn forget(&self) {
        self.known.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rkube_config::registries::{ANY, Registries};

    use super::*;

    #[test]
    fn a_registry_with_two_protocols_is_asked_patiently() {
        let mut config = RuntimeConfig::new("/r", "/i", "/u", "/b");
        config.insecure_registries = vec!["plain.example".into()];
        let any = Settings {
            mirrors: vec![mirror("https://any.example/v2")],
            server: None,
        };
        config.registries.hosts.insert(ANY.to_owned(), any);
        let tell: Arc<dyn Fn(String) + Send + Sync> = Arc::new(|_| {});
        for (name, expected) in [
            (
                "plain.example/a",
                [Tries::Few, Tries::Many, Tries::Many].as_slice(),
            ),
            ("b.example/a", [Tries::Few, Tries::Many].as_slice()),
        ] {
            let reference = Reference::parse(name).unwrap();
            let hub = Hub::new(&config, &reference, &[], &tell).unwrap();
            let tries: Vec<Tries> = hub.endpoints.iter().map(|(_, r)| r.tries).collect();
            assert_eq!(tries, expected, "{name}");
            assert_eq!(hub.protocol.is_some(), expected.len() == 3);
        }
    }

    #[test]
    fn a_cache_without_a_certificate_is_not_asked() {
        let mut config = RuntimeConfig::new("/r", "/i", "/u", "/b");
        let cache = |url: &str, ca: &str| Endpoint {
            passes_login: true,
            ca: vec![ca.to_owned()],
            ..mirror(url)
        };
        let reference = Reference::parse("busybox").unwrap();
        for (endpoint, count) in [
            (cache("https://127.0.0.1:1/v2", "pem"), 2),
            (cache("http://127.0.0.1:1/v2", "pem"), 1),
            (
                Endpoint {
                    ca: Vec::new(),
                    ..cache("https://127.0.0.1:1/v2", "")
                },
                1,
            ),
        ] {
            let settings = Settings {
                mirrors: vec![endpoint],
                server: None,
            };
            config.registries.hosts.insert(ANY.to_owned(), settings);
            assert_eq!(candidates(&config, &reference).len(), count);
        }
    }

    fn mirror(url: &str) -> Endpoint {
        Endpoint {
            url: url.into(),
            push: false,
            ..Endpoint::default()
        }
    }

    #[test]
    fn endpoints_in_order() {
        let mut config = RuntimeConfig::new("/r", "/i", "/u", "/b");
        config.insecure_registries = vec!["plain.example".into(), "localhost:5001".into()];
        config.loopback_gateway = Some([10, 0, 0, 1].into());
        let settings = |mirrors: &[&str], server: Option<Endpoint>| Settings {
            mirrors: mirrors.iter().map(|url| mirror(url)).collect(),
            server,
        };
        let ca = Endpoint {
            ca: vec!["pem".into()],
            ..Endpoint::default()
        };
        config.registries = Registries {
            hosts: BTreeMap::from([
                (
                    "docker.io".to_owned(),
                    settings(&["https://a.example/v2", "http://localhost:5000/v2"], None),
                ),
                ("localhost:5002".to_owned(), settings(&[], Some(ca))),
                (
                    "gcr.io".to_owned(),
                    settings(&[], Some(mirror("https://other.example/v2/gcr"))),
                ),
                (ANY.to_owned(), settings(&["https://any.example/v2"], None)),
            ]),
            ..Registries::default()
        };
        for (name, expected) in [
            (
                "busybox",
                "mirror https://a.example/v2, mirror http://10.0.0.1:5000/v2, https://registry-1.docker.io/v2",
            ),
            ("localhost:5002/a", "https://localhost:5002/v2"),
            ("gcr.io/a", "mirror https://other.example/v2/gcr"),
            (
                "r.example/a",
                "mirror https://any.example/v2, https://r.example/v2",
            ),
            (
                "plain.example/a",
                "mirror https://any.example/v2, http://plain.example/v2, https://plain.example/v2",
            ),
            (
                "localhost:5001/a",
                "mirror https://any.example/v2, http://10.0.0.1:5001/v2, https://10.0.0.1:5001/v2",
            ),
            (
                "127.0.0.1:9/a",
                "mirror https://any.example/v2, http://127.0.0.1:9/v2",
            ),
        ] {
            let reference = Reference::parse(name).unwrap();
            let found: Vec<String> = candidates(&config, &reference)
                .iter()
                .map(|c| match c.mirror {
                    true => format!("mirror {}", c.endpoint.url),
                    false => c.endpoint.url.clone(),
                })
                .collect();
            assert_eq!(found.join(", "), expected, "{name}");
        }
    }
}
