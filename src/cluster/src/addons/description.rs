//! The description of an addon: `addon.yaml`, and the sources of its manifests.

use std::path::{Component, Path, PathBuf};

use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;

/// Name of the file that describes an addon, in its directory.
pub(super) const DESCRIPTION: &str = "addon.yaml";

/// Software that can be installed in a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Addon {
    /// The addon's name, a DNS label.
    pub name: String,
    /// A description of one line.
    pub description: String,
    /// The version of the software.
    pub version: String,
    /// URL of the project.
    pub homepage: String,
    /// The namespace of objects without one.
    pub namespace: Option<String>,
    /// The manifests, in the order in which they are applied.
    pub manifests: Vec<Manifest>,
    /// The place where the addon was found.
    pub origin: Origin,
}

/// A part of an addon's manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// A file of the addon's directory.
    File(String),
    /// A URL to download, and the expected SHA-256 of the document.
    Url(String, Option<String>),
}

/// The location of an addon's files.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// Part of this binary: names and contents of the files.
    BuiltIn(&'static [(&'static str, &'static str)]),
    /// Part of this binary, completed for one cluster: names and contents of the files.
    Completed(Vec<(String, String)>),
    /// A directory on the host.
    Directory(PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn(_) | Self::Completed(_) => f.write_str("built-in"),
            Self::Directory(directory) => write!(f, "{}", directory.display()),
        }
    }
}

/// The content of `addon.yaml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    description: String,
    version: String,
    #[serde(default)]
    homepage: String,
    #[serde(default)]
    namespace: Option<String>,
    manifests: Vec<WrittenManifest>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenManifest {
    file: Option<String>,
    url: Option<String>,
    sha256: Option<String>,
}

impl Addon {
    /// Parses and validates an `addon.yaml`.
    pub(super) fn parse(text: &str, origin: Origin) -> Result<Self, Failure> {
        let wrong = |why: String| {
            let place = match &origin {
                Origin::BuiltIn(_) | Origin::Completed(_) => DESCRIPTION.to_owned(),
                Origin::Directory(directory) => directory.join(DESCRIPTION).display().to_string(),
            };
            Failure::new(
                Source::Program,
                Kind::Config,
                format!("{place} describes no addon: {why}"),
            )
            .advise("the format is described in addons/README.md of rkube's source")
        };
        let written: Written = serde_yaml::from_str(text).map_err(|e| wrong(e.to_string()))?;
        check_name(&written.name)?;
        if let Some(namespace) = &written.namespace
            && !is_label(namespace)
        {
            return Err(wrong(format!("'{namespace}' cannot name a namespace")));
        }
        if written.manifests.is_empty() {
            return Err(wrong("there are no manifests".into()));
        }
        let manifests = written.manifests.into_iter().map(|m| m.check());
        let manifests = manifests.collect::<Result<_, _>>().map_err(wrong)?;
        // These are printed as table cells.
        let line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self {
            name: written.name,
            description: line(written.description),
            version: line(written.version),
            homepage: line(written.homepage),
            namespace: written.namespace,
            manifests,
            origin,
        })
    }

    /// Whether enabling it needs a download.
    pub fn needs_network(&self) -> bool {
        self.manifests
            .iter()
            .any(|m| matches!(m, Manifest::Url(..)))
    }
}

impl WrittenManifest {
    fn check(self) -> Result<Manifest, String> {
        match (self.file, self.url, self.sha256) {
            (Some(file), None, None) => {
                check_file(&file)?;
                Ok(Manifest::File(file))
            }
            (None, Some(url), sha256) => {
                check_url(&url)?;
                let sha256 = sha256.map(|s| s.to_ascii_lowercase());
                if let Some(sum) = &sha256
                    && !(sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()))
                {
                    return Err(format!("'{sum}' is no SHA-256, which has 64 digits"));
                }
                Ok(Manifest::Url(url, sha256))
            }
            (Some(file), None, Some(_)) => Err(format!("a sha256 is for a url, not for {file}")),
            _ => Err("a manifest is either a file or a url".into()),
        }
    }
}

