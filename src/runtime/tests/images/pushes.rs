//! Pushes to a registry.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rkube_runtime::{ImageError, PushProgress, Pushed, RegistryAuth, Runtime};

use crate::registry::Registry;
use crate::support::*;

/// Makes an image of two layers, which are packed as they were.
async fn build(runtime: &Runtime, dir: &Path, name: &str) -> String {
    let tree = dir.join(format!("tree-{}", name.replace('/', "-")));
    std::fs::create_dir_all(tree.join("d")).unwrap();
    std::fs::write(tree.join("d/f"), vec![b'x'; 300_000]).unwrap();
    runtime.begin_build("b").unwrap();
    let first = runtime.commit_layer("b", &[], &tree).await.unwrap();
    std::fs::write(tree.join("d/f"), name).unwrap();
    let below = [first.chain.clone()];
    let second = runtime.commit_layer("b", &below, &tree).await.unwrap();
    let config = serde_json::json!({
        "architecture": HOST, "os": "linux", "config": {"Cmd": ["x"]},
        "rootfs": {"type": "layers", "diff_ids": [first.diff, second.diff]},
        "history": [{"created_by": "a"}, {"created_by": "b"}],
    });
    let config = config.to_string().into_bytes();
    let names = vec![name.to_owned()];
    let made = runtime.assemble_image(config, vec![first, second], names);
    made.await.unwrap().id
}

/// Pushes an image. Returns the result and the progress.
async fn push(
    runtime: &Runtime,
    image: &str,
    target: &str,
    auth: &[RegistryAuth],
) -> Result<(Pushed, Vec<PushProgress>), ImageError> {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = steps.clone();
    let tell = move |step| seen.lock().unwrap().push(step);
    let pushed = runtime.push_image(image, Some(target), auth, tell).await?;
    let steps = std::mem::take(&mut *steps.lock().unwrap());
    Ok((pushed, steps))
}

fn user(registry: &str, password: &str) -> RegistryAuth {
    RegistryAuth {
        registry: registry.into(),
        username: "user".into(),
        password: password.into(),
        ..RegistryAuth::default()
    }
}

#[tokio::test]
async fn pushed_images_are_pulled_unchanged() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    let id = build(&runtime, dir.path(), "app:1").await;
    for login in [None, Some("basic"), Some("token")] {
        let registry = Registry {
            login,
            // A connection that breaks, and a registry that is busy for a moment.
            broken: Mutex::new(vec!["blobs/uploads/1".into()]),
            busy: Mutex::new(vec!["manifests/2".into(), "blobs/uploads".into()]),
            ..Registry::default()
        };
        let (address, registry) = registry.serve();
        let auth = [user(&address, "pass")];
        let target = format!("{address}/out:2");
        let (pushed, steps) = push(&runtime, "app:1", &target, &auth).await.unwrap();
        assert_eq!((pushed.name.as_str(), pushed.same), (&*target, true));
        assert_eq!(pushed.id, id);
        let stored = |steps: &[PushProgress]| {
            let stored = |s: &&PushProgress| matches!(s, PushProgress::Stored { .. });
            steps.iter().filter(stored).count()
        };
        assert_eq!(steps[0], PushProgress::Begun { layers: 2 });
        assert_eq!(stored(&steps), 2, "{steps:?}");
        let document = registry.pushed.lock().unwrap()["/v2/out/manifests/2"].clone();
        assert_eq!(document.0, "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(digest(&document.1), pushed.digest);
        let document: serde_json::Value = serde_json::from_slice(&document.1).unwrap();
        let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert_eq!(document["layers"][0]["mediaType"], kind);

        // Nothing is sent twice, and the image is known by its digest.
        let (again, steps) = push(&runtime, "app:1", &target, &auth).await.unwrap();
        assert_eq!((again, stored(&steps)), (pushed.clone(), 0));
        let by_digest = format!("{address}/out@{}", pushed.digest);
        assert_eq!(runtime.image_status(&by_digest).unwrap().id, id);

        if login != Some("token") {
            let there = tempfile::tempdir().unwrap();
            let other = open(there.path()).await;
            let pulled = other.pull_image(&target, &auth, |_| {}).await.unwrap();
            assert_eq!(pulled.id, id);
        }
    }
    let ingest = dir.path().join("images/ingest");
    assert_eq!(std::fs::read_dir(ingest).unwrap().count(), 0);
}

