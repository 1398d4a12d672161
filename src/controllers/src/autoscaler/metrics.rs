//! Reads metrics from the resource, custom and external metrics APIs, which may be unavailable.
//!
//! Errors are the messages that upstream's clients return.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use rkube_api::duration;
use rkube_api::quantity::Quantity;
use rkube_component_helpers::resource::{
    ResourceList, container_requests, is_pod_level_resource, is_sidecar, pod_requests,
};
use serde_json::Value;

use super::replicas::Sample;
use crate::common::go;
use crate::context::{Context, Error};
use crate::served::Served;

/// The result of a query, with upstream's message.
pub type Answer<T> = Result<T, String>;

/// The window of samples whose length is not known.
const DEFAULT_WINDOW: SignedDuration = SignedDuration::from_secs(60);

fn milli(value: &Value) -> Option<i64> {
    if value.is_null() {
        return None;
    }
    Quantity::from_value(value)
        .ok()
        .map(|quantity| quantity.milli_value())
}

/// Formats a label selector for the `labelSelector` query parameter, unescaped.
fn query(selector: &LabelSelector) -> String {
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

/// Percent-encodes the characters that are not allowed in a segment of a path or a query value.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// Returns an error's message. Answers that are no `Status`, as from a server that is not there, get
/// the texts of upstream's client.
fn message(error: &Error, what: &str) -> String {
    let general = match error.status() {
        Some(status) if status.reason == "Failed to parse error data" => status.code,
        _ => 0,
    };
    match general {
        404 => format!("the server could not find the requested resource ({what})"),
        503 => format!("the server is currently unable to handle the request ({what})"),
        _ => error.to_string(),
    }
}

async fn get(ctx: &Context, path: &str, what: &str) -> Answer<Value> {
    ctx.raw(http::Method::GET, path, Vec::new())
        .await
        .map_err(|error| message(&error, what))
}

fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

fn timestamp_of(item: &Value) -> Option<Timestamp> {
    item["timestamp"].as_str()?.parse().ok()
}

fn window(item: &Value) -> SignedDuration {
    let window = item["window"].as_str();
    window
        .and_then(|text| duration::parse_nanos(text).ok())
        .map_or(DEFAULT_WINDOW, SignedDuration::from_nanos)
}

/// Returns each pod's usage of a resource, of one container if `container` is given.
pub async fn resource(
    ctx: &Context,
    namespace: &str,
    selector: &str,
    resource: &str,
    container: Option<&str>,
) -> Answer<BTreeMap<String, Sample>> {
    let path = format!(
        "/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={}",
        escape(selector)
    );
    let list = get(ctx, &path, "get pods.metrics.k8s.io")
        .await
        .map_err(|error| format!("unable to fetch metrics from resource metrics API: {error}"))?;
    read_resource(&list, resource, container)
}

fn read_resource(
    list: &Value,
    resource: &str,
    container: Option<&str>,
) -> Answer<BTreeMap<String, Sample>> {
    if items(list).is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    let mut samples = BTreeMap::new();
    for item in items(list) {
        let meta = &item["metadata"];
        let name = meta["name"].as_str().unwrap_or_default();
        let containers = item["containers"].as_array();
        let containers = containers.map_or(&[][..], Vec::as_slice);
        let amounts: Option<Vec<i64>> = match container {
            // A pod for which a container's value is missing is skipped: the sum would be too low.
            None => containers
                .iter()
                .map(|container| milli(&container["usage"][resource]))
                .collect(),
            Some(wanted) => {
                let found = containers.iter().find(|found| found["name"] == wanted);
                let found = found.ok_or_else(|| {
                    let namespace = meta["namespace"].as_str().unwrap_or_default();
                    format!(
                        "failed to get container metrics: container {wanted} not present in metrics for pod {namespace}/{name}"
                    )
                })?;
                milli(&found["usage"][resource]).map(|amount| vec![amount])
            }
        };
        if let (Some(amounts), Some(at)) = (amounts, timestamp_of(item))
            && !amounts.is_empty()
        {
            let sample = Sample {
                milli: amounts.iter().copied().fold(0, i64::saturating_add),
                at,
                window: window(item),
            };
            samples.insert(name.to_owned(), sample);
        }
    }
    Ok(samples)
}

/// Returns each pod's requests of a resource, in thousandths: those of one container, or those of
/// the pod, or the sum of its containers.
///
/// # Errors
///
/// Fails if a request is missing, since utilization is undefined then.
pub fn requests(
    all: &[Arc<Pod>],
    resource: &str,
    container: Option<&str>,
) -> Answer<BTreeMap<String, i64>> {
    let mut requests = BTreeMap::new();
    for pod in all {
        let name = pod.metadata.name.clone().unwrap_or_default();
        requests.insert(name, request(pod, resource, container)?);
    }
    Ok(requests)
}

fn request(pod: &Pod, resource: &str, container: Option<&str>) -> Answer<i64> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let Some(spec) = &pod.spec else {
        return Ok(0);
    };
    let pod_level = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
    let pod_level = ResourceList::from_typed(pod_level);
    let has_pod_level = pod_level.0.keys().any(|name| is_pod_level_resource(name));
    if has_pod_level && container.is_none() {
        return match pod_requests(spec).get(resource) {
            Some(amount) => Ok(amount.milli_value()),
            None => Err(format!(
                "missing pod-level request for {resource} in Pod {name}"
            )),
        };
    }
    let sidecars = spec.init_containers.iter().flatten();
    let all = spec
        .containers
        .iter()
        .chain(sidecars.filter(|candidate| is_sidecar(candidate)));
    let mut sum = 0i64;
    let mut found = false;
    for candidate in all.filter(|c| container.is_none_or(|wanted| wanted == c.name)) {
        let amount = container_requests(candidate).get(resource).ok_or_else(|| {
            format!(
                "missing request for {resource} in container {} of Pod {name}",
                candidate.name
            )
        })?;
        sum = sum.saturating_add(amount.milli_value());
        found = true;
    }
    match container {
        Some(container) if !found => Err(format!("container {container} not found in Pod {name}")),
        _ => Ok(sum),
    }
}

