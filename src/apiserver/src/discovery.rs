//! Discovery (`/api`, `/apis`), `/version` and the other non-resource paths.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};

use rkube_api::status::Status;
use serde_json::{Value, json};

use crate::ApiServer;
use crate::aggregator;
use crate::aggregator::remote::{Priority, Table};
use crate::body::{self, Body};
use crate::call::Call;
use crate::negotiate::{self, Encoding};
use crate::openapi::etag_matches;
use crate::resources::{Resource, Snapshot};
use crate::respond;
use rkube_request::is_read;

/// Serves a non-resource path.
pub async fn handle(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, Status> {
    let path = call.info.path.trim_end_matches('/');
    if !is_read(&call.method) {
        return Err(Status::method_not_allowed());
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    if call.method == http::Method::HEAD
        && matches!(parts.as_slice(), ["api" | "apis" | "version", ..])
    {
        return Err(Status::method_not_allowed());
    }
    let answer = match parts.as_slice() {
        [] => json!({"paths": root_paths(server)}),
        ["version"] => version(server),
        ["api"] | ["apis"] if aggregated_version(call).is_some() => {
            return aggregated(server, call, parts[0] == "api").await;
        }
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{
                "clientCIDR": "0.0.0.0/0",
                "serverAddress": std::net::SocketAddr::new(server.backend().config.advertise_ip, server.backend().config.advertise_port).to_string(),
            }],
        }),
        ["apis"] => {
            let served = Served::now(server);
            let groups: Vec<Value> = served
                .groups()
                .iter()
                .map(|g| group_value(&served, g, false))
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", group] => {
            let served = Served::now(server);
            if !served.groups().iter().any(|g| g == group) {
                return Ok(respond::nothing_here());
            }
            group_value(&served, group, true)
        }
        ["api", version] => resource_list(server, "", version)?,
        ["apis", group, _] if !Served::now(server).groups().iter().any(|g| g == group) => {
            return Ok(respond::nothing_here());
        }
        ["apis", group, version] => resource_list(server, group, version)?,
        [".well-known", "openid-configuration"] => {
            let jwks = format!(
                "https://{}/openid/v1/jwks",
                std::net::SocketAddr::new(
                    server.backend().config.advertise_ip,
                    server.backend().config.advertise_port
                )
            );
            rkube_auth::token::openid_configuration(server.security.signer.issuer(), &jwks)
        }
        ["openid", "v1", "jwks"] => {
            let keys = rkube_auth::token::jwks(std::slice::from_ref(
                &server.backend().config.pki.service_account_pub,
            ))
            .map_err(Status::internal)?;
            let mut response = respond::value(call, StatusCode::OK, Encoding::Json, &keys).await;
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/jwk-set+json"),
            );
            return Ok(response);
        }
        _ => return Ok(respond::nothing_here()),
    };
    let encoding = negotiate::accept(&call.headers, negotiate::MediaTypes::Plain)?.encoding;
    Ok(respond::value(call, StatusCode::OK, encoding, &answer).await)
}

fn root_paths(server: &ApiServer) -> Vec<String> {
    let served = Served::now(server);
    let mut paths: Vec<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
    ]
    .map(String::from)
    .into();
    for group in served.groups() {
        paths.push(format!("/apis/{group}"));
        paths.extend(
            served
                .versions(&group)
                .iter()
                .map(|v| format!("/apis/{group}/{v}")),
        );
    }
    paths.extend(
        [
            "/healthz",
            "/livez",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/version",
        ]
        .map(String::from),
    );
    paths
}

