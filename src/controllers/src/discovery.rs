//! Discovery of the resources that the API server serves, for controllers that handle all of them.

use serde_json::Value;

use crate::context::{Context, Error, Result};
use crate::served::Served;

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn verbs(value: &Value) -> Vec<String> {
    let verbs = value["verbs"].as_array();
    verbs
        .into_iter()
        .flatten()
        .filter_map(|verb| verb.as_str().map(str::to_owned))
        .collect()
}

/// Parses an `APIGroupDiscoveryList`.
///
/// Returns each resource in the first (preferred) version that serves it, and the group versions
/// whose servers did not respond (`Stale`).
pub fn parse_aggregated(list: &Value) -> (Vec<Served>, Vec<String>) {
    let mut found: Vec<Served> = Vec::new();
    let mut failed = Vec::new();
    for group in list["items"].as_array().into_iter().flatten() {
        let name = text(group, "/metadata/name");
        for version in group["versions"].as_array().into_iter().flatten() {
            let number = text(version, "/version");
            if text(version, "/freshness") == "Stale" {
                failed.push(format!("{name}/{number}"));
            }
            for resource in version["resources"].as_array().into_iter().flatten() {
                let plural = text(resource, "/resource");
                if found
                    .iter()
                    .any(|known| known.group == name && known.plural == plural)
                {
                    continue;
                }
                found.push(Served {
                    group: name.to_owned(),
                    version: number.to_owned(),
                    plural: plural.to_owned(),
                    kind: text(resource, "/responseKind/kind").to_owned(),
                    namespaced: text(resource, "/scope") == "Namespaced",
                    verbs: verbs(resource),
                });
            }
        }
    }
    (found, failed)
}

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

async fn fetch(ctx: &Context, path: &str) -> Result<Value> {
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, AGGREGATED)
        .body(Vec::new())
        .map_err(|error| Error::Api(kube::Error::HttpError(error)))?;
    Ok(ctx.client.request(request).await?)
}

/// Returns all served resources, and the group versions that cannot be discovered now.
pub async fn discover(ctx: &Context) -> Result<(Vec<Served>, Vec<String>)> {
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for path in ["/api", "/apis"] {
        let list = fetch(ctx, path).await?;
        if list["kind"] == "APIGroupDiscoveryList" {
            let (more, stale) = parse_aggregated(&list);
            found.extend(more);
            failed.extend(stale);
            continue;
        }
        // Without aggregated discovery, send one request per group version.
        let mut versions: Vec<String> = Vec::new();
        for version in list["versions"].as_array().into_iter().flatten() {
            versions.push(format!("/api/{}", version.as_str().unwrap_or_default()));
        }
        for group in list["groups"].as_array().into_iter().flatten() {
            let preferred = text(group, "/preferredVersion/groupVersion").to_owned();
            versions.push(format!("/apis/{preferred}"));
            for version in group["versions"].as_array().into_iter().flatten() {
                let version = text(version, "/groupVersion");
                if version != preferred {
                    versions.push(format!("/apis/{version}"));
                }
            }
        }
        for path in versions {
            match fetch(ctx, &path).await {
                Ok(list) => add_legacy(&mut found, &list),
                Err(error) => {
                    tracing::debug!(path, %error, "cannot discover");
                    failed.push(path.trim_start_matches("/apis/").to_owned());
                }
            }
        }
    }
    Ok((found, failed))
}

fn add_legacy(found: &mut Vec<Served>, list: &Value) {
    let group_version = text(list, "/groupVersion");
    let (group, version) = group_version.split_once('/').unwrap_or(("", group_version));
    for resource in list["resources"].as_array().into_iter().flatten() {
        let plural = text(resource, "/name");
        let known = found
            .iter()
            .any(|known| known.group == group && known.plural == plural);
        if plural.contains('/') || known {
            continue;
        }
        found.push(Served {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: plural.to_owned(),
            kind: text(resource, "/kind").to_owned(),
            namespaced: resource["namespaced"] == true,
            verbs: verbs(resource),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_preferred_version_of_each_resource_counts() {
        let resource = |name: &str, kind: &str| json!({"resource": name, "responseKind": {"kind": kind}, "scope": "Namespaced", "verbs": ["list", "delete"]});
        let list = json!({"items": [{
            "metadata": {"name": "apps.example"},
            "versions": [
                {"version": "v2", "resources": [resource("boats", "Boat")]},
                {"version": "v1", "freshness": "Stale", "resources": [resource("boats", "Boat"), resource("cars", "Car")]},
            ],
        }]});
        let (found, failed) = parse_aggregated(&list);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[0].path("ns"),
            "/apis/apps.example/v2/namespaces/ns/boats"
        );
        assert_eq!(found[1].api_version(), "apps.example/v1");
        assert!(found[0].can("delete") && !found[0].can("watch"));
        assert_eq!(failed, ["apps.example/v1"]);
    }
}
