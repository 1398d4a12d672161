//! OpenAPI documents of remote API servers, merged into this server's documents.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use rkube_auth::UserInfo;
use serde_json::{Map, Value, json};

use super::openapi_v3;
use super::remote::{Aggregator, Remote};
use crate::body::Body;
use crate::cache::Cache;
use crate::call::Call;
use crate::connect;

fn user() -> UserInfo {
    UserInfo {
        name: "system:aggregator".into(),
        groups: vec!["system:masters".into()],
        ..UserInfo::default()
    }
}

impl Remote {
    /// Returns the server's entries of the OpenAPI v3 index.
    pub fn openapi_v3(&self) -> BTreeMap<String, Value> {
        let found = self.found.lock();
        if !found.v2_only {
            return found.v3.clone();
        }
        let Some(part) = &found.v2 else {
            return BTreeMap::new();
        };
        let path = format!("apis/{}/{}", self.group, self.version);
        let url = format!("/openapi/v3/{path}?hash={}", hash(part));
        [(path, json!({"serverRelativeURL": url}))].into()
    }

    /// Returns the OpenAPI v3 document of a server that only has v2, and its hash.
    pub fn converted_v3(&self) -> Option<(Value, String)> {
        let hash = {
            let found = self.found.lock();
            found.v2_only.then_some(())?;
            hash(found.v2.as_ref()?)
        };
        Some((openapi_v3::from_v2(&self.openapi_v2()?), hash))
    }

