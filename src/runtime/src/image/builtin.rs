//! Built-in images, whose root contains only the rkube binary and `/tmp`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::archive::descriptor;
use super::digest::Digest;
use super::manifest::{Config, Manifest, Platform, RootFs, RunConfig, media};
use super::reference::Reference;
use super::store::{Record, Store};
use crate::error::{Context, ImageError};

/// Installs the image `name`, which runs `binary` with `entrypoint`. Returns its ID.
///
/// The layer has no tar whose digest could be computed. Its digest is derived from the binary's
/// size and modification time, so that the binary need not be read at each start.
pub fn install(
    store: &Store,
    name: &str,
    entrypoint: &[&str],
    ports: &[&str],
    binary: &Path,
) -> Result<Digest, ImageError> {
    let reference = Reference::parse(name)?;
    let tag = reference
        .tagged()
        .ok_or_else(|| ImageError::InvalidReference {
            reference: name.into(),
            reason: "a built-in image needs a tag".into(),
        })?;
    let metadata =
        fs::metadata(binary).image_context(|| format!("cannot read {}", binary.display()))?;
    let identity = format!(
        "rkube built-in layer {} {}.{:09}",
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    let diff = Digest::of(identity.as_bytes());
    let hold = store.hold()?;
    store.make_layer(&diff, |root| make_root(root, binary))?;
    let config = image_config(entrypoint, ports, &diff);
    let encode =
        |e: serde_json::Error| ImageError::Malformed(format!("cannot encode an image: {e}"));
    let config_bytes = serde_json::to_vec(&config).map_err(encode)?;
    let config_digest = Digest::of(&config_bytes);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        config: descriptor(
            media::OCI_CONFIG,
            config_digest.clone(),
            config_bytes.len() as u64,
        ),
        layers: vec![descriptor(media::OCI_LAYER, diff, metadata.len())],
    };
    let manifest_bytes = serde_json::to_vec(&manifest).map_err(encode)?;
    let manifest_digest = Digest::of(&manifest_bytes);
    if store
        .find(name)
        .is_some_and(|r| r.config == config_digest && r.manifest == manifest_digest)
    {
        return Ok(config_digest);
    }
    store.write_blob(&config_digest, &config_bytes)?;
    store.write_blob(&manifest_digest, &manifest_bytes)?;
    store.add(
        Record {
            config: config_digest.clone(),
            digests: BTreeSet::from([reference.with_digest(&manifest_digest)]),
            manifest: manifest_digest,
            tags: BTreeSet::from([tag]),
            size: metadata.len(),
            layers: config.chain_ids(),
            added: jiff::Timestamp::now(),
            given: false,
        },
        hold,
    )?;
    Ok(config_digest)
}

/// Fills the root directory of the layer.
fn make_root(root: &Path, binary: &Path) -> Result<(), ImageError> {
    let target = root.join("rkube");
    if fs::hard_link(binary, &target).is_err() {
        fs::copy(binary, &target).image_context(|| format!("cannot copy {}", binary.display()))?;
    }
    fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
        .image_context(|| format!("cannot set the mode of {}", target.display()))?;
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))
        .image_context(|| format!("cannot set the mode of {}", root.display()))?;
    let tmp = root.join("tmp");
    fs::create_dir(&tmp)
        .and_then(|()| fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)))
        .image_context(|| format!("cannot make {}", tmp.display()))
}

/// Returns the image's configuration.
fn image_config(entrypoint: &[&str], ports: &[&str], diff: &Digest) -> Config {
    let host = Platform::host();
    let exposed = |port: &&str| {
        let nothing = serde_json::Value::Object(Default::default());
        (port.to_string(), nothing)
    };
    Config {
        architecture: host.architecture,
        os: host.os,
        variant: None,
        created: None,
        config: RunConfig {
            entrypoint: entrypoint.iter().map(ToString::to_string).collect(),
            exposed_ports: ports.iter().map(exposed).collect(),
            env: vec!["PATH=/".into()],
            labels: BTreeMap::from([("io.rkube.builtin".into(), "true".into())]),
            ..RunConfig::default()
        },
        rootfs: RootFs {
            kind: "layers".into(),
            diff_ids: vec![diff.clone()],
        },
    }
}
