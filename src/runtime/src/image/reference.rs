//! Parsing and normalization of image references.

use std::fmt;

use super::digest::Digest;
use crate::error::ImageError;

/// Registry of references that name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Namespace of single-component repositories in the default registry.
const OFFICIAL: &str = "library";
/// Tag of references with neither tag nor digest.
const DEFAULT_TAG: &str = "latest";
/// Maximum length of a name without tag and digest, after the distribution project.
const MAX_NAME_LENGTH: usize = 255;

/// A normalized image name: registry, repository, and a tag, a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses a name by the grammar of the distribution project, with Docker's defaults: `busybox`
    /// is `docker.io/library/busybox:latest`.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let bad = |reason: &str| ImageError::InvalidReference {
            reference: text.to_string(),
            reason: reason.to_string(),
        };
        if text.is_empty() {
            return Err(bad("the name is empty"));
        }
        if text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(bad("a name cannot be 64 hexadecimal digits"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let digest = Digest::parse(digest).ok_or_else(|| bad("invalid digest"))?;
                (name, Some(digest))
            }
            None => (text, None),
        };
        let path_start = rest.rfind('/').map_or(0, |i| i + 1);
        let (name, tag) = match rest[path_start..].rfind(':') {
            Some(colon) => {
                let (name, tag) = rest.split_at(path_start + colon);
                (name, Some(&tag[1..]))
            }
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !valid_tag(tag)
        {
            return Err(bad("invalid tag"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path))
                if first.contains(['.', ':'])
                    || first == "localhost"
                    || first.bytes().any(|b| b.is_ascii_uppercase()) =>
            {
                (first, path)
            }
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        if !valid_registry(registry) {
            return Err(bad("invalid registry host"));
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{OFFICIAL}/{path}")
        } else {
            path.to_string()
        };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(bad("the repository name must be lowercase"));
        }
        if !repository.split('/').all(valid_component) {
            return Err(bad("invalid repository name"));
        }
        if registry.len() + 1 + repository.len() > MAX_NAME_LENGTH {
            return Err(bad("the name is longer than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_string()),
            (None, None) => Some(DEFAULT_TAG.to_string()),
            (None, Some(_)) => None,
        };
        Ok(Self {
            registry: registry.to_string(),
            repository,
            tag,
            digest,
        })
    }

    /// Returns the registry as `host[:port]`; `docker.io` for Docker Hub.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the digest, if any.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns the key of the manifest in the registry: the digest if present, otherwise the tag.
    pub fn manifest_key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_string(),
        }
    }

    /// Returns `registry/repository:tag`, if there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag
            .as_ref()
            .map(|tag| format!("{}/{}:{tag}", self.registry, self.repository))
    }

    /// Returns `registry/repository@digest` with the given digest.
    pub fn with_digest(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.registry, self.repository)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// Returns whether a tag is valid: at most 128 letters, digits and `_`, and after the first
/// character also `.` and `-`.
fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !tag.is_empty()
        && tag.len() <= 128
        && word(tag.as_bytes()[0])
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// Returns whether a path component is valid: lower-case letters and digits, separated by `.`, `_`,
/// `__` or hyphens.
fn valid_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !alnum(*first) || !alnum(*last) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

/// Returns whether a registry is a DNS name, an IPv4 address or a bracketed IPv6 address, with an
/// optional port.
fn valid_registry(registry: &str) -> bool {
    let (host, port) = if let Some(rest) = registry.strip_prefix('[') {
        match rest.split_once(']') {
            Some((ip, port)) => {
                if ip.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                match port.strip_prefix(':') {
                    Some(port) => (None, Some(port)),
                    None if port.is_empty() => (None, None),
                    None => return false,
                }
            }
            None => return false,
        }
    } else {
        match registry.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(registry), None),
        }
    };
    let host_ok = host.is_none_or(|host| {
        host.split('.').all(|label| {
            let bytes = label.as_bytes();
            !bytes.is_empty()
                && bytes
                    .iter()
                    .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
                && bytes[0] != b'-'
                && bytes[bytes.len() - 1] != b'-'
        })
    });
    host_ok && port.is_none_or(|p| !p.is_empty() && p.len() <= 5 && p.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(text: &str) -> String {
        Reference::parse(text).unwrap().to_string()
    }

    #[test]
    fn defaults_are_dockers() {
        assert_eq!(full("busybox"), "docker.io/library/busybox:latest");
        assert_eq!(full("rkube/kubia"), "docker.io/rkube/kubia:latest");
        assert_eq!(full("rkube/kubia:v2"), "docker.io/rkube/kubia:v2");
        assert_eq!(
            full("index.docker.io/library/a"),
            "docker.io/library/a:latest"
        );
        assert_eq!(full("docker.io/a"), "docker.io/library/a:latest");
        assert_eq!(full("localhost/a"), "localhost/a:latest");
        assert_eq!(full("127.0.0.1:5000/a/b"), "127.0.0.1:5000/a/b:latest");
        assert_eq!(
            full("registry.k8s.io/e2e-test-images/agnhost:2.56"),
            "registry.k8s.io/e2e-test-images/agnhost:2.56"
        );
        assert_eq!(full("[::1]:5000/a:x"), "[::1]:5000/a:x");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            full(&format!("a@{digest}")),
            format!("docker.io/library/a@{digest}")
        );
        assert_eq!(
            full(&format!("a:t@{digest}")),
            format!("docker.io/library/a:t@{digest}")
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let hex = "a".repeat(64);
        for bad in [
            "",
            "A",
            "a/B",
            "a:",
            "a:-x",
            "a//b",
            "/a",
            "a/",
            "a@sha256:12",
            "a@",
            "-a",
            "a..b",
            "a___b",
            "host:99999/a",
            "host:/a",
            "[::1/a",
            "a b",
            "a:t:u",
            &hex,
            "../a",
            "a/../b",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    proptest! {
        #[test]
        fn parsing_is_idempotent(text in "[a-zA-Z0-9._:/@\\-\\[\\]]{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                let again = Reference::parse(&reference.to_string()).unwrap();
                prop_assert_eq!(again, reference);
            }
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = Reference::parse(&text);
        }
    }
}