fn version(server: &ApiServer) -> Value {
    let version = &server.backend().config.version;
    let mut numbers = version.trim_start_matches('v').split('.');
    let major = numbers.next().unwrap_or("1");
    let minor = numbers.next().unwrap_or_default();
    json!({
        "major": major,
        "minor": minor,
        "emulationMajor": major,
        "emulationMinor": minor,
        "minCompatibilityMajor": major,
        "minCompatibilityMinor": minor.parse::<u32>().map_or_else(|_| String::new(), |m| m.saturating_sub(1).to_string()),
        "gitVersion": version,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{}", match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

/// Everything served at one moment, by this server and by aggregated servers.
struct Served {
    snapshot: Arc<Snapshot>,
    remotes: Arc<Table>,
}

impl Served {
    fn now(server: &ApiServer) -> Self {
        Self {
            snapshot: server.backend().resources.snapshot(),
            remotes: server.aggregator.table(),
        }
    }

    /// Returns each group version once, with its priority.
    fn all(&self) -> Vec<(&str, &str, Priority)> {
        let mut all: Vec<(&str, &str, Priority)> = self
            .remotes
            .iter()
            .map(|((group, version), entry)| (&**group, &**version, entry.priority))
            .collect();
        for resource in &self.snapshot.all {
            let (group, version) = (&*resource.group, &*resource.version);
            if !all.iter().any(|(g, v, _)| *g == group && *v == version) {
                let priority = aggregator::local::priority(group, version);
                all.push((group, version, priority));
            }
        }
        all
    }

    /// Returns the served named groups in discovery order. A group's priority is the highest one of
    /// its versions.
    fn groups(&self) -> Vec<String> {
        let mut groups: Vec<(&str, i64)> = Vec::new();
        for (group, _, priority) in self.all() {
            match groups.iter_mut().find(|(g, _)| *g == group) {
                Some((_, best)) => *best = (*best).max(priority.group),
                None if group.is_empty() => {}
                None => groups.push((group, priority.group)),
            }
        }
        groups.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        groups.into_iter().map(|(g, _)| g.to_owned()).collect()
    }

    /// Returns the versions of a group, preferred version first.
    fn versions(&self, group: &str) -> Vec<String> {
        let mut versions = self.all();
        versions.retain(|(g, ..)| *g == group);
        versions.sort_by(|(_, a, x), (_, b, y)| {
            y.version
                .cmp(&x.version)
                .then_with(|| version_priority(b).cmp(&version_priority(a)))
                .then_with(|| a.cmp(b))
        });
        versions
            .into_iter()
            .map(|(_, version, _)| version.to_owned())
            .collect()
    }
}

/// Returns a sort key for version names: GA over beta over alpha, then higher numbers; names of
/// another form rank lowest.
pub fn version_priority(version: &str) -> (u8, u32, u32) {
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        if tail.is_empty() {
            return Some((3, major, 0));
        }
        let (rank, minor) = match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
            (Some(minor), _) => (2, minor),
            (_, Some(minor)) => (1, minor),
            _ => return None,
        };
        Some((rank, major, minor.parse().ok()?))
    };
    parse().unwrap_or((0, 0, 0))
}

fn group_value(served: &Served, group: &str, alone: bool) -> Value {
    let versions: Vec<Value> = served
        .versions(group)
        .iter()
        .map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
        .collect();
    let mut value = json!({"name": group, "versions": versions, "preferredVersion": versions[0]});
    if alone {
        value["kind"] = "APIGroup".into();
        value["apiVersion"] = "v1".into();
    }
    value
}

/// Returns the verbs of a resource in upstream's order.
fn verbs(resource: &Resource) -> &'static [&'static str] {
    const CUSTOM: &[&str] = &[
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "create",
        "update",
        "watch",
    ];
    match resource.crd_version() {
        Some(_) => CUSTOM,
        None => resource.verbs,
    }
}

fn resource_list(server: &ApiServer, group: &str, version: &str) -> Result<Value, Status> {
    let snapshot = server.backend().resources.snapshot();
    let mut resources = Vec::new();
    for resource in snapshot
        .all
        .iter()
        .filter(|r| r.group == group && r.version == version)
    {
        let mut value = json!({
            "name": &*resource.plural,
            "singularName": &*resource.singular,
            "namespaced": resource.namespaced,
            "kind": &*resource.kind,
            "verbs": verbs(resource),
        });
        if !resource.short_names.is_empty() {
            value["shortNames"] = json!(resource.short_names);
        }
        if !resource.categories.is_empty() {
            value["categories"] = json!(resource.categories);
        }
        if resource.is_stored() {
            value["storageVersionHash"] = storage_hash(resource).into();
        }
        resources.push(value);
        for sub in &resource.subresources {
            let mut value = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind.kind,
                "verbs": sub.verbs,
            });
            if sub.kind.group != resource.group || sub.kind.version != resource.version {
                value["group"] = sub.kind.group.as_str().into();
                value["version"] = sub.kind.version.as_str().into();
            }
            resources.push(value);
        }
    }
    if resources.is_empty() {
        return Err(Status::page_not_found());
    }
    // Upstream lists custom resources in their own order.
    if snapshot.has_builtin(group) {
        resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    }
    Ok(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": rkube_api::gvk::api_version(group, version),
        "resources": resources,
    }))
}

