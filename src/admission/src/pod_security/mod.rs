//! PodSecurity: enforces the Pod Security Standards that a namespace's labels select.

use rkube_api::gvk::GroupKind;
use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, meta};

use crate::types::{Annotate, Operation, Request, Warnings};
use rkube_auth::{ObjectReader, tree};

mod checks;
mod policy;

use checks::evaluate;
use policy::{Level, LevelVersion, Policy};

/// Maximum number of existing pods that a new level of a namespace is checked against.
const MAX_CHECKED_PODS: usize = 3000;

/// Returns a namespace's policy and the errors of its labels.
fn policy_of(namespace: &Object) -> (Policy, Vec<FieldError>) {
    Policy::from_labels(meta::labels(namespace))
}

/// Prefix of the audit annotations.
const ANNOTATION: &str = "pod-security.kubernetes.io/";

/// Checks pods and pod templates against the policy of their namespace, and a namespace's new
/// policy. Violations of the mode `audit` are passed to `annotate`, those of `warn` are returned.
pub(super) fn validate(
    reader: &dyn ObjectReader,
    request: &Request<'_>,
    annotate: Annotate<'_>,
) -> Result<Warnings, Status> {
    if !matches!(request.operation, Operation::Create | Operation::Update)
        || request.object.is_none()
    {
        return Ok(Vec::new());
    }
    if request.is("", "namespaces") {
        return validate_namespace(reader, request);
    }
    if request.is("", "pods") {
        return validate_pod(reader, request, annotate);
    }
    let Some(template) = template_of(request) else {
        return Ok(Vec::new());
    };
    let Some(namespace) = reader.get("", "namespaces", "", request.namespace) else {
        return Ok(Vec::new());
    };
    let (policy, errors) = policy_of(&namespace);
    if errors.is_empty() && policy.is_silent() {
        return Ok(Vec::new());
    }
    audit(&policy, &errors, template, annotate);
    Ok(warning(&policy, template).into_iter().collect())
}

/// Returns the pod template of a workload object.
fn template_of<'a>(request: &'a Request<'_>) -> Option<&'a Object> {
    if !request.subresource.is_empty() {
        return None;
    }
    let path: &[&str] = match (request.group, request.resource) {
        ("", "podtemplates") => &["template"],
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => &["spec", "template"],
        ("batch", "cronjobs") => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    };
    tree::at(request.new_object(), path).filter(|template| template.is_object())
}

/// Returns the violations of a level, formatted for a message; `None` if there are none.
fn violation(level: &LevelVersion, pod: &Object) -> Option<String> {
    let violations = evaluate(level, pod);
    let details: Vec<String> = violations
        .iter()
        .map(checks::Violation::to_string)
        .collect();
    (!details.is_empty()).then(|| details.join(", "))
}

/// Returns the warning for a pod that violates the level of the mode `warn`.
fn warning(policy: &Policy, pod: &Object) -> Option<String> {
    let detail = violation(&policy.warn, pod)?;
    Some(format!(
        "would violate PodSecurity \"{}\": {detail}",
        policy.warn
    ))
}

/// Adds the audit annotations of the mode `audit`, and of labels that are no policy.
fn audit(policy: &Policy, errors: &[FieldError], pod: &Object, annotate: Annotate<'_>) {
    if !errors.is_empty() {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let errors = rkube_auth::authz::aggregate(&errors);
        annotate(
            &format!("{ANNOTATION}error"),
            format!("Failed to parse policy: {errors}"),
        );
    }
    if let Some(detail) = violation(&policy.audit, pod) {
        annotate(
            &format!("{ANNOTATION}audit-violations"),
            format!("would violate PodSecurity \"{}\": {detail}", policy.audit),
        );
    }
}

