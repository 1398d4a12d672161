//! Flows: a flow schema with its priority level.

use std::sync::Arc;

use http::HeaderValue;

use crate::level::Level;
use crate::rules::Schema;

/// A flow schema and its level.
pub struct Flow {
    pub(super) schema: Schema,
    /// What the response headers say.
    pub schema_uid: HeaderValue,
    /// Where its requests wait.
    pub level: Arc<Level>,
}

impl Flow {
    /// The schema's name.
    pub fn name(&self) -> &str {
        &self.schema.name
    }
}
