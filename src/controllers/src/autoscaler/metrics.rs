//! Reads metrics from the resource, custom and external metrics APIs, which may be unavailable.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use rkube_api::quantity::Quantity;
use serde_json::Value;

use super::decide::Sample;
use crate::context::{Context, Error, Result};
use crate::discovery::Served;

fn milli(value: &Value) -> Option<i64> {
    if value.is_null() {
        return None;
    }
    Quantity::from_value(value)
        .ok()
        .map(|quantity| quantity.milli_value())
}

/// Formats a label selector for the `labelSelector` query parameter, unescaped.
pub fn query(selector: &LabelSelector) -> String {
    let labels = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|wanted| {
        let values = wanted.values.as_deref().unwrap_or_default().join(",");
        match wanted.operator.as_str() {
            "In" => format!("{} in ({values})", wanted.key),
            "NotIn" => format!("{} notin ({values})", wanted.key),
            "Exists" => wanted.key.clone(),
            _ => format!("!{}", wanted.key),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

/// Percent-encodes the characters that are not allowed in a query value.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn at(item: &Value) -> Option<Timestamp> {
    item["timestamp"].as_str()?.parse().ok()
}

fn window(item: &Value) -> i64 {
    let text = item["window"].as_str().unwrap_or("60s");
    text.parse::<jiff::SignedDuration>()
        .map_or(60, |duration| duration.as_secs())
}

/// Returns each pod's usage of a resource, of one container if `container` is given.
pub async fn resource(
    ctx: &Context,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, Sample>> {
    let path = format!(
        "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
        escape(selector)
    );
    let list: Value = ctx
        .raw(http::Method::GET, &path, Vec::new())
        .await
        .map_err(|error| {
            Error::other(format!(
                "unable to fetch metrics from resource metrics API: {error}"
            ))
        })?;
    Ok(read_resource(&list, resource, container))
}

fn read_resource(
    list: &Value,
    resource: &str,
    container: Option<&str>,
) -> BTreeMap<String, Sample> {
    let mut samples = BTreeMap::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let containers = item["containers"].as_array();
        let wanted = |candidate: &&Value| container.is_none_or(|name| candidate["name"] == name);
        let amounts: Option<Vec<i64>> = containers
            .into_iter()
            .flatten()
            .filter(wanted)
            .map(|container| milli(&container["usage"][resource]))
            .collect();
        // Skip pods for which a container's value is missing, as the sum would be too low.
        if let (Some(amounts), Some(at), Some(name)) =
            (amounts, at(item), item["metadata"]["name"].as_str())
            && !amounts.is_empty()
        {
            samples.insert(
                name.to_owned(),
                Sample {
                    milli: amounts.iter().copied().fold(0, i64::saturating_add),
                    at,
                    window: window(item),
                },
            );
        }
    }
    samples
}

/// Returns each pod's requests of a resource, in thousandths.
///
/// # Errors
///
/// Fails if a container has no request, since utilization is undefined then.
pub fn requests(
    all: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>> {
    let mut requests = BTreeMap::new();
    for pod in all {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let sidecars = spec.init_containers.into_iter().flatten();
        let sidecars =
            sidecars.filter(|candidate| candidate.restart_policy.as_deref() == Some("Always"));
        let mut sum = 0;
        for candidate in spec.containers.into_iter().chain(sidecars) {
            if container.is_some_and(|container| container != candidate.name) {
                continue;
            }
            let request = candidate
                .resources
                .and_then(|resources| resources.requests?.get(resource).cloned())
                .and_then(|text| Quantity::parse(&text.0).ok());
            let request = request.ok_or_else(|| {
                Error::other(format!(
                    "missing request for {resource} in container {} of Pod {name}",
                    candidate.name
                ))
            })?;
            sum += request.milli_value();
        }
        requests.insert(name, sum);
    }
    Ok(requests)
}

async fn custom(
    ctx: &Context,
    path: &str,
    selector: &str,
    metric: Option<&LabelSelector>,
) -> Result<Value> {
    let mut queries = Vec::new();
    if !selector.is_empty() {
        queries.push(format!("labelSelector={}", escape(selector)));
    }
    if let Some(metric) = metric {
        queries.push(format!("metricLabelSelector={}", escape(&query(metric))));
    }
    let mut last = Error::other("no metrics are served");
    for version in ["v1beta2", "v1beta1"] {
        let path = format!(
            "/apis/custom.metrics.k8s.io/{version}/{path}?{}",
            queries.join("&")
        );
        match ctx.raw(http::Method::GET, &path, Vec::new()).await {
            Ok(list) => return Ok(list),
            Err(error) => last = error,
        }
    }
    Err(Error::other(format!(
        "unable to fetch metrics from custom metrics API: {last}"
    )))
}

/// Returns each pod's value of a custom metric.
pub async fn pods(
    ctx: &Context,
    namespace: &str,
    selector: &str,
    metric: &str,
    of: Option<&LabelSelector>,
) -> Result<BTreeMap<String, Sample>> {
    let list = custom(
        ctx,
        &format!("namespaces/{namespace}/pods/*/{metric}"),
        selector,
        of,
    )
    .await?;
    let items = list["items"].as_array();
    let sample = |item: &Value| {
        let sample = Sample {
            milli: milli(&item["value"])?,
            at: at(item)?,
            window: item["windowSeconds"].as_i64().unwrap_or(60),
        };
        Some((item["describedObject"]["name"].as_str()?.to_owned(), sample))
    };
    Ok(items.into_iter().flatten().filter_map(sample).collect())
}

/// Returns an object's value of a custom metric, in thousandths.
pub async fn object(
    ctx: &Context,
    namespace: &str,
    resource: &Served,
    name: &str,
    metric: &str,
    of: Option<&LabelSelector>,
) -> Result<i64> {
    let group = if resource.group.is_empty() {
        String::new()
    } else {
        format!(".{}", resource.group)
    };
    let path = format!(
        "namespaces/{namespace}/{}{group}/{name}/{metric}",
        resource.plural
    );
    let list = custom(ctx, &path, "", of).await?;
    let value = list["items"]
        .as_array()
        .and_then(|items| milli(&items.first()?["value"]));
    value.ok_or_else(|| Error::other(format!("the metric {metric} of {name} has no value")))
}

/// Returns the sum of an external metric's values, in thousandths.
pub async fn external(
    ctx: &Context,
    namespace: &str,
    metric: &str,
    of: Option<&LabelSelector>,
) -> Result<i64> {
    let selector = of.map(query).unwrap_or_default();
    let path = format!(
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{metric}?labelSelector={}",
        escape(&selector)
    );
    let list: Value = ctx
        .raw(http::Method::GET, &path, Vec::new())
        .await
        .map_err(|error| {
            Error::other(format!(
                "unable to fetch metrics from external metrics API: {error}"
            ))
        })?;
    let items = list["items"].as_array().filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| {
        Error::other(format!(
            "no metrics returned from external metrics API for {metric}"
        ))
    })?;
    Ok(items
        .iter()
        .filter_map(|item| milli(&item["value"]))
        .fold(0, i64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_is_summed_over_containers() {
        let list = json!({"items": [
            {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15s", "containers": [
                {"name": "x", "usage": {"cpu": "100m"}}, {"name": "y", "usage": {"cpu": "50000000n"}},
            ]},
            {"metadata": {"name": "b"}, "timestamp": "2026-01-01T00:00:00Z", "containers": [
                {"name": "x", "usage": {"memory": "1Mi"}},
            ]},
        ]});
        let samples = read_resource(&list, "cpu", None);
        assert_eq!(samples.len(), 1);
        assert_eq!((samples["a"].milli, samples["a"].window), (150, 15));
        assert_eq!(read_resource(&list, "cpu", Some("y"))["a"].milli, 50);
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("a in (b,c)"), "a%20in%20%28b%2Cc%29");
    }
}
