//! Reads and writes of objects: the backend and admission.

use std::sync::Arc;

use crate::admission::chain::AdmissionChain;
use crate::backend::Backend;

/// The backend together with the admission chain that every write passes.
pub struct RestStorage {
    /// Store, cache and resources.
    pub backend: Arc<Backend>,
    /// Plugins, policies and webhooks.
    pub admission: AdmissionChain,
}
