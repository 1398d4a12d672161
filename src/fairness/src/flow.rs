//! A `FlowSchema` bound to its priority level.

use std::sync::Arc;

use http::HeaderValue;

use crate::level::Level;
use crate::rules::Schema;

/// A flow schema and its priority level.
pub struct Flow {
    pub(super) schema: Schema,
    /// The schema's uid, for the header `X-Kubernetes-PF-FlowSchema-UID`.
    pub schema_uid: HeaderValue,
    /// The priority level in which the flow's requests are queued.
    pub level: Arc<Level>,
}

impl Flow {
    /// Returns the schema's name.
    pub fn name(&self) -> &str {
        &self.schema.name
    }
}
