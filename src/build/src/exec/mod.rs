//! Runs a plan in a node.
//!
//! Every build has a work directory of its own, with a container runtime of its own in it, and
//! holds a lock file as long as it runs. What a build left that was killed is removed by the next
//! one. Base images and results are those of the node. The cache of steps is shared by all builds
//! of the node.

mod cache;
mod copy;
mod files;
mod mounts;
mod progress;
mod run;
mod sources;
mod stage;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rkube_runtime::{Runtime, RuntimeConfig};
use tokio::sync::{OnceCell, mpsc};

use crate::error::{BuildError, Result};
use crate::plan::{Plan, Settings};
use crate::protocol::{Built, Event, Request};
use cache::Cache;
use progress::Progress;
use sources::Mounted;
use stage::Finished;

/// The directories of builds on a node.
#[derive(Clone, Debug)]
pub struct Directories {
    /// Directory of the cache and of work directories, on a file system that supports overlays.
    pub state: PathBuf,
    /// Directory of sockets and secrets, on a tmpfs.
    pub run: PathBuf,
}

/// A build that is running.
struct Build {
    /// The node's runtime: images.
    node: Runtime,
    /// The build's runtime: containers.
    runner: Runtime,
    /// The build's ID.
    id: String,
    request: Request,
    plan: Plan,
    cache: Cache,
    progress: Progress,
    /// The context.
    context: PathBuf,
    /// Directory of this build's files.
    work: PathBuf,
    /// Directory of this build's secrets.
    secrets: PathBuf,
    /// Directory of cache mounts.
    mounts: PathBuf,
    stages: Vec<OnceCell<Arc<Finished>>>,
    images: tokio::sync::Mutex<HashMap<String, sources::Lookup>>,
    mounted: tokio::sync::Mutex<HashMap<String, Arc<Mounted>>>,
}

/// Runs blocking work off the asynchronous threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(BuildError::new(format!(
            "a part of the build has failed: {e}"
        ))),
    }
}

/// Converts an error of any kind.
fn failed(e: impl std::fmt::Display) -> BuildError {
    BuildError::new(e.to_string())
}

/// Converts an error of the operating system at a path.
fn failed_at(path: &Path) -> impl Fn(std::io::Error) -> BuildError + '_ {
    move |e| BuildError::new(format!("{}: {e}", path.display()))
}

/// Builds an image. `context` is the tar archive that follows the request. The events end with the
/// result. If `canceled` completes first, the build ends, and what was cached stays.
///
/// # Errors
///
/// The failure, which was also sent as the last event.
pub async fn build(
    node: &Runtime,
    directories: &Directories,
    request: Request,
    context: impl Read + Send + 'static,
    events: mpsc::UnboundedSender<Event>,
    canceled: impl Future<Output = ()>,
) -> Result<Built> {
    let progress = Progress::new(events);
    let result = build_in(node, directories, request, context, &progress, canceled).await;
    match &result {
        Ok(built) => progress.send(Event::Built(built.clone())),
        Err(e) => {
            progress.cancel_open();
            progress.send(Event::Error(e.clone()));
        }
    }
    result
}

async fn build_in(
    node: &Runtime,
    directories: &Directories,
    request: Request,
    context: impl Read + Send + 'static,
    progress: &Progress,
    canceled: impl Future<Output = ()>,
) -> Result<Built> {
    let settings = Settings {
        build_args: request.build_args.clone(),
        target: request.target.clone(),
        architecture: rkube_runtime::build::architecture(),
    };
    let plan = Plan::new(&request.dockerfile, &settings)?;
    for text in &plan.warnings {
        progress.send(Event::Warning { text: text.clone() });
    }
    check_names(&request.names)?;
    sweep(node, directories).await?;
    let place = Place::new(directories)?;
    // What fails before it runs leaves this to the sweep of the next build.
    node.begin_build(&place.id).map_err(failed)?;
    let runner = Runtime::open(config(node, directories, &place.id))
        .await
        .map_err(failed)?;
    let build = Build {
        node: node.clone(),
        runner: runner.clone(),
        id: place.id.clone(),
        cache: Cache::open(&directories.state.join("cache"), request.no_cache)?,
        progress: progress.clone(),
        context: place.work.join("context"),
        secrets: place.run.join("secrets"),
        mounts: directories.state.join("mounts"),
        work: place.work.clone(),
        stages: plan.stages.iter().map(|_| OnceCell::new()).collect(),
        images: tokio::sync::Mutex::default(),
        mounted: tokio::sync::Mutex::default(),
        request,
        plan,
    };
    let canceled = async {
        canceled.await;
        Err(BuildError::new("the build was canceled"))
    };
    let result = tokio::select! {
        result = build.run(context) => result,
        result = canceled => result,
    };
    drop(build);
    let cleaned = clean_up(node, runner, place).await;
    // Blocking work of a canceled build may still write. The next build removes that. It makes no
    // more layers, because the build has ended for the node.
    result.and_then(|built| cleaned.map(|()| built))
}

