use super::*;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn name(text: &str) -> Repository {
    Repository::parse(text).unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

fn push(store: &Store, repository: &str, bytes: &[u8]) -> Digest {
    let (_, mut upload) = store.begin_upload(&name(repository)).unwrap();
    upload.append(bytes).unwrap();
    let wanted = digest(bytes);
    let written = store
        .finish_upload(&name(repository), upload, &wanted)
        .unwrap();
    assert_eq!(written, Written::Stored);
    wanted
}

/// Pushes an image with one blob. Returns the manifest's digest.
fn image(store: &Store, repository: &str, tag: Option<&str>, blob: &[u8]) -> Digest {
    let config = push(store, repository, blob);
    let text = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "x/y", "digest": config.to_string(), "size": blob.len()},
        "layers": [],
    });
    put(store, repository, tag, &text)
}

fn put(store: &Store, repository: &str, tag: Option<&str>, text: &serde_json::Value) -> Digest {
    let text = text.to_string();
    let manifest = Manifest::parse(None, text.as_bytes()).unwrap();
    let wanted = digest(text.as_bytes());
    let missing = store
        .put_manifest(&name(repository), &wanted, tag, &manifest, text.as_bytes())
        .unwrap();
    assert!(missing.is_empty(), "{missing:?}");
    wanted
}

#[test]
fn an_upload_becomes_a_blob_only_with_its_digest() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let wanted = push(&store, "a/b", b"hello");
    assert!(store.blob(&name("a/b"), &wanted).unwrap().is_some());
    // Another repository does not have it.
    assert!(store.blob(&name("a"), &wanted).unwrap().is_none());
    let (id, mut upload) = store.begin_upload(&name("a")).unwrap();
    upload.append(b"other").unwrap();
    let written = store.finish_upload(&name("a"), upload, &wanted).unwrap();
    assert_eq!(written, Written::Mismatch(digest(b"other")));
    assert!(store.find_upload(&name("a"), &id).unwrap().is_none());
    assert!(store.blob(&name("a"), &wanted).unwrap().is_none());
}

#[test]
fn an_upload_goes_on_in_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (id, mut upload) = store.begin_upload(&name("a")).unwrap();
    upload.append(b"hel").unwrap();
    drop((upload, store));
    let store = Store::open(dir.path()).unwrap();
    for bad in ["../../x", "", "x", &id.to_uppercase()] {
        assert!(
            store.find_upload(&name("a"), bad).unwrap().is_none(),
            "{bad}"
        );
    }
    let mut upload = store.find_upload(&name("a"), &id).unwrap().unwrap();
    assert_eq!(upload.size(), 3);
    upload.append(b"lo").unwrap();
    let wanted = Digest::of(Algorithm::Sha512, b"hello");
    let written = store.finish_upload(&name("a"), upload, &wanted).unwrap();
    assert_eq!(written, Written::Stored);
    assert_eq!(store.blob(&name("a"), &wanted).unwrap().unwrap().1, 5);
}

#[test]
fn garbage_is_collected_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let app = name("app");
    let first = image(&store, "app", Some("v1"), b"one");
    let second = image(&store, "app", Some("v1"), b"two");
    let child = image(&store, "app", None, b"child");
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        {"mediaType": "x/y", "digest": child.to_string(), "size": 1}]});
    let index = put(&store, "app", Some("multi"), &index);
    let signature = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [],
        "subject": {"mediaType": "x/y", "digest": second.to_string(), "size": 1}});
    let signature = put(&store, "app", None, &signature);
    let loose = push(&store, "app", b"loose");
    let (id, _) = store.begin_upload(&app).unwrap();

    // What is new stays.
    let hour = Duration::from_secs(3600);
    assert_eq!(store.collect(hour, true).unwrap(), Collected::default());
    let collected = store.collect(Duration::ZERO, false).unwrap();
    assert_eq!(
        (collected.manifests, collected.uploads, collected.blobs),
        (0, 1, 1)
    );
    assert!(store.blob(&app, &loose).unwrap().is_none());
    assert!(store.find_upload(&app, &id).unwrap().is_none());
    // The image that lost its tag, and its blob.
    let collected = store.collect(Duration::ZERO, true).unwrap();
    assert_eq!((collected.manifests, collected.blobs), (1, 2));
    let has = |digest: &Digest| {
        store
            .manifest(&app, &Reference::Digest(digest.clone()))
            .unwrap()
            .is_some()
    };
    assert!(!has(&first));
    for digest in [&second, &child, &index, &signature] {
        assert!(has(digest));
    }
    assert_eq!(store.referrers(&app, &second).unwrap().len(), 1);
    // With the last manifest, the repository goes.
    for digest in [&second, &child, &index, &signature] {
        assert!(store.remove_manifest(&app, digest).unwrap());
    }
    store.collect(Duration::ZERO, false).unwrap();
    assert_eq!(store.usage().unwrap(), Usage::default());
    assert_eq!(store.tags(&app).unwrap(), None);
    assert_eq!(
        names(&dir.path().join("repositories")).unwrap(),
        Vec::<String>::new()
    );
}

