//! Reads and writes of objects: the backend behind admission.

use std::sync::Arc;

use crate::admission::chain::AdmissionChain;
use crate::backend::Backend;

/// The backend and the admission chain that every write to it passes.
pub struct RestStorage {
    /// Store, cache and resources.
    pub backend: Arc<Backend>,
    /// Plugins, policies and webhooks.
    pub admission: AdmissionChain,
}
