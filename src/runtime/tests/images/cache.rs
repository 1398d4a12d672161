//! The pull-through cache.

use std::sync::{Arc, Mutex};

use futures::StreamExt;
use rkube_runtime::{Cache, ImageError, RegistryAuth, RuntimeConfig};

use crate::registry::Registry;
use crate::support::*;

fn config() -> RuntimeConfig {
    RuntimeConfig::new("/r", "/i", "/u", "/b")
}

/// Parts of an image with a layer of noise, so that it is sent in many pieces.
fn app() -> Parts {
    let noise: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    parts(HOST, &[Tar::default().file("f", &noise).end()], gzip)
}

async fn read(
    cache: &Arc<Cache>,
    image: &str,
    digest: &str,
    from: u64,
) -> Result<Vec<u8>, ImageError> {
    let (_, stream) = cache.blob(&config(), image, digest, &[], from).await?;
    let pieces: Vec<_> = stream.collect().await;
    let pieces: Result<Vec<_>, _> = pieces.into_iter().collect();
    Ok(pieces.unwrap().concat())
}

fn count(registry: &Registry, words: &str) -> usize {
    let requests = registry.requests.lock().unwrap();
    requests.iter().filter(|r| r.contains(words)).count()
}

#[tokio::test]
async fn content_is_fetched_once_and_stays_without_the_registry() {
    let parts = app();
    let (address, registry) = Registry::default().image("app", "v1", &parts, HOST).serve();
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), u64::MAX).unwrap();
    let image = format!("{address}/app:v1");
    let first = cache.manifest(&config(), &image, &[]).await.unwrap();
    assert!(!first.stale && first.media_type.contains("index"));
    let layer = digest(&parts.layers[0]);
    // Two readers at the same time, one of whom has a part already.
    let (all, rest) = tokio::join!(
        read(&cache, &image, &layer, 0),
        read(&cache, &image, &layer, 1000)
    );
    assert!(all.unwrap() == parts.layers[0]);
    assert!(rest.unwrap() == parts.layers[0][1000..]);
    assert_eq!(count(&registry, &format!("GET /v2/app/blobs/{layer}")), 1);
    // The tag is looked up again, its manifest is not fetched again.
    cache.manifest(&config(), &image, &[]).await.unwrap();
    assert_eq!(count(&registry, "GET /v2/app/manifests/v1"), 1);
    assert_eq!(count(&registry, "HEAD /v2/app/manifests/v1"), 2);

    // With another registry at the same name, the content is still there.
    let usage = cache.usage().unwrap();
    assert_eq!((usage.names[0].name.as_str(), usage.blobs), (&*image, 2));
    let cache = Cache::open(dir.path(), u64::MAX).unwrap();
    registry
        .down
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let again = cache.manifest(&config(), &image, &[]).await.unwrap();
    assert!(again.stale && again.bytes == first.bytes);
    assert!(read(&cache, &image, &layer, 0).await.unwrap() == parts.layers[0]);
    let other = format!("{address}/app:v2");
    let error = cache.manifest(&config(), &other, &[]).await.unwrap_err();
    assert!(matches!(error, ImageError::Registry { .. }), "{error}");

    // What was not used for longest goes first.
    assert!(cache.shrink(u64::MAX).unwrap() == 0);
    assert!(cache.shrink(0).unwrap() > parts.layers[0].len() as u64);
    assert_eq!(cache.usage().unwrap(), rkube_runtime::CacheUsage::default());
}

#[tokio::test]
async fn unfinished_files_are_counted_and_removed_by_age() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), u64::MAX).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(7200);
    for (name, is_old) in [
        ("ingest/sha256-a", true),
        ("ingest/sha256-b", false),
        ("blobs/sha256-c.tmp-1", true),
        ("blobs/sha256-d.tmp-1", false),
        ("blobs/sha256-e", true),
    ] {
        let file = std::fs::File::create(dir.path().join(name)).unwrap();
        file.set_len(1000).unwrap();
        if is_old {
            file.set_modified(old).unwrap();
        }
    }
    let there = |name: &str| dir.path().join(name).exists();
    // Only what is complete is content.
    assert_eq!(cache.usage().unwrap().bytes, 1000);
    cache.set_limit(3000).unwrap();
    assert!(!there("ingest/sha256-a") && !there("blobs/sha256-c.tmp-1"));
    assert!(there("ingest/sha256-b") && there("blobs/sha256-d.tmp-1"));
    assert!(there("blobs/sha256-e"));
    cache.set_limit(2500).unwrap();
    assert!(!there("blobs/sha256-e"));
}

#[tokio::test]
async fn a_page_is_no_manifest() {
    let mut page = Registry::default();
    let path = "/v2/app/manifests/v1".to_owned();
    page.content
        .insert(path, ("text/html".into(), b"<html>Log in</html>".to_vec()));
    let (address, _) = page.serve();
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), u64::MAX).unwrap();
    let image = format!("{address}/app:v1");
    let error = cache.manifest(&config(), &image, &[]).await.unwrap_err();
    assert!(error.to_string().contains("no manifest"), "{error}");
    assert_eq!(cache.usage().unwrap().blobs, 0);
}

#[tokio::test]
async fn damaged_content_is_not_served() {
    let parts = app();
    let mut bad = Registry::default().image("app", "v1", &parts, HOST);
    let layer = digest(&parts.layers[0]);
    let path = format!("/v2/app/blobs/{layer}");
    bad.content.get_mut(&path).unwrap().1.truncate(100);
    let (address, _) = bad.serve();
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), u64::MAX).unwrap();
    let image = format!("{address}/app:v1");
    let (_, stream) = match cache.blob(&config(), &image, &layer, &[], 0).await {
        Ok(found) => found,
        Err(e) => {
            assert!(e.to_string().contains("corrupt"), "{e}");
            return;
        }
    };
    let pieces: Vec<_> = stream.collect().await;
    assert!(pieces.last().unwrap().is_err());
    assert_eq!(cache.usage().unwrap().blobs, 0);
    let absent = digest(b"absent");
    let error = read(&cache, &image, &absent, 0).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
}

#[tokio::test]
async fn private_images_stay_private_without_the_registry() {
    let parts = app();
    let locked = Registry {
        login: Some("basic"),
        broken: Mutex::default(),
        ..Registry::default()
    };
    let (address, registry) = locked.image("app", "v1", &parts, HOST).serve();
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path(), u64::MAX).unwrap();
    let image = format!("{address}/app:v1");
    let auth = |password: &str| {
        let parts = ["user", password, "", ""].map(|part| {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD.encode(part)
        });
        vec![RegistryAuth::decode(&parts.join(".")).unwrap()]
    };
    let denied = |found| matches!(found, Err(ImageError::Denied { .. }));
    assert!(denied(cache.manifest(&config(), &image, &[]).await));
    let found = cache.manifest(&config(), &image, &auth("pass")).await;
    let by_digest = format!("{address}/app@{}", found.unwrap().digest);
    for image in [&image, &by_digest] {
        assert!(denied(cache.manifest(&config(), image, &[]).await));
        assert!(denied(cache.manifest(&config(), image, &auth("no")).await));
    }
    registry
        .down
        .store(true, std::sync::atomic::Ordering::SeqCst);
    for image in [&image, &by_digest] {
        assert!(
            cache
                .manifest(&config(), image, &auth("pass"))
                .await
                .is_ok()
        );
        assert!(cache.manifest(&config(), image, &auth("no")).await.is_err());
        assert!(cache.manifest(&config(), image, &[]).await.is_err());
    }
}
