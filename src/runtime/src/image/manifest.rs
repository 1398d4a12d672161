//! Manifests, indexes and configurations of images, in the OCI and Docker formats.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hasher};
use crate::error::ImageError;

/// Media types that are requested from registries or written.
pub mod media {
    /// OCI image index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI uncompressed layer.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer compressed by gzip.
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Docker layer compressed by gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
}

/// A reference to content by its digest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content in bytes.
    pub size: u64,
    /// The platform; only in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Arbitrary metadata.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// An operating system and a processor architecture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Processor architecture, as in Go's `GOARCH`.
    #[serde(default)]
    pub architecture: String,
    /// Operating system, as in Go's `GOOS`.
    #[serde(default)]
    pub os: String,
    /// Variant of the architecture, such as `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Returns the platform of this machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            architecture: architecture.into(),
            os: "linux".into(),
            variant: None,
        }
    }

    /// Returns whether an image for `self` runs on `host`.
    fn matches(&self, host: &Self) -> bool {
        let variant_ok = match (self.architecture.as_str(), self.variant.as_deref()) {
            (_, None | Some("")) => true,
            ("amd64", Some(variant)) => variant == "v1",
            ("arm64", Some(variant)) => variant == "v8",
            (_, Some(_)) => true,
        };
        self.os == host.os && self.architecture == host.architecture && variant_ok
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            None | Some("") => Ok(()),
            Some(variant) => write!(f, "/{variant}"),
        }
    }
}

/// A manifest or an index, as stored by a registry or in a layout.
#[derive(Clone, Debug)]
pub enum Document {
    /// An index of images for several platforms.
    Index(Index),
    /// The manifest of one image.
    Manifest(Manifest),
}

/// An index: the manifests of an image by platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u32,
    /// Descriptors of the manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

/// The manifest of one image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u32,
    /// The media type of this document.
    #[serde(default)]
    pub media_type: String,
    /// Descriptor of the configuration.
    pub config: Descriptor,
    /// Descriptors of the layers, bottom first.
    pub layers: Vec<Descriptor>,
}

impl Document {
    /// Parses a document. Its kind follows from its fields, not from a media type.
    pub fn parse(bytes: &[u8]) -> Result<Self, ImageError> {
        let value: serde_json::Value = serde_json::from_slice(bytes)
            .map_err(|e| ImageError::Malformed(format!("the manifest is not JSON: {e}")))?;
        let malformed =
            |e: serde_json::Error| ImageError::Malformed(format!("malformed manifest: {e}"));
        if value
            .get("schemaVersion")
            .and_then(serde_json::Value::as_u64)
            == Some(1)
        {
            return Err(ImageError::Malformed(
                "the image has a schema 1 manifest, which is no longer supported: push it anew"
                    .into(),
            ));
        }
        if value.get("manifests").is_some() {
            Ok(Self::Index(
                serde_json::from_value(value).map_err(malformed)?,
            ))
        } else if value.get("config").is_some() {
            Ok(Self::Manifest(
                serde_json::from_value(value).map_err(malformed)?,
            ))
        } else {
            Err(ImageError::Malformed(
                "the document is neither a manifest nor an index".into(),
            ))
        }
    }
}

/// Returns the sum of the sizes of contents. A manifest may claim any sizes; a sum beyond all bounds
/// is the largest number.
pub fn total<'a>(contents: impl IntoIterator<Item = &'a Descriptor>) -> u64 {
    let sizes = contents.into_iter().map(|content| content.size);
    sizes.fold(0, u64::saturating_add)
}

impl Manifest {
    /// Returns the size of the image: that of its configuration and its layers, compressed.
    pub fn size(&self) -> u64 {
        total(self.layers.iter().chain([&self.config]))
    }
}

impl Index {
    /// Returns the entry for `host`, or an error that lists the available platforms.
    pub fn select(&self, host: &Platform, image: &str) -> Result<&Descriptor, ImageError> {
        let images = || {
            // Attestations are listed under an unknown platform.
            self.manifests.iter().filter(|d| {
                !d.annotations.contains_key("vnd.docker.reference.type")
                    && d.platform.as_ref().is_none_or(|p| p.os != "unknown")
            })
        };
        if let Some(found) = images().find(|d| d.platform.as_ref().is_some_and(|p| p.matches(host)))
        {
            return Ok(found);
        }
        // A single entry without a platform is checked later, by its configuration.
        let mut unnamed = images().filter(|d| d.platform.is_none());
        if let (Some(only), None) = (unnamed.next(), unnamed.next()) {
            return Ok(only);
        }
        let mut available: Vec<String> = images()
            .filter_map(|d| d.platform.as_ref().map(ToString::to_string))
            .collect();
        available.dedup();
        Err(ImageError::Platform {
            image: image.to_string(),
            wanted: host.to_string(),
            available: if available.is_empty() {
                "no platform".into()
            } else {
                available.join(", ")
            },
        })
    }
}

