//! Admission webhooks (`MutatingWebhookConfiguration`, `ValidatingWebhookConfiguration`).

pub mod client;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures::future::join_all;
use rkube_api::gvk::api_version;
use rkube_api::patch::json_patch;
use rkube_api::schema::Schema;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use serde_json::{Value, json};

use crate::admission::attributes::Admission;
use crate::admission::reinvocation::Reinvocation;
use crate::admission::review::{both_seen_in, maybe_seen_in, review, seen_in};
use crate::admission::rules::{self, Coverage, Target};
use crate::cache::Filter;
use crate::policies::Policies;
use crate::resources::Resource;

const GROUP: &str = "admissionregistration.k8s.io";

/// Calls the configured admission webhooks.
pub struct Webhooks {
    policies: Arc<Policies>,
}

/// A webhook that applies to a write.
struct Hook {
    name: String,
    value: Value,
    /// Whether the failure policy is `Ignore`.
    ignore_failure: bool,
    /// The version in which the webhook receives the write, if it is not the request's.
    version: Option<Arc<Resource>>,
}

/// A webhook's response that allows the write.
struct Answer {
    patch: Option<Value>,
    warnings: Vec<String>,
    /// Audit annotations from the webhook.
    notes: Vec<(String, String)>,
}

/// A webhook's decision about a write.
enum Verdict {
    Allowed(Answer),
    /// The write is denied; holds the `response` of the review.
    Denied(Value),
}

impl Webhooks {
    /// Creates a caller that evaluates match conditions with `policies`.
    pub fn new(policies: Arc<Policies>) -> Self {
        Self { policies }
    }

    /// Returns the configurations of a kind, ordered by name.
    fn configurations(admission: &Admission<'_>, plural: &str) -> Vec<Arc<Object>> {
        let Some(cache) = admission.backend.cache.existing(GROUP, plural) else {
            return Vec::new();
        };
        // Webhooks do not apply to admission configuration, so that a broken webhook can be
        // repaired.
        if admission.resource.group == GROUP {
            return Vec::new();
        }
        let all = cache.list(&Filter::default());
        all.iter()
            .map(|configuration| configuration.tree())
            .collect()
    }

