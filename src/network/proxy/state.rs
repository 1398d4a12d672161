//! Services and their endpoints as the proxy sees them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// Services with their endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceState {}

impl ServiceState {
    /// Reads the state from API objects; `node_name` decides which endpoints are local.
    pub fn from_objects(
        _services: &[Arc<Service>],
        _slices: &[Arc<EndpointSlice>],
        _node_name: &str,
    ) -> Self {
        Self {}
    }
}
