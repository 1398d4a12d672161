//! What the supervisor gives to a sandbox.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The description of a sandbox, a JSON file that its PID 1 reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The node's directory.
    pub dir: PathBuf,
    /// Placed at `/etc/rkube`.
    pub etc: PathBuf,
    /// The binary of every role.
    pub binary: PathBuf,
    /// Image blobs and layers, shared by the cluster's nodes.
    pub images: PathBuf,
}