/// Returns the version of the custom metrics API to use.
async fn custom_version(ctx: &Context) -> Answer<&'static str> {
    const NONE: &str = "no custom metrics API (custom.metrics.k8s.io) registered";
    let group: Value = ctx
        .raw(http::Method::GET, "/apis/custom.metrics.k8s.io", Vec::new())
        .await
        .map_err(|error| match error.is_not_found() {
            true => NONE.to_owned(),
            false => error.to_string(),
        })?;
    let known = |version: &Value| match version["version"].as_str() {
        Some("v1beta2") => Some("v1beta2"),
        Some("v1beta1") => Some("v1beta1"),
        _ => None,
    };
    let served = group["versions"].as_array().into_iter().flatten();
    known(&group["preferredVersion"])
        .or_else(|| served.clone().find_map(known))
        .ok_or_else(|| "no known available metric versions found".to_owned())
}

async fn custom(
    ctx: &Context,
    path: &str,
    selector: &str,
    metric: Option<&LabelSelector>,
) -> Answer<Value> {
    let mut queries = Vec::new();
    if !selector.is_empty() {
        queries.push(format!("labelSelector={}", escape(selector)));
    }
    if let Some(metric) = metric {
        queries.push(format!("metricLabelSelector={}", escape(&query(metric))));
    }
    let asked = async {
        let version = custom_version(ctx).await?;
        let path = format!(
            "/apis/custom.metrics.k8s.io/{version}/{path}?{}",
            queries.join("&")
        );
        get(ctx, &path, "get custom.metrics.k8s.io").await
    };
    asked
        .await
        .map_err(|error| format!("unable to fetch metrics from custom metrics API: {error}"))
}

/// Returns each pod's value of a custom metric.
pub async fn pods(
    ctx: &Context,
    namespace: &str,
    selector: &str,
    metric: &str,
    of: Option<&LabelSelector>,
) -> Answer<BTreeMap<String, Sample>> {
    let path = format!("namespaces/{namespace}/pods/*/{}", escape(metric));
    let list = custom(ctx, &path, selector, of).await?;
    if items(&list).is_empty() {
        return Err("no metrics returned from custom metrics API".into());
    }
    let sample = |item: &Value| {
        let sample = Sample {
            milli: milli(&item["value"])?,
            at: timestamp_of(item)?,
            window: item["windowSeconds"]
                .as_i64()
                .map_or(DEFAULT_WINDOW, SignedDuration::from_secs),
        };
        Some((item["describedObject"]["name"].as_str()?.to_owned(), sample))
    };
    Ok(items(&list).iter().filter_map(sample).collect())
}

/// Returns an object's value of a custom metric, in thousandths.
///
/// The object may be the namespace itself, whatever its name says.
pub async fn object(
    ctx: &Context,
    namespace: &str,
    resource: &Served,
    name: &str,
    metric: &str,
    of: Option<&LabelSelector>,
) -> Answer<i64> {
    let metric = escape(metric);
    let path = if resource.group.is_empty() && resource.kind == "Namespace" {
        format!("namespaces/{namespace}/metrics/{metric}")
    } else {
        let group = match &*resource.group {
            "" => String::new(),
            group => format!(".{group}"),
        };
        let name = escape(name);
        format!(
            "namespaces/{namespace}/{}{group}/{name}/{metric}",
            resource.plural
        )
    };
    let list = custom(ctx, &path, "", of).await?;
    match items(&list) {
        [item] => milli(&item["value"]).ok_or_else(|| {
            "unable to fetch metrics from custom metrics API: the value is no quantity".into()
        }),
        found => Err(format!(
            "unable to fetch metrics from custom metrics API: the custom metrics API server returned {} results when we asked for exactly one",
            found.len()
        )),
    }
}

