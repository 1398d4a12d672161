//! The cache of steps: the layer that a step gave, by everything that it depends on.

use std::fs;
use std::path::{Path, PathBuf};

use ring::digest::{Context, SHA256};
use rkube_fsutil::write_atomic;
use rkube_runtime::build::Layer;
use serde::{Deserialize, Serialize};

use super::errors::failed_at;
use crate::error::{BuildError, Result};

/// A cached step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The layer.
    pub layer: Layer,
    /// Time when the step was run.
    pub created: String,
}

/// The cache of a node.
pub struct Cache {
    dir: PathBuf,
    /// Whether nothing is looked up.
    fresh: bool,
}

/// The key of a step: a digest of parts, none of which can be mistaken for another one.
pub struct Key(Context);

impl Key {
    /// Begins a key. The version changes whenever the same parts would give another layer.
    pub fn new(kind: &str) -> Self {
        let mut key = Self(Context::new(&SHA256));
        key.add("rkube-build-1");
        key.add(kind);
        key
    }

    /// Adds a part.
    pub fn add(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }

    /// Adds a list of parts.
    pub fn add_all<S: AsRef<[u8]>>(&mut self, parts: impl IntoIterator<Item = S>) {
        let parts: Vec<S> = parts.into_iter().collect();
        self.add((parts.len() as u64).to_be_bytes());
        parts.iter().for_each(|part| self.add(part));
    }

    /// Returns the key in hexadecimal digits.
    pub fn finish(self) -> String {
        hex::encode(self.0.finish())
    }
}

impl Cache {
    /// Opens the cache in a directory. If `fresh`, it is only written.
    pub fn open(dir: &Path, fresh: bool) -> Result<Self> {
        fs::create_dir_all(dir).map_err(failed_at(dir))?;
        Ok(Self {
            dir: dir.to_path_buf(),
            fresh,
        })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.dir.join(format!("{key}.json"))
    }

    /// Returns the cached result of a step whose layer `exists`. A damaged entry counts as none.
    pub fn find(&self, key: &str, exists: impl FnOnce(&str) -> bool) -> Option<Entry> {
        if self.fresh {
            return None;
        }
        let bytes = fs::read(self.path(key)).ok()?;
        let entry: Entry = serde_json::from_slice(&bytes).ok()?;
        exists(&entry.layer.chain).then_some(entry)
    }

    /// Stores the result of a step.
    pub fn store(&self, key: &str, entry: &Entry) -> Result<()> {
        let bytes = serde_json::to_vec(entry).map_err(|e| BuildError::new(e.to_string()))?;
        let path = self.path(key);
        write_atomic(&path, &bytes).map_err(failed_at(&path))
    }

    /// Forgets all steps. Returns their number. What builds write meanwhile stays: the directory
    /// and files that have no name yet are left alone.
    pub fn clear(&self) -> Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(&self.dir).map_err(failed_at(&self.dir))? {
            let path = entry.map_err(failed_at(&self.dir))?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => count += 1,
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed_at(&path)(e)),
            }
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_different_parts_differ() {
        let key = |parts: &[&[&str]]| {
            let mut key = Key::new("RUN");
            parts.iter().for_each(|part| key.add_all(*part));
            key.finish()
        };
        let all = [
            key(&[&["ab"]]),
            key(&[&["a", "b"]]),
            key(&[&["a"], &["b"]]),
            key(&[&["ab"], &[]]),
            Key::new("COPY").finish(),
        ];
        for (i, a) in all.iter().enumerate() {
            assert!(!all[..i].contains(a), "{i}");
        }
        assert_eq!(key(&[&["ab"]]), all[0]);
    }

    #[test]
    fn entries_survive_and_damage_does_not_hurt() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry {
            layer: Layer {
                chain: "c".into(),
                diff: "d".into(),
                size: 3,
            },
            created: "now".into(),
        };
        let cache = Cache::open(dir.path(), false).unwrap();
        assert_eq!(cache.find("k", |_| true), None);
        cache.store("k", &entry).unwrap();
        let again = Cache::open(dir.path(), false).unwrap();
        assert_eq!(again.find("k", |chain| chain == "c"), Some(entry.clone()));
        assert_eq!(again.find("k", |_| false), None);
        let fresh = Cache::open(dir.path(), true).unwrap();
        assert_eq!(fresh.find("k", |_| true), None);
        fs::write(dir.path().join("k.json"), "{").unwrap();
        assert_eq!(again.find("k", |_| true), None);
        // A build that runs while the cache is cleared still writes to it.
        let temporary = dir.path().join("l.tmp-1");
        fs::write(&temporary, "").unwrap();
        assert_eq!(again.clear().unwrap(), 1);
        assert!(temporary.exists());
        cache.store("m", &entry).unwrap();
    }
}
