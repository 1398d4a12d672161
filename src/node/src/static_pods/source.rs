//! Watches the directory of manifests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::{SEEN, key, manifest};
use crate::kinds::*;

/// Time between two looks at all files, in case a change was missed (`fileCheckFrequency`).
pub(crate) const CHECK_PERIOD: Duration = Duration::from_secs(20);
/// Time between two attempts to watch the directory.
const WATCH_RETRY: Duration = Duration::from_secs(1);

/// All static pods, by name, whenever they change.
pub(crate) type Wanted = Arc<BTreeMap<String, Arc<Pod>>>;

/// Result of reading one file; `None` if it vanished meanwhile.
type Reading = Option<Result<Pod, String>>;

/// Reads the manifests, and starts to watch the directory; makes it if it is missing.
///
/// The watch ends when the receiver is dropped.
pub(crate) fn start(dir: &Path, node: &str) -> watch::Receiver<Wanted> {
    if let Err(e) = std::fs::create_dir_all(dir) {
        warn!("static pods: making {}: {e}", dir.display());
    }
    let mut files = Files::default();
    files.look(dir, node, true);
    let (sender, receiver) = watch::channel(files.wanted());
    tokio::spawn(follow(dir.to_owned(), node.to_owned(), files, sender));
    receiver
}

/// Publishes the pods of the directory until nobody listens.
async fn follow(dir: PathBuf, node: String, mut files: Files, sender: watch::Sender<Wanted>) {
    let mut check = tokio::time::interval(CHECK_PERIOD);
    check.reset();
    let mut changes = None;
    loop {
        let everything = match &mut changes {
            // What changed before the watch began is not known.
            None => {
                match inotify::Watch::new(&dir) {
                    Ok(watch) => changes = Some(watch),
                    Err(e) => {
                        files.complain(&dir, format!("cannot be watched: {e}"));
                        tokio::select! {
                            () = sender.closed() => return,
                            () = tokio::time::sleep(WATCH_RETRY) => {}
                        }
                    }
                }
                true
            }
            Some(watch) => tokio::select! {
                () = sender.closed() => return,
                _ = check.tick() => true,
                alive = watch.changed() => {
                    if !alive {
                        changes = None;
                    }
                    false
                }
            },
        };
        let (path, name) = (dir.clone(), node.clone());
        let read = tokio::task::spawn_blocking(move || {
            files.look(&path, &name, everything);
            files
        });
        match read.await {
            Ok(read) => files = read,
            Err(e) => {
                warn!("static pods: reading {}: {e}", dir.display());
                return;
            }
        }
        let wanted = files.wanted();
        sender.send_if_modified(|known| {
            let changed = *known != wanted;
            *known = wanted;
            changed
        });
    }
}

/// The files of the directory and their pods.
#[derive(Default)]
struct Files {
    pods: BTreeMap<PathBuf, Arc<Pod>>,
    /// The last complaint about each path, which is not repeated.
    complaints: BTreeMap<PathBuf, String>,
}

