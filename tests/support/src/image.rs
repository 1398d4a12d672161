//! Test images, built from static programs of this machine.

use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

/// An image to write as an archive.
pub struct Image<'a> {
    /// The reference, `name:tag`.
    pub name: &'a str,
    /// The files of the single layer: path, content, mode.
    pub files: Vec<(&'a str, Vec<u8>, u32)>,
    /// The entrypoint. If it is empty, the image runs `sh`.
    pub entrypoint: Vec<&'a str>,
    /// The architecture in the image's configuration, for example `amd64`.
    pub architecture: &'a str,
}

impl<'a> Image<'a> {
    /// Creates an image of Debian's busybox-static, with symbolic links for the
    /// `APPLETS`. Returns `None` if busybox is not installed.
    pub fn busybox(name: &'a str) -> Option<Self> {
        let program = std::fs::read("/bin/busybox").ok()?;
        Some(Self {
            name,
            files: vec![
                ("bin/busybox", program, 0o755),
                (
                    "etc/passwd",
                    b"root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n".to_vec(),
                    0o644,
                ),
                ("etc/group", b"root:x:0:\nweb:x:1000:\n".to_vec(), 0o644),
            ],
            entrypoint: Vec::new(),
            architecture: architecture(),
        })
    }

    /// Returns the layer as an uncompressed tar archive.
    fn layer(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut folders = std::collections::BTreeSet::new();
        for (path, _, _) in &self.files {
            for folder in Path::new(path)
                .ancestors()
                .skip(1)
                .filter(|p| !p.as_os_str().is_empty())
            {
                folders.insert(folder.to_path_buf());
            }
        }
        folders.insert("tmp".into());
        for folder in folders {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(if folder == Path::new("tmp") {
                0o1777
            } else {
                0o755
            });
            header.set_size(0);
            tar.append_data(&mut header, folder, std::io::empty())
                .expect("a tar in memory");
        }
        for (path, content, mode) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, path, content.as_slice())
                .expect("a tar in memory");
        }
        if self.files.iter().any(|(path, ..)| *path == "bin/busybox") {
            for applet in APPLETS {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                header.set_mode(0o777);
                tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
                    .expect("a tar in memory");
            }
        }
        tar.into_inner().expect("a tar in memory")
    }

    fn config(&self, layers: &[&[u8]]) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|l| digest(l)).collect();
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint,
                "Cmd": if self.entrypoint.is_empty() { vec!["sh"] } else { vec![] },
            },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        })
    }

    /// Returns the image in the format of `docker save`.
    pub fn docker_archive(&self) -> Vec<u8> {
        self.save(&[&self.layer()])
    }

    /// Like [`Self::docker_archive`], with the layer of `lower` below this image's layer.
    pub fn docker_archive_on(&self, lower: &Image) -> Vec<u8> {
        self.save(&[&lower.layer(), &self.layer()])
    }

    fn save(&self, layers: &[&[u8]]) -> Vec<u8> {
        let config = self.config(layers).to_string().into_bytes();
        let config_name = format!("{}.json", digest(&config).trim_start_matches("sha256:"));
        let names: Vec<String> = (0..layers.len())
            .map(|i| format!("{i}/layer.tar"))
            .collect();
        let manifest = json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": names }])
            .to_string();
        let mut files: Vec<(&str, &[u8])> = Vec::new();
        files.extend(names.iter().map(String::as_str).zip(layers.iter().copied()));
        files.push((&config_name, &config));
        files.push(("manifest.json", manifest.as_bytes()));
        archive(&files)
    }

    /// Returns the image as an OCI image layout whose layer is compressed by gzip.
    pub fn oci_layout(&self) -> Vec<u8> {
        let layer = self.layer();
        let config = self.config(&[&layer]).to_string().into_bytes();
        let packed = gzip(&layer);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
        })
        .to_string()
        .into_bytes();
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": self.name, "io.containerd.image.name": self.name });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
        let blob = |content: &[u8]| {
            format!(
                "blobs/sha256/{}",
                digest(content).trim_start_matches("sha256:")
            )
        };
        archive(&[
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#),
            ("index.json", index.as_bytes()),
            (&blob(&config), &config),
            (&blob(&packed), &packed),
            (&blob(&manifest), &manifest),
        ])
    }
}

/// Applets of busybox that get a symbolic link.
const APPLETS: [&str; 28] = [
    "sh", "cat", "echo", "ls", "sleep", "wget", "nslookup", "id", "ps", "true", "false", "env",
    "hostname", "tar", "touch", "mkdir", "grep", "httpd", "nc", "date", "kill", "test", "head",
    "seq", "dd", "stat", "mount", "ping",
];

/// Returns this machine's architecture as images name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": digest(content), "size": content.len() })
}

/// Returns the SHA-256 digest of `content` as `sha256:…`.
pub fn digest(content: &[u8]) -> String {
    let sum = ring::digest::digest(&ring::digest::SHA256, content);
    let hex: String = sum.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, *content)
            .expect("a tar in memory");
    }
    tar.into_inner().expect("a tar in memory")
}

/// Compresses `content` by gzip.
pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("in memory");
    encoder.finish().expect("in memory")
}