#[test]
fn manifests_are_read_as_they_were_stored() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let app = name("app");
    let put = |kind: Option<&str>, text: serde_json::Value| {
        let text = text.to_string();
        let manifest = Manifest::parse(kind, text.as_bytes()).unwrap();
        let wanted = digest(text.as_bytes());
        let missing = store.put_manifest(&app, &wanted, Some("v"), &manifest, text.as_bytes());
        assert_eq!(missing.unwrap(), []);
        wanted
    };
    let collect = || store.collect(Duration::ZERO, true).unwrap();
    let has = |blob: &Digest| store.blob(&app, blob).unwrap().is_some();
    // Without a media type of its own, it would be an image without a configuration.
    let other = push(&store, "app", b"other");
    let blobs = serde_json::json!([{"digest": other.to_string()}]);
    let kind = "application/vnd.oci.artifact.manifest.v1+json";
    put(
        Some(kind),
        serde_json::json!({"schemaVersion": 2, "blobs": blobs}),
    );
    assert_eq!(collect(), Collected::default());
    assert!(has(&other));
    // The index of a build cache lists blobs.
    let cached = push(&store, "app", b"cached");
    let manifests = serde_json::json!([{"digest": cached.to_string()}]);
    let index = put(
        Some(INDEX),
        serde_json::json!({"schemaVersion": 2, "manifests": manifests}),
    );
    collect();
    assert!(has(&cached) && !has(&other));
    // What cannot be read keeps everything.
    let loose = push(&store, "app", b"loose");
    fs::write(store.content(&index), b"\xff").unwrap();
    assert_eq!(collect(), Collected::default());
    assert!(has(&cached) && has(&loose));
}

#[test]
fn a_finished_upload_is_not_current() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (id, mut upload) = store.begin_upload(&name("a")).unwrap();
    upload.append(b"hello").unwrap();
    let second = store.find_upload(&name("a"), &id).unwrap().unwrap();
    assert!(second.is_current().unwrap());
    let wanted = digest(b"hello");
    // Content that was cut short is replaced.
    fs::create_dir_all(store.content(&wanted).parent().unwrap()).unwrap();
    fs::write(store.content(&wanted), b"he").unwrap();
    let written = store.finish_upload(&name("a"), upload, &wanted).unwrap();
    assert_eq!(written, Written::Stored);
    assert_eq!(fs::read(store.content(&wanted)).unwrap(), b"hello");
    assert!(!second.is_current().unwrap());
}

/// A step of a hostile or interrupted history.
#[derive(Clone, Debug)]
enum Step {
    Append(u8, Vec<u8>),
    Finish(u8, bool),
    Tag(u8),
    Untag,
    Collect(bool),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..4);
    prop_oneof![
        (0..3u8, bytes).prop_map(|(upload, bytes)| Step::Append(upload, bytes)),
        (0..3u8, any::<bool>()).prop_map(|(upload, right)| Step::Finish(upload, right)),
        (0..3u8).prop_map(Step::Tag),
        Just(Step::Untag),
        any::<bool>().prop_map(Step::Collect),
        Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_readable_content_has_a_wrong_digest(steps in proptest::collection::vec(step(), 1..24)) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        let app = name("app");
        let mut uploads: BTreeMap<u8, (String, Vec<u8>)> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Append(number, bytes) => {
                    let (id, all) = uploads.entry(number).or_insert_with(|| {
                        (store.begin_upload(&app).unwrap().0, Vec::new())
                    });
                    if let Some(mut upload) = store.find_upload(&app, id).unwrap() {
                        upload.append(&bytes).unwrap();
                        all.extend(bytes);
                    }
                }
                Step::Finish(number, right) => {
                    if let Some((id, bytes)) = uploads.remove(&number)
                        && let Some(upload) = store.find_upload(&app, &id).unwrap()
                    {
                        let wanted = match right { true => digest(&bytes), false => digest(b"wrong") };
                        let written = store.finish_upload(&app, upload, &wanted).unwrap();
                        prop_assert_eq!(written == Written::Stored, right || bytes == b"wrong");
                    }
                }
                Step::Tag(number) => drop(image(&store, "app", Some("v"), &[number])),
                Step::Untag => drop(store.remove_tag(&app, "v").unwrap()),
                Step::Collect(untagged) => {
                    store.collect(Duration::ZERO, untagged).unwrap();
                    uploads.clear();
                }
                Step::Restart => store = Store::open(dir.path()).unwrap(),
            }
            for wanted in digests(&store.repository(&app).join("_blobs")).unwrap() {
                let path = store.content(&wanted);
                prop_assert_eq!(Digest::of(wanted.algorithm, &fs::read(path).unwrap()), wanted);
            }
            // A tag names a manifest that is whole.
            if let Some(tagged) = store.tagged(&app, "v").unwrap() {
                let manifest = store.parsed(&app, &tagged).unwrap().unwrap().unwrap();
                for blob in &manifest.blobs {
                    prop_assert!(store.blob(&app, blob).unwrap().is_some());
                }
            }
        }
    }
}
