//! Discovery documents of remote API servers.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use rkube_auth::UserInfo;
use serde_json::{Value, json};

use super::remote::{Aggregator, Remote};
use crate::cache::Cache;

/// The time limit for a server's response.
const DISCOVERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size in bytes of a remote server's document.
pub(super) const MAX_DOCUMENT: usize = 16 << 20;

const ACCEPT: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
     application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// A document and its ETag.
pub(super) struct Document {
    /// The response's status code.
    pub code: StatusCode,
    /// The media type.
    pub kind: String,
    /// The ETag, if the server sent one.
    pub etag: Option<String>,
    /// The body.
    pub bytes: bytes::Bytes,
}

impl Remote {
    /// Fetches a document, unless it still matches `etag`.
    pub(super) async fn fetch(
        &self,
        cache: &Cache,
        path: &str,
        accept: &'static str,
        etag: Option<&str>,
        user: &UserInfo,
    ) -> Result<Document, String> {
        let authority = self.resolve(cache).map_err(|status| status.message)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        if let Some(etag) = etag.and_then(|e| HeaderValue::from_str(e).ok()) {
            headers.insert(header::IF_NONE_MATCH, etag);
        }
        let fetching = async {
            let response = self
                .ask(&authority, Method::GET, path, user, headers)
                .await?;
            let text = |name| {
                let value = response.headers().get(name)?;
                Some(value.to_str().ok()?.to_owned())
            };
            let (kind, etag) = (text(header::CONTENT_TYPE), text(header::ETAG));
            let code = response.status();
            let bytes = Limited::new(response.into_body(), MAX_DOCUMENT)
                .collect()
                .await
                .map_err(|e| e.to_string())?
                .to_bytes();
            Ok(Document {
                code,
                kind: kind.unwrap_or_default(),
                etag,
                bytes,
            })
        };
        match tokio::time::timeout(DISCOVERY_TIMEOUT, fetching).await {
            Ok(result) => result,
            Err(_) => Err("request timed out".into()),
        }
    }

    /// Returns the `APIVersionDiscovery` of this group version.
    pub fn discovery(&self) -> Value {
        let found = self.found.lock().discovery.clone();
        let (mut value, freshness) = match (self.is_available(), found) {
            (true, Some(found)) => ((*found).clone(), "Current"),
            (false, _) | (true, None) => (json!({"version": self.version}), "Stale"),
        };
        value["freshness"] = freshness.into();
        value
    }
}

/// Fetches the server's discovery document, in the aggregated format or else in the unaggregated
/// one.
pub(super) async fn refresh(cache: &Cache, aggregator: &Aggregator, remote: &Remote) {
    match fetch(cache, remote).await {
        Ok(Some((discovery, etag))) => {
            let discovery = Arc::new(discovery);
            let mut found = remote.found.lock();
            let changed = found.discovery.as_ref() != Some(&discovery);
            found.etag = etag;
            if changed {
                found.discovery = Some(discovery);
                drop(found);
                aggregator.touch();
            }
        }
        Ok(None) => {}
        Err(error) => {
            tracing::debug!(%error, name = remote.name, "no discovery from a remote API server");
        }
    }
}

