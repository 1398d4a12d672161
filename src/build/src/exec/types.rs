//! The types that all parts of a build share.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rkube_runtime::Runtime;
use rkube_runtime::build::{Layer, Workspace};
use tokio::sync::{Mutex, OnceCell};

use super::cache::Cache;
use super::progress::Progress;
use crate::image::Document;
use crate::plan::Plan;
use crate::protocol::Request;

/// The directories of builds on a node.
#[derive(Clone, Debug)]
pub struct Directories {
    /// Directory of the cache and of work directories, on a file system that supports overlays.
    pub state: PathBuf,
    /// Directory of sockets and secrets, on a tmpfs.
    pub run: PathBuf,
}

/// A build that is running.
pub struct Build {
    /// The node's runtime: images.
    pub(super) node: Runtime,
    /// The build's runtime: containers.
    pub(super) runner: Runtime,
    /// The build's ID.
    pub(super) id: String,
    pub(super) request: Request,
    pub(super) plan: Plan,
    pub(super) cache: Cache,
    pub(super) progress: Progress,
    /// The context.
    pub(super) context: PathBuf,
    /// Directory of this build's files.
    pub(super) work: PathBuf,
    /// Directory of this build's secrets.
    pub(super) secrets: PathBuf,
    /// Directory of cache mounts.
    pub(super) mounts: PathBuf,
    pub(super) stages: Vec<OnceCell<Arc<Finished>>>,
    pub(super) images: Mutex<HashMap<String, Lookup>>,
    pub(super) mounted: Mutex<HashMap<String, Arc<Mounted>>>,
}

/// The result of a stage, or an image.
#[derive(Clone, Debug, Default)]
pub struct Finished {
    /// The configuration.
    pub document: Document,
    /// The layers, bottom first.
    pub layers: Vec<Layer>,
}

/// Files that are mounted for reading.
pub struct Mounted {
    pub(super) root: PathBuf,
    /// Chain ID of the topmost layer; absent for the context.
    pub chain: Option<String>,
    /// Unmounts the files when the build ends.
    pub(super) _space: Option<Workspace>,
}

impl Mounted {
    /// Returns the directory of the files.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// An image that is looked up once.
pub type Lookup = Arc<OnceCell<Arc<Finished>>>;
