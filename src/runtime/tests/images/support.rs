//! Archives and layers to load, built in memory.

use std::io::Write;
use std::path::Path;

use rkube_config::registries::Registries;
use rkube_runtime::{ImageError, Runtime, RuntimeConfig};

pub(crate) fn is_root() -> bool {
    // SAFETY: no memory is involved.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        rkube_testing::skipped("not root");
    }
    root
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

pub(crate) async fn open(dir: &Path) -> Runtime {
    open_as(dir, "node").await
}

pub(crate) async fn open_as(dir: &Path, node: &str) -> Runtime {
    Runtime::open(RuntimeConfig::new(
        dir.join(node).join("root"),
        dir.join("images"),
        dir.join(node).join("run"),
        "/bin/false",
    ))
    .await
    .unwrap()
}

/// Opens a runtime with these settings of registries.
pub(crate) async fn open_with(dir: &Path, registries: Registries) -> Runtime {
    let mut config = RuntimeConfig::new(
        dir.join("node/root"),
        dir.join("images"),
        dir.join("node/run"),
        "/bin/false",
    );
    config.registries = registries;
    Runtime::open(config).await.unwrap()
}

/// A builder of tar files with entries of any kind and unchecked names.
#[derive(Default)]
pub(crate) struct Tar(pub(crate) Vec<u8>);

impl Tar {
    pub(crate) fn entry(
        mut self,
        kind: u8,
        name: &str,
        link: &str,
        mode: u32,
        owner: u32,
        content: &[u8],
    ) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        // The checked setters reject malicious names.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(owner.into());
        header.set_gid(owner.into());
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if kind == b'3' || kind == b'4' {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().div_ceil(512) * 512, 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name, "", 0o644, 0, content)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, "", 0o755, 0, b"")
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length = length.to_string().len() + rest;
            }
            content.extend(format!("{length} {key}=").into_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry(b'x', "pax", "", 0o644, 0, &content)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// The parts of an image.
pub(crate) struct Parts {
    pub(crate) config: Vec<u8>,
    pub(crate) manifest: Vec<u8>,
    /// The layers as distributed.
    pub(crate) layers: Vec<Vec<u8>>,
}

pub(crate) fn parts(
    architecture: &str,
    layers: &[Vec<u8>],
    compress: fn(&[u8]) -> Vec<u8>,
) -> Parts {
    let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux", "config": {"Cmd": ["x"], "User": "7:8"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string()
    .into_bytes();
    let layers: Vec<Vec<u8>> = layers.iter().map(|l| compress(l)).collect();
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": layers.iter().map(|l| serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(l), "size": l.len()})).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes();
    Parts {
        config,
        manifest,
        layers,
    }
}

pub(crate) fn index(parts: &Parts, architecture: &str, annotations: serde_json::Value) -> Vec<u8> {
    serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&parts.manifest), "size": parts.manifest.len(),
            "platform": {"os": "linux", "architecture": architecture},
            "annotations": annotations,
        }],
    })
    .to_string()
    .into_bytes()
}

pub(crate) fn layout(parts: &Parts, architecture: &str) -> Vec<u8> {
    let names = serde_json::json!({"org.opencontainers.image.ref.name": "example.com/app:v1"});
    let mut tar = Tar::default()
        .file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
        .file("index.json", &index(parts, architecture, names));
    for blob in [&parts.config, &parts.manifest]
        .into_iter()
        .chain(&parts.layers)
    {
        tar = tar.file(&format!("./blobs/sha256/{}", hex(blob)), blob);
    }
    tar.end()
}

pub(crate) fn docker(parts: &Parts) -> Vec<u8> {
    let manifest = serde_json::json!([{
        "Config": "c.json", "RepoTags": ["app:v2"],
        "Layers": (0..parts.layers.len()).map(|i| format!("{i}/layer.tar")).collect::<Vec<_>>(),
    }]);
    let mut tar = Tar::default().file("c.json", &parts.config);
    for (i, layer) in parts.layers.iter().enumerate() {
        tar = tar.file(&format!("{i}/layer.tar"), layer);
    }
    tar.file("manifest.json", manifest.to_string().as_bytes())
        .end()
}

pub(crate) fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

pub(crate) const HOST: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

pub(crate) async fn load(dir: &Path, archive: &[u8]) -> Result<(Runtime, Vec<String>), ImageError> {
    let runtime = open(dir).await;
    let names = runtime.load_image_from(archive).await?;
    Ok((runtime, names))
}

/// Returns the unpacked tree of a single-layer image.
pub(crate) fn tree(dir: &Path, layer: &[u8]) -> std::path::PathBuf {
    dir.join("images/layers/sha256").join(hex(layer)).join("fs")
}
