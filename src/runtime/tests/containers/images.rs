//! Images through the public interface: archives, hostile layers, a registry.
//!
//! Unpacking sets owners, so all but the registry's refusals need root.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rkube_runtime::{ImageError, PullProgress, RegistryAuth, Runtime, RuntimeConfig};

fn is_root() -> bool {
    // SAFETY: no memory is involved.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        println!("skipped: not root");
    }
    root
}

fn hex(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

async fn open(dir: &Path) -> Runtime {
    open_as(dir, "node").await
}

async fn open_as(dir: &Path, node: &str) -> Runtime {
    Runtime::open(RuntimeConfig::new(
        dir.join(node).join("root"),
        dir.join("images"),
        dir.join(node).join("run"),
        "/bin/false",
    ))
    .await
    .unwrap()
}

/// A tar from entries of any kind, names taken as they are.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(
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
        // The checked setters refuse hostile names.
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

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name, "", 0o644, 0, content)
    }

    fn dir(self, name: &str) -> Self {
        self.entry(b'5', name, "", 0o755, 0, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
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

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// An image's parts.
struct Parts {
    config: Vec<u8>,
    manifest: Vec<u8>,
    /// As distributed.
    layers: Vec<Vec<u8>>,
}

fn parts(architecture: &str, layers: &[Vec<u8>], compress: fn(&[u8]) -> Vec<u8>) -> Parts {
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

fn index(parts: &Parts, architecture: &str, annotations: serde_json::Value) -> Vec<u8> {
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

fn layout(parts: &Parts, architecture: &str) -> Vec<u8> {
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

fn docker(parts: &Parts) -> Vec<u8> {
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

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

const HOST: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

async fn load(dir: &Path, archive: &[u8]) -> Result<(Runtime, Vec<String>), ImageError> {
    let runtime = open(dir).await;
    let names = runtime.load_image_from(archive).await?;
    Ok((runtime, names))
}

/// The unpacked tree of a single-layer image.
fn tree(dir: &Path, layer: &[u8]) -> std::path::PathBuf {
    dir.join("images/layers/sha256").join(hex(layer)).join("fs")
}

#[tokio::test]
async fn archives_of_every_kind() {
    if !is_root() {
        return;
    }
    let layers = [
        Tar::default().dir("a/").file("a/f", b"one").end(),
        Tar::default().file("b/c/f", b"two").end(),
    ];
    for inner in [plain, gzip, zstd] {
        for outer in [plain, gzip, zstd] {
            let dir = tempfile::tempdir().unwrap();
            let parts = parts(HOST, &layers, inner);
            let (runtime, names) = load(dir.path(), &outer(&layout(&parts, HOST)))
                .await
                .unwrap();
            assert_eq!(names, ["example.com/app:v1"]);
            let status = runtime.image_status("example.com/app:v1").unwrap();
            assert_eq!(status.id, digest(&parts.config));
            assert_eq!((status.uid, status.user.as_str()), (Some(7), "7:8"));
            assert_eq!(
                status.repo_digests,
                [format!("example.com/app@{}", digest(&parts.manifest))]
            );
            for name in [&status.id[..], &status.id[7..30], &status.repo_digests[0]] {
                assert_eq!(runtime.image_status(name).as_ref(), Some(&status), "{name}");
            }
            assert_eq!(
                std::fs::read(tree(dir.path(), &layers[0]).join("a/f")).unwrap(),
                b"one"
            );

            let names = runtime
                .load_image_from(&outer(&docker(&parts))[..])
                .await
                .unwrap();
            assert_eq!(names, ["docker.io/library/app:v2"]);
            assert_eq!(runtime.image_status("app:v2").unwrap().id, status.id);

            // It is all on disk.
            let again = open(dir.path()).await;
            assert_eq!(again.list_images().len(), 1);
            again.tag_image("app:v2", "other").await.unwrap();
            again.untag_image("app:v2").await.unwrap();
            assert!(
                again.image_status("app:v2").is_none() && again.image_status("other").is_some()
            );
            again.remove_image(&status.id).await.unwrap();
            again.remove_image(&status.id).await.unwrap();
            assert!(again.list_images().is_empty());
            for kind in ["layers/sha256", "blobs/sha256", "ingest"] {
                let left = std::fs::read_dir(dir.path().join("images").join(kind))
                    .unwrap()
                    .count();
                assert_eq!(left, 0, "{kind}");
            }
        }
    }
}

#[tokio::test]
async fn nodes_share_content() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layer = Tar::default().file("f", b"x").end();
    let archive = layout(&parts(HOST, std::slice::from_ref(&layer), gzip), HOST);
    let (one, two) = (
        open_as(dir.path(), "one").await,
        open_as(dir.path(), "two").await,
    );
    let (a, b) = tokio::join!(
        one.load_image_from(&archive[..]),
        two.load_image_from(&archive[..])
    );
    assert_eq!(a.unwrap(), b.unwrap());
    one.remove_image("example.com/app:v1").await.unwrap();
    assert!(one.image_status("example.com/app:v1").is_none());
    assert!(two.image_status("example.com/app:v1").is_some());
    assert!(tree(dir.path(), &layer).join("f").exists());
    two.remove_image("example.com/app:v1").await.unwrap();
    assert!(!tree(dir.path(), &layer).exists());
}

#[tokio::test]
async fn bad_archives_are_clear_errors() {
    let layer = Tar::default().file("f", &[7; 5000]).end();
    let good = parts(HOST, std::slice::from_ref(&layer), plain);
    let mut wrong = docker(&good);
    let at = wrong.windows(16).position(|w| w == [7; 16]).unwrap();
    wrong[at] = 8;
    let archive = docker(&good);
    for (archive, expected) in [
        (archive[..archive.len() / 2].to_vec(), "truncated"),
        (gzip(&archive)[..100].to_vec(), "truncated"),
        (wrong, "hashes to"),
        (b"nonsense".to_vec(), "no image archive"),
        (Vec::new(), "tar archive"),
        (
            Tar::default().file("x", b"y").end(),
            "neither manifest.json nor index.json",
        ),
        (
            Tar::default().file("manifest.json", b"{").end(),
            "malformed manifest.json",
        ),
        (
            docker(&parts("s390x", std::slice::from_ref(&layer), plain)),
            "linux/s390x",
        ),
        (
            layout(
                &parts("s390x", std::slice::from_ref(&layer), plain),
                "s390x",
            ),
            "linux/s390x",
        ),
    ] {
        if expected == "hashes to" && !is_root() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let error = load(dir.path(), &archive)
            .await
            .map(|(_, names)| names)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert_eq!(
            std::fs::read_dir(dir.path().join("images/layers/sha256"))
                .unwrap()
                .count(),
            0
        );
        assert_eq!(
            std::fs::read_dir(dir.path().join("images/ingest"))
                .unwrap()
                .count(),
            0
        );
    }
}

#[tokio::test]
async fn layers_keep_what_they_say() {
    if !is_root() {
        return;
    }
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let base = Tar::default()
        .entry(b'5', "own/", "", 0o700, 33, b"")
        .file("own/linked", b"content")
        .file("gone", b"x")
        .dir("hidden")
        .file("hidden/x", b"x")
        .end();
    let layer = Tar::default()
        .entry(b'0', "suid", "", 0o4755, 5, b"s")
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("mtime", b"1234.5"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("capable", b"c")
        .entry(b'1', "hard", "suid", 0o644, 0, b"")
        .entry(b'1', "from-below", "own/linked", 0o644, 0, b"")
        .entry(b'2', "soft", "/nowhere", 0o777, 9, b"")
        .entry(b'3', "null", "", 0o666, 0, b"")
        .entry(b'6', "fifo", "", 0o600, 0, b"")
        .file("own/new", b"n")
        .file(".wh.gone", b"")
        .file("hidden/.wh..wh..opq", b"")
        .file("twice", b"first")
        .file("twice", b"second")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let both = parts(HOST, &[base.clone(), layer.clone()], plain);
    load(dir.path(), &docker(&both)).await.map(drop).unwrap();
    let chain = format!("{} {}", digest(&base), digest(&layer));
    let root = dir
        .path()
        .join("images/layers/sha256")
        .join(hex(chain.as_bytes()))
        .join("fs");
    let stat = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(
        (
            stat("suid").mode() & 0o7777,
            stat("suid").uid(),
            stat("suid").gid()
        ),
        (0o4755, 5, 5)
    );
    assert_eq!(stat("suid").ino(), stat("hard").ino());
    assert_eq!(std::fs::read(root.join("from-below")).unwrap(), b"content");
    assert_eq!(
        (stat("capable").mtime(), stat("capable").mtime_nsec()),
        (1234, 500_000_000)
    );
    assert_eq!(
        xattr(&root.join("capable"), c"security.capability").as_deref(),
        Some(capability)
    );
    assert_eq!(
        xattr(&root.join("capable"), c"trusted.overlay.redirect"),
        None
    );
    assert_eq!(
        (
            stat("soft").uid(),
            std::fs::read_link(root.join("soft")).unwrap().to_str()
        ),
        (9, Some("/nowhere"))
    );
    assert!(
        stat("null").file_type().is_char_device() && stat("null").rdev() == libc::makedev(1, 3)
    );
    assert!(stat("fifo").file_type().is_fifo());
    // A directory that this layer implies is as the layer below has it.
    assert_eq!(
        (stat("own").mode() & 0o7777, stat("own").uid()),
        (0o700, 33)
    );
    assert!(stat("gone").file_type().is_char_device() && stat("gone").rdev() == 0);
    assert_eq!(
        xattr(&root.join("hidden"), c"trusted.overlay.opaque").as_deref(),
        Some(&b"y"[..])
    );
    assert_eq!(std::fs::read(root.join("twice")).unwrap(), b"second");
}

fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut buffer = vec![0; 100];
    // SAFETY: the pointers outlive the call and the length is the buffer's.
    let n = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    (n >= 0).then(|| {
        buffer.truncate(n as usize);
        buffer
    })
}

/// Whatever a layer tries, nothing outside its directory may change.
#[tokio::test]
async fn hostile_layers_stay_inside() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_string();
    std::fs::write(outside.path().join("victim"), "untouched").unwrap();
    let up = format!("../../../../../../../../..{target}");
    let t = Tar::default;
    let attacks: Vec<Vec<u8>> = vec![
        t().file(&format!("{up}/new"), b"x").end(),
        t().file(&format!("{target}/victim"), b"x").end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .file("l/new", b"x")
            .end(),
        t().entry(b'2', "l", &up, 0o777, 0, b"")
            .file("l/victim", b"x")
            .end(),
        t().entry(b'2', "l", &format!("{target}/victim"), 0o777, 0, b"")
            .file("l", b"x")
            .end(),
        t().entry(b'1', "h", &format!("{target}/victim"), 0, 0, b"")
            .end(),
        t().entry(b'1', "h", &format!("{up}/victim"), 0, 0, b"")
            .end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .entry(b'1', "h", "l/victim", 0, 0, b"")
            .end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .file("l/.wh.victim", b"")
            .end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .file("l/.wh..wh..opq", b"")
            .end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .entry(b'5', "l/", "", 0o777, 12, b"")
            .end(),
        t().file(".wh...", b"").end(),
        t().file(".wh.", b"").end(),
        t().entry(b'2', "l", "l", 0, 0, b"").file("l/x", b"").end(),
        t().entry(b'5', "..", "", 0, 12, b"").end(),
    ];
    let before = std::fs::metadata(outside.path()).unwrap();
    for (i, layer) in attacks.iter().enumerate() {
        let dir = tempfile::tempdir_in(outside.path().parent().unwrap()).unwrap();
        let archive = docker(&parts(HOST, std::slice::from_ref(layer), plain));
        // Refusing is as good as keeping it inside.
        let _ = load(dir.path(), &archive).await;
        let names: Vec<_> = std::fs::read_dir(outside.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["victim"], "attack {i}");
        let victim = std::fs::metadata(outside.path().join("victim")).unwrap();
        assert_eq!((victim.nlink(), victim.uid()), (1, 0), "attack {i}");
        assert_eq!(
            std::fs::read(outside.path().join("victim")).unwrap(),
            b"untouched",
            "attack {i}"
        );
        let after = std::fs::metadata(outside.path()).unwrap();
        assert_eq!(
            (after.uid(), after.mode()),
            (before.uid(), before.mode()),
            "attack {i}"
        );
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]
    /// Random sequences of entries that link, climb and replace each other.
    #[test]
    fn random_layers_stay_inside(
        entries in proptest::collection::vec(
            (proptest::sample::select(&b"0125"[..]), "(\\.\\./|/|a/|b/|l/){0,4}(a|b|l|\\.wh\\.a|\\.\\.)", "(\\.\\./){0,9}(OUT|a|b|l|/OUT)(/victim)?"),
            0..12,
        )
    ) {
        if !is_root() {
            return Ok(());
        }
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("victim"), "untouched").unwrap();
        let absolute = outside.path().to_str().unwrap();
        let mut tar = Tar::default();
        for (kind, name, link) in &entries {
            let link = link.replace("/OUT", absolute).replace("OUT", absolute.trim_start_matches('/'));
            let content: &[u8] = if *kind == b'0' { b"x" } else { b"" };
            let link = if matches!(kind, b'1' | b'2') { link } else { String::new() };
            tar = tar.entry(*kind, name, &link, 0o777, 3, content);
        }
        let layer = tar.end();
        let dir = tempfile::tempdir().unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = tokio.block_on(load(dir.path(), &docker(&parts(HOST, std::slice::from_ref(&layer), plain))));
        let names: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        proptest::prop_assert_eq!(names, ["victim"]);
        let victim = std::fs::metadata(outside.path().join("victim")).unwrap();
        proptest::prop_assert_eq!((victim.nlink(), victim.uid(), victim.mode() & 0o777), (1, 0, 0o644));
        proptest::prop_assert_eq!(std::fs::read(outside.path().join("victim")).unwrap(), b"untouched");
    }
}

/// A registry for one test: answers by path, with a script for trouble.
#[derive(Default)]
struct Registry {
    content: HashMap<String, (String, Vec<u8>)>,
    /// Paths whose first answer breaks off in the middle.
    broken: Mutex<Vec<String>>,
    /// Paths that are answered 503 once.
    busy: Mutex<Vec<String>>,
    /// The kind of login wanted.
    login: Option<&'static str>,
    requests: Mutex<Vec<String>>,
}

impl Registry {
    fn image(mut self, repository: &str, tag: &str, parts: &Parts, architecture: &str) -> Self {
        let index = index(parts, architecture, serde_json::json!({}));
        let index_type = "application/vnd.oci.image.index.v1+json";
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let mut put = |path: String, kind: &str, bytes: &[u8]| {
            self.content.insert(
                format!("/v2/{repository}/{path}"),
                (kind.into(), bytes.to_vec()),
            );
        };
        put(format!("manifests/{tag}"), index_type, &index);
        put(format!("manifests/{}", digest(&index)), index_type, &index);
        put(
            format!("manifests/{}", digest(&parts.manifest)),
            manifest_type,
            &parts.manifest,
        );
        for blob in parts.layers.iter().chain([&parts.config]) {
            put(
                format!("blobs/{}", digest(blob)),
                "application/octet-stream",
                blob,
            );
        }
        self
    }

    fn serve(self) -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let registry = Arc::new(self);
        let (shared, own) = (registry.clone(), address.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, own) = (shared.clone(), own.clone());
                std::thread::spawn(move || shared.answer(stream, &own));
            }
        });
        (address, registry)
    }

    fn answer(&self, mut stream: TcpStream, own: &str) {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let target = head.split(' ').nth(1).unwrap_or("").to_string();
        let header = |name: &str| {
            head.lines().find_map(|l| {
                let (key, value) = l.split_once(": ")?;
                key.eq_ignore_ascii_case(name).then(|| value.to_string())
            })
        };
        let path = target.split('?').next().unwrap_or("").to_string();
        let range = header("range");
        self.requests
            .lock()
            .unwrap()
            .push(format!("{path} {}", range.clone().unwrap_or_default()));
        let authorization = header("authorization").unwrap_or_default();
        let mut reply = |status: &str, headers: &str, body: &[u8]| {
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
                body.len()
            );
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(body));
        };
        let basic = "Basic dXNlcjpwYXNz";
        if path == "/token" {
            assert!(
                target.contains("scope=repository%3Aapp%3Apull") && target.contains("service=test"),
                "{target}"
            );
            return if authorization == basic {
                reply("200 OK", "", br#"{"token":"t0k"}"#);
            } else {
                reply("401 Unauthorized", "", br#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#);
            };
        }
        let (wanted, challenge) = match self.login {
            None => (None, String::new()),
            Some("basic") => (
                Some(basic),
                "WWW-Authenticate: Basic realm=\"r\"\r\n".to_string(),
            ),
            Some(_) => (
                Some("Bearer t0k"),
                format!(
                    "WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"test\",scope=\"repository:app:pull\"\r\n"
                ),
            ),
        };
        if wanted.is_some_and(|w| w != authorization) {
            return reply("401 Unauthorized", &challenge, b"{}");
        }
        let take = |list: &Mutex<Vec<String>>| {
            let mut list = list.lock().unwrap();
            list.iter()
                .position(|p| path.contains(p.as_str()))
                .map(|at| list.remove(at))
                .is_some()
        };
        if take(&self.busy) {
            return reply("503 Service Unavailable", "", b"");
        }
        let Some((kind, bytes)) = self.content.get(&path) else {
            return reply(
                "404 Not Found",
                "",
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#,
            );
        };
        let kind = format!("Content-Type: {kind}\r\n");
        let from = range.and_then(|r| {
            r.strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        if take(&self.broken) {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{kind}\r\n",
                bytes.len()
            );
            let _ = stream
                .write_all(head.as_bytes())
                .and_then(|()| stream.write_all(&bytes[..bytes.len() / 2]));
            return;
        }
        match from {
            Some(from) => reply("206 Partial Content", &kind, &bytes[from..]),
            None => reply("200 OK", &kind, bytes),
        }
    }
}

fn app() -> (Vec<Vec<u8>>, Parts) {
    let layers: Vec<Vec<u8>> = (0..5u8)
        .map(|i| {
            let noise: Vec<u8> = (0..20_000u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ i)
                .collect();
            Tar::default().file(&format!("f{i}"), &noise).end()
        })
        // The same layer twice.
        .chain([
            Tar::default().file("f0", b"again").end(),
            Tar::default().file("f0", b"again").end(),
        ])
        .collect();
    let parts = parts(HOST, &layers, gzip);
    (layers, parts)
}

#[tokio::test]
async fn pulls_through_trouble() {
    if !is_root() {
        return;
    }
    let (layers, parts) = app();
    let broken = digest(&parts.layers[1]);
    let registry = Registry {
        broken: Mutex::new(vec![broken.clone()]),
        busy: Mutex::new(vec!["manifests/v1".into()]),
        ..Registry::default()
    };
    let (address, registry) = registry.image("app", "v1", &parts, HOST).serve();
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = steps.clone();
    let name = format!("{address}/app:v1");
    let status = runtime
        .pull_image(&name, &[], move |p| seen.lock().unwrap().push(p))
        .await
        .unwrap();
    assert_eq!(status.id, digest(&parts.config));
    assert_eq!(status.repo_tags, std::slice::from_ref(&name));
    assert!(tree(dir.path(), &layers[0]).join("f0").exists());
    let requests = registry.requests.lock().unwrap().clone();
    assert!(
        requests
            .iter()
            .any(|r| r.contains(&broken) && r.contains("bytes=")),
        "not resumed: {requests:#?}"
    );
    let steps = std::mem::take(&mut *steps.lock().unwrap());
    assert!(
        matches!(steps[0], PullProgress::Resolved { layers: 7, .. }),
        "{:?}",
        steps[0]
    );
    assert_eq!(
        steps
            .iter()
            .filter(|s| matches!(s, PullProgress::Unpacked { .. }))
            .count(),
        7
    );
    // Again, by digest: nothing but manifests is fetched.
    registry.requests.lock().unwrap().clear();
    let by_digest = status.repo_digests[0].clone();
    let again = runtime.pull_image(&by_digest, &[], |_| {}).await.unwrap();
    assert_eq!((again.id, again.repo_tags), (status.id, vec![name]));
    assert!(
        registry
            .requests
            .lock()
            .unwrap()
            .iter()
            .all(|r| !r.contains("/blobs/"))
    );
    assert_eq!(
        std::fs::read_dir(dir.path().join("images/ingest"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn pulls_with_credentials() {
    if !is_root() {
        return;
    }
    let (_, parts) = app();
    for login in ["basic", "token"] {
        let registry = Registry {
            login: Some(login),
            ..Registry::default()
        };
        let (address, _) = registry.image("app", "v1", &parts, HOST).serve();
        let dir = tempfile::tempdir().unwrap();
        let runtime = open(dir.path()).await;
        let name = format!("{address}/app:v1");
        let auth = |password: &str| RegistryAuth {
            registry: address.clone(),
            username: "user".into(),
            password: password.into(),
            ..RegistryAuth::default()
        };
        for wrong in [vec![], vec![auth("wrong")]] {
            let error = runtime.pull_image(&name, &wrong, |_| {}).await.unwrap_err();
            assert!(
                matches!(error, ImageError::Denied { .. }),
                "{login}: {error}"
            );
        }
        runtime
            .pull_image(&name, &[auth("pass")], |_| {})
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn pull_errors_are_worded() {
    let (_, parts) = app();
    let mut damaged = Registry::default().image("app", "v1", &parts, HOST);
    let config = format!("/v2/app/blobs/{}", digest(&parts.config));
    damaged.content.get_mut(&config).unwrap().1[0] ^= 1;
    let (address, _) = damaged.image("arm", "v1", &parts, "s390x").serve();
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    let pull = async |name: &str| runtime.pull_image(name, &[], |_| {}).await.unwrap_err();
    let error = pull(&format!("{address}/app:absent")).await;
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    assert!(matches!(
        pull(&format!("{address}/app:v1")).await,
        ImageError::DigestMismatch { .. }
    ));
    let error = pull(&format!("{address}/arm:v1")).await;
    assert!(matches!(error, ImageError::Platform { .. }), "{error}");
    assert!(matches!(
        pull("Not Valid").await,
        ImageError::InvalidReference { .. }
    ));
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = pull(&format!("127.0.0.1:{port}/app")).await.to_string();
    assert!(error.contains("refused"), "{error}");
    assert!(runtime.list_images().is_empty());
}