/// Ends what still runs of a build, and removes its files.
async fn clean_up(node: &Runtime, runner: Runtime, place: Place) -> Result<()> {
    // Containers of other stages may still run.
    for sandbox in runner.list_sandboxes() {
        runner.remove_sandbox(&sandbox.id).await.map_err(failed)?;
    }
    drop(runner);
    // The image that was made has its layers from now on.
    node.end_build(&place.id).map_err(failed)?;
    blocking(move || place.remove()).await
}

/// Checks the names of the result before anything is done for it.
fn check_names(names: &[String]) -> Result<()> {
    for name in names {
        let reference = rkube_runtime::build::Reference::parse(name).map_err(failed)?;
        if reference.tagged().is_none() {
            return Err(BuildError::new(format!(
                "invalid tag {name:?}: a name of an image cannot have a digest"
            )));
        }
    }
    Ok(())
}

fn config(node: &Runtime, directories: &Directories, id: &str) -> RuntimeConfig {
    let mut config = RuntimeConfig::new(
        directories.state.join("work").join(id),
        node.config().images.clone(),
        directories.run.join(id),
        node.config().binary.clone(),
    );
    config.cgroup_parent = "/rkube-build".into();
    config
}

/// The directories of one build.
struct Place {
    id: String,
    work: PathBuf,
    run: PathBuf,
    lock: PathBuf,
    _held: File,
}

impl Place {
    fn new(directories: &Directories) -> Result<Self> {
        let id = format!(
            "{}-{}",
            std::process::id(),
            jiff::Timestamp::now().as_nanosecond()
        );
        let work = directories.state.join("work").join(&id);
        let run = directories.run.join(&id);
        let lock = directories.state.join("work").join(format!("{id}.lock"));
        let parent = directories.state.join("work");
        fs::create_dir_all(&parent).map_err(failed_at(&parent))?;
        // Locked before the directory exists, so that no other build takes it for a remainder.
        let held = new_lock(&lock).map_err(failed_at(&lock))?;
        rkube_fsutil::make_dir(&directories.run, 0o700).map_err(failed_at(&directories.run))?;
        for dir in [&work, &run] {
            rkube_fsutil::make_dir(dir, 0o700).map_err(failed_at(dir))?;
        }
        Ok(Self {
            id,
            work,
            run,
            lock,
            _held: held,
        })
    }

    fn remove(self) -> Result<()> {
        remove(&self.work, &self.run)?;
        fs::remove_file(&self.lock).map_err(failed_at(&self.lock))
    }
}

/// Makes a lock file and locks it. Another build's sweep may remove it in between, and then it is
/// made again.
fn new_lock(path: &Path) -> std::io::Result<File> {
    loop {
        let file = File::create(path)?;
        file.lock()?;
        if is_at(&file, path)? {
            return Ok(file);
        }
    }
}

/// Locks the lock file of a build that has ended. Returns none if the build runs, or if another
/// one removes the file.
fn take_over(path: &Path) -> std::io::Result<Option<File>> {
    let file = match File::open(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match file.try_lock() {
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(e)) => return Err(e),
        Ok(()) => {}
    }
    Ok(is_at(&file, path)?.then_some(file))
}

/// Returns whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let here = file.metadata()?;
    match fs::metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Unmounts and removes the directories of a build.
fn remove(work: &Path, run: &Path) -> Result<()> {
    for dir in [work, run] {
        rkube_runtime::build::unmount_below(dir).map_err(failed)?;
        rkube_fsutil::remove_tree(dir).map_err(failed_at(dir))?;
    }
    Ok(())
}

/// Removes what builds left that were killed.
async fn sweep(node: &Runtime, directories: &Directories) -> Result<()> {
    let parent = directories.state.join("work");
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed_at(&parent)(e)),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        // Held until everything is gone.
        let Some(_lock) = take_over(&path).map_err(failed_at(&path))? else {
            continue;
        };
        let id = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let work = parent.join(&id);
        if work.is_dir() {
            let runner = Runtime::open(config(node, directories, &id))
                .await
                .map_err(failed)?;
            for sandbox in runner.list_sandboxes() {
                runner.remove_sandbox(&sandbox.id).await.map_err(failed)?;
            }
        }
        let run = directories.run.join(&id);
        blocking(move || remove(&work, &run)).await?;
        node.end_build(&id).map_err(failed)?;
        fs::remove_file(&path).map_err(failed_at(&path))?;
    }
    Ok(())
}

