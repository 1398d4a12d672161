//! The objects that a cluster is born with and that the API server restores
//! at each start.

use rkube_api::Object;

/// What the objects depend on.
#[derive(Clone, Debug, Default)]
pub struct BootstrapConfig {}

/// An object to create when it is missing.
#[derive(Clone, Debug, PartialEq)]
pub struct BootstrapObject {
    /// The resource's API group, empty for core.
    pub group: &'static str,
    /// The resource's plural name.
    pub resource: &'static str,
    /// The object.
    pub object: Object,
}

/// Every object, in an order in which they can be created.
pub fn objects(_config: &BootstrapConfig) -> Vec<BootstrapObject> {
    Vec::new()
}