/// Returns the sum of an external metric's values, in thousandths.
pub async fn external(
    ctx: &Context,
    namespace: &str,
    metric: &str,
    of: Option<&LabelSelector>,
) -> Answer<i64> {
    let selector = of.map(query).unwrap_or_default();
    let path = format!(
        "/apis/external.metrics.k8s.io/v1beta1/namespaces/{namespace}/{}?labelSelector={}",
        escape(metric),
        escape(&selector)
    );
    let what = format!("get {metric}.external.metrics.k8s.io");
    let list = get(ctx, &path, &what)
        .await
        .map_err(|error| format!("unable to fetch metrics from external metrics API: {error}"))?;
    if items(&list).is_empty() {
        return Err("no metrics returned from external metrics API".into());
    }
    Ok(items(&list)
        .iter()
        .filter_map(|item| milli(&item["value"]))
        .fold(0, i64::saturating_add))
}

/// Formats a metric's selector as upstream's messages show it.
pub fn format_selector(selector: Option<&LabelSelector>) -> String {
    go::label_selector(selector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn usage_is_summed_over_containers() {
        let list = json!({"items": [
            {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "1m15.5s", "containers": [
                {"name": "x", "usage": {"cpu": "100m"}}, {"name": "y", "usage": {"cpu": "50000000n"}},
            ]},
            {"metadata": {"name": "b", "namespace": "n"}, "timestamp": "2026-01-01T00:00:00Z", "containers": [
                {"name": "x", "usage": {"memory": "1Mi"}},
            ]},
        ]});
        let samples = read_resource(&list, "cpu", None).unwrap();
        assert_eq!(samples.len(), 1);
        let window = SignedDuration::from_millis(75_500);
        assert_eq!((samples["a"].milli, samples["a"].window), (150, window));
        let samples = read_resource(&list, "memory", Some("x")).unwrap();
        assert_eq!(samples["b"].window, DEFAULT_WINDOW);
        assert_eq!(
            read_resource(&list, "cpu", Some("y")).unwrap_err(),
            "failed to get container metrics: container y not present in metrics for pod n/b"
        );
        assert_eq!(
            read_resource(&json!({"items": []}), "cpu", None).unwrap_err(),
            "no metrics returned from resource metrics API"
        );
    }

    #[test]
    fn requests_are_those_of_the_pod_or_its_containers() {
        let pod = |spec: Value| {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let of = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let containers = json!([
            {"name": "a", "resources": of("100m")},
            {"name": "b", "resources": of("1")},
        ]);
        let init = json!([
            {"name": "s", "restartPolicy": "Always", "resources": of("10m")},
            {"name": "i", "resources": of("5")},
        ]);
        let plain = pod(json!({"containers": containers, "initContainers": init}));
        let whole = pod(json!({"containers": containers, "resources": of("3")}));
        let bare = pod(json!({"containers": [{"name": "a"}]}));
        for (pod, container, wanted) in [
            (&plain, None, Ok(1110)),
            (&plain, Some("b"), Ok(1000)),
            (&plain, Some("s"), Ok(10)),
            (&plain, Some("i"), Err("container i not found in Pod p")),
            (&whole, None, Ok(3000)),
            (&whole, Some("a"), Ok(100)),
            (
                &bare,
                None,
                Err("missing request for cpu in container a of Pod p"),
            ),
        ] {
            let found = request(pod, "cpu", container);
            assert_eq!(found, wanted.map_err(str::to_owned), "{container:?}");
        }
        let missing = request(&whole, "memory", None);
        assert_eq!(
            missing.unwrap_err(),
            "missing pod-level request for memory in Pod p"
        );
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(escape("a in (b,c)/d"), "a%20in%20%28b%2Cc%29%2Fd");
    }

    #[test]
    fn selectors_are_shown_as_upstream() {
        assert_eq!(format_selector(None), "nil");
        let selector = serde_json::from_value(json!({"matchLabels": {"a": "b", "c": "d"}}));
        assert_eq!(
            format_selector(Some(&selector.unwrap())),
            "&LabelSelector{MatchLabels:map[string]string{a: b,c: d,},MatchExpressions:[]LabelSelectorRequirement{},}"
        );
    }
}
