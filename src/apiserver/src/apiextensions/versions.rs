//! The versions of a definition, and conversion between them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rkube_api::status::Status;
use rkube_api::{Object, fields, gvk, meta};
use serde_json::{Map, Value, json};

use super::version::CrdVersion;
use crate::uid::new_uid;
use crate::webhooks::client::WebhookClient;

/// The time limit for a conversion webhook.
const CONVERSION_TIMEOUT: Duration = Duration::from_secs(30);
/// The versions of `ConversionReview` that this server supports.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// The conversion strategy of a definition.
enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// A webhook converts.
    Webhook {
        /// The webhook's `WebhookClientConfig`.
        config: Value,
        /// The first version of `ConversionReview` that both sides support.
        review: Option<&'static str>,
    },
}

/// All versions of a definition, including those that are not served.
pub struct CrdVersions {
    group: String,
    storage: String,
    versions: BTreeMap<String, Arc<CrdVersion>>,
    selectable: Vec<Cow<'static, str>>,
    conversion: Conversion,
}

impl CrdVersions {
    /// Parses a definition's spec.
    pub fn new(
        spec: &Value,
        versions: BTreeMap<String, Arc<CrdVersion>>,
        selectable: Vec<Cow<'static, str>>,
    ) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let storage = spec["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|v| v["storage"] == true)
            .map(|v| text(&v["name"]))
            .unwrap_or_default();
        let webhook = &spec["conversion"]["webhook"];
        let conversion = if spec["conversion"]["strategy"] == "Webhook" {
            let known = webhook["conversionReviewVersions"].as_array();
            Conversion::Webhook {
                config: webhook["clientConfig"].clone(),
                review: known.into_iter().flatten().find_map(|v| {
                    let v = v.as_str()?;
                    REVIEW_VERSIONS.into_iter().find(|known| *known == v)
                }),
            }
        } else {
            Conversion::None
        };
        Self {
            group: text(&spec["group"]),
            storage,
            versions,
            selectable,
            conversion,
        }
    }

    /// Returns whether a webhook converts.
    pub fn has_webhook(&self) -> bool {
        matches!(self.conversion, Conversion::Webhook { .. })
    }

    /// Returns the version with the given `apiVersion`.
    pub fn version(&self, api_version: &str) -> Option<&Arc<CrdVersion>> {
        let version = api_version.strip_prefix(&*self.group)?.strip_prefix('/')?;
        self.versions.get(version)
    }

    /// Returns the selectable fields of all versions.
    pub fn selectable(&self) -> &[Cow<'static, str>] {
        &self.selectable
    }

    /// Returns all versions.
    pub fn versions(&self) -> impl Iterator<Item = &Arc<CrdVersion>> {
        self.versions.values()
    }

    /// Returns the `apiVersion` of the storage version.
    pub fn storage(&self) -> String {
        gvk::api_version(&self.group, &self.storage)
    }

    /// Converts stored objects to another version. Applies the defaults of the stored version
    /// first; fields unknown to the target version are pruned.
    pub async fn read(
        &self,
        client: &WebhookClient,
        mut objects: Vec<Object>,
        api_version: &str,
    ) -> Result<Vec<Object>, Status> {
        for object in &mut objects {
            if let Some(custom) = self.version(meta::api_version(object)) {
                custom.apply_defaults(object);
            }
        }
        self.convert(client, objects, api_version).await
    }

    /// Converts objects to another version. The result has the same number of objects in the same
    /// order.
    ///
    /// # Errors
    ///
    /// 500 if a version is not part of the definition, or if the webhook fails.
    pub async fn convert(
        &self,
        client: &WebhookClient,
        mut objects: Vec<Object>,
        api_version: &str,
    ) -> Result<Vec<Object>, Status> {
        let Some(target) = self.version(api_version) else {
            return Err(plain(format!(
                "request to convert CR to an invalid group/version: {api_version}"
            )));
        };
        let other: Vec<usize> = (0..objects.len())
            .filter(|i| meta::api_version(&objects[*i]) != api_version)
            .collect();
        for i in &other {
            let from = meta::api_version(&objects[*i]);
            if self.version(from).is_none() {
                return Err(plain(format!(
                    "request to convert CR from an invalid group/version: {from}"
                )));
            }
        }
        if other.is_empty() {
            return Ok(objects);
        }
        match &self.conversion {
            Conversion::None => {
                for i in &other {
                    objects[*i]["apiVersion"] = api_version.into();
                }
            }
            Conversion::Webhook { config, review } => {
                let asked: Vec<&Object> = other.iter().map(|i| &objects[*i]).collect();
                let converted = Box::pin(ask(client, config, *review, &asked, api_version)).await?;
                for (i, object) in other.iter().zip(converted) {
                    objects[*i] = object;
                }
            }
        }
        for i in other {
            // Unknown fields are pruned silently. An object that does not match the schema is
            // returned as it is, so that clients can read it.
            if let Err(error) = fields::check(target.structural(), &mut objects[i]) {
                tracing::debug!(%error, api_version, "a converted object does not fit its schema");
            }
        }
        Ok(objects)
    }