/// Returns the hash of the storage version in discovery, which clients compare to detect a change.
fn storage_hash(resource: &Resource) -> String {
    use base64::Engine as _;
    let text = format!("{}/{}", resource.storage_api_version(), resource.kind);
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(&digest.as_ref()[..8])
}

/// Returns the version of aggregated discovery that the client prefers to the unaggregated format,
/// if any.
fn aggregated_version(call: &Call) -> Option<&'static str> {
    let accept = call.headers.get_all(header::ACCEPT);
    for clause in accept
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
    {
        let params: Vec<&str> = clause.split(';').map(str::trim).collect();
        if params[0] != "application/json" {
            continue;
        }
        if !params.contains(&"as=APIGroupDiscoveryList") {
            if params[1..].iter().all(|p| !p.starts_with("as=")) {
                return None;
            }
            continue;
        }
        if !params.contains(&"g=apidiscovery.k8s.io") {
            continue;
        }
        if params.contains(&"v=v2") {
            return Some("v2");
        }
        if params.contains(&"v=v2beta1") {
            return Some("v2beta1");
        }
    }
    None
}

async fn aggregated(
    server: &Arc<ApiServer>,
    call: &Call,
    core: bool,
) -> Result<Response<Body>, Status> {
    let form = aggregated_version(call).unwrap_or("v2");
    let served = Served::now(server);
    let names = if core {
        vec![String::new()]
    } else {
        served.groups()
    };
    let items: Vec<Value> = names
        .iter()
        .map(|group| {
            let versions: Vec<Value> = served
                .versions(group)
                .iter()
                .map(|version| {
                    if let Some(entry) = served.remotes.get(&(group.clone(), version.clone())) {
                        return entry.remote.discovery();
                    }
                    let mut resources: Vec<&Arc<Resource>> = served
                        .snapshot
                        .all
                        .iter()
                        .filter(|r| r.group == *group && r.version == *version)
                        .collect();
                    resources.sort_by(|a, b| a.plural.cmp(&b.plural));
                    let resources: Vec<Value> =
                        resources.iter().map(|r| aggregated_resource(r)).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            let mut meta = json!({});
            if !group.is_empty() {
                meta["name"] = group.as_str().into();
            }
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    let list = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {},
        "items": items,
    });
    let bytes: Bytes = serde_json::to_vec(&list).map_err(Status::internal)?.into();
    let digest = ring::digest::digest(&ring::digest::SHA512, &bytes);
    let etag = format!("\"{}\"", hex::encode(digest).to_uppercase());
    let mut response = if etag_matches(call, &etag) {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(call, StatusCode::OK, Encoding::Json, bytes).await
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    let kind = format!("application/json;g=apidiscovery.k8s.io;v={form};as=APIGroupDiscoveryList");
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_str(&kind).map_err(Status::internal)?,
    );
    headers.insert(
        header::ETAG,
        HeaderValue::from_str(&etag).map_err(Status::internal)?,
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(response)
}

fn aggregated_resource(resource: &Resource) -> Value {
    let scope = if resource.namespaced {
        "Namespaced"
    } else {
        "Cluster"
    };
    // As upstream, the group and version of a built-in kind are left out where they are those of
    // the document.
    let builtin = resource.crd_version().is_none();
    let kind = |group: &str, version: &str, kind: &str| {
        let own = builtin && group == resource.group && version == resource.version;
        let (group, version) = if own { ("", "") } else { (group, version) };
        json!({"group": group, "version": version, "kind": kind})
    };
    let mut value = json!({
        "resource": &*resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": scope,
        "singularResource": &*resource.singular,
        "verbs": verbs(resource),
    });
    if !resource.short_names.is_empty() {
        value["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        value["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subs: Vec<Value> = resource
            .subresources
            .iter()
            .map(|s| {
                json!({
                    "subresource": &*s.name,
                    "responseKind": kind(&s.kind.group, &s.kind.version, &s.kind.kind),
                    "verbs": s.verbs,
                })
            })
            .collect();
        value["subresources"] = Value::Array(subs);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rank_as_upstream() {
        let mut all = vec!["v1alpha1", "foo", "v2", "v1", "v1beta2", "v1beta1", "v10"];
        all.sort_by_key(|v| std::cmp::Reverse(version_priority(v)));
        assert_eq!(
            all,
            ["v10", "v2", "v1", "v1beta2", "v1beta1", "v1alpha1", "foo"]
        );
    }
}
