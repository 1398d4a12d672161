//! Dumps a store's entries as one stream of bytes, and restores them. Cluster snapshots
//! contain such a stream.
//!
//! The stream begins with [`MAGIC`]. An entry is the key's length, the key, the value's
//! length and the value. Lengths are 32 bits, big-endian. After the last entry come
//! [`END`] and the number of entries in 64 bits, so that a truncated stream is
//! detected.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};

use crate::types::{Expect, KeyValue, ListOptions, Revision, Store, StoreError};

/// The first bytes of a stream; the number is the version of the layout.
const MAGIC: &[u8] = b"rkube store 1\n";
/// Marks the end, in place of the next key's length.
const END: u32 = u32::MAX;
/// The number of entries that are read from the store at once.
const PAGE_SIZE: usize = 500;
/// The number of concurrent writes, which share the disk's syncs.
const MAX_CONCURRENT_WRITES: usize = 64;
/// The longest key or value in bytes; a larger length is damage.
const MAX_PART_BYTES: u32 = 64 << 20;

/// Dumps every entry below `prefix`, all at one revision.
pub fn dump(
    store: Arc<dyn Store>,
    prefix: String,
) -> impl Stream<Item = Result<Bytes, StoreError>> + Send {
    struct State {
        store: Arc<dyn Store>,
        prefix: String,
        options: ListOptions,
        /// Entries that were read and not dumped yet.
        read: std::vec::IntoIter<Arc<KeyValue>>,
        all_read: bool,
        count: u64,
        done: bool,
    }
    let state = State {
        options: ListOptions {
            // The entries of a store in memory are read at once. The stream is as slow as its
            // reader, and the history does not wait for that.
            limit: if store.is_in_memory() { 0 } else { PAGE_SIZE },
            ..ListOptions::default()
        },
        store,
        prefix,
        read: Vec::new().into_iter(),
        all_read: false,
        count: 0,
        done: false,
    };
    let pages = futures::stream::try_unfold(state, |mut state| async move {
        if state.done {
            return Ok(None);
        }
        if state.read.len() == 0 && !state.all_read {
            let page = state
                .store
                .list(&state.prefix, state.options.clone())
                .await?;
            state.all_read = page.remaining == 0 || page.items.is_empty();
            state.options.revision = Some(page.revision);
            state.options.after = page.items.last().map(|last| last.key.to_string());
            state.read = page.items.into_iter();
        }
        let mut chunk = BytesMut::new();
        for entry in state.read.by_ref().take(PAGE_SIZE) {
            put_entry(&mut chunk, &entry);
            state.count += 1;
        }
        if state.all_read && state.read.len() == 0 {
            chunk.put_u32(END);
            chunk.put_u64(state.count);
            state.done = true;
        }
        Ok(Some((chunk.freeze(), state)))
    });
    let magic = futures::stream::once(async { Ok(Bytes::from_static(MAGIC)) });
    magic.chain(pages)
}

fn put_entry(chunk: &mut BytesMut, entry: &KeyValue) {
    for part in [entry.key.as_bytes(), &entry.value] {
        // The store takes nothing near 4 GiB.
        chunk.put_u32(part.len() as u32);
        chunk.put_slice(part);
    }
}

/// An entry of a dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Bytes,
}

/// An iterator over the entries of a dump. A damaged or truncated dump ends in an error.
pub struct Entries<R> {
    input: R,
    count: u64,
    ended: bool,
}

impl<R: Read> Entries<R> {
    /// Reads the beginning of a dump.
    ///
    /// # Errors
    /// Fails if `input` is not a dump, or is one of an unknown layout.
    pub fn new(mut input: R) -> io::Result<Self> {
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(damaged("it does not begin as one of this layout does"));
        }
        Ok(Self {
            input,
            count: 0,
            ended: false,
        })
    }

    fn length(&mut self) -> io::Result<u32> {
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        Ok(u32::from_be_bytes(length))
    }

    fn part(&mut self, length: u32) -> io::Result<Vec<u8>> {
        if length > MAX_PART_BYTES {
            return Err(damaged("a length is beyond all bounds"));
        }
        // The buffer grows with the bytes read: a damaged length allocates nothing.
        let mut part = Vec::new();
        let read = (&mut self.input)
            .take(u64::from(length))
            .read_to_end(&mut part)?;
        if read < length as usize {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(part)
    }

    fn entry(&mut self) -> io::Result<Option<Entry>> {
        let length = self.length()?;
        if length == END {
            let mut count = [0; 8];
            self.input.read_exact(&mut count)?;
            if u64::from_be_bytes(count) != self.count {
                return Err(damaged("entries are missing"));
            }
            return Ok(None);
        }
        let key = String::from_utf8(self.part(length)?).map_err(|_| damaged("a key is no text"))?;
        let length = self.length()?;
        let value = self.part(length)?.into();
        self.count += 1;
        Ok(Some(Entry { key, value }))
    }
}

