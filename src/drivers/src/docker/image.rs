//! The node image: one layer with the binary, streamed to the engine.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use bollard::models::ImageSummary;
use bollard::query_parameters::{ImportImageOptions, ListImagesOptionsBuilder, RemoveImageOptions};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use rkube_failure::{Failure, Kind, Source};
use tokio::io::AsyncReadExt;

use super::engine::{Engine, failure, is_missing};

/// Label of every node image: the digest of its layer.
const LAYER_LABEL: &str = "io.rkube.layer";
/// The repository of the images' names.
const REPOSITORY: &str = "rkube-node";
/// The image's configuration without its layer and architecture.
const DESCRIPTION: &str = include_str!("../../../../images/node/image.json");
/// Size of a tar block, in bytes.
const BLOCK: u64 = 512;
/// Size of the parts in which the binary is read and sent, in bytes.
const CHUNK: usize = 1 << 20;

/// The image's only layer: a tar archive of the binary, whose content is not held in memory.
struct Layer {
    head: Vec<u8>,
    size: u64,
    tail: Vec<u8>,
}

impl Layer {
    fn of(binary_size: u64) -> Self {
        let mut head = Vec::new();
        head.extend(header("rkube", 0o755, binary_size));
        Self {
            head,
            size: binary_size,
            tail: vec![0; (padding(binary_size) + 2 * BLOCK) as usize],
        }
    }

    fn len(&self) -> u64 {
        self.head.len() as u64 + self.size + self.tail.len() as u64
    }

    fn digest(&self, binary: &Path) -> std::io::Result<String> {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(&self.head);
        let mut file = std::fs::File::open(binary)?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => context.update(&buffer[..n]),
            }
        }
        context.update(&self.tail);
        Ok(hex::encode(context.finish().as_ref()))
    }
}

/// Returns a deterministic tar header: owned by root, modification time zero.
fn header(name: &str, mode: u32, size: u64) -> [u8; BLOCK as usize] {
    let mut header = tar::Header::new_ustar();
    // The names are short constants, so this cannot fail.
    let _ = header.set_path(name);
    header.set_mode(mode);
    header.set_size(size);
    header.set_entry_type(tar::EntryType::Regular);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    *header.as_bytes()
}

/// Returns the number of bytes that pad a file of `size` to a full block.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK) - size
}

/// Loads the image of `binary` into the engine unless it is present. Returns its ID.
pub async fn ensure(engine: &Engine, binary: &Path) -> Result<String, Failure> {
    let (layer, digest) = describe(binary).await?;
    if let Some(image) = find(engine, Some(&digest)).await?.into_iter().next() {
        return Ok(image.id);
    }
    load(engine, binary, &layer, &digest).await?;
    match find(engine, Some(&digest)).await?.into_iter().next() {
        Some(image) => Ok(image.id),
        None => Err(Failure::new(
            Source::Provider,
            Kind::Error,
            "the container engine took the node image and does not have it",
        )),
    }
}

/// Returns the layer of `binary` and its digest. The digest is cached next to the binary, because
/// computing it takes longer than creating a container.
async fn describe(binary: &Path) -> Result<(Layer, String), Failure> {
    let binary = binary.to_path_buf();
    let work = move || -> anyhow::Result<(Layer, String)> {
        let meta = binary
            .metadata()
            .with_context(|| format!("cannot read {}", binary.display()))?;
        let layer = Layer::of(meta.len());
        let changed = meta
            .modified()?
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos();
        let stamp = format!("{} {changed}", meta.len());
        let memo = binary.with_extension("layer");
        if let Some(digest) = std::fs::read_to_string(&memo)
            .ok()
            .as_deref()
            .and_then(|t| t.strip_prefix(&stamp))
            .map(str::trim)
            .filter(|d| d.len() == 64)
        {
            return Ok((layer, digest.to_owned()));
        }
        let digest = layer
            .digest(&binary)
            .with_context(|| format!("cannot read {}", binary.display()))?;
        // Only a cache: if it cannot be written, the digest is computed again.
        let _ = std::fs::write(&memo, format!("{stamp} {digest}"));
        Ok((layer, digest))
    };
    super::blocking::run_blocking(work).await
}

/// Returns the engine's node images: those with the layer `digest`, or all.
async fn find(engine: &Engine, digest: Option<&str>) -> Result<Vec<ImageSummary>, Failure> {
    let label = match digest {
        Some(digest) => format!("{LAYER_LABEL}={digest}"),
        None => LAYER_LABEL.to_owned(),
    };
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListImagesOptionsBuilder::default()
        .filters(&filters)
        .build();
    engine
        .docker
        .list_images(Some(options))
        .await
        .map_err(|e| failure("cannot list the engine's images", &e))
}

/// Returns whether the engine has a node image of this ID.
pub async fn is_there(engine: &Engine, id: &str) -> Result<bool, Failure> {
    Ok(find(engine, None).await?.iter().any(|image| image.id == id))
}

fn config(digest: &str, architecture: &str) -> Result<Vec<u8>, Failure> {
    let broken = |e: serde_json::Error| {
        Failure::new(
            Source::Driver,
            Kind::Error,
            format!("the description of the node image is damaged: {e}"),
        )
    };
    let mut config: serde_json::Value = serde_json::from_str(DESCRIPTION).map_err(broken)?;
    config["architecture"] = architecture.into();
    config["created"] = "1970-01-01T00:00:00Z".into();
    config["config"]["Labels"][LAYER_LABEL] = digest.into();
    config["rootfs"] = serde_json::json!({
        "type": "layers", "diff_ids": [format!("sha256:{digest}")],
    });
    config["history"] = serde_json::json!([{ "created_by": "rkube" }]);
    serde_json::to_vec(&config).map_err(broken)
}

