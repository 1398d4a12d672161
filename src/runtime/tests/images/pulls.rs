//! Pulls from a registry.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use rkube_runtime::{ImageError, PullProgress, RegistryAuth};

use crate::registry::Registry;
use crate::support::*;

fn app() -> (Vec<Vec<u8>>, Parts) {
    let layers: Vec<Vec<u8>> = (0..5u8)
        .map(|i| {
            let noise: Vec<u8> = (0..20_000u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ i)
                .collect();
            Tar::default().file(&format!("f{i}"), &noise).end()
        })
        // Two identical layers.
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
    // Pulling by digest again fetches manifests only.
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
    // A port that was just released refuses connections.
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = pull(&format!("127.0.0.1:{port}/app")).await.to_string();
    assert!(error.contains("refused"), "{error}");
    assert!(runtime.list_images().is_empty());
}
