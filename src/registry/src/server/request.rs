//! What a request is about.

use std::net::IpAddr;

use hyper::Method;
use percent_encoding::percent_decode_str;

use crate::auth::Access;
use crate::error::{Code, Refusal};
use crate::name::{Digest, Repository};

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
pub enum Target {
    Base,
    Catalog,
    Tags(Repository),
    Manifest(Repository, String),
    Blob(Repository, Digest),
    Uploads(Repository),
    Upload(Repository, String),
    Referrers(Repository, Digest),
}

impl Target {
    /// Returns what a request must be allowed to do.
    pub fn access(&self, method: &Method) -> Option<Access> {
        let name = match self {
            Self::Base => return None,
            Self::Catalog => {
                return Some(Access {
                    kind: "registry",
                    name: "catalog".to_owned(),
                    action: "*",
                });
            }
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Referrers(name, _) => name,
        };
        let action = match self {
            Self::Uploads(_) | Self::Upload(..) => "push",
            _ => match *method {
                Method::DELETE => "delete",
                Method::PUT => "push",
                _ => "pull",
            },
        };
        Some(Access {
            kind: "repository",
            name: name.to_string(),
            action,
        })
    }
}

/// Decodes a path or a word of a query.
pub fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Finds what a decoded path names.
pub fn parse(path: &str) -> Result<Target, Refusal> {
    let unknown = || Refusal::new(Code::NameUnknown, "there is nothing here");
    let rest = path.strip_prefix("/v2").ok_or_else(unknown)?;
    if rest.is_empty() || rest == "/" {
        return Ok(Target::Base);
    }
    let rest = rest.strip_prefix('/').ok_or_else(unknown)?;
    if rest == "_catalog" {
        return Ok(Target::Catalog);
    }
    let words: Vec<&str> = rest.split('/').collect();
    let digest = |text: &str| {
        Digest::parse(text).ok_or_else(|| {
            Refusal::new(
                Code::DigestInvalid,
                format!("{text:?} is no digest by sha256 or sha512"),
            )
        })
    };
    match words.as_slice() {
        [name @ .., "manifests", key] if !name.is_empty() => {
            Ok(Target::Manifest(repository(name)?, (*key).to_owned()))
        }
        [name @ .., "tags", "list"] if !name.is_empty() => Ok(Target::Tags(repository(name)?)),
        [name @ .., "referrers", subject] if !name.is_empty() => {
            Ok(Target::Referrers(repository(name)?, digest(subject)?))
        }
        [name @ .., "blobs", "uploads", ""] | [name @ .., "blobs", "uploads"]
            if !name.is_empty() =>
        {
            Ok(Target::Uploads(repository(name)?))
        }
        [name @ .., "blobs", "uploads", id] if !name.is_empty() => {
            Ok(Target::Upload(repository(name)?, (*id).to_owned()))
        }
        [name @ .., "blobs", key] if !name.is_empty() => {
            Ok(Target::Blob(repository(name)?, digest(key)?))
        }
        _ => Err(unknown()),
    }
}

fn repository(words: &[&str]) -> Result<Repository, Refusal> {
    let name = words.join("/");
    Repository::parse(&name).ok_or_else(|| {
        Refusal::new(
            Code::NameInvalid,
            format!("{name:?} is no name of a repository"),
        )
    })
}

/// The words of a query.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses a query.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(&value.replace('+', " ")))
                })
                .collect(),
        )
    }

    /// Returns the first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Returns all values of a name.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let found = self.0.iter().filter(move |(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// Whether a `Host` is an address, a name that has no meaning in the internet, or one of `names`.
pub fn is_local_host(host: &str, names: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let local = [".internal", ".local", ".localhost", ".svc", ".test"];
    bare.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || names.contains(&name)
        || local.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let digest = Digest::of(crate::Algorithm::Sha256, b"x");
        let name = |text: &str| Repository::parse(text).unwrap();
        for (path, target) in [
            ("/v2", Target::Base),
            ("/v2/", Target::Base),
            ("/v2/_catalog", Target::Catalog),
            ("/v2/a/b/tags/list", Target::Tags(name("a/b"))),
            (
                "/v2/a/manifests/v1",
                Target::Manifest(name("a"), "v1".into()),
            ),
            (
                "/v2/blobs/uploads/manifests/v1",
                Target::Manifest(name("blobs/uploads"), "v1".into()),
            ),
            ("/v2/a/blobs/uploads", Target::Uploads(name("a"))),
            ("/v2/a/blobs/uploads/", Target::Uploads(name("a"))),
            (
                "/v2/a/blobs/uploads/x",
                Target::Upload(name("a"), "x".into()),
            ),
        ] {
            assert_eq!(parse(path).unwrap(), target, "{path}");
        }
        let path = decode(&format!(
            "/v2/a/blobs/{}",
            digest.to_string().replace(':', "%3A")
        ));
        assert_eq!(parse(&path).unwrap(), Target::Blob(name("a"), digest));
        for bad in [
            "/",
            "/v1/",
            "/v2x",
            "/v2/a",
            "/v2/manifests/x",
            "/v2/../manifests/x",
            "/v2/a/../b/manifests/x",
            "/v2//manifests/x",
            "/v2/A/manifests/x",
            "/v2/a/blobs/x",
            "/v2/a/referrers/x",
            "/v2/_a/tags/list",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_of_the_internet_are_not_served() {
        for good in [
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "registry",
            "registry.rkube.internal:5000",
            "registry.kube-system.svc.cluster.local",
            "registry.kube-system.svc",
            "192.168.58.1:5000",
            "",
        ] {
            assert!(is_local_host(good, &[]), "{good}");
        }
        for bad in [
            "evil.example:5000",
            "localhost.evil.example",
            "127.0.0.1.nip.io:5000",
        ] {
            assert!(!is_local_host(bad, &[]), "{bad}");
        }
    }
}