fn validate_pod(
    reader: &dyn ObjectReader,
    request: &Request<'_>,
    annotate: Annotate<'_>,
) -> Result<Warnings, Status> {
    const OTHER: [&str; 8] = [
        "exec",
        "attach",
        "binding",
        "eviction",
        "log",
        "portforward",
        "proxy",
        "status",
    ];
    if OTHER.contains(&request.subresource) {
        return Ok(Vec::new());
    }
    let Some(namespace) = reader.get("", "namespaces", "", request.namespace) else {
        return Err(Status::internal(format!(
            "failed to lookup namespace {:?}",
            request.namespace
        )));
    };
    let (policy, errors) = policy_of(&namespace);
    let pod = request.new_object();
    let enforced = format!("{ANNOTATION}enforce-policy");
    if policy.is_privileged() && errors.is_empty() {
        annotate(&enforced, LevelVersion::default().to_string());
        return Ok(Vec::new());
    }
    if request.operation == Operation::Update && !is_significant(pod, request.old_object()) {
        return Ok(Vec::new());
    }
    annotate(&enforced, policy.enforce.to_string());
    audit(&policy, &errors, pod, annotate);
    if let Some(detail) = violation(&policy.enforce, pod) {
        return Err(request.forbidden(format!(
            "violates PodSecurity \"{}\": {detail}",
            policy.enforce
        )));
    }
    Ok(warning(&policy, pod).into_iter().collect())
}

/// Returns whether an update changes images or adds ephemeral containers. Other updates
/// are not checked.
fn is_significant(new: &Object, old: &Object) -> bool {
    let images = |pod, field| -> Vec<String> {
        let containers = tree::items(pod, &["spec", field]).iter();
        containers
            .map(|c| tree::text(c, &["image"]).to_owned())
            .collect()
    };
    let ephemeral = |pod| -> Vec<(String, String)> {
        let containers = tree::items(pod, &["spec", "ephemeralContainers"]).iter();
        containers
            .map(|c| {
                (
                    tree::name_field(c).to_owned(),
                    tree::text(c, &["image"]).to_owned(),
                )
            })
            .collect()
    };
    let known = ephemeral(old);
    images(new, "containers") != images(old, "containers")
        || images(new, "initContainers") != images(old, "initContainers")
        || ephemeral(new)
            .iter()
            .any(|container| !known.contains(container))
}

fn validate_namespace(
    reader: &dyn ObjectReader,
    request: &Request<'_>,
) -> Result<Warnings, Status> {
    if !request.subresource.is_empty() {
        return Ok(Vec::new());
    }
    let (new, errors) = policy_of(request.new_object());
    let invalid = |errors| {
        Err(Status::invalid(
            &GroupKind::new("", "Namespace"),
            request.name,
            errors,
        ))
    };
    if request.operation == Operation::Create {
        return if errors.is_empty() {
            Ok(Vec::new())
        } else {
            invalid(errors)
        };
    }
    let (old, old_errors) = policy_of(request.old_object());
    if !errors.is_empty() && errors != old_errors {
        return invalid(errors);
    }
    let stricter =
        new.enforce.version != old.enforce.version || new.enforce.level > old.enforce.level;
    if new.enforce == old.enforce || new.enforce.level == Level::Privileged || !stricter {
        return Ok(Vec::new());
    }
    Ok(check_existing(
        reader,
        tree::name(request.new_object()),
        &new.enforce,
    ))
}

/// Returns warnings about existing pods that a namespace's new level would not admit.
fn check_existing(reader: &dyn ObjectReader, namespace: &str, level: &LevelVersion) -> Warnings {
    let pods = reader.list("", "pods", Some(namespace));
    let mut warnings = Vec::new();
    if pods.len() > MAX_CHECKED_PODS {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MAX_CHECKED_PODS} of {} existing pods",
            pods.len()
        ));
    }
    let mut violating = std::collections::BTreeMap::<String, (String, usize)>::new();
    for pod in pods.iter().take(MAX_CHECKED_PODS) {
        let reasons: Vec<String> = evaluate(level, pod).into_iter().map(|v| v.reason).collect();
        if reasons.is_empty() {
            continue;
        }
        let name = tree::name(pod).to_owned();
        violating
            .entry(reasons.join(", "))
            .and_modify(|(first, count)| {
                if name < *first {
                    first.clone_from(&name);
                }
                *count += 1;
            })
            .or_insert((name, 1));
    }
    if violating.is_empty() {
        return warnings;
    }
    warnings.push(format!(
        "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{level}\""
    ));
    let mut lines: Vec<String> = violating
        .into_iter()
        .map(|(reasons, (name, count))| match count {
            1 => format!("{name}: {reasons}"),
            2 => format!("{name} (and 1 other pod): {reasons}"),
            _ => format!("{name} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}