/// Sends the image in the format of `docker save`. The binary is read while it is sent.
async fn load(engine: &Engine, binary: &Path, layer: &Layer, digest: &str) -> Result<(), Failure> {
    let config = config(digest, engine.architecture())?;
    let name = format!("{REPOSITORY}:{}", &digest[..12]);
    let manifest = serde_json::json!([{
        "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"],
    }])
    .to_string();
    let mut head = Vec::new();
    for (name, content) in [
        ("manifest.json", manifest.as_bytes()),
        ("config.json", config.as_slice()),
    ] {
        let size = content.len() as u64;
        head.extend(header(name, 0o644, size));
        head.extend(content);
        head.extend(std::iter::repeat_n(0, padding(size) as usize));
    }
    head.extend(header("layer.tar", 0o644, layer.len()));
    head.extend(&layer.head);
    let mut tail = layer.tail.clone();
    tail.extend(std::iter::repeat_n(
        0,
        (padding(layer.len()) + 2 * BLOCK) as usize,
    ));

    let file = tokio::fs::File::open(binary).await.map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot read {}: {e}", binary.display()),
        )
    })?;
    let body = stream::once(async { Ok(Bytes::from(head)) })
        .chain(chunks(file, layer.size))
        .chain(stream::once(async { Ok(Bytes::from(tail)) }));
    let answers: Vec<_> = engine
        .docker
        .import_image(
            ImportImageOptions::default(),
            bollard::body_try_stream(body),
            None,
        )
        .try_collect()
        .await
        .map_err(|e| failure("cannot load the node image into the engine", &e))?;
    for answer in answers {
        if let Some(error) = answer.error_detail.and_then(|e| e.message) {
            let e = bollard::errors::Error::DockerStreamError { error };
            return Err(failure("cannot load the node image into the engine", &e));
        }
    }
    Ok(())
}

/// Returns a stream of exactly `size` bytes of `file`. Fails if the file is shorter.
fn chunks(
    file: tokio::fs::File,
    size: u64,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold((file.take(size), size), |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut buffer = vec![0; CHUNK];
        let n = file.read(&mut buffer).await?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buffer.truncate(n);
        Ok(Some((Bytes::from(buffer), (file, left - n as u64))))
    })
}

/// Removes unused node images, except `keep`.
pub async fn prune(engine: &Engine, keep: Option<&str>) -> Result<(), Failure> {
    for image in find(engine, None).await? {
        if keep == Some(image.id.as_str()) {
            continue;
        }
        // By every name: removing one of several names keeps the image.
        let mut names = image.repo_tags;
        // The engine's name for an image whose name another start has just taken.
        names.retain(|name| !name.starts_with("<none>"));
        if names.is_empty() {
            names.push(image.id);
        }
        for name in names {
            let removed = engine
                .docker
                .remove_image(&name, None::<RemoveImageOptions>, None)
                .await;
            match removed {
                Ok(_) => {}
                Err(e) if is_missing(&e) => {}
                // Containers of another cluster use it.
                Err(bollard::errors::Error::DockerResponseServerError {
                    status_code: 409, ..
                }) => {}
                Err(e) => return Err(failure("cannot remove an old node image", &e)),
            }
        }
    }
    Ok(())
}

/// Returns the engine's image `name` in the format of `docker save`.
pub fn export(
    engine: &Engine,
    name: &str,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + Unpin + 'static {
    let stream = engine.docker.export_image(name);
    Box::pin(stream.map_err(std::io::Error::other))
}

/// Returns the ID of an image and the digests of its layers (diff IDs).
pub async fn inspect(engine: &Engine, name: &str) -> Result<(String, Vec<String>), Failure> {
    let none = || {
        Failure::new(
            Source::Provider,
            Kind::NotFound,
            format!(
                "'{name}' is neither a file nor an image of the container engine at {}",
                engine.address
            ),
        )
        .advise("list the engine's images with: docker images")
    };
    match engine.docker.inspect_image(name).await {
        Ok(image) => {
            let layers = image.root_fs.and_then(|r| r.layers).unwrap_or_default();
            Ok((image.id.ok_or_else(none)?, layers))
        }
        Err(e) if is_missing(&e) => Err(none()),
        Err(e) => Err(failure(format!("cannot look at the image {name}"), &e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_a_tar_of_the_binary() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("rkube");
        std::fs::write(&binary, b"#!binary").unwrap();
        let layer = Layer::of(8);
        let mut archive = layer.head.clone();
        archive.extend(b"#!binary");
        archive.extend(&layer.tail);
        assert_eq!(archive.len() as u64, layer.len());
        let digest = ring::digest::digest(&ring::digest::SHA256, &archive);
        assert_eq!(layer.digest(&binary).unwrap(), hex::encode(digest.as_ref()));
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("rkube"));
        assert_eq!(entry.header().mode().unwrap(), 0o755);
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        assert_eq!(content, "#!binary");
        assert!(entries.next().is_none());
    }

    #[test]
    fn the_description_is_complete() {
        let config: serde_json::Value =
            serde_json::from_slice(&config(&"0".repeat(64), "arm64").unwrap()).unwrap();
        assert_eq!(config["architecture"], "arm64");
        assert_eq!(config["config"]["Entrypoint"][0], "/rkube");
        assert_eq!(config["rootfs"]["diff_ids"][0].as_str().unwrap().len(), 71);
    }
}
