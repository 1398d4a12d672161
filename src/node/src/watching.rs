//! Watches of the API with the agent's delays.

use kube::Client;
use rkube_client::reflector::{Changes, Source, Versioned};

use crate::client::retry_delay;

/// Returns a source of all objects of a kind. After failures the watch is retried with increasing
/// delays (see [`retry_delay`]).
pub(crate) fn source<K: kube::Resource<DynamicType = ()>>(namespace: Option<&str>) -> Source {
    Source::of::<K>(namespace).streamed().delays(retry_delay)
}

/// Returns the changes of all objects of a kind.
pub(crate) fn all<K>(client: &Client) -> Changes<K>
where
    K: Versioned + kube::Resource<DynamicType = ()>,
{
    Changes::new(client.clone(), source::<K>(None))
}
