//! Config maps, secrets and service accounts.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use crate::errors::{Errors, keyed};
use crate::generic::{self, Rules};
use crate::tree::{at, ensure, entries, flag, has, remove, same_at, text};
use crate::{Context, Strategy, names};

/// Maximum total size of the data of a secret or config map, in bytes.
const SIZE_MAX: usize = 1024 * 1024;

/// The strategy of kind `ConfigMap`.
pub(crate) static CONFIG_MAP: Rules = Rules {
    validate: config_map,
    validate_update: config_map_update,
    ..Rules::PLAIN
};

/// The strategy of kind `ServiceAccount`.
pub(crate) static SERVICE_ACCOUNT: Rules = Rules::PLAIN;

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
    let decoded = |key: &str| -> Vec<u8> {
        at(obj, "data")
            .get(key)
            .and_then(Value::as_str)
            .and_then(|s| STANDARD.decode(s).ok())
            .unwrap_or_default()
    };
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

fn json_only(errors: &mut Errors, obj: &Object, key: &str, bytes: &[u8]) {
    if !has(obj, "data") || at(obj, "data").get(key).is_none() {
        return;
    }
    if let Err(e) = serde_json::from_slice::<serde_json::Map<String, Value>>(bytes) {
        errors.invalid(
            keyed("data", key),
            "<secret contents redacted>",
            e.to_string(),
        );
    }
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
