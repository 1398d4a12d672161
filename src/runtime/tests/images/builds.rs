//! Layers from directories, and archives of images in the store.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::support::*;

fn layer_count(dir: &Path) -> usize {
    fs::read_dir(dir.join("images/layers/sha256"))
        .unwrap()
        .count()
}

#[tokio::test]
async fn archives_between_nodes_keep_ids_and_others_do_not_replace_layers() {
    if !is_root() {
        return;
    }
    // The order and the times of this layer are not those of a directory.
    let layers = [
        Tar::default()
            .file("z", b"1")
            .file("a", b"2")
            .dir("d/")
            .end(),
        Tar::default()
            .file("d/.wh.gone", b"")
            .file("d/new", b"3")
            .end(),
    ];
    let here = tempfile::tempdir().unwrap();
    let parts = parts(HOST, &layers, gzip);
    let (runtime, _) = load(here.path(), &docker(&parts)).await.unwrap();
    let id = digest(&parts.config);
    let export = |omitted: &[String], keep_ids| {
        let mut out = Vec::new();
        let told = runtime
            .export_image(&["app:v2".to_owned()], omitted, keep_ids, &mut out)
            .unwrap();
        (out, told)
    };

    let (archive, told) = export(&[], true);
    assert!(told[0].same && told[0].id == id);
    let there = tempfile::tempdir().unwrap();
    let other = open(there.path()).await;
    // Without being asked for, the digests of the configuration count.
    let refused = other.load_image_from(archive.as_slice()).await;
    assert!(refused.is_err());
    let names = other.load_repacked_from(archive.as_slice(), true).await;
    assert_eq!(names.unwrap(), ["docker.io/library/app:v2"]);
    assert_eq!(other.image_status("app:v2").unwrap().id, id);
    let content = other.image_content("app:v2").unwrap();
    let directory = |i: usize| other.layer_directory(&content.layers[i].chain).unwrap();
    assert_eq!(fs::read(directory(0).join("a")).unwrap(), b"2");
    let gone = fs::symlink_metadata(directory(1).join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);

    // Layers that the other node has are not sent, and must be there.
    let chains: Vec<String> = content.layers.iter().map(|l| l.chain.clone()).collect();
    let (small, _) = export(&chains, true);
    assert!(small.len() < archive.len() - 1024);
    other.remove_image(&id).await.unwrap();
    let lacking = other.load_repacked_from(small.as_slice(), true).await;
    assert!(lacking.is_err());
    other
        .load_repacked_from(archive.as_slice(), true)
        .await
        .unwrap();
    other
        .load_repacked_from(small.as_slice(), true)
        .await
        .unwrap();

    // For others, the archive is consistent in itself.
    let (foreign, told) = export(&[], false);
    assert!(!told[0].same && told[0].id != id);
    let elsewhere = tempfile::tempdir().unwrap();
    let (third, names) = load(elsewhere.path(), &foreign).await.unwrap();
    assert_eq!(names, ["docker.io/library/app:v2"]);
    assert_eq!(third.image_status("app:v2").unwrap().id, told[0].id);
}

#[tokio::test]
async fn layers_of_directories_are_kept_until_they_are_released() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    let tree = dir.path().join("tree");
    fs::create_dir_all(tree.join("d")).unwrap();
    fs::write(tree.join("d/f"), "x").unwrap();
    runtime.begin_build("b").unwrap();
    let first = runtime.commit_layer("b", &[], &tree).await.unwrap();
    assert_eq!(first.chain, first.diff);
    fs::write(tree.join("d/f"), "y").unwrap();
    let below = [first.chain.clone()];
    let second = runtime.commit_layer("b", &below, &tree).await.unwrap();
    // The same directory on the same layers is the same layer.
    assert_eq!(
        runtime.commit_layer("b", &below, &tree).await.unwrap(),
        second
    );
    assert_ne!(second.chain, second.diff);

    let config = serde_json::json!({
        "architecture": HOST, "os": "linux", "config": {"Cmd": ["x"]},
        "rootfs": {"type": "layers", "diff_ids": [first.diff, second.diff]},
    });
    let made = runtime
        .assemble_image(
            config.to_string().into_bytes(),
            vec![first.clone(), second.clone()],
            vec!["built".into()],
        )
        .await
        .unwrap();
    assert_eq!(made.names, ["docker.io/library/built:latest"]);
    let content = runtime.image_content("built").unwrap();
    assert_eq!(
        (content.id, content.layers),
        (made.id, vec![first.clone(), second.clone()])
    );
    // Its archive has the layers as they were built.
    let mut archive = Vec::new();
    let told = runtime.export_image(&["built".to_owned()], &[], false, &mut archive);
    assert!(told.unwrap()[0].same);

    runtime.remove_image("built").await.unwrap();
    assert_eq!(layer_count(dir.path()), 2);
    // A build that runs keeps its layers, whatever becomes of the cache.
    runtime.release_layers(Vec::new()).await.unwrap();
    assert_eq!(layer_count(dir.path()), 2);
    let both = [first.chain.clone(), second.chain.clone()];
    runtime.begin_build("other").unwrap();
    runtime.keep_layers("other", &both).unwrap();
    runtime.end_build("b").unwrap();
    runtime.end_build("b").unwrap();
    // Remaining work for a build that has ended makes and keeps nothing.
    fs::write(tree.join("d/f"), "z").unwrap();
    let late = runtime.commit_layer("b", &below, &tree).await.unwrap_err();
    assert!(late.to_string().contains("has ended"), "{late}");
    assert!(runtime.keep_layers("b", &both).is_err());
    assert!(runtime.keep_layers_for("b", &both).is_err());
    assert_eq!(layer_count(dir.path()), 2);
    runtime.end_build("other").unwrap();
    runtime
        .release_layers(vec![first.chain.clone()])
        .await
        .unwrap();
    assert!(runtime.layer_directory(&first.chain).is_some());
    assert_eq!(layer_count(dir.path()), 1);
    runtime.release_layers(Vec::new()).await.unwrap();
    assert_eq!(layer_count(dir.path()), 0);
    let again = runtime.assemble_image(
        config.to_string().into_bytes(),
        vec![first, second],
        vec!["built".into()],
    );
    assert!(again.await.is_err());
}
