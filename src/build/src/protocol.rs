//! The messages between the command line and the node: a request, then events, one JSON document
//! per line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::BuildError;

/// A build as the command line asks for it. The context follows as a tar archive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// The text of the Dockerfile.
    pub dockerfile: String,
    /// Its name in messages.
    pub dockerfile_name: String,
    /// Names of the image.
    pub names: Vec<String>,
    /// Values of `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// The stage to build; the last one if absent.
    pub target: Option<String>,
    /// Labels in addition to those of the Dockerfile.
    pub labels: BTreeMap<String, String>,
    /// Secrets by their ID, in base64.
    pub secrets: BTreeMap<String, String>,
    /// Whether cached steps are not used.
    pub no_cache: bool,
    /// Whether base images are pulled although the node has them.
    pub pull: bool,
    /// Additional lines of `/etc/hosts` in steps: host names and addresses.
    pub hosts: Vec<(String, String)>,
}

/// The result of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    /// ID of the image.
    pub id: String,
    /// Digest of its manifest.
    pub manifest: String,
    /// Length of its manifest in bytes.
    pub manifest_size: u64,
    /// Its names, with registry and tag.
    pub names: Vec<String>,
    /// Chain IDs of its layers, bottom first.
    pub layers: Vec<String>,
}

/// An event during a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A step begins.
    Begin {
        /// Number of the step.
        id: usize,
        /// Its description.
        name: String,
    },
    /// A step has written a line.
    Line {
        /// Number of the step.
        id: usize,
        /// Time since its begin, in milliseconds.
        after: u64,
        /// The text.
        text: String,
    },
    /// A step has succeeded.
    Done {
        /// Number of the step.
        id: usize,
        /// Its duration in milliseconds.
        took: u64,
    },
    /// The result of a step was in the cache.
    Cached {
        /// Number of the step.
        id: usize,
    },
    /// A step has failed.
    Failed {
        /// Number of the step.
        id: usize,
        /// The error.
        message: String,
    },
    /// A step was not finished, because another one has failed.
    Canceled {
        /// Number of the step.
        id: usize,
    },
    /// Something that a person should know.
    Warning {
        /// The text.
        text: String,
    },
    /// The build has failed. Nothing follows.
    Error(BuildError),
    /// The build has succeeded. Nothing follows.
    Built(Built),
}