impl<R: Read> Iterator for Entries<R> {
    type Item = io::Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let entry = self.entry();
        self.ended = !matches!(entry, Ok(Some(_)));
        entry.transpose()
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Replaces everything below `prefix` with `entries` and returns the number of writes.
///
/// Entries that are the same already are not written. Revisions continue, so that no
/// client can mistake an old one for a new one. An interrupted restore can be repeated.
///
/// There is no transaction around the writes, so there must be no other writer.
///
/// # Errors
/// Any error of the store; then only a part may have been written.
pub async fn restore(
    store: &dyn Store,
    prefix: &str,
    entries: impl IntoIterator<Item = Entry>,
) -> Result<usize, StoreError> {
    let mut wanted: BTreeMap<String, Bytes> = entries
        .into_iter()
        .filter(|entry| entry.key.starts_with(prefix))
        .map(|entry| (entry.key, entry.value))
        .collect();
    let mut stale: Vec<(Arc<str>, Revision)> = Vec::new();
    let mut options = ListOptions {
        limit: PAGE_SIZE,
        ..ListOptions::default()
    };
    loop {
        let page = store.list(prefix, options.clone()).await?;
        for entry in &page.items {
            if wanted.get(&*entry.key) == Some(&entry.value) {
                wanted.remove(&*entry.key);
            } else {
                // Deleted even if a new value follows, which is then a new object.
                stale.push((entry.key.clone(), entry.mod_revision));
            }
        }
        if page.remaining == 0 {
            break;
        }
        options.revision = Some(page.revision);
        options.after = page.items.last().map(|last| last.key.to_string());
    }
    let writes = stale.len() + wanted.len();
    futures::stream::iter(stale)
        .map(|(key, revision)| async move {
            store
                .delete(&key, Expect::Revision(revision))
                .await
                .map(drop)
        })
        .buffer_unordered(MAX_CONCURRENT_WRITES)
        .try_collect::<()>()
        .await?;
    futures::stream::iter(wanted)
        .map(|(key, value)| async move { store.put(&key, value, Expect::Absent).await.map(drop) })
        .buffer_unordered(MAX_CONCURRENT_WRITES)
        .try_collect::<()>()
        .await?;
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EmbeddedOptions, EmbeddedStore};

    async fn put(store: &dyn Store, key: &str, value: &str) {
        let value = Bytes::copy_from_slice(value.as_bytes());
        store.put(key, value, Expect::Any).await.unwrap();
    }

    async fn dumped(store: &Arc<EmbeddedStore>) -> Vec<u8> {
        let chunks: Vec<Bytes> = dump(store.clone(), "/r/".into())
            .try_collect()
            .await
            .unwrap();
        chunks.concat()
    }

    fn entries(dump: &[u8]) -> io::Result<Vec<Entry>> {
        Entries::new(dump)?.collect()
    }

    #[tokio::test]
    async fn what_was_dumped_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        // More than a page.
        for i in 0..PAGE_SIZE + 7 {
            put(&*store, &format!("/r/{i:05}"), &i.to_string()).await;
        }
        put(&*store, "/other", "x").await;
        let dump = dumped(&store).await;
        assert_eq!(entries(&dump).unwrap().len(), PAGE_SIZE + 7);

        let same = store.get("/r/00003").await.unwrap().0;
        put(&*store, "/r/00001", "changed").await;
        put(&*store, "/r/new", "n").await;
        put(&*store, "/other", "y").await;
        store.delete("/r/00002", Expect::Any).await.unwrap();
        let before = store.revision();
        // One is deleted, one made, one both.
        let writes = restore(&*store, "/r/", entries(&dump).unwrap())
            .await
            .unwrap();
        assert_eq!(writes, 4);
        assert_eq!(store.revision(), before + 4);
        assert_eq!(store.get("/r/new").await.unwrap().0, None);
        assert_eq!(store.get("/r/00003").await.unwrap().0, same, "left alone");
        let other = store.get("/other").await.unwrap().0.unwrap();
        assert_eq!(other.value, "y");
        assert_eq!(dumped(&store).await, dump);
        assert_eq!(
            restore(&*store, "/r/", entries(&dump).unwrap()).await,
            Ok(0)
        );
    }

    #[tokio::test]
    async fn a_busy_store_is_dumped_however_slow_the_reader() {
        let dir = tempfile::tempdir().unwrap();
        let options = EmbeddedOptions {
            history_changes: 10,
            ..EmbeddedOptions::default()
        };
        let store = EmbeddedStore::open(dir.path(), options).unwrap();
        let keys = || (0..2 * PAGE_SIZE).map(|i| format!("/r/{i:04}"));
        let writes = keys().map(|key| {
            let store = store.clone();
            async move { put(&*store, &key, "before").await }
        });
        futures::future::join_all(writes).await;
        let mut stream = Box::pin(dump(store.clone(), "/r/".into()));
        let mut bytes = Vec::new();
        for _ in 0..2 {
            bytes.extend(stream.next().await.unwrap().unwrap());
        }
        for _ in 0..20 {
            put(&*store, "/r/0999", "after").await;
        }
        while let Some(chunk) = stream.next().await {
            bytes.extend(chunk.unwrap());
        }
        let found = entries(&bytes).unwrap();
        assert_eq!(found.len(), 2 * PAGE_SIZE);
        assert!(found.iter().all(|entry| entry.value == "before"));
    }

    #[tokio::test]
    async fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap();
        assert_eq!(entries(&dumped(&store).await).unwrap(), []);
        put(&*store, "/r/a", "1").await;
        put(&*store, "/r/b", "").await;
        let whole = dumped(&store).await;
        for cut in 0..whole.len() {
            assert!(entries(&whole[..cut]).is_err(), "cut at {cut}");
        }
        let mut other = whole.clone();
        other[12] = b'2';
        assert!(entries(&other).is_err(), "another layout");
        let mut long = whole.clone();
        long[MAGIC.len()] = 0xf0;
        assert!(entries(&long).is_err(), "a length beyond all bounds");
        let mut fewer = whole;
        *fewer.last_mut().unwrap() = 1;
        assert!(entries(&fewer).is_err(), "another number of entries");
    }
}