/// The configuration of an image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Config {
    /// Processor architecture.
    #[serde(default)]
    pub architecture: String,
    /// Operating system.
    #[serde(default)]
    pub os: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Time of creation, in RFC 3339 format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The default process.
    #[serde(default)]
    pub config: RunConfig,
    /// The layers' uncompressed digests.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// The default process of an image, and metadata.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// User and group as `user[:group]`, names or numbers.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub user: String,
    /// Exposed ports, as keys.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    /// Environment variables of the form `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub env: Vec<String>,
    /// Program and its first arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub entrypoint: Vec<String>,
    /// Default arguments; if there is no entry point, the program and its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Paths of volumes, as keys.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub volumes: BTreeMap<String, serde_json::Value>,
    /// Working directory.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "or_default"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that requests a graceful stop.
    #[serde(
        skip_serializing_if = "String::is_empty",
        deserialize_with = "or_default"
    )]
    pub stop_signal: String,
}

/// Deserializes `null` as the default. Docker writes `null` for absent values.
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The layers of an image.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, bottom first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

impl Config {
    /// Parses a configuration and checks that it is for `host`.
    pub fn parse(bytes: &[u8], host: &Platform, image: &str) -> Result<Self, ImageError> {
        let config: Self = serde_json::from_slice(bytes).map_err(|e| {
            ImageError::Malformed(format!("malformed configuration of image {image:?}: {e}"))
        })?;
        let platform = Platform {
            architecture: config.architecture.clone(),
            os: config.os.clone(),
            variant: config.variant.clone(),
        };
        if !platform.architecture.is_empty() && !platform.matches(host) {
            return Err(ImageError::Platform {
                image: image.to_string(),
                wanted: host.to_string(),
                available: platform.to_string(),
            });
        }
        Ok(config)
    }

    /// Returns the chain ID of each layer (OCI image specification), bottom first.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff in &self.rootfs.diff_ids {
            let next = match chain.last() {
                None => diff.clone(),
                Some(parent) => {
                    let mut hasher = Hasher::sha256();
                    hasher.update(format!("{parent} {diff}").as_bytes());
                    hasher.finish()
                }
            };
            chain.push(next);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_all_bounds_are_the_largest() {
        let of = |sizes: &[u64]| {
            let mut all: Vec<Descriptor> = Vec::new();
            for size in sizes {
                let mut one = descriptor("amd64", None);
                one.size = *size;
                all.push(one);
            }
            let config = all.remove(0);
            let manifest = Manifest {
                schema_version: 2,
                media_type: String::new(),
                config,
                layers: all,
            };
            manifest.size()
        };
        assert_eq!(of(&[1, 2, 3]), 6);
        assert_eq!(of(&[1, u64::MAX, u64::MAX]), u64::MAX);
    }

    fn descriptor(arch: &str, variant: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: media::OCI_MANIFEST.into(),
            digest: Digest::of(arch.as_bytes()),
            size: 1,
            platform: Some(Platform {
                architecture: arch.into(),
                os: "linux".into(),
                variant: variant.map(Into::into),
            }),
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn selects_the_host_platform() {
        let host = Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            variant: None,
        };
        let index = Index {
            schema_version: 2,
            manifests: vec![descriptor("arm64", Some("v8")), descriptor("amd64", None)],
        };
        assert_eq!(
            index.select(&host, "x").unwrap().digest,
            Digest::of(b"amd64")
        );
        let other = Index {
            schema_version: 2,
            manifests: vec![descriptor("arm64", Some("v8"))],
        };
        let error = other.select(&host, "x").unwrap_err().to_string();
        assert!(
            error.contains("linux/amd64") && error.contains("linux/arm64/v8"),
            "{error}"
        );
    }

    #[test]
    fn reads_dockers_nulls_and_refuses_other_platforms() {
        let host = Platform {
            architecture: "amd64".into(),
            os: "linux".into(),
            variant: None,
        };
        let text = br#"{"architecture":"amd64","os":"linux","config":{"Cmd":null,"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = Config::parse(text, &host, "x").unwrap();
        assert_eq!(config.config.env, ["A=b"]);
        let arm = br#"{"architecture":"arm64","os":"linux"}"#;
        assert!(matches!(
            Config::parse(arm, &host, "x"),
            Err(ImageError::Platform { .. })
        ));
    }

    #[test]
    fn chain_ids_follow_oci() {
        let a = Digest::of(b"a");
        let b = Digest::of(b"b");
        let config = Config {
            rootfs: RootFs {
                kind: "layers".into(),
                diff_ids: vec![a.clone(), b.clone()],
            },
            ..Config::default()
        };
        let chain = config.chain_ids();
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::of(format!("{a} {b}").as_bytes()));
    }
}
