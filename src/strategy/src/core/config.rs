//! Config maps, secrets and service accounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::errors::{Errors, keyed};
use crate::generic::{self, Rules};
use crate::tree::{at, ensure, entries, flag, has, list_mut, remove, same_at, text};
use crate::{Context, Strategy, names};

/// Maximum total size of the data of a secret or config map, in bytes.
const SIZE_MAX: usize = 1024 * 1024;

/// The strategy of kind `ConfigMap`.
pub(crate) static CONFIG_MAP: Rules = Rules {
    validate_new: config_map,
    validate_update: |new, old| {
        let mut errors = config_map_update(new, old);
        errors.extend(config_map(new));
        errors
    },
    ..Rules::PLAIN
};

/// The strategy of kind `ServiceAccount`.
pub(crate) struct ServiceAccount;

/// Restricts the secrets of an account's pods.
const MOUNTABLE_SECRETS: &str = "kubernetes.io/enforce-mountable-secrets";

impl Strategy for ServiceAccount {
    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
        only_names(obj);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        only_names(new);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let restricts = |o: &Object| {
            let annotations = at(o, "metadata.annotations");
            annotations.get(MOUNTABLE_SECRETS).is_some()
        };
        if !restricts(new) || old.is_some_and(restricts) {
            return Vec::new();
        }
        vec![format!(
            "{}: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets",
            keyed("metadata.annotations", MOUNTABLE_SECRETS)
        )]
    }
}

/// Removes what references to secrets have besides names.
fn only_names(account: &mut Object) {
    for secret in list_mut(account, "secrets") {
        let name = text(secret, "name").to_owned();
        *secret = match name.is_empty() {
            true => json!({}),
            false => json!({"name": name}),
        };
    }
}

fn config_map(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut size = 0;
    for (key, value) in entries(obj, "data") {
        errors.invalid_each(&keyed("data", key), key, names::config_map_key(key));
        if at(obj, "binaryData").get(key).is_some() {
            errors.invalid(
                keyed("data", key),
                key.as_str(),
                "duplicate of key present in binaryData",
            );
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(obj, "binaryData") {
        errors.invalid_each(&keyed("binaryData", key), key, names::config_map_key(key));
        size += decoded_len(value);
    }
    if size > SIZE_MAX {
        errors.too_long("", SIZE_MAX);
    }
    errors.0
}

fn config_map_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    if flag(old, "immutable") {
        if !flag(new, "immutable") {
            errors.forbidden("immutable", "field is immutable when `immutable` is set");
        }
        for key in ["data", "binaryData"] {
            if !same_at(new, old, key) {
                errors.forbidden(key, "field is immutable when `immutable` is set");
            }
        }
    }
    errors.0
}

fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    STANDARD
        .decode(text)
        .map_or(text.len(), |bytes| bytes.len())
}

/// The strategy of kind `Secret`.
pub(crate) struct Secret;

impl Strategy for Secret {
    fn default(&self, obj: &mut Object) {
        // `stringData` is write-only and overrides `data`.
        if let Some(Value::Object(plain)) = remove(obj, "stringData") {
            let data = ensure(obj, "data");
            for (key, value) in plain {
                let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
                data.insert(key, encoded.into());
            }
        }
        crate::tree::default_text(obj, "type", "Opaque");
    }

    fn prepare_create(&self, _ctx: &Context<'_>, obj: &mut Object) {
        generic::prepare_create_plain(obj);
    }

    fn prepare_update(&self, _ctx: &Context<'_>, new: &mut Object, old: &Object) {
        generic::prepare_update_plain(new, old);
        // An update without a type keeps the type.
        if text(new, "type").is_empty() {
            crate::tree::keep(new, old, "type");
        }
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        secret(obj)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if !same_at(new, old, "type") {
            errors.invalid("type", at(new, "type").clone(), crate::errors::IMMUTABLE);
        }
        if flag(old, "immutable") {
            if !flag(new, "immutable") {
                errors.forbidden("immutable", "field is immutable when `immutable` is set");
            }
            if !same_at(new, old, "data") {
                errors.forbidden("data", "field is immutable when `immutable` is set");
            }
        }
        errors.extend(secret(new));
        errors.0
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        match text(new, "type") {
            "kubernetes.io/tls" => key_pair_problem(new).into_iter().collect(),
            _ => Vec::new(),
        }
    }

    fn field_value(&self, obj: &Object, field: &str) -> Option<String> {
        match field {
            "type" => Some(text(obj, "type").to_owned()),
            _ => generic::field_value(obj, field),
        }
    }
}