/// Forgets all cached steps and mounts, and deletes the layers that nothing else uses. Builds that
/// run keep what they use, and the cache mounts stay if a step of theirs uses one. Returns the
/// number of forgotten steps.
///
/// # Errors
///
/// The failure to remove a file.
pub async fn prune(node: &Runtime, directories: &Directories) -> Result<usize> {
    sweep(node, directories).await?;
    let state = directories.state.clone();
    let count = blocking(move || {
        let count = Cache::open(&state.join("cache"), true)?.clear()?;
        let mounts = state.join("mounts");
        let path = mounts.with_extension("lock");
        let lock = File::create(&path).map_err(failed_at(&path))?;
        match lock.try_lock() {
            Ok(()) => rkube_fsutil::remove_tree(&mounts).map_err(failed_at(&mounts))?,
            Err(fs::TryLockError::WouldBlock) => {}
            Err(fs::TryLockError::Error(e)) => return Err(failed_at(&path)(e)),
        }
        Ok(count)
    })
    .await?;
    node.release_layers(Vec::new()).await.map_err(failed)?;
    Ok(count)
}

impl Build {
    async fn run(&self, context: impl Read + Send + 'static) -> Result<Built> {
        self.receive(context).await?;
        let needed: Vec<usize> = self.plan.needed.iter().copied().collect();
        futures::future::try_join_all(needed.iter().map(|index| self.stage(*index))).await?;
        let finished = self.stage(self.plan.target).await?;
        self.export(&finished).await
    }

    /// Unpacks the context.
    async fn receive(&self, context: impl Read + Send + 'static) -> Result<()> {
        let step = self.progress.begin("[internal] load build context".into());
        let target = self.context.clone();
        let received = blocking(move || files::receive(context, &target)).await;
        if let Ok(bytes) = &received {
            let text = format!("transferring context: {:.2}kB", *bytes as f64 / 1e3);
            self.progress.line(step, &text);
        }
        self.progress.finish(step, received).map(drop)
    }

    /// Makes an image of the target's result.
    async fn export(&self, finished: &Finished) -> Result<Built> {
        let step = self.progress.begin("exporting to image".into());
        let exported = self.assemble(finished, step).await;
        self.progress.finish(step, exported)
    }

    async fn assemble(&self, finished: &Finished, step: usize) -> Result<Built> {
        let mut document = finished.document.clone();
        document.config.labels.extend(self.request.labels.clone());
        if let Some(epoch) = self.request.build_args.get(crate::plan::SOURCE_DATE_EPOCH) {
            let bad = || BuildError::new(format!("invalid SOURCE_DATE_EPOCH: {epoch}"));
            let seconds = epoch.parse().map_err(|_| bad())?;
            let time = jiff::Timestamp::from_second(seconds).map_err(|_| bad())?;
            document.created = Some(time.to_string());
            for entry in &mut document.history {
                entry.created = Some(time.to_string());
            }
        }
        let config = serde_json::to_vec(&document).map_err(failed)?;
        let made = self
            .node
            .assemble_image(config, finished.layers.clone(), self.request.names.clone())
            .await
            .map_err(failed)?;
        self.progress
            .line(step, &format!("writing image {}", made.id));
        for name in &made.names {
            self.progress.line(step, &format!("naming to {name}"));
        }
        Ok(Built {
            id: made.id,
            manifest: made.manifest,
            manifest_size: made.manifest_size,
            names: made.names,
            layers: finished.layers.iter().map(|l| l.chain.clone()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_that_was_removed_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.lock");
        assert!(take_over(&path).unwrap().is_none());
        let held = new_lock(&path).unwrap();
        assert!(take_over(&path).unwrap().is_none(), "the build runs");
        drop(held);
        let first = take_over(&path).unwrap().unwrap();
        // Another sweep has opened the file before the first one removes it.
        let late = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        drop(first);
        late.lock().unwrap();
        assert!(!is_at(&late, &path).unwrap());
        assert!(take_over(&path).unwrap().is_none());
    }

    #[test]
    fn new_builds_and_sweeps_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.lock");
        let done = std::sync::atomic::AtomicBool::new(false);
        let sweeps = || {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                if let Some(_lock) = take_over(&path).unwrap() {
                    fs::remove_file(&path).unwrap();
                }
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(sweeps);
            for _ in 0..500 {
                let held = new_lock(&path).unwrap();
                assert!(is_at(&held, &path).unwrap());
                fs::remove_file(&path).unwrap();
                drop(held);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}