    /// Returns the server's part of the OpenAPI v2 document.
    pub fn openapi_v2(&self) -> Option<Value> {
        let compressed = self.found.lock().v2.clone()?;
        let mut bytes = Vec::new();
        flate2::read::DeflateDecoder::new(&compressed[..])
            .read_to_end(&mut bytes)
            .ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Serves one of the server's OpenAPI v3 documents unchanged.
    pub async fn openapi_document(
        &self,
        cache: &Cache,
        call: &Call,
    ) -> Result<Response<Body>, String> {
        let authority = self.resolve(cache).map_err(|status| status.message)?;
        let mut headers = HeaderMap::new();
        for name in [header::ACCEPT, header::IF_NONE_MATCH] {
            if let Some(value) = call.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        let path = call.uri.path_and_query().map_or("/", |p| p.as_str());
        let response = self
            .ask(&authority, Method::GET, path, &user(), headers)
            .await?;
        Ok(connect::returned(response))
    }
}

/// Fetches the documents that have changed.
pub(super) async fn refresh(cache: &Cache, aggregator: &Aggregator, remote: &Remote) {
    let mut changed = false;
    match fetch_v3(cache, remote).await {
        Ok(paths) => {
            let mut found = remote.found.lock();
            let v2_only = paths.is_none();
            let paths = paths.unwrap_or_default();
            changed |= found.v3 != paths || found.v2_only != v2_only;
            found.v3 = paths;
            found.v2_only = v2_only;
        }
        Err(error) => {
            tracing::debug!(%error, name = remote.name, "no OpenAPI v3 from a remote API server");
        }
    }
    match fetch_v2(cache, remote).await {
        Ok(Some((part, etag))) => {
            let mut found = remote.found.lock();
            changed |= found.v2.as_ref() != Some(&part);
            found.v2 = Some(part);
            found.v2_etag = etag;
        }
        Ok(None) => {}
        Err(error) => {
            tracing::debug!(%error, name = remote.name, "no OpenAPI v2 from a remote API server");
        }
    }
    if changed {
        aggregator.touch();
    }
}

/// Returns the hash that identifies the version of a document.
fn hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    hex::encode(digest).to_uppercase()
}

/// Returns the entries of the OpenAPI v3 index; `None` if the server has no OpenAPI v3.
async fn fetch_v3(
    cache: &Cache,
    remote: &Remote,
) -> Result<Option<BTreeMap<String, Value>>, String> {
    let answer = remote
        .fetch(cache, "/openapi/v3", "application/json", None, &user())
        .await?;
    if answer.code == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if answer.code != StatusCode::OK {
        return Err(format!("the server answered {}", answer.code.as_u16()));
    }
    let index: Value = serde_json::from_slice(&answer.bytes).map_err(|e| e.to_string())?;
    let mine = format!("apis/{}/{}", remote.group, remote.version);
    let group = format!("apis/{}", remote.group);
    let paths = index["paths"].as_object().into_iter().flatten();
    Ok(Some(
        paths
            .filter(|(path, _)| **path == mine || **path == group)
            .map(|(path, value)| (path.clone(), value.clone()))
            .collect(),
    ))
}

async fn fetch_v2(
    cache: &Cache,
    remote: &Remote,
) -> Result<Option<(Bytes, Option<String>)>, String> {
    let etag = remote.found.lock().v2_etag.clone();
    let answer = remote
        .fetch(
            cache,
            "/openapi/v2",
            "application/json",
            etag.as_deref(),
            &user(),
        )
        .await?;
    if answer.code == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    if answer.code != StatusCode::OK {
        return Err(format!("the server answered {}", answer.code.as_u16()));
    }
    let document: Value = serde_json::from_slice(&answer.bytes).map_err(|e| e.to_string())?;
    let part = filter_v2(
        document,
        &format!("/apis/{}/{}/", remote.group, remote.version),
    );
    let bytes = serde_json::to_vec(&part).map_err(|e| e.to_string())?;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    let compressed = encoder
        .write_all(&bytes)
        .and_then(|()| encoder.finish())
        .map_err(|e| e.to_string())?;
    Ok(Some((compressed.into(), answer.etag)))
}

const DEFINITION: &str = "#/definitions/";

/// Returns the paths under `prefix`, the definitions that they refer to, and the document's global
/// members.
fn filter_v2(mut document: Value, prefix: &str) -> Value {
    let all = match document["definitions"].take() {
        Value::Object(all) => all,
        _ => Map::new(),
    };
    let paths: Map<String, Value> = match document["paths"].take() {
        Value::Object(paths) => paths
            .into_iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .collect(),
        _ => Map::new(),
    };
    let paths = Value::Object(paths);
    let mut wanted = BTreeSet::new();
    references(&paths, &mut wanted);
    let mut definitions = Map::new();
    while let Some(name) = wanted.pop_first() {
        if definitions.contains_key(&name) {
            continue;
        }
        if let Some(definition) = all.get(&name) {
            references(definition, &mut wanted);
            definitions.insert(name, definition.clone());
        }
    }
    let mut part = json!({"paths": paths, "definitions": definitions});
    for shared in [
        "parameters",
        "responses",
        "info",
        "externalDocs",
        "consumes",
        "produces",
        "securityDefinitions",
    ] {
        if !document[shared].is_null() {
            part[shared] = document[shared].take();
        }
    }
    part
}

fn references(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value.as_str().and_then(|v| v.strip_prefix(DEFINITION)) {
                    Some(name) if key == "$ref" => {
                        out.insert(name.to_owned());
                    }
                    _ => references(value, out),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, out)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter_mut() {
                let renamed = value
                    .as_str()
                    .and_then(|v| v.strip_prefix(DEFINITION))
                    .filter(|_| key == "$ref")
                    .and_then(|name| names.get(name));
                match renamed {
                    Some(name) => *value = format!("{DEFINITION}{name}").into(),
                    None => rename(value, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// Merges a remote server's part into this server's document. A definition whose name is in use
/// with another content is renamed to `NAME_v2` and so on.
pub fn merge_v2(document: &mut Value, mut part: Value) {
    let mut names = BTreeMap::new();
    if let Some(theirs) = part["definitions"].as_object() {
        for (name, definition) in theirs {
            let ours = &document["definitions"];
            let mut free = name.clone();
            let mut number = 1;
            while ours.get(&free).is_some_and(|d| d != definition) {
                number += 1;
                free = format!("{name}_v{number}");
            }
            if free != *name {
                names.insert(name.clone(), free);
            }
        }
    }
    if !names.is_empty() {
        rename(&mut part, &names);
    }
    for section in ["paths", "definitions", "parameters", "responses"] {
        let Value::Object(theirs) = part[section].take() else {
            continue;
        };
        if !document[section].is_object() {
            document[section] = Value::Object(Map::new());
        }
        if let Some(ours) = document[section].as_object_mut() {
            for (key, value) in theirs {
                let key = match names.get(&key) {
                    Some(renamed) if section == "definitions" => renamed.clone(),
                    _ => key,
                };
                ours.entry(key).or_insert(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Value {
        json!({
            "paths": {"/apis/x/v1/": {"a": {"$ref": "#/definitions/A"}}, "/version": {"b": {"$ref": "#/definitions/B"}}},
            "definitions": {"A": {"c": [{"$ref": "#/definitions/C"}]}, "B": {}, "C": {"type": "string"}},
        })
    }

    #[test]
    fn only_what_the_group_version_needs_is_kept() {
        let part = filter_v2(remote(), "/apis/x/v1/");
        assert_eq!(
            part,
            json!({"paths": {"/apis/x/v1/": {"a": {"$ref": "#/definitions/A"}}},
                "definitions": {"A": {"c": [{"$ref": "#/definitions/C"}]}, "C": {"type": "string"}}})
        );
    }

    #[test]
    fn other_meanings_get_other_names() {
        let mut document = json!({"paths": {}, "definitions": {"C": {"type": "integer"}}});
        merge_v2(&mut document, filter_v2(remote(), "/apis/x/v1/"));
        assert_eq!(
            document["definitions"],
            json!({"A": {"c": [{"$ref": "#/definitions/C_v2"}]}, "C": {"type": "integer"}, "C_v2": {"type": "string"}})
        );
        assert!(document["paths"]["/apis/x/v1/"].is_object());
    }
}
