//! Bundles: archives of images of a node and of registries.

use std::io::Write;
use std::sync::{Arc, Mutex};

use rkube_runtime::build::{BundleProgress, Bundled, Wanted};
use rkube_runtime::{ImageError, Runtime};

use crate::registry::Registry;
use crate::support::*;

/// An archive in memory.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn bundle(
    runtime: &Runtime,
    names: &[&str],
) -> Result<(Vec<Bundled>, Vec<u8>, Vec<BundleProgress>), ImageError> {
    let wanted: Vec<Wanted> = names
        .iter()
        .map(|name| Wanted {
            name: (*name).to_owned(),
            auth: Vec::new(),
        })
        .collect();
    let (memory, steps) = (Memory::default(), Arc::new(Mutex::new(Vec::new())));
    let seen = steps.clone();
    let tell = move |step| seen.lock().unwrap().push(step);
    let images = runtime.write_bundle(&wanted, tell, memory.clone()).await?;
    let archive = memory.0.lock().unwrap().clone();
    let steps = steps.lock().unwrap().clone();
    Ok((images, archive, steps))
}

#[tokio::test]
async fn bundles_have_images_of_the_node_and_of_registries() {
    if !is_root() {
        return;
    }
    let own = Tar::default().dir("a/").file("a/own", b"own").end();
    let far = Tar::default().file("far", b"far").end();
    let (local, remote) = (
        parts(HOST, std::slice::from_ref(&own), gzip),
        parts(HOST, std::slice::from_ref(&far), gzip),
    );
    let served = Registry::default().image("app", "v1", &remote, HOST);
    let top = digest(&index(&remote, HOST, serde_json::json!({})));
    let (address, registry) = served.serve();
    let dir = tempfile::tempdir().unwrap();
    let (runtime, _) = load(&dir.path().join("from"), &layout(&local, HOST))
        .await
        .unwrap();
    let (tagged, pinned) = (format!("{address}/app:v1"), format!("{address}/app@{top}"));
    let names = ["example.com/app:v1", &tagged, &pinned, "example.com/app:v1"];
    let (images, archive, steps) = bundle(&runtime, &names).await.unwrap();
    let told: Vec<_> = images
        .iter()
        .map(|image| (image.name.as_str(), image.fetched, image.same))
        .collect();
    assert_eq!(
        told,
        [
            ("example.com/app:v1", false, false),
            (tagged.as_str(), true, true),
            (pinned.as_str(), true, true)
        ]
    );
    assert_eq!((&images[1].digest, &images[2].digest), (&top, &top));
    assert_eq!(steps.last(), Some(&BundleProgress::Writing));
    let fetching = |step: &&BundleProgress| matches!(step, BundleProgress::Fetching { done, total, .. } if done == total);
    assert!(steps.iter().any(|step| fetching(&step)), "{steps:?}");
    // A layer is fetched once, and the node does not get the image.
    let layer = format!("blobs/{}", digest(&remote.layers[0]));
    let requests = registry.requests.lock().unwrap().clone();
    assert_eq!(requests.iter().filter(|r| r.contains(&layer)).count(), 1);
    assert!(runtime.image_status(&tagged).is_none());

    let to = dir.path().join("to");
    let (other, loaded) = load(&to, &archive).await.unwrap();
    let expected = ["example.com/app:v1".to_owned(), tagged.clone()];
    assert!(
        expected.iter().all(|name| loaded.contains(name)),
        "{loaded:?}"
    );
    for name in [&tagged, &pinned] {
        let status = other.image_status(name).expect("the image of the registry");
        assert_eq!(status.id, digest(&remote.config));
    }
    // A layer that is packed again has another digest.
    let content = other.image_content("example.com/app:v1").unwrap();
    let packed = other.layer_directory(&content.layers[0].chain).unwrap();
    assert_eq!(std::fs::read(packed.join("a/own")).unwrap(), b"own");
    assert_eq!(std::fs::read(tree(&to, &far).join("far")).unwrap(), b"far");
    // Nodes believe each other's names with digests, and no archive from elsewhere.
    let (mut out, id) = (Vec::new(), digest(&remote.config));
    other.export_image(&[id], &[], true, &mut out).unwrap();
    let third = open(&dir.path().join("third")).await;
    third.load_repacked_from(&out[..], true).await.unwrap();
    assert!(third.image_status(&pinned).is_some());
    let fourth = open(&dir.path().join("fourth")).await;
    // Whether it is refused or loaded, it has no such name.
    let _ = fourth.load_image_from(&out[..]).await;
    assert!(fourth.image_status(&pinned).is_none());
    // What was loaded was given, and what a pod pulls is not.
    assert_eq!(other.given_images().len(), 2);
    runtime.pull_image(&tagged, &[], |_| {}).await.unwrap();
    let given = |runtime: &Runtime| runtime.given_images().into_iter().map(|image| image.id);
    assert_eq!(given(&runtime).collect::<Vec<_>>(), [digest(&local.config)]);
    runtime.give_image(&digest(&remote.config)).await.unwrap();
    assert_eq!(given(&runtime).count(), 2);
}

#[tokio::test]
async fn bundles_are_all_or_nothing() {
    if !is_root() {
        return;
    }
    let layer = Tar::default().file("f", b"x").end();
    let parts = parts(HOST, std::slice::from_ref(&layer), plain);
    let (address, _) = Registry::default().image("app", "v1", &parts, HOST).serve();
    let dir = tempfile::tempdir().unwrap();
    let (runtime, _) = load(dir.path(), &layout(&parts, HOST)).await.unwrap();
    let (there, missing) = (format!("{address}/app:v1"), format!("{address}/other:v1"));
    let error = bundle(&runtime, &[&there, &missing]).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    let error = bundle(&runtime, &[&digest(&parts.config)])
        .await
        .unwrap_err();
    assert!(error.to_string().contains("rkube image tag"), "{error}");
    let left = std::fs::read_dir(dir.path().join("images/ingest")).unwrap();
    assert_eq!(left.count(), 0);
}
