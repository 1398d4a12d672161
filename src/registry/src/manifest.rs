//! What the registry must know of manifests: what they refer to, and what they describe.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name::Digest;

/// Media type of an OCI image index, which also lists referrers.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// The parts of a manifest or index that have a meaning here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Reference>,
    layers: Option<Vec<Reference>>,
    blobs: Option<Vec<Reference>>,
    manifests: Option<Vec<Reference>>,
    subject: Option<Reference>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    media_type: Option<String>,
    digest: String,
    #[serde(default)]
    urls: Vec<String>,
}

/// A manifest as it is stored.
#[derive(Debug)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// Blobs that the repository must have.
    pub blobs: Vec<Digest>,
    /// Blobs that are also kept elsewhere, and need not be here.
    pub foreign: Vec<Digest>,
    /// Manifests that the repository must have.
    pub manifests: Vec<Digest>,
    /// The manifest that it is about.
    pub subject: Option<Digest>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

/// An entry of a list of referrers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    media_type: String,
    size: u64,
    digest: String,
    /// The type of the artifact, by which lists are filtered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads a manifest. `content_type` is the media type that the client gave, if any.
    ///
    /// # Errors
    /// Returns why it cannot be stored.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, String> {
        let written: Written =
            serde_json::from_slice(bytes).map_err(|e| format!("the manifest is not valid: {e}"))?;
        let given = content_type.map(|t| t.split(';').next().unwrap_or(t).trim().to_owned());
        let media_type = match (given, &written.media_type) {
            (Some(given), Some(own)) if given != *own => {
                return Err(format!(
                    "the manifest's media type is {own:?}, but it is sent as {given:?}"
                ));
            }
            (Some(given), _) => given,
            (None, Some(own)) => own.clone(),
            (None, None) if written.manifests.is_some() => OCI_INDEX.to_owned(),
            (None, None) => OCI_MANIFEST.to_owned(),
        };
        if written.schema_version != 2 {
            return Err(format!(
                "manifests of schema version {} are not supported",
                written.schema_version
            ));
        }
        if !media_type.contains('/') || media_type.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(format!("{media_type:?} is no media type"));
        }
        let index = media_type == OCI_INDEX || media_type == DOCKER_LIST;
        let image = media_type == OCI_MANIFEST || media_type == DOCKER_MANIFEST;
        if index && (written.config.is_some() || written.layers.is_some()) {
            return Err("an index has manifests, not a configuration and layers".to_owned());
        }
        if image && (written.config.is_none() || written.manifests.is_some()) {
            return Err("an image's manifest has a configuration, and no manifests".to_owned());
        }
        written.check(media_type)
    }

    /// Returns the entry in the list of its subject's referrers.
    pub fn descriptor(&self, digest: &Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            size,
            digest: digest.to_string(),
            artifact_type: self.artifact_type.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

impl Written {
    fn check(self, media_type: String) -> Result<Manifest, String> {
        let digest = |reference: &Reference| {
            Digest::parse(&reference.digest)
                .ok_or_else(|| format!("{:?} is no digest", reference.digest))
        };
        let artifact_type = self
            .artifact_type
            .filter(|t| !t.is_empty())
            .or_else(|| self.config.as_ref()?.media_type.clone());
        let (mut blobs, mut foreign) = (Vec::new(), Vec::new());
        let layers = self.layers.iter().chain(&self.blobs).flatten();
        for reference in self.config.iter().chain(layers) {
            let elsewhere = !reference.urls.is_empty()
                || reference
                    .media_type
                    .as_deref()
                    .is_some_and(|t| t.contains(".nondistributable.") || t.contains(".foreign."));
            match elsewhere {
                true => foreign.push(digest(reference)?),
                false => blobs.push(digest(reference)?),
            }
        }
        Ok(Manifest {
            media_type,
            blobs,
            foreign,
            manifests: self
                .manifests
                .iter()
                .flatten()
                .map(digest)
                .collect::<Result<_, _>>()?,
            subject: self.subject.as_ref().map(digest).transpose()?,
            artifact_type,
            annotations: self.annotations,
        })
    }
}

/// Returns the index that lists referrers.
pub fn referrers(found: &[Descriptor]) -> Value {
    serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> String {
        Digest::of(crate::Algorithm::Sha256, text.as_bytes()).to_string()
    }

    #[test]
    fn references_are_found() {
        let text = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": {"mediaType": "application/x", "digest": digest("c"), "size": 1},
            "layers": [
                {"mediaType": "l", "digest": digest("l"), "size": 1},
                {"mediaType": "l", "digest": digest("f"), "size": 1, "urls": ["https://elsewhere"]},
                {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "digest": digest("g"), "size": 1},
            ],
            "subject": {"mediaType": "s", "digest": digest("s"), "size": 1},
        });
        let manifest = Manifest::parse(None, text.to_string().as_bytes()).unwrap();
        let texts = |all: &[Digest]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(texts(&manifest.blobs), [digest("c"), digest("l")]);
        assert_eq!(texts(&manifest.foreign), [digest("f"), digest("g")]);
        assert_eq!(manifest.subject.unwrap().to_string(), digest("s"));
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/x"));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let index = r#"{"schemaVersion": 2, "manifests": []}"#;
        for (content_type, text, words) in [
            (None, "", "not valid"),
            (None, "[]", "not valid"),
            (None, "{}", "not valid"),
            (None, r#"{"schemaVersion": 1}"#, "schema version 1"),
            (
                None,
                r#"{"schemaVersion": 2, "layers": []}"#,
                "has a configuration",
            ),
            (
                None,
                r#"{"schemaVersion": 2, "manifests": [], "layers": []}"#,
                "an index",
            ),
            (Some("nonsense"), index, "no media type"),
            (Some("a/b\u{7}"), index, "no media type"),
            (
                Some(OCI_INDEX),
                r#"{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}"#,
                "but it is sent as",
            ),
            (
                None,
                r#"{"schemaVersion": 2, "manifests": [{"digest": "sha256:../../x"}]}"#,
                "no digest",
            ),
        ] {
            let why = Manifest::parse(content_type, text.as_bytes()).unwrap_err();
            assert!(why.contains(words), "{text}: {why}");
        }
        assert_eq!(
            Manifest::parse(None, index.as_bytes()).unwrap().media_type,
            OCI_INDEX
        );
    }
}
