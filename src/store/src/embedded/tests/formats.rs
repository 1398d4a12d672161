//! Stores that earlier versions wrote.

use super::*;

/// A store with a snapshot and a log, written by version 0.1.0.
const V1: [(&str, &[u8]); 2] = [
    (
        "snapshot-00000000000000000019",
        include_bytes!("../../../fixtures/v1/snapshot-00000000000000000019.bin"),
    ),
    (
        "log-00000000000000000019",
        include_bytes!("../../../fixtures/v1/log-00000000000000000019.bin"),
    ),
];

fn copy(dir: &Path) {
    for (name, bytes) in V1 {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

fn entries(store: &EmbeddedStore) -> Vec<(String, String)> {
    let entries = store.shared.state.read().entries();
    let text = |kv: Arc<KeyValue>| {
        let value = String::from_utf8(kv.value.to_vec()).unwrap();
        (kv.key.to_string(), value)
    };
    entries.into_iter().map(text).collect()
}

#[test]
fn a_store_of_the_first_format_opens_and_goes_on() {
    let dir = TempDir::new().unwrap();
    copy(dir.path());
    let store = open(dir.path());
    assert_eq!(store.revision(), 32);
    let expected: Vec<_> = [(0, 28), (1, 29), (2, 23), (4, 25), (5, 26), (6, 27)]
        .map(|(key, value)| (format!("/registry/k{key}"), format!("value {value}")))
        .into();
    assert_eq!(entries(&store), expected);
    run(put(&store, "/registry/new", "value"));
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.revision(), 33);
    assert_eq!(entries(&store)[..6], expected);
}

#[test]
fn damage_in_the_first_format_is_still_found() {
    let dir = TempDir::new().unwrap();
    copy(dir.path());
    let log = dir.path().join(V1[1].0);
    let mut bytes = V1[1].1.to_vec();
    bytes[100] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    let opened = EmbeddedStore::open(dir.path(), small());
    assert!(matches!(opened.err(), Some(StoreError::Corrupt(_))));
    // A commit that is not whole.
    let whole = V1[1].1;
    let end = whole.iter().rposition(|b| *b != 0).unwrap();
    std::fs::write(&log, &whole[..end - 3]).unwrap();
    let store = open(dir.path());
    assert_eq!(store.revision(), 31);
    run(put(&store, "/registry/new", "value"));
    drop(store);
    assert_eq!(open(dir.path()).revision(), 32);
}

#[test]
fn a_newer_format_is_named() {
    let dir = TempDir::new().unwrap();
    let mut header = frame::segment_header(frame::SegmentKind::Log, 1, 5);
    header[7] = 3;
    let crc = crc32fast::hash(&header[..24]);
    header[24..].copy_from_slice(&crc.to_le_bytes());
    header.extend([7; 100]);
    std::fs::write(dir.path().join("log-00000000000000000001"), header).unwrap();
    let opened = EmbeddedStore::open(dir.path(), small());
    assert!(matches!(opened.err(), Some(StoreError::Format(why)) if why.contains("format 3")));
    assert!(matches!(
        salvage(dir.path(), Duration::ZERO),
        Err(StoreError::Format(_))
    ));
    assert!(matches!(verify(dir.path()), Err(StoreError::Format(_))));
}

/// Revisions are etcd's, which have a sign. Larger ones could not be followed by others.
#[test]
fn revisions_beyond_all_bounds_are_damage() {
    use frame::{FrameBuilder, SegmentKind};
    assert_eq!(
        SegmentKind::Log.parse_name("log-09223372036854775807"),
        Some(i64::MAX as u64)
    );
    assert_eq!(
        SegmentKind::Log.parse_name("log-09223372036854775808"),
        None
    );
    for (revision, created) in [(u64::MAX, 2), (2, u64::MAX)] {
        let dir = TempDir::new().unwrap();
        let mut bytes = frame::segment_header(SegmentKind::Log, 1, 5);
        let mut builder = FrameBuilder::begin();
        builder.entry(&KeyValue {
            key: "/a".into(),
            value: Bytes::from_static(b"value"),
            create_revision: created,
            mod_revision: revision,
        });
        bytes.extend_from_slice(builder.finish(5));
        std::fs::write(dir.path().join("log-00000000000000000001"), bytes).unwrap();
        let opened = EmbeddedStore::open(dir.path(), small());
        assert!(matches!(opened.err(), Some(StoreError::Corrupt(_))));
        let replaced = salvage(dir.path(), Duration::ZERO).unwrap().unwrap();
        assert_eq!(replaced.entries, 0);
        assert!(EmbeddedStore::open(dir.path(), small()).is_ok());
    }
}

#[test]
fn entries_of_a_snapshot_are_not_newer_than_it() {
    use frame::{FrameBuilder, SegmentKind};
    for (created, revision, opens) in [(3, 5, true), (3, 6, false), (5, 3, false)] {
        let dir = TempDir::new().unwrap();
        let write = |kind: SegmentKind, frames: &[u8]| {
            let bytes = [&frame::segment_header(kind, 5, 5)[..], frames].concat();
            std::fs::write(dir.path().join(kind.name(5)), bytes).unwrap();
        };
        let mut builder = FrameBuilder::begin();
        builder.entry(&KeyValue {
            key: "/a".into(),
            value: Bytes::from_static(b"value"),
            create_revision: created,
            mod_revision: revision,
        });
        builder.end(1);
        write(SegmentKind::Snapshot, builder.finish(5));
        write(SegmentKind::Log, &[]);
        let opened = EmbeddedStore::open(dir.path(), small());
        assert_eq!(opened.is_ok(), opens, "{created} {revision}");
    }
}
