//! What a session has made, in a file, so that a later one can take it away or go on with it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rkube_cluster::{io_failure, write_private};
use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};

/// An object that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Applied {
    /// The API version.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The namespace, unless cluster-scoped.
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The UID; empty while it is not known whether the server has made the object.
    pub uid: String,
    /// Whether it existed before, so that it is not taken away.
    pub adopted: bool,
}

impl Applied {
    /// Returns whether both are the same object, perhaps one after the other.
    pub fn is(&self, other: &Self) -> bool {
        self.kind == other.kind
            && group(&self.api_version) == group(&other.api_version)
            && self.namespace == other.namespace
            && self.name == other.name
    }
}

fn group(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

/// The content of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Record {
    /// The objects, in the order in which they were applied.
    pub objects: Vec<Applied>,
    /// The names of the images that were built.
    pub images: Vec<String>,
}

/// The file of a session. Only one session has it at a time.
pub struct Store {
    path: PathBuf,
    _lock: File,
    /// The content.
    pub record: Record,
}

impl Store {
    /// Opens the file of a session in a directory, and reads what is left of an earlier one.
    ///
    /// # Errors
    /// Fails if another session runs, or if the file cannot be read.
    pub fn open(directory: &Path, name: &str) -> Result<Self, Failure> {
        std::fs::create_dir_all(directory).map_err(|e| io_failure("create", directory, &e))?;
        let lock = directory.join(format!("{name}.lock"));
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock)
            .map_err(|e| io_failure("open", &lock, &e))?;
        match opened.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(Failure::new(
                    Source::Program,
                    Kind::Conflict,
                    format!("another 'rkube dev' runs for '{name}'"),
                )
                .advise("end it, or give this one another name: --name NAME"));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(io_failure("lock", &lock, &e)),
        }
        let path = directory.join(format!("{name}.json"));
        let record = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Failure::new(
                    Source::Program,
                    Kind::Config,
                    format!("{} is damaged: {e}", path.display()),
                )
                .advise("delete it, and what an earlier session has left in the cluster")
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Record::default(),
            Err(e) => return Err(io_failure("read", &path, &e)),
        };
        Ok(Self {
            path,
            _lock: opened,
            record,
        })
    }

    /// Returns what is known about an object.
    pub fn find(&self, object: &Applied) -> Option<&Applied> {
        self.record.objects.iter().find(|known| known.is(object))
    }

    /// Returns whether an object that exists is not of the session's making. `managed` says whether
    /// the session has applied it, which decides if the record has no more than the intent.
    pub fn is_foreign(&self, object: &Applied, uid: &str, managed: bool) -> bool {
        self.find(object).is_none_or(|known| {
            let same = known.uid == uid || (known.uid.is_empty() && managed);
            known.adopted || !same
        })
    }

    /// Notes an object that is being applied, or was.
    pub fn note(&mut self, applied: Applied) {
        let objects = &mut self.record.objects;
        match objects.iter_mut().find(|object| object.is(&applied)) {
            Some(known) => *known = applied,
            None => objects.push(applied),
        }
    }

    /// Writes the file, or removes it if nothing is left.
    ///
    /// # Errors
    /// I/O errors.
    pub fn save(&self) -> Result<(), Failure> {
        if self.record == Record::default() {
            return match std::fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    Err(io_failure("remove", &self.path, &e))
                }
                _ => Ok(()),
            };
        }
        let text = serde_json::to_vec_pretty(&self.record)
            .map_err(|e| io_failure("write", &self.path, &io::Error::other(e)))?;
        write_private(&self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(name: &str, uid: &str, adopted: bool) -> Applied {
        Applied {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: Some("n".into()),
            name: name.into(),
            uid: uid.into(),
            adopted,
        }
    }

    #[test]
    fn a_record_outlives_its_session() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path(), "app").unwrap();
        store.note(applied("a", "1", false));
        store.note(applied("b", "2", true));
        // What this session has made stays its own, and what it has found stays others'. One that
        // was deleted and made anew by somebody is not its own either.
        for (name, uid, managed, foreign) in [
            ("a", "1", false, false),
            ("a", "9", true, true),
            ("b", "2", true, true),
            ("c", "3", false, true),
        ] {
            let found = store.is_foreign(&applied(name, "", false), uid, managed);
            assert_eq!(found, foreign, "{name} {uid}");
        }
        store.note(applied("c", "", false));
        assert!(store.is_foreign(&applied("c", "", false), "3", false));
        assert!(!store.is_foreign(&applied("c", "", false), "3", true));
        store.record.objects.pop();
        store.save().unwrap();
        let second = Store::open(dir.path(), "app").map(drop).unwrap_err();
        assert_eq!(second.exit_code(), 11);
        assert!(Store::open(dir.path(), "other").is_ok());
        drop(store);
        let mut store = Store::open(dir.path(), "app").unwrap();
        let adopted: Vec<_> = store.record.objects.iter().map(|o| o.adopted).collect();
        assert_eq!(adopted, [false, true]);
        // Another object of the same name is not the one that was found.
        store.note(applied("b", "3", false));
        assert!(!store.record.objects[1].adopted);
        store.record = Record::default();
        store.save().unwrap();
        store.save().unwrap();
        assert!(!dir.path().join("app.json").exists());
        std::fs::write(dir.path().join("app.json"), "{").unwrap();
        drop(store);
        let failure = Store::open(dir.path(), "app").map(drop).unwrap_err();
        assert!(failure.message.contains("damaged"), "{failure}");
    }
}
