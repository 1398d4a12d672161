//! What registries and archives say about images: manifests, indexes, configurations, references
//! and challenges. Archives, compressed or not, and seccomp profiles.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rkube_fuzz::Source;
use rkube_runtime::fuzzing;
use serde_json::{Value, json};

/// Where archives and stores are.
static ROOM: LazyLock<tempfile::TempDir> =
    LazyLock::new(|| tempfile::tempdir().expect("a directory"));

const DIGESTS: [&str; 4] = [
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "sha256:0",
    "md5:x",
];

fn descriptor(source: &mut Source<'_>) -> Value {
    let mut value = json!({
        "mediaType": *source.one_of(&["", "application/vnd.oci.image.index.v1+json", "x"]),
        "digest": *source.one_of(&DIGESTS),
        "size": source.number(),
    });
    if source.chance(2) {
        value["platform"] = json!({
            "os": *source.one_of(&["linux", "unknown", ""]),
            "architecture": *source.one_of(&["amd64", "arm64", ""]),
            "variant": *source.one_of(&["", "v1", "v8"]),
        });
    }
    if source.chance(8) {
        value["annotations"] = source.any(0);
    }
    value
}

/// Returns a document that is mostly well-formed.
fn document(source: &mut Source<'_>) -> Value {
    let mut value = json!({
        "schemaVersion": 2,
        "manifests": [descriptor(source), descriptor(source)],
        "layers": [descriptor(source), descriptor(source)],
    });
    match source.below(4) {
        0 => value["config"] = descriptor(source),
        1 => {
            value["config"] = descriptor(source);
            value.as_object_mut().map(|map| map.remove("manifests"));
        }
        2 => {
            value = json!({
                "architecture": *source.one_of(&["amd64", "", "arm64"]), "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": [DIGESTS[0], DIGESTS[1]]},
                "config": source.any(0),
            });
        }
        _ => {}
    }
    if let Some(map) = value.as_object_mut().filter(|_| source.chance(4)) {
        map.insert("layers".to_owned(), source.any(0));
    }
    value
}

/// Returns a tar file with these files.
fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &content[..])
            .expect("an entry");
    }
    tar.into_inner().expect("an archive")
}

fn load(bytes: &[u8]) {
    let file = ROOM.path().join("archive");
    std::fs::write(&file, bytes).expect("an archive");
    let root = ROOM.path().join("root");
    std::fs::create_dir_all(&root).expect("a directory");
    let _ = fuzzing::images(&file, &root);
    rkube_fsutil::remove_tree(&root).expect("the store can be removed");
}

fuzz_target!(|data: &[u8]| {
    fuzzing::document(data);
    fuzzing::seccomp(data);
    if let Ok(text) = std::str::from_utf8(data) {
        fuzzing::texts(text);
    }
    // A bomb ends at the limit.
    let _ = fuzzing::decompress(data, 1 << 20);
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd][..], data].concat();
    let _ = fuzzing::decompress(&zstd, 1 << 20);

    let mut source = Source::new(data);
    let first = document(&mut source).to_string().into_bytes();
    fuzzing::document(&first);
    if source.chance(4) {
        let blob = format!("blobs/{}", DIGESTS[0].replace(':', "/"));
        let images = json!([{"Config": "c", "RepoTags": ["a:b"], "Layers": ["l", "c"]}]);
        let images = if source.chance(4) {
            source.any(0)
        } else {
            images
        };
        let files = [
            (*source.one_of(&["index.json", "./index.json", "x"]), first),
            ("manifest.json", images.to_string().into_bytes()),
            ("c", document(&mut source).to_string().into_bytes()),
            ("l", source.take(64).to_vec()),
            (blob.as_str(), Vec::new()),
        ];
        let mut bytes = archive(&files);
        for edit in source.rest().chunks_exact(3) {
            let at = usize::from(u16::from_be_bytes([edit[0], edit[1]]));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= edit[2];
            }
        }
        load(&bytes);
    }
});