/// Fails unless a path stays in the addon's directory.
fn check_file(file: &str) -> Result<(), String> {
    let inside = !file.is_empty()
        && Path::new(file)
            .components()
            .all(|c| matches!(c, Component::Normal(_)));
    if inside {
        return Ok(());
    }
    Err(format!(
        "'{file}' is not a file in the addon's own directory"
    ))
}

/// Fails unless a URL uses HTTPS or refers to the host's loopback.
fn check_url(text: &str) -> Result<(), String> {
    let url = reqwest::Url::parse(text).map_err(|e| format!("'{text}' is no URL: {e}"))?;
    if url.scheme() == "https" || is_loopback(&url) {
        return Ok(());
    }
    Err(format!("{text}: manifests are downloaded over https only"))
}

/// Whether a plain HTTP URL refers to the host's loopback.
pub(super) fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    url.scheme() == "http"
        && (host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback()))
}

/// Whether a text is a DNS label (RFC 1123), as the names of addons and namespaces are.
pub(super) fn is_label(text: &str) -> bool {
    rkube_api::names::dns1123_label(text).is_empty()
}

/// Fails unless a name is a DNS label.
pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    if is_label(name) {
        return Ok(());
    }
    Err(Failure::new(
        Source::Program,
        Kind::Usage,
        format!("'{name}' cannot name an addon"),
    )
    .advise(
        "use at most 63 lower-case letters, digits and '-', with a letter or digit at both ends",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
name: tool
description: A tool
  of two lines
version: v1.2
homepage: https://example.com
namespace: tools
manifests:
- file: sub/tool.yaml
- url: https://example.com/tool.yaml
  sha256: 00112233445566778899AABBCCDDEEFF00112233445566778899aabbccddeeff
";

    fn parse(text: &str) -> Result<Addon, Failure> {
        Addon::parse(text, Origin::Directory("/x".into()))
    }

    #[test]
    fn a_description_is_read() {
        let addon = parse(GOOD).unwrap();
        assert_eq!(addon.name, "tool");
        assert_eq!(addon.description, "A tool of two lines");
        assert_eq!(addon.namespace.as_deref(), Some("tools"));
        assert!(addon.needs_network());
        assert_eq!(addon.manifests[0], Manifest::File("sub/tool.yaml".into()));
        let Manifest::Url(url, Some(sum)) = &addon.manifests[1] else {
            panic!("{:?}", addon.manifests[1]);
        };
        assert_eq!(url, "https://example.com/tool.yaml");
        assert!(sum.ends_with("ddeeff"));
        let local = GOOD.replace("https://example.com/tool", "http://127.0.0.1:8000/tool");
        parse(&local).unwrap();
    }

    #[test]
    fn errors_name_the_field() {
        let cases = [
            ("name: tool", "name: Tool", "'Tool' cannot name an addon"),
            ("name: tool", "name: ../up", "cannot name an addon"),
            ("version:", "verzion:", "verzion"),
            ("namespace: tools", "namespace: a.b", "'a.b'"),
            (
                "file: sub/tool.yaml",
                "file: ../tool.yaml",
                "'../tool.yaml'",
            ),
            ("file: sub/tool.yaml", "file: sub/../../t", "own directory"),
            ("file: sub/tool.yaml", "file: /etc/passwd", "'/etc/passwd'"),
            ("file: sub/tool.yaml", "file: ''", "own directory"),
            ("file: sub/tool.yaml", "fiel: x", "fiel"),
            ("file: sub/tool.yaml", "sha256: x", "either a file or a url"),
            (
                "https://example.com/tool",
                "http://example.com/tool",
                "https only",
            ),
            (
                "https://example.com/tool",
                "file:///etc/passwd",
                "https only",
            ),
            ("https://example.com/tool", "tool", "is no URL"),
            ("00112233", "0011223", "64 digits"),
        ];
        for (good, bad, part) in cases {
            assert!(GOOD.contains(good), "{good}");
            let failure = parse(&GOOD.replacen(good, bad, 1)).unwrap_err();
            assert!(failure.message.contains(part), "{bad}: {failure}");
        }
        let none = parse("name: a\ndescription: b\nversion: c\nmanifests: []\n").unwrap_err();
        assert!(none.message.contains("no manifests"), "{none}");
    }
}