    /// Returns a copy of the object with another `apiVersion`: the conversion without a webhook.
    pub fn rename(&self, object: &Object, api_version: &str) -> Object {
        let mut object = object.clone();
        object["apiVersion"] = api_version.into();
        object
    }
}

/// Returns an error without a reason, as plain Go errors are reported.
fn plain(message: String) -> Status {
    Status::new(500, "", message)
}

async fn ask(
    client: &WebhookClient,
    config: &Value,
    review: Option<&'static str>,
    objects: &[&Object],
    api_version: &str,
) -> Result<Vec<Object>, Status> {
    let Some(review) = review else {
        return Err(plain("no supported conversion review versions".into()));
    };
    let first = objects[0];
    let kind = if objects.len() == 1 {
        meta::kind(first).to_owned()
    } else {
        format!("{}List", meta::kind(first))
    };
    let of = format!("{}, Kind={kind}", meta::api_version(first));
    let failed = |why: String| plain(format!("conversion webhook for {of} failed: {why}"));
    let uid = new_uid();
    let request = json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{review}"),
        "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
    });
    let answer = client.post(config, &request, CONVERSION_TIMEOUT).await;
    let mut answer = answer.map_err(failed)?;
    if review == "v1" {
        let (group_version, kind) = (meta::api_version(&answer), meta::kind(&answer));
        if (group_version, kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
            return Err(failed(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {group_version}, Kind={kind}"
            )));
        }
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err(failed("no response provided".into()));
    }
    if review == "v1" && response["uid"] != uid.as_str() {
        return Err(failed(format!(
            "expected response.uid={uid:?}, got {:?}",
            response["uid"].as_str().unwrap_or_default()
        )));
    }
    let result = response["result"]["status"].as_str().unwrap_or_default();
    if result != "Success" {
        let message = response["result"]["message"].as_str().unwrap_or_default();
        return Err(failed(if message.is_empty() {
            format!("response.result.status was '{result}', not 'Success'")
        } else {
            message.to_owned()
        }));
    }
    let converted = match response["convertedObjects"].take() {
        Value::Array(converted) => converted,
        _ => Vec::new(),
    };
    if converted.len() != objects.len() {
        return Err(plain(format!(
            "conversion webhook for {of} returned {} objects, expected {}",
            converted.len(),
            objects.len()
        )));
    }
    converted
        .into_iter()
        .zip(objects)
        .enumerate()
        .map(|(i, (mut object, original))| {
            check(original, &mut object, api_version).map_err(|(what, why)| {
                let at = if objects.len() == 1 && what != "object at index 0" {
                    what.to_owned()
                } else if what == "metadata" {
                    format!("metadata in object at index {i}")
                } else {
                    format!("converted object at index {i}")
                };
                plain(format!(
                    "conversion webhook for {of} returned invalid {at}: {why}"
                ))
            })?;
            Ok(object)
        })
        .collect()
}