async fn fetch(cache: &Cache, remote: &Remote) -> Result<Option<(Value, Option<String>)>, String> {
    let user = UserInfo {
        name: "system:kube-aggregator".into(),
        groups: vec!["system:masters".into()],
        ..UserInfo::default()
    };
    let etag = remote.found.lock().etag.clone();
    let answer = remote
        .fetch(cache, "/apis", ACCEPT, etag.as_deref(), &user)
        .await?;
    if answer.code == StatusCode::NOT_MODIFIED {
        return Ok(None);
    }
    if answer.code == StatusCode::SERVICE_UNAVAILABLE {
        return Err("the server answered 503".into());
    }
    if answer.code == StatusCode::OK && answer.kind.contains("as=APIGroupDiscoveryList") {
        let list: Value = serde_json::from_slice(&answer.bytes).map_err(|e| e.to_string())?;
        let version = list["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|g| g["metadata"]["name"].as_str() == Some(&remote.group))
            .flat_map(|g| g["versions"].as_array().into_iter().flatten())
            .find(|v| v["version"].as_str() == Some(&remote.version));
        let found = version.map_or_else(|| json!({"version": remote.version}), complete);
        return Ok(Some((found, answer.etag)));
    }
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let answer = remote
        .fetch(cache, &path, "application/json", None, &user)
        .await?;
    if answer.code != StatusCode::OK {
        return Err(format!(
            "failed to download legacy discovery for {path}: {}",
            answer.code.as_u16()
        ));
    }
    let list: Value = serde_json::from_slice(&answer.bytes).map_err(|e| e.to_string())?;
    Ok(Some((from_legacy(&remote.version, &list), None)))
}

/// Adds an empty response kind to resources without one, because old clients require it.
fn complete(version: &Value) -> Value {
    let mut version = version.clone();
    if let Some(map) = version.as_object_mut() {
        map.remove("freshness");
    }
    let none = json!({"group": "", "version": "", "kind": ""});
    for resource in version["resources"].as_array_mut().into_iter().flatten() {
        if !resource["responseKind"].is_object() {
            resource["responseKind"] = none.clone();
        }
        for sub in resource["subresources"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            if !sub["responseKind"].is_object() {
                sub["responseKind"] = none.clone();
            }
        }
    }
    version
}

/// Converts an `APIResourceList` to an `APIVersionDiscovery`.
fn from_legacy(version: &str, list: &Value) -> Value {
    let mut resources: Vec<Value> = Vec::new();
    let at = |resources: &[Value], name: &str| {
        resources
            .iter()
            .position(|r| r["resource"].as_str() == Some(name))
    };
    for item in list["resources"].as_array().into_iter().flatten() {
        let kind = json!({
            "group": item["group"].as_str().unwrap_or_default(),
            "version": item["version"].as_str().unwrap_or_default(),
            "kind": item["kind"].as_str().unwrap_or_default(),
        });
        let scope = if item["namespaced"] == true {
            "Namespaced"
        } else {
            "Cluster"
        };
        let name = item["name"].as_str().unwrap_or_default();
        if let Some((parent, sub)) = name.split_once('/') {
            let index = at(&resources, parent).unwrap_or_else(|| {
                resources.push(json!({"resource": parent, "scope": scope, "responseKind": {"group": "", "version": "", "kind": ""}, "singularResource": "", "verbs": []}));
                resources.len() - 1
            });
            let sub = json!({"subresource": sub, "responseKind": kind, "verbs": item["verbs"]});
            match resources[index]["subresources"].as_array_mut() {
                Some(all) => all.push(sub),
                None => resources[index]["subresources"] = json!([sub]),
            }
            continue;
        }
        let mut resource = json!({
            "resource": name,
            "responseKind": kind,
            "scope": scope,
            "singularResource": item["singularName"].as_str().unwrap_or_default(),
            "verbs": item["verbs"],
        });
        for list in ["shortNames", "categories"] {
            if item[list].is_array() {
                resource[list] = item[list].clone();
            }
        }
        match at(&resources, name) {
            Some(index) => {
                let subs = resources[index].get("subresources").cloned();
                if let Some(subs) = subs {
                    resource["subresources"] = subs;
                }
                resources[index] = resource;
            }
            None => resources.push(resource),
        }
    }
    json!({"version": version, "resources": resources})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_form_becomes_the_new_one() {
        let list = json!({"resources": [
            {"name": "flunders/status", "kind": "Flunder", "namespaced": true, "verbs": ["get"]},
            {"name": "flunders", "singularName": "flunder", "kind": "Flunder", "namespaced": true, "verbs": ["list"], "shortNames": ["fl"]},
        ]});
        assert_eq!(
            from_legacy("v1", &list),
            json!({"version": "v1", "resources": [{
                "resource": "flunders", "scope": "Namespaced", "singularResource": "flunder",
                "responseKind": {"group": "", "version": "", "kind": "Flunder"},
                "verbs": ["list"], "shortNames": ["fl"],
                "subresources": [{
                    "subresource": "status", "verbs": ["get"],
                    "responseKind": {"group": "", "version": "", "kind": "Flunder"},
                }],
            }]})
        );
    }
}