    /// Returns the webhook if it applies to the write.
    async fn matching(
        &self,
        admission: &Admission<'_>,
        hook: &Value,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Option<Hook>, Status> {
        let none = Vec::new();
        let all = hook["rules"].as_array().unwrap_or(&none);
        let exact = hook["matchPolicy"] == "Exact";
        let covered = |target: &Target<'_>| all.iter().any(|r| rules::covers(r, target));
        let (version, applies) = match rules::coverage(admission, exact, covered) {
            Coverage::None => return Ok(None),
            Coverage::Exact => (None, self.applies(admission, hook, object, old)?),
            Coverage::Equivalent(version) => {
                let (object, old) =
                    Box::pin(both_seen_in(admission, &version, object, old)).await?;
                let seen = admission.through(&version);
                let applies = self.applies(&seen, hook, object.as_ref(), old.as_ref())?;
                (Some(version), applies)
            }
        };
        Ok(applies.then(|| Hook {
            name: hook["name"].as_str().unwrap_or_default().to_owned(),
            ignore_failure: hook["failurePolicy"] == "Ignore",
            value: hook.clone(),
            version,
        }))
    }

    /// Returns whether a webhook's selectors and match conditions match a write that its rules
    /// match.
    fn applies(
        &self,
        admission: &Admission<'_>,
        hook: &Value,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<bool, Status> {
        if !rules::selected(admission, hook, object, old)? {
            return Ok(false);
        }
        self.policies.conditions_hold(admission, hook, object, old)
    }

    /// Calls the mutating webhooks in order. Each is matched against the object as changed by the
    /// previous ones.
    pub async fn mutate(
        &self,
        admission: &Admission<'_>,
        object: &mut Object,
        old: Option<&Object>,
        rounds: &mut Reinvocation,
    ) -> Result<(), Status> {
        rounds.begin(object);
        for configuration in Self::configurations(admission, "mutatingwebhookconfigurations") {
            for hook in configuration["webhooks"].as_array().into_iter().flatten() {
                let name = format!("{}/{}", meta::name(&configuration), hook["name"]);
                if rounds.skips(&name) {
                    continue;
                }
                let Some(hook) = self.matching(admission, hook, Some(object), old).await? else {
                    continue;
                };
                let changed = Box::pin(self.call_mutating(admission, &hook, object, old)).await?;
                let again = hook.value["reinvocationPolicy"] == "IfNeeded";
                rounds.called(&name, changed, again);
            }
        }
        rounds.end(object);
        Ok(())
    }

    async fn ask_in_version(
        &self,
        admission: &Admission<'_>,
        hook: &Hook,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Option<Answer>, Status> {
        let Some(version) = &hook.version else {
            return self.ask(admission, hook, object, old).await;
        };
        let (object, old) = both_seen_in(admission, version, object, old).await?;
        let seen = admission.through(version);
        self.ask(&seen, hook, object.as_ref(), old.as_ref()).await
    }

    /// Calls one mutating webhook, in the version that it expects. Returns whether it changed the
    /// object.
    async fn call_mutating(
        &self,
        admission: &Admission<'_>,
        hook: &Hook,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<bool, Status> {
        let Some(version) = &hook.version else {
            return self.change(admission, hook, object, old).await;
        };
        let mut seen = seen_in(admission, version, object).await?;
        let seen_old = maybe_seen_in(admission, version, old).await?;
        let through = admission.through(version);
        let changed = self.change(&through, hook, &mut seen, seen_old.as_ref());
        if !changed.await? {
            return Ok(false);
        }
        *object = seen_in(admission, admission.resource, &seen).await?;
        Ok(true)
    }

    async fn change(
        &self,
        admission: &Admission<'_>,
        hook: &Hook,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<bool, Status> {
        let Some(answer) = self.ask(admission, hook, Some(object), old).await? else {
            return Ok(false);
        };
        admission.call.warn(answer.warnings);
        let Some(patch) = answer.patch else {
            return Ok(false);
        };
        let resource = admission.resource;
        let before = admission.served(object.clone())?;
        let mut after = json_patch(&before, &patch).map_err(|e| {
            Status::internal(format!("admission webhook {:?}: {}", hook.name, e.message))
        })?;
        match &admission.part {
            None => {
                rkube_api::fields::check(resource.schema(), &mut after)?;
            }
            // Connection options are parsed from the query and have no schema.
            Some(part) => {
                if let Some(ty) = Schema::builtin().definition(part.definition) {
                    rkube_api::fields::check(ty, &mut after)?;
                }
            }
        }
        let (group, version, kind) = admission.kind();
        meta::set_type(&mut after, &api_version(group, version), kind);
        if after == before {
            return Ok(false);
        }
        *object = match admission.part {
            None => resource.stored(after)?,
            Some(_) => after,
        };
        Ok(true)
    }

    /// Calls all matching validating webhooks concurrently.
    pub async fn validate(
        &self,
        admission: &Admission<'_>,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let mut hooks = Vec::new();
        for configuration in Self::configurations(admission, "validatingwebhookconfigurations") {
            for hook in configuration["webhooks"].as_array().into_iter().flatten() {
                hooks.extend(self.matching(admission, hook, object, old).await?);
            }
        }
        let answers = join_all(
            hooks
                .iter()
                .map(|hook| self.ask_in_version(admission, hook, object, old)),
        )
        .await;
        for answer in answers {
            if let Some(answer) = answer? {
                admission.call.warn(answer.warnings);
            }
        }
        Ok(())
    }

    /// Calls one webhook. Returns `None` if the call failed and the failure policy is `Ignore`.
    async fn ask(
        &self,
        admission: &Admission<'_>,
        hook: &Hook,
        object: Option<&Object>,
        old: Option<&Object>,
    ) -> Result<Option<Answer>, Status> {
        let harmless = matches!(
            hook.value["sideEffects"].as_str(),
            Some("None" | "NoneOnDryRun")
        );
        if admission.dry_run && !harmless {
            return Err(Status::bad_request(format!(
                "admission webhook {:?} does not support dry run",
                hook.name
            )));
        }
        let (uid, review) = review(admission, object, old)?;
        let seconds = hook.value["timeoutSeconds"]
            .as_u64()
            .unwrap_or(10)
            .clamp(1, 30);
        let limit = Duration::from_secs(seconds);
        let config = &hook.value["clientConfig"];
        let client = &admission.backend.webhook_client;
        let result = client.post(config, &review, limit).await;
        let result = result.and_then(|answer| read_answer(answer, &uid));
        match result {
            Ok(Verdict::Allowed(answer)) => {
                for (key, value) in &answer.notes {
                    admission
                        .call
                        .annotate(format!("{}/{key}", hook.name), value);
                }
                Ok(Some(answer))
            }
            Ok(Verdict::Denied(response)) => Err(denied(&hook.name, &response)),
            Err(reason) if hook.ignore_failure => {
                tracing::warn!(
                    webhook = hook.name,
                    reason,
                    "an admission webhook failed and is ignored"
                );
                Ok(None)
            }
            Err(reason) => Err(Status::internal(format!(
                "failed calling webhook {:?}: failed to call webhook: {reason}",
                hook.name
            ))),
        }
    }
}

/// Parses a webhook's response.
///
/// # Errors
///
/// Fails if it is not a valid review with the request's `uid`.
fn read_answer(answer: Value, uid: &str) -> Result<Verdict, String> {
    if answer["kind"] != "AdmissionReview" || answer["apiVersion"] != "admission.k8s.io/v1" {
        return Err(format!(
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {}, Kind={}",
            answer["apiVersion"].as_str().unwrap_or_default(),
            answer["kind"].as_str().unwrap_or_default()
        ));
    }
    let response = &answer["response"];
    if response["uid"] != uid {
        return Err(format!(
            "received invalid webhook response: expected response.uid={uid:?}, got {}",
            response["uid"]
        ));
    }
    let warnings = response["warnings"].as_array().into_iter().flatten();
    let warnings = warnings
        .filter_map(|w| w.as_str().map(str::to_owned))
        .collect();
    if response["allowed"] != true {
        return Ok(Verdict::Denied(response.clone()));
    }
    let patch = match response["patch"].as_str().filter(|p| !p.is_empty()) {
        None => None,
        Some(_) if response["patchType"] != "JSONPatch" => {
            return Err("received invalid webhook response: unsupported response.patchType".into());
        }
        Some(text) => {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|e| format!("received invalid webhook response: {e}"))?;
            let patch: Value = serde_json::from_slice(&bytes)
                .map_err(|e| format!("received invalid patch: {e}"))?;
            patch
                .as_array()
                .is_some_and(|p| !p.is_empty())
                .then_some(patch)
        }
    };
    let notes = response["auditAnnotations"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect();
    Ok(Verdict::Allowed(Answer {
        patch,
        warnings,
        notes,
    }))
}

fn denied(name: &str, response: &Value) -> Status {
    let status = &response["status"];
    let text = |field: &str| status[field].as_str().filter(|t| !t.is_empty());
    let by = format!("admission webhook {name:?} denied the request");
    let message = match (text("message"), text("reason")) {
        (Some(message), _) => format!("{by}: {message}"),
        (None, Some(reason)) => format!("{by}: {reason}"),
        (None, None) => format!("{by} without explanation"),
    };
    let mut value = status.clone();
    if !value.is_object() {
        value = json!({});
    }
    let code = status["code"]
        .as_u64()
        .filter(|c| (400..600).contains(c))
        .unwrap_or(400);
    value["code"] = code.into();
    value["message"] = message.into();
    value["status"] = "Failure".into();
    Status::from_value(&value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let review = |response: Value| json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        let patch = base64::engine::general_purpose::STANDARD
            .encode(r#"[{"op":"add","path":"/x","value":1}]"#);
        let answer = read_answer(
            review(
                json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch", "warnings": ["w"]}),
            ),
            "u",
        );
        let Verdict::Allowed(answer) = answer.unwrap() else {
            panic!("refused");
        };
        assert!(answer.patch.is_some());
        assert_eq!(answer.warnings, ["w"]);
        assert!(read_answer(review(json!({"uid": "v", "allowed": true})), "u").is_err());
        assert!(read_answer(json!({}), "u").is_err());
        let answer = read_answer(review(json!({"uid": "u", "allowed": false})), "u");
        assert!(matches!(answer.unwrap(), Verdict::Denied(_)));
    }

    #[test]
    fn refusals_are_worded_as_upstreams() {
        let status = denied("a.b.c", &json!({"status": {"message": "no", "code": 403}}));
        assert_eq!(
            (status.code, &*status.message),
            (403, "admission webhook \"a.b.c\" denied the request: no")
        );
        assert_eq!(
            denied("x", &json!({})).message,
            "admission webhook \"x\" denied the request without explanation"
        );
        assert_eq!(denied("x", &json!({})).code, 400);
    }
}