#[tokio::test]
async fn layers_are_taken_from_other_repositories() {
    if !is_root() {
        return;
    }
    let layers = [Tar::default().file("z", b"1").file("a", b"2").end()];
    let parts = parts(HOST, &layers, gzip);
    let (address, registry) = Registry::default().image("app", "v1", &parts, HOST).serve();
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    let source = format!("{address}/app:v1");
    runtime.pull_image(&source, &[], |_| {}).await.unwrap();
    let target = format!("{address}/team/copy:1");
    let (pushed, steps) = push(&runtime, &source, &target, &[]).await.unwrap();
    let mounted = PushProgress::Mounted {
        digest: digest(&parts.layers[0]),
        from: "app".into(),
    };
    assert!(steps.contains(&mounted), "{steps:?}");
    // The manifest is the one that the image came with.
    assert_eq!(pushed.digest, digest(&parts.manifest));
    let bytes = registry.pushed.lock().unwrap()["/v2/team/copy/manifests/1"].clone();
    assert_eq!(bytes.1, parts.manifest);

    // Another registry gets the layer packed again, in an image that is consistent in itself.
    let (elsewhere, _) = Registry::default().serve();
    let target = format!("{elsewhere}/copy:1");
    let (pushed, _) = push(&runtime, &source, &target, &[]).await.unwrap();
    assert!(!pushed.same && pushed.id != digest(&parts.config));
    let there = tempfile::tempdir().unwrap();
    let other = open(there.path()).await;
    let pulled = other.pull_image(&target, &[], |_| {}).await.unwrap();
    assert_eq!(pulled.id, pushed.id);
}

#[tokio::test]
async fn push_errors_are_worded() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    build(&runtime, dir.path(), "app:1").await;
    for login in ["basic", "token"] {
        let (address, _) = Registry {
            login: Some(login),
            ..Registry::default()
        }
        .serve();
        let target = format!("{address}/out:1");
        for auth in [vec![], vec![user(&address, "wrong")]] {
            let error = push(&runtime, "app:1", &target, &auth).await.unwrap_err();
            assert!(matches!(error, ImageError::Denied { .. }), "{error}");
        }
    }
    for (code, words) in [
        ("403 Forbidden", "denies access to \"out\""),
        ("404 Not Found", "has no repository \"out\" to push to"),
        ("413 Payload Too Large", "413 Payload Too Large"),
    ] {
        let (address, _) = Registry {
            refuses: Some(code),
            ..Registry::default()
        }
        .serve();
        let target = format!("{address}/out:1");
        let error = push(&runtime, "app:1", &target, &[]).await.unwrap_err();
        assert!(error.to_string().contains(words), "{code}: {error}");
    }
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let target = format!("127.0.0.1:{port}/out:1");
    let error = push(&runtime, "app:1", &target, &[]).await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    let error = push(&runtime, "absent", &target, &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::NotPresent(_)), "{error}");
}

#[tokio::test]
async fn credentials_are_for_the_registry_alone() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    build(&runtime, dir.path(), "app:1").await;
    // It wants a token, and names a server for that.
    let (address, other) = Registry {
        login: Some("token"),
        ..Registry::default()
    }
    .serve();
    let (address, _) = Registry {
        elsewhere: Some(format!("http://{address}")),
        ..Registry::default()
    }
    .serve();
    let auth = [user(&address, "pass")];
    let target = format!("{address}/out:1");
    let error = push(&runtime, "app:1", &target, &auth).await.unwrap_err();
    assert!(matches!(error, ImageError::Denied { .. }), "{error}");
    let source = format!("{address}/app:1");
    let error = runtime.pull_image(&source, &auth, |_| {}).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ImageError::Denied { .. }), "{error}");
    let requests = other.requests.lock().unwrap();
    let asked = |what: &str| requests.iter().any(|r| r.starts_with(what));
    assert!(asked("PUT /v2/out/blobs/uploads/") && asked("GET /v2/app/manifests/1"));
    assert!(!asked("GET /token"), "{requests:?}");
}