fn secret(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let mut size = 0;
    for (key, value) in entries(obj, "data") {
        errors.invalid_each(&keyed("data", key), key, names::config_map_key(key));
        size += decoded_len(value);
    }
    if size > SIZE_MAX {
        errors.too_long("data", SIZE_MAX);
    }
    let required = |errors: &mut Errors, key: &str| {
        if at(obj, "data").get(key).is_none() {
            errors.required(keyed("data", key), "");
        }
    };
    let decoded = |key: &str| decoded(obj, key);
    match text(obj, "type") {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            let named = at(obj, "metadata.annotations")
                .get(key)
                .and_then(Value::as_str)
                .is_some_and(|s| !s.is_empty());
            if !named {
                errors.required(keyed("metadata.annotations", key), "");
            }
        }
        "kubernetes.io/dockercfg" => {
            required(&mut errors, ".dockercfg");
            json_only(&mut errors, obj, ".dockercfg", &decoded(".dockercfg"));
        }
        "kubernetes.io/dockerconfigjson" => {
            required(&mut errors, ".dockerconfigjson");
            json_only(
                &mut errors,
                obj,
                ".dockerconfigjson",
                &decoded(".dockerconfigjson"),
            );
        }
        "kubernetes.io/basic-auth" => {
            let has = |key: &str| at(obj, "data").get(key).is_some();
            if !has("username") && !has("password") {
                errors.required("data[username]", "");
                errors.required("data[password]", "");
            }
        }
        "kubernetes.io/ssh-auth" if decoded("ssh-privatekey").is_empty() => {
            errors.required("data[ssh-privatekey]", "");
        }
        "kubernetes.io/tls" => {
            required(&mut errors, "tls.crt");
            required(&mut errors, "tls.key");
        }
        _ => {}
    }
    errors.0
}

/// Returns the decoded value of a key; empty if there is none.
fn decoded(obj: &Object, key: &str) -> Vec<u8> {
    at(obj, "data")
        .get(key)
        .and_then(Value::as_str)
        .and_then(|s| STANDARD.decode(s).ok())
        .unwrap_or_default()
}

fn json_only(errors: &mut Errors, obj: &Object, key: &str, bytes: &[u8]) {
    if !has(obj, "data") || at(obj, "data").get(key).is_none() {
        return;
    }
    let problem = match serde_json::from_slice::<Value>(bytes) {
        Ok(Value::Object(_) | Value::Null) => return,
        Ok(other) => {
            let kind = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        }
        Err(e) if e.is_eof() => "unexpected end of JSON input".to_owned(),
        Err(e) => match bytes.trim_ascii_start().first() {
            Some(first) if !b"{[\"-0123456789tfn".contains(first) => format!(
                "invalid character {:?} looking for beginning of value",
                char::from(*first)
            ),
            _ => e.to_string(),
        },
    };
    errors.invalid(keyed("data", key), "<secret contents redacted>", problem);
}

/// Returns the types of the PEM blocks of a text.
fn pem_types(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mut types = Vec::new();
    let mut rest = text.as_ref();
    while let Some(start) = rest.find("-----BEGIN ") {
        rest = &rest[start + "-----BEGIN ".len()..];
        let Some((kind, after)) = rest.split_once("-----") else {
            break;
        };
        let Some((body, after)) = after.split_once(&format!("-----END {kind}-----")) else {
            continue;
        };
        let body: String = body.split_whitespace().collect();
        if STANDARD.decode(body).is_ok() {
            types.push(kind.to_owned());
            rest = after;
        }
    }
    types
}

/// Returns what is missing in the certificate and key of a secret, as Go's `tls.X509KeyPair`
/// says it. Whether they fit each other is left to those who use them.
fn key_pair_problem(secret: &Object) -> Option<String> {
    let (certificate, key) = ("CERTIFICATE", "PRIVATE KEY");
    let types = pem_types(&decoded(secret, "tls.crt"));
    if !types.iter().any(|kind| kind == certificate) {
        return Some(match types.as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            [only] if only.ends_with(key) => "tls: failed to find certificate PEM data in certificate input, but did find a private key; PEM inputs may have been switched".to_owned(),
            types => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
                types.join(" ")
            ),
        });
    }
    let types = pem_types(&decoded(secret, "tls.key"));
    let is_key = |kind: &String| kind == key || kind.ends_with(" PRIVATE KEY");
    if types.iter().any(is_key) {
        return None;
    }
    Some(match types.as_slice() {
        [] => "tls: failed to find any PEM data in key input".to_owned(),
        [only] if only == certificate => {
            "tls: found a certificate rather than a key in the PEM for the private key".to_owned()
        }
        types => format!(
            "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
            types.join(" ")
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_is_encoded() {
        let mut s = json!({"data": {"a": "eA=="}, "stringData": {"b": "y"}});
        Secret.default(&mut s);
        assert_eq!(
            s,
            json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}})
        );
    }

    #[test]
    fn immutable_means_it() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        assert_eq!(
            CONFIG_MAP.validate_update(&json!({"immutable": true, "data": {"a": "2"}}), &old)[0]
                .field,
            "data"
        );
        assert_eq!(
            CONFIG_MAP.validate_update(&json!({"data": {"a": "1"}}), &old)[0].field,
            "immutable"
        );
    }

    #[test]
    fn keys_and_types() {
        assert_eq!(
            CONFIG_MAP.validate_create(&json!({"data": {"a b": ""}}))[0].field,
            "data[a b]"
        );
        let tls = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}});
        assert_eq!(Secret.validate_create(&tls)[0].field, "data[tls.key]");
    }
}
