//! Runs a plan in a node.
//!
//! Every build has a separate work directory with a separate container runtime in it, and holds a
//! lock file as long as it runs. The remains of a build that was killed are removed by the next
//! one. Base images and results are those of the node. The cache of steps is shared by all builds
//! of the node.

mod cache;
mod copy;
mod directories;
mod errors;
mod files;
mod items;
mod mode;
mod mounts;
mod progress;
mod run;
mod sources;
mod stage;
mod types;

use std::fs::{self, File};
use std::io::Read;

use rkube_runtime::{Runtime, RuntimeConfig};
use tokio::sync::{OnceCell, mpsc};

use crate::error::{BuildError, Result};
use crate::plan::{Plan, Settings};
use crate::protocol::{Built, Event, Request};
use cache::Cache;
use directories::{WorkDirectories, remove, take_over};
use errors::{blocking, failed, failed_at};
use progress::Progress;
use types::{Build, Finished};

pub use types::Directories;

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
    let dirs = WorkDirectories::new(directories)?;
    // If the build fails before it runs, the sweep of the next build removes this.
    node.begin_build(&dirs.id).map_err(failed)?;
    let runner = Runtime::open(config(node, directories, &dirs.id))
        .await
        .map_err(failed)?;
    let build = Build {
        node: node.clone(),
        runner: runner.clone(),
        id: dirs.id.clone(),
        cache: Cache::open(&directories.state.join("cache"), request.no_cache)?,
        progress: progress.clone(),
        context: dirs.work.join("context"),
        secrets: dirs.run.join("secrets"),
        mounts: directories.state.join("mounts"),
        work: dirs.work.clone(),
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
    let cleaned = clean_up(node, runner, dirs).await;
    // Blocking work of a canceled build may still write. The next build removes that. It makes no
    // more layers, because the build has ended for the node.
    result.and_then(|built| cleaned.map(|()| built))
}

/// Ends what still runs of a build, and removes its files.
async fn clean_up(node: &Runtime, runner: Runtime, dirs: WorkDirectories) -> Result<()> {
    // Containers of other stages may still run.
    for sandbox in runner.list_sandboxes() {
        runner.remove_sandbox(&sandbox.id).await.map_err(failed)?;
    }
    drop(runner);
    // The image that was made has its layers from now on.
    node.end_build(&dirs.id).map_err(failed)?;
    blocking(move || dirs.remove()).await
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

/// Removes the remains of builds that were killed.
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