impl Files {
    /// Reads the directory. The pod of a file that has become unreadable stays until a look at
    /// `everything`, as upstream: somebody may be writing it.
    fn look(&mut self, dir: &Path, node: &str, everything: bool) {
        let mut readings = BTreeMap::new();
        match manifests(dir) {
            Ok(paths) => {
                for path in paths {
                    let reading = read(&path, node);
                    readings.insert(path, reading);
                }
                let is_there = |path: &Path| path == dir || readings.contains_key(path);
                self.complaints.retain(|path, _| is_there(path));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return self.complain(dir, format!("cannot be read: {e}")),
        }
        self.take(readings, everything, jiff::Timestamp::now());
    }

    /// Makes the pods those of the files. `now` is the time when new ones were first seen.
    fn take(
        &mut self,
        readings: BTreeMap<PathBuf, Reading>,
        everything: bool,
        now: jiff::Timestamp,
    ) {
        let mut earlier = std::mem::take(&mut self.pods);
        for (path, reading) in readings {
            let known = earlier.remove(&path);
            match reading {
                Some(Ok(pod)) => {
                    self.complaints.remove(&path);
                    self.pods.insert(path, seen(pod, known, now));
                }
                Some(Err(why)) => {
                    self.complain(&path, format!("Could not process manifest file: {why}"));
                    if let Some(known) = known.filter(|_| !everything) {
                        self.pods.insert(path, known);
                    }
                }
                None => {}
            }
        }
    }

    fn complain(&mut self, path: &Path, why: String) {
        let last = self.complaints.insert(path.to_owned(), why.clone());
        if last.as_ref() != Some(&why) {
            warn!("static pods: {}: {why}", path.display());
        }
    }

    /// Returns the pods by name. Of two with the same name, the one of the later file counts.
    fn wanted(&self) -> Wanted {
        let pods = self.pods.values().map(|pod| (key(pod), pod.clone()));
        Arc::new(pods.collect())
    }
}

/// Returns the pod of a file with the time when it was first seen.
fn seen(mut pod: Pod, known: Option<Arc<Pod>>, now: jiff::Timestamp) -> Arc<Pod> {
    let time = |pod: &Pod| pod.metadata.annotations.as_ref()?.get(SEEN).cloned();
    let known = known.filter(|known| known.uid() == pod.uid());
    let since = known.as_deref().and_then(time);
    if since.is_none() {
        info!(pod = %pod.full_name(), "static pod");
    }
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(SEEN.into(), since.unwrap_or_else(|| now.to_string()));
    match known {
        Some(known) if *known == pod => known,
        _ => Arc::new(pod),
    }
}

/// Returns the manifests of a directory, sorted. Hidden files are none.
fn manifests(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads the manifest of a file.
fn read(path: &Path, node: &str) -> Reading {
    use std::io::Read as _;
    let content = || {
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_dir() {
            return Ok(Err("it is a directory, not recursing into it".to_owned()));
        }
        if !kind.is_file() {
            return Ok(Err("it is not a directory or file".to_owned()));
        }
        let mut data = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(manifest::MAX_SIZE + 1).read_to_end(&mut data)?;
        if data.len() as u64 > manifest::MAX_SIZE {
            return Ok(Err("file is too large".to_owned()));
        }
        Ok(Ok(data))
    };
    match content() {
        Ok(Ok(data)) => Some(manifest::read(&data, path, node)),
        Ok(Err(why)) => Some(Err(why)),
        Err(e) if std::io::Error::kind(&e) == std::io::ErrorKind::NotFound => None,
        Err(e) => Some(Err(e.to_string())),
    }
}

/// Changes of a directory's files.
mod inotify {
    use std::os::fd::{AsFd as _, AsRawFd, RawFd};
    use std::path::{Path, PathBuf};

    use nix::errno::Errno;
    use nix::sys::inotify::{AddWatchFlags as F, InitFlags, Inotify, InotifyEvent};

    /// An inotify instance as an `AsRawFd`, for [`tokio::io::unix::AsyncFd`].
    struct Fd(Inotify);

    impl AsRawFd for Fd {
        fn as_raw_fd(&self) -> RawFd {
            self.0.as_fd().as_raw_fd()
        }
    }

    /// Watches one directory.
    pub(super) struct Watch {
        dir: PathBuf,
        events: tokio::io::unix::AsyncFd<Fd>,
    }

    impl Watch {
        pub(super) fn new(dir: &Path) -> std::io::Result<Self> {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            let changes = F::IN_CREATE | F::IN_CLOSE_WRITE | F::IN_ATTRIB | F::IN_MOVE;
            let ends = F::IN_DELETE | F::IN_DELETE_SELF | F::IN_MOVE_SELF;
            inotify.add_watch(dir, changes | ends | F::IN_ONLYDIR)?;
            // SAFETY: `Inotify` owns a descriptor that does not change until it is dropped, and
            // the `AsyncFd` owns the `Inotify`.
            let events = unsafe { tokio::io::unix::AsyncFd::register(Fd(inotify)) }
                .map_err(std::io::Error::from)?;
            Ok(Self {
                dir: dir.to_owned(),
                events,
            })
        }

        /// Waits for a change of a file. Returns false if the directory is not watched any more.
        pub(super) async fn changed(&mut self) -> bool {
            loop {
                let Ok(mut guard) = self.events.readable().await else {
                    return false;
                };
                let events = guard.get_inner().0.read_events();
                guard.clear_ready();
                let gone = F::IN_IGNORED | F::IN_DELETE_SELF | F::IN_MOVE_SELF;
                match events {
                    Ok(events) if events.iter().any(|e| e.mask.intersects(gone)) => return false,
                    Ok(events) if events.iter().any(|e| self.concerns(e)) => return true,
                    Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                    Err(_) => return false,
                }
            }
        }

        /// Returns whether a file has new content. A new file has none before it is closed,
        /// except for links.
        fn concerns(&self, event: &InotifyEvent) -> bool {
            use std::os::unix::fs::MetadataExt as _;
            if !event.mask.contains(F::IN_CREATE) {
                return true;
            }
            let Some(name) = &event.name else {
                return true;
            };
            std::fs::symlink_metadata(self.dir.join(name))
                .is_ok_and(|file| !file.is_file() || file.nlink() > 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(name: &str, image: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    }

    fn names(files: &Files) -> Vec<String> {
        files.wanted().keys().cloned().collect()
    }

    #[test]
    fn a_directory_has_one_pod_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let put = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        put("a.yaml", &manifest("a", "i"));
        put("b.json", &manifest("b", "i"));
        put(".hidden.yaml", &manifest("hidden", "i"));
        put("broken.yaml", "kind: Pod");
        put("z.yaml", &manifest("a", "later"));
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        let mut files = Files::default();
        files.look(dir.path(), "n", true);
        assert_eq!(names(&files), ["default/a-n", "default/b-n"]);
        let image = files.wanted()["default/a-n"].spec().containers[0]
            .image
            .clone();
        assert_eq!(
            image.as_deref(),
            Some("later"),
            "the last file of a name counts"
        );
        let complaints: Vec<_> = files.complaints.keys().collect();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        // A missing directory has no pods.
        files.look(&dir.path().join("none"), "n", true);
        assert!(names(&files).is_empty());
    }

    #[test]
    fn unreadable_files_keep_their_pod_until_the_next_check() {
        let path = PathBuf::from("/m/a.yaml");
        let pod = || manifest::read(manifest("a", "i").as_bytes(), &path, "n");
        let reading = |reading: Reading| BTreeMap::from([(path.clone(), reading)]);
        let (early, late) = (jiff::Timestamp::UNIX_EPOCH, jiff::Timestamp::MAX);
        let mut files = Files::default();
        files.take(reading(Some(pod())), false, early);
        let first = files.wanted();
        files.take(reading(Some(Err("half".into()))), false, late);
        assert_eq!(files.wanted(), first);
        // The time of the first sight stays while the content does.
        files.take(reading(Some(pod())), false, late);
        assert_eq!(files.wanted(), first);
        let seen = first["default/a-n"].metadata.annotations.as_ref().unwrap();
        assert_eq!(seen[SEEN], "1970-01-01T00:00:00Z");
        files.take(reading(Some(Err("half".into()))), true, late);
        assert!(files.wanted().is_empty());
        files.take(reading(Some(pod())), false, late);
        files.take(BTreeMap::new(), false, late);
        assert!(files.wanted().is_empty());
    }

    #[tokio::test]
    async fn changes_are_published() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("manifests");
        let mut wanted = start(&folder, "n");
        assert!(wanted.borrow_and_update().is_empty());
        let hidden = folder.join(".a");
        for image in ["one", "two"] {
            std::fs::write(&hidden, manifest("a", image)).unwrap();
            std::fs::rename(&hidden, folder.join("a.yaml")).unwrap();
            let good = |w: &Wanted| {
                let pod = w.get("default/a-n");
                pod.is_some_and(|p| p.spec().containers[0].image.as_deref() == Some(image))
            };
            wanted.wait_for(good).await.unwrap();
        }
        std::fs::remove_file(folder.join("a.yaml")).unwrap();
        wanted.wait_for(|w| w.is_empty()).await.unwrap();
    }
}
