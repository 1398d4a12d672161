//! ServiceAccount: sets the service account of a pod and mounts its token.

use std::time::Duration;

use rand::RngExt as _;
use rkube_api::Object;
use rkube_api::status::Status;
use serde_json::json;

use crate::types::{Operation, Request};
use rkube_auth::token::WARN_ONLY_EXPIRATION;
use rkube_auth::{ObjectReader, references, tree};

const DEFAULT: &str = "default";
const MIRROR: &str = "kubernetes.io/config.mirror";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
const VOLUME: &str = "kube-api-access-";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn is_mirror(pod: &Object) -> bool {
    tree::map_text(pod, &["metadata", "annotations"], MIRROR).is_some()
}

/// Returns the name of the service account of a pod; empty if it is not set.
fn account_name(pod: &Object) -> &str {
    let name = tree::text(pod, &["spec", "serviceAccountName"]);
    // The deprecated field.
    if name.is_empty() {
        tree::text(pod, &["spec", "serviceAccount"])
    } else {
        name
    }
}

/// Waits until the namespace's service account `default` exists, for at most two seconds. A
/// controller creates it shortly after the namespace, and pods can be created in between.
pub(super) async fn wait_for_account(reader: &dyn ObjectReader, request: &Request<'_>) {
    const ACCOUNT_TIMEOUT: Duration = Duration::from_secs(2);
    if request.operation != Operation::Create
        || !request.is_whole("", "pods")
        || is_mirror(request.new_object())
    {
        return;
    }
    if !matches!(account_name(request.new_object()), "" | DEFAULT) {
        return;
    }
    let there = |resource, namespace, name| reader.get("", resource, namespace, name).is_some();
    let wait = async {
        loop {
            // Subscribed before the lookup, so that no change in between is missed.
            let changed = reader.changed("", "serviceaccounts");
            if there("serviceaccounts", request.namespace, DEFAULT)
                || !there("namespaces", "", request.namespace)
            {
                return;
            }
            match changed {
                Some(changed) => changed.await,
                None => return,
            }
        }
    };
    // After a timeout, `mutate` rejects the pod and names the account.
    let _ = tokio::time::timeout(ACCOUNT_TIMEOUT, wait).await;
}

pub(super) fn mutate(reader: &dyn ObjectReader, request: &mut Request<'_>) -> Result<(), Status> {
    if request.operation != Operation::Create
        || !request.is_whole("", "pods")
        || request.object.is_none()
    {
        return Ok(());
    }
    if !is_mirror(request.new_object()) {
        let name = match account_name(request.new_object()) {
            "" => DEFAULT.to_owned(),
            name => name.to_owned(),
        };
        let account = look_up(reader, request, &name)?;
        if let Some(pod) = request.object.as_deref_mut() {
            let spec = tree::make_map(pod, &["spec"]);
            spec.insert("serviceAccountName".into(), name.clone().into());
            spec.insert("serviceAccount".into(), name.into());
            let automount = |object, path: &[&str]| tree::flag(object, path);
            let wanted = automount(pod, &["spec", "automountServiceAccountToken"])
                .or_else(|| automount(&account, &["automountServiceAccountToken"]));
            if wanted.unwrap_or(true) {
                mount_token(pod);
            }
            if tree::items(pod, &["spec", "imagePullSecrets"]).is_empty() {
                let secrets: Vec<Object> = tree::items(&account, &["imagePullSecrets"])
                    .iter()
                    .map(|secret| json!({"name": tree::text(secret, &["name"])}))
                    .collect();
                if !secrets.is_empty() {
                    tree::make_map(pod, &["spec"])
                        .insert("imagePullSecrets".into(), secrets.into());
                }
            }
        }
    }
    validate(reader, request)
}