/// A process that ends with the test.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the distribution project's registry with TLS. Returns its address, its certificate and
/// itself.
pub(crate) fn tls_registry(dir: &Path) -> (String, String, Server) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let certificate = made.cert.pem();
    std::fs::write(dir.join("tls.crt"), &certificate).unwrap();
    std::fs::write(dir.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
    let dir = dir.display();
    let tls = format!("tls: {{certificate: '{dir}/tls.crt', key: '{dir}/tls.key'}}");
    let (server, address) = serve(&dir.to_string(), &tls, "");
    (address, certificate, server)
}

/// Starts the distribution project's registry with a password. Returns it and its address.
fn distribution(dir: &Path) -> (Server, String) {
    let made = Command::new("htpasswd")
        .args(["-Bbn", "user", "pass"])
        .output()
        .unwrap();
    std::fs::write(dir.join("htpasswd"), made.stdout).unwrap();
    let dir = dir.display();
    let auth = format!("auth: {{htpasswd: {{realm: test, path: '{dir}/htpasswd'}}}}\n");
    serve(&dir.to_string(), "", &auth)
}

/// Starts the distribution project's registry. Returns it and its address.
fn serve(dir: &str, http: &str, auth: &str) -> (Server, String) {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let http = match http {
        "" => String::new(),
        more => format!(", {more}"),
    };
    let config = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: '{dir}'}}}}\n\
         http: {{addr: '{address}'{http}}}\n{auth}"
    );
    let path = format!("{dir}/config.yml");
    std::fs::write(&path, config).unwrap();
    let child = Command::new("docker-registry")
        .args(["serve", &path])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while std::net::TcpStream::connect(&address).is_err() {
        assert!(Instant::now() < deadline, "the registry does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    (Server(child), address)
}

#[tokio::test]
async fn the_distribution_registry_takes_pushes_at_the_same_time() {
    let has = |program: &str| Command::new(program).arg("--help").output().is_ok();
    if !has("docker-registry") || !has("htpasswd") {
        rkube_testing::skipped("needs docker-registry and apache2-utils");
        return;
    }
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    let store = tempfile::tempdir().unwrap();
    let (_server, address) = distribution(store.path());
    let auth = [user(&address, "pass")];
    let names = ["a:1", "b:1", "team/c:1"];
    let mut ids = Vec::new();
    for name in names {
        ids.push(build(&runtime, dir.path(), name).await);
    }
    let targets = names.map(|name| format!("{address}/{name}"));
    let pushes = names
        .iter()
        .zip(&targets)
        .map(|(name, target)| push(&runtime, name, target, &auth));
    for (done, id) in futures::future::join_all(pushes).await.iter().zip(&ids) {
        assert_eq!(done.as_ref().unwrap().0.id, *id);
    }
    let there = tempfile::tempdir().unwrap();
    let other = open(there.path()).await;
    for (target, id) in targets.iter().zip(&ids) {
        let pulled = other.pull_image(target, &auth, |_| {}).await.unwrap();
        assert_eq!(pulled.id, *id);
    }
    // A pulled image goes to another repository without its layers being sent.
    let copy = format!("{address}/copy:1");
    let (_, steps) = push(&other, &targets[0], &copy, &auth).await.unwrap();
    let mounted = |s: &&PushProgress| matches!(s, PushProgress::Mounted { .. });
    assert_eq!(steps.iter().filter(mounted).count(), 2, "{steps:?}");
    let error = push(&runtime, "a:1", &copy, &[user(&address, "no")]).await;
    assert!(matches!(error, Err(ImageError::Denied { .. })));
}
