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