pub(super) fn validate(reader: &dyn ObjectReader, request: &Request<'_>) -> Result<(), Status> {
    if !request.is("", "pods") {
        return Ok(());
    }
    let pod = request.new_object();
    match (request.operation, request.subresource) {
        (Operation::Update, "ephemeralcontainers") => {
            let account = account_of(reader, request)?;
            if enforces_mountable(&account) {
                let secrets = names(&account, "secrets");
                limit_containers(
                    pod,
                    "ephemeralContainers",
                    "ephemeral container",
                    &secrets,
                    &account,
                )
                .map_err(|why| request.forbidden(why))?;
            }
            Ok(())
        }
        (Operation::Create, "") if is_mirror(pod) => {
            check_mirror(pod).map_err(|why| request.forbidden(why))
        }
        (Operation::Create, "") => {
            let account = account_of(reader, request)?;
            if enforces_mountable(&account) {
                limit_secrets(pod, &account).map_err(|why| request.forbidden(why))?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Checks that a mirror pod uses neither service accounts nor secrets.
fn check_mirror(pod: &Object) -> Result<(), &'static str> {
    if !account_name(pod).is_empty() {
        return Err("a mirror pod may not reference service accounts");
    }
    if references::secrets(pod).next().is_some() {
        return Err("a mirror pod may not reference secrets");
    }
    let sources = tree::items(pod, &["spec", "volumes"])
        .iter()
        .flat_map(|v| tree::items(v, &["projected", "sources"]));
    if sources.into_iter().any(|source| {
        source
            .get("serviceAccountToken")
            .is_some_and(Object::is_object)
    }) {
        return Err("a mirror pod may not use ServiceAccountToken volume projections");
    }
    Ok(())
}

fn account_of(
    reader: &dyn ObjectReader,
    request: &Request<'_>,
) -> Result<std::sync::Arc<Object>, Status> {
    let name = account_name(request.new_object());
    if name.is_empty() {
        let pod = tree::name(request.new_object());
        return Err(request.forbidden(format!(
            "no service account specified for pod {}/{pod}",
            request.namespace
        )));
    }
    look_up(reader, request, name)
}

fn look_up(
    reader: &dyn ObjectReader,
    request: &Request<'_>,
    name: &str,
) -> Result<std::sync::Arc<Object>, Status> {
    reader
        .get("", "serviceaccounts", request.namespace, name)
        .ok_or_else(|| {
            request.forbidden(format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                request.namespace
            ))
        })
}

fn enforces_mountable(account: &Object) -> bool {
    let value = tree::map_text(account, &["metadata", "annotations"], ENFORCE_MOUNTABLE);
    matches!(value, Some("1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn names<'a>(account: &'a Object, field: &str) -> Vec<&'a str> {
    tree::items(account, &[field])
        .iter()
        .map(|secret| tree::text(secret, &["name"]))
        .collect()
}

/// Checks that a pod uses only the secrets that its account lists.
fn limit_secrets(pod: &Object, account: &Object) -> Result<(), String> {
    let secrets = names(account, "secrets");
    let account_name = tree::name(account);
    for volume in tree::items(pod, &["spec", "volumes"]) {
        let secret = tree::text(volume, &["secret", "secretName"]);
        if volume.get("secret").is_some_and(Object::is_object) && !secrets.contains(&secret) {
            return Err(format!(
                "volume with secret.secretName=\"{secret}\" is not allowed because service account {account_name} does not reference that secret"
            ));
        }
    }
    limit_containers(pod, "initContainers", "init container", &secrets, account)?;
    limit_containers(pod, "containers", "container", &secrets, account)?;
    let pull = names(account, "imagePullSecrets");
    for (i, secret) in tree::items(pod, &["spec", "imagePullSecrets"])
        .iter()
        .enumerate()
    {
        let name = tree::text(secret, &["name"]);
        if !pull.contains(&name) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {account_name} does not reference that imagePullSecret"
            ));
        }
    }
    Ok(())
}

/// Checks that containers use only `secrets` in their environment.
fn limit_containers(
    pod: &Object,
    field: &str,
    title: &str,
    secrets: &[&str],
    account: &Object,
) -> Result<(), String> {
    let refused = |container: &Object, what: String, secret: &str| {
        Err(format!(
            "{title} {} with {what} referencing secret.secretName=\"{secret}\" is not allowed because service account {} does not reference that secret",
            tree::name_field(container),
            tree::name(account)
        ))
    };
    for container in tree::items(pod, &["spec", field]) {
        for env in tree::items(container, &["env"]) {
            if let Some(reference) = tree::at(env, &["valueFrom", "secretKeyRef"]) {
                let secret = tree::name_field(reference);
                if !secrets.contains(&secret) {
                    return refused(
                        container,
                        format!("envVar {}", tree::name_field(env)),
                        secret,
                    );
                }
            }
        }
        for from in tree::items(container, &["envFrom"]) {
            if let Some(reference) = from.get("secretRef").filter(|r| r.is_object()) {
                let secret = tree::name_field(reference);
                if !secrets.contains(&secret) {
                    return refused(container, "envFrom".into(), secret);
                }
            }
        }
    }
    Ok(())
}

/// Mounts the account's token at the standard path in each container without a mount there.
fn mount_token(pod: &mut Object) {
    let existing = tree::items(pod, &["spec", "volumes"])
        .iter()
        .map(tree::name_field)
        .find(|name| name.starts_with(VOLUME));
    let has_volume = existing.is_some();
    let volume = existing.map_or_else(|| format!("{VOLUME}{}", random_suffix()), str::to_owned);
    let mut mounted = false;
    for field in ["initContainers", "containers"] {
        if tree::items(pod, &["spec", field]).is_empty() {
            continue;
        }
        for container in tree::make_array(pod, &["spec", field]) {
            let mounts = tree::items(container, &["volumeMounts"]);
            if mounts
                .iter()
                .any(|mount| tree::text(mount, &["mountPath"]) == MOUNT_PATH)
            {
                continue;
            }
            let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
            tree::make_array(container, &["volumeMounts"]).push(mount);
            mounted = true;
        }
    }
    if mounted && !has_volume {
        let sources = json!([
            {"serviceAccountToken": {"path": "token", "expirationSeconds": WARN_ONLY_EXPIRATION}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [
                {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
            ]}},
        ]);
        let volume =
            json!({"name": volume, "projected": {"sources": sources, "defaultMode": 0o644}});
        tree::make_array(pod, &["spec", "volumes"]).push(volume);
    }
}

/// Returns five random characters from the alphabet of upstream's name generator.
fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut random = rand::rng();
    (0..5)
        .map(|_| char::from(ALPHABET[random.random_range(..ALPHABET.len())]))
        .collect()
}
