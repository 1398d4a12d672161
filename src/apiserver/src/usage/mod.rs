//! The group `metrics.k8s.io`: the usage of nodes and pods, as metrics-server shows it.
//!
//! The objects are computed from the nodes' pages `/metrics/resource` when they are requested. An
//! `APIService` with a service takes the group over, as any group.

pub mod kinds;
mod rounds;
mod samples;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use rkube_api::quantity::Quantity;
use rkube_api::registry::Resource as Row;
use rkube_api::status::Status;
use rkube_api::{GroupResource, Object, duration, meta};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::cache::{CachedObject, Filter};
use crate::call::Call;
use crate::outcome::Outcome;
use crate::resources::Resource;

pub use kinds::is_of_group;
pub use rounds::Rounds;
use samples::{Round, Usage};

/// Formats an amount with a unit of quantities, in its canonical form.
fn quantity(amount: u64, unit: &str) -> String {
    let text = format!("{amount}{unit}");
    match Quantity::parse(&text) {
        Ok(quantity) => quantity.to_string(),
        Err(_) => text,
    }
}

/// Formats bytes, in multiples of 1024 where possible.
fn bytes(amount: u64) -> String {
    if amount.is_multiple_of(1024) {
        quantity(amount / 1024, "Ki")
    } else {
        amount.to_string()
    }
}

fn amounts(usage: &Usage) -> Value {
    json!({"cpu": quantity(usage.cpu, "n"), "memory": bytes(usage.memory)})
}

/// Returns a window in Go's notation, to milliseconds.
fn window(length: SignedDuration) -> String {
    let millis = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
    duration::format_nanos(millis.saturating_mul(1_000_000))
}

/// Returns an object about `of`, without its usage.
fn about(resource: &Row, of: &CachedObject, at: Timestamp, length: SignedDuration) -> Object {
    let mut object = json!({
        "kind": &*resource.kind,
        "apiVersion": resource.api_version(),
        "metadata": {"name": &*of.name, "creationTimestamp": meta::now_rfc3339()},
        "timestamp": meta::rfc3339(at),
        "window": window(length),
    });
    if resource.namespaced {
        object["metadata"]["namespace"] = of.namespace.as_ref().into();
    }
    let labels = &of.tree()["metadata"]["labels"];
    if labels.is_object() {
        object["metadata"]["labels"] = labels.clone();
    }
    object
}

/// Returns the object about a node or a pod; `None` if its usage is not known.
fn object(resource: &Row, of: &CachedObject, rounds: &[Arc<Round>]) -> Option<Object> {
    if !resource.namespaced {
        let usage = samples::node_usage(rounds, &of.name)?;
        let mut object = about(resource, of, usage.at, usage.window);
        object["usage"] = amounts(&usage);
        return Some(object);
    }
    let tree = of.tree();
    let node = tree["spec"]["nodeName"].as_str()?;
    let key = (of.namespace.to_string(), of.name.to_string());
    let containers = samples::pod_usage(rounds, node, &key)?;
    // The pod's time is that of the container that was measured first.
    let (_, first) = containers.iter().min_by_key(|(_, usage)| usage.at)?;
    let mut object = about(resource, of, first.at, first.window);
    object["containers"] = containers
        .iter()
        .map(|(name, usage)| json!({"name": name, "usage": amounts(usage)}))
        .collect();
    Some(object)
}

/// Returns the usage of one node or pod, or of those that `wanted` selects.
///
/// # Errors
///
/// 404 if there is no such node or pod, or its usage is not known yet.
pub async fn read(
    server: &ApiServer,
    call: &Call,
    resource: &Resource,
    wanted: Option<&Filter>,
) -> Result<Outcome, Status> {
    let backend = server.backend();
    let measured = backend.cache.resource("", &resource.plural);
    let Some(filter) = wanted else {
        backend.cache.try_consistent().await?;
        let namespace = resource.namespace_of(&call.info);
        let name = &call.info.name;
        let of = measured
            .get(&namespace, name)
            .ok_or_else(|| Status::not_found(&GroupResource::new("", &*resource.plural), name))?;
        let rounds = server.usage.current(server).await;
        let object = object(resource.row(), &of, &rounds).ok_or_else(|| {
            let full = match &*namespace {
                "" => name.clone(),
                namespace => format!("{namespace}/{name}"),
            };
            Status::not_found(&resource.group_resource(), &full)
        })?;
        return Ok(Outcome::Object(StatusCode::OK, object));
    };
    // Selectors are about the nodes and pods, whose names and labels the objects have.
    backend.cache.try_consistent().await?;
    let rounds = server.usage.current(server).await;
    let objects: BTreeMap<(String, String), Object> = measured
        .list(filter)
        .iter()
        .filter_map(|of| {
            let key = (of.namespace.to_string(), of.name.to_string());
            Some((key, object(resource.row(), of, &rounds)?))
        })
        .collect();
    Ok(Outcome::Computed(objects.into_values().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_canonical() {
        for (amount, text) in [
            (123_456_789, "123456789n"),
            (250_000, "250u"),
            (1_500_000_000, "1500m"),
            (2_000_000_000, "2"),
            (0, "0"),
        ] {
            assert_eq!(quantity(amount, "n"), text);
        }
        for (amount, text) in [
            (5_242_880, "5Mi"),
            (4096 * 3, "12Ki"),
            (1000, "1000"),
            (0, "0"),
        ] {
            assert_eq!(bytes(amount), text);
        }
        assert_eq!(window(SignedDuration::from_millis(15_120)), "15.12s");
        assert_eq!(window(SignedDuration::new(61, 2_000_001)), "1m1.002s");
    }
}