/// Checks that a webhook has changed only what it may, and restores immutable metadata.
fn check(
    original: &Object,
    converted: &mut Object,
    api_version: &str,
) -> Result<(), (&'static str, String)> {
    const AT: &str = "object at index 0";
    let got = meta::api_version(converted);
    if got != api_version {
        return Err((
            AT,
            format!("invalid groupVersion (expected {api_version}, received {got})"),
        ));
    }
    let (expected, got) = (meta::kind(original), meta::kind(converted));
    if expected != got {
        return Err((
            AT,
            format!("invalid kind (expected {expected}, received {got})"),
        ));
    }
    type Read = fn(&Object) -> &str;
    let reads: [(&str, Read); 3] = [
        ("name", |o| meta::name(o)),
        ("namespace", |o| meta::namespace(o)),
        ("UID", |o| meta::uid(o)),
    ];
    for (what, read) in reads {
        if read(original) != read(converted) {
            return Err((
                "object",
                format!(
                    "must have the same {what}: {} != {}",
                    read(original),
                    read(converted)
                ),
            ));
        }
    }
    let theirs = match converted.get("metadata") {
        None => return Err(("metadata", "missing metadata in converted object".into())),
        Some(Value::Object(theirs)) => theirs.clone(),
        Some(other) => {
            return Err((
                "metadata",
                format!(
                    "invalid metadata of type {} in converted object",
                    go_type(other)
                ),
            ));
        }
    };
    let mut restored = original["metadata"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    for field in ["labels", "annotations"] {
        let map = match theirs.get(field) {
            None | Some(Value::Null) => {
                restored.remove(field);
                continue;
            }
            Some(Value::Object(map)) => map,
            Some(other) => {
                return Err((
                    "metadata",
                    format!(
                        "invalid metadata.{field} of type {} in converted object",
                        go_type(other)
                    ),
                ));
            }
        };
        if let Some((key, value)) = map.iter().find(|(_, v)| !v.is_string()) {
            return Err((
                "metadata",
                format!(
                    "metadata.{field}[{key}] must be a string, but is {} in converted object",
                    go_type(value)
                ),
            ));
        }
        if restored.get(field).and_then(Value::as_object) != Some(map) {
            check_map(field, map)?;
        }
        restored.insert(field.into(), Value::Object(map.clone()));
    }
    converted["metadata"] = Value::Object(restored);
    Ok(())
}

/// Validates the labels or annotations that a webhook has changed.
fn check_map(field: &str, map: &Map<String, Value>) -> Result<(), (&'static str, String)> {
    let probe = json!({"metadata": {"name": "x", field: map}});
    let errors: Vec<String> =
        rkube_strategy::validate_metadata(&probe, false, rkube_strategy::NameRule::PathSegment)
            .iter()
            .filter(|e| e.field.starts_with(&format!("metadata.{field}")))
            .map(ToString::to_string)
            .collect();
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(("metadata", one.clone())),
        many => Err(("metadata", format!("[{}]", many.join(", ")))),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> Object {
        json!({"apiVersion": "g.io/v1", "kind": "Foo", "metadata": {"name": "a", "uid": "u", "generation": 3, "labels": {"a": "b"}}, "x": 1})
    }

    #[test]
    fn a_webhook_changes_no_more_than_it_may() {
        let mut converted = json!({"apiVersion": "g.io/v2", "kind": "Foo", "metadata": {"name": "a", "uid": "u", "generation": 9, "annotations": {"n": "o"}}, "y": 1});
        check(&original(), &mut converted, "g.io/v2").unwrap();
        assert_eq!(
            converted,
            json!({"apiVersion": "g.io/v2", "kind": "Foo", "metadata": {"name": "a", "uid": "u", "generation": 3, "annotations": {"n": "o"}}, "y": 1})
        );
        for (change, why) in [
            (
                json!({"apiVersion": "g.io/v3"}),
                "invalid groupVersion (expected g.io/v2, received g.io/v3)",
            ),
            (
                json!({"kind": "Bar"}),
                "invalid kind (expected Foo, received Bar)",
            ),
            (
                json!({"metadata": {"name": "b"}}),
                "must have the same name: a != b",
            ),
            (
                json!({"metadata": {"name": "a", "uid": "u", "labels": {"a": 1}}}),
                "metadata.labels[a] must be a string, but is int64 in converted object",
            ),
            (
                json!({"metadata": {"name": "a", "uid": "u", "labels": 1}}),
                "invalid metadata.labels of type int64 in converted object",
            ),
        ] {
            let mut object = converted.clone();
            for (key, value) in change.as_object().unwrap() {
                object[key] = value.clone();
            }
            assert_eq!(
                check(&original(), &mut object, "g.io/v2").unwrap_err().1,
                why
            );
        }
    }
}
