//! The description that the supervisor passes to a sandbox.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::types::HostMount;

/// The description of a sandbox, as JSON for `rkube native-init`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The node's directory.
    pub dir: PathBuf,
    /// The directory that is mounted at `/etc/rkube`.
    pub etc: PathBuf,
    /// The binary that runs in the node.
    pub binary: PathBuf,
    /// Image blobs and layers, shared by the cluster's nodes.
    pub images: PathBuf,
    /// Folders of the host that the node sees.
    #[serde(default)]
    pub mounts: Vec<HostMount>,
}
