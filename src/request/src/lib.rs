//! Parses the method, path and query of an API request into its attributes.

use std::borrow::Cow;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// The decoded query parameters of a request.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c=d`. Invalid percent-encodings are kept as they are.
    pub fn parse(query: &str) -> Self {
        Self(
            query
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (
                        decode(key, true).into_owned(),
                        decode(value, true).into_owned(),
                    )
                })
                .collect(),
        )
    }

    /// Returns the first value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Returns the first value of `key` unless it is empty.
    pub fn non_empty(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|v| !v.is_empty())
    }

    /// Returns every value of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Returns the parameters in encoded form, without the leading question mark.
    pub fn encoded(&self) -> String {
        let pairs: Vec<String> = self
            .0
            .iter()
            .map(|(k, v)| format!("{}={}", encode(k), encode(v)))
            .collect();
        pairs.join("&")
    }

    /// Returns whether the boolean parameter `key` is set. Follows upstream's conversion of query
    /// values: every value except "false" (any case) and "0" is true, and so is an empty one.
    pub fn is_true(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|v| !v.eq_ignore_ascii_case("false") && v != "0")
    }
}

/// Decodes percent-encoding; with `plus_is_space`, `+` decodes to a space, as in queries.
pub fn decode(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    if !(text.contains('%') || plus_is_space && text.contains('+')) {
        return Cow::Borrowed(text);
    }
    let text = if plus_is_space && text.contains('+') {
        Cow::Owned(text.replace('+', " "))
    } else {
        Cow::Borrowed(text)
    };
    let decoded = percent_encoding::percent_decode_str(&text);
    Cow::Owned(decoded.decode_utf8_lossy().into_owned())
}

/// The characters to encode: all but the unreserved ones of RFC 3986, section 2.3.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Percent-encodes a query value.
pub fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, RESERVED).to_string()
}

/// The attributes of a request, as upstream's `RequestInfoFactory` derives them.
#[derive(Clone, Debug, Default)]
pub struct RequestInfo {
    /// Whether the path names an API resource, in contrast to `/version` and similar paths.
    pub is_resource: bool,
    /// The decoded path.
    pub path: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`; for
    /// non-resource paths, the method in lower case.
    pub verb: &'static str,
    /// The API group, empty for the core group.
    pub group: String,
    /// The API version.
    pub version: String,
    /// The namespace; empty if the path has none.
    pub namespace: String,
    /// The plural resource name.
    pub resource: String,
    /// The path segment after the name; empty if there is none.
    pub subresource: String,
    /// The object's name; empty for collections.
    pub name: String,
    /// The rest of the path after the subresource (for proxies), percent-encoded, with its leading
    /// slash.
    pub rest: String,
    /// The query parameters.
    pub query: Query,
}

/// Segments that after `namespaces/NAME/` are subresources of the namespace, not resources in it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Derives the attributes of a request. `raw_path` and `query` are percent-encoded.
    pub fn parse(method: &Method, raw_path: &str, query: &str) -> Self {
        let query = Query::parse(query);
        let mut info = Self {
            path: decode(raw_path, false).into_owned(),
            verb: method_verb(method),
            query,
            ..Self::default()
        };
        let segments: Vec<&str> = raw_path.trim_matches('/').split('/').collect();
        let mut parts = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = (*group).to_owned();
                info.version = (*version).to_owned();
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        };
        // The deprecated form `/api/v1/watch/...`: a list under it is a watch.
        let mut forced_watch = false;
        if parts[0] == "watch" && parts.len() > 1 {
            forced_watch = true;
            parts = &parts[1..];
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            info.namespace = decode(parts[1], false).into_owned();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                parts = &parts[2..];
            }
        }
        info.resource = decode(parts[0], false).into_owned();
        if let Some(name) = parts.get(1) {
            info.name = decode(name, false).into_owned();
        }
        if let Some(subresource) = parts.get(2) {
            info.subresource = decode(subresource, false).into_owned();
            // Keep the rest as it was sent, including a trailing slash.
            let marker = format!("/{}/{}/{}", parts[0], parts[1], parts[2]);
            if let Some(at) = raw_path.find(&marker) {
                info.rest = raw_path[at + marker.len()..].to_owned();
            }
        }
        if info.name.is_empty() {
            match info.verb {
                "get" => {
                    info.verb = if info.query.is_true("watch") {
                        "watch"
                    } else {
                        "list"
                    }
                }
                "delete" => info.verb = "deletecollection",
                _ => {}
            }
            if matches!(info.verb, "list" | "watch" | "deletecollection") {
                // A field selector for a single name is authorized as a request for that name.
                if let Some(name) = info.query.get("fieldSelector").and_then(single_name) {
                    info.name = name.to_owned();
                }
            }
        } else if info.verb == "get" && info.subresource.is_empty() && info.query.is_true("watch") {
            info.verb = "watch";
        }
        if forced_watch && matches!(info.verb, "list" | "get") {
            info.verb = "watch";
        }
        info
    }

    /// Returns whether the request is exempt from the request timeout: watches and streams.
    pub fn is_long_running(&self) -> bool {
        self.is_resource
            && (self.verb == "watch"
                || matches!(
                    self.subresource.as_str(),
                    "proxy" | "exec" | "attach" | "portforward"
                )
                || (self.subresource == "log" && self.query.is_true("follow")))
    }
}

/// Returns whether the method is GET or HEAD.
pub fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

fn method_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

/// Returns the name in `metadata.name=NAME`, if the selector requires exactly one name.
fn single_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|term| {
        let name = term.trim().strip_prefix("metadata.name=")?;
        let name = name.strip_prefix('=').unwrap_or(name);
        (!name.is_empty()).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str, query: &str) -> RequestInfo {
        RequestInfo::parse(&method, path, query)
    }

    #[test]
    fn takes_paths_apart() {
        let cases = [
            (
                Method::GET,
                "/api/v1/namespaces",
                "",
                "list",
                "",
                "",
                "namespaces",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/other",
                "",
                "get",
                "",
                "other",
                "namespaces",
                "",
                "other",
            ),
            (
                Method::PUT,
                "/api/v1/namespaces/other/finalize",
                "",
                "update",
                "",
                "other",
                "namespaces",
                "finalize",
                "other",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/other/pods",
                "",
                "list",
                "",
                "other",
                "pods",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/other/pods/foo",
                "",
                "get",
                "",
                "other",
                "pods",
                "",
                "foo",
            ),
            (
                Method::GET,
                "/api/v1/namespaces/other/pods/foo/log",
                "",
                "get",
                "",
                "other",
                "pods",
                "log",
                "foo",
            ),
            (
                Method::GET,
                "/api/v1/pods",
                "watch=true",
                "watch",
                "",
                "",
                "pods",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/pods",
                "watch=false",
                "list",
                "",
                "",
                "pods",
                "",
                "",
            ),
            (
                Method::DELETE,
                "/api/v1/namespaces/other/pods",
                "",
                "deletecollection",
                "",
                "other",
                "pods",
                "",
                "",
            ),
            (
                Method::POST,
                "/apis/apps/v1/namespaces/x/deployments",
                "",
                "create",
                "apps",
                "x",
                "deployments",
                "",
                "",
            ),
            (
                Method::GET,
                "/api/v1/watch/namespaces/other/pods",
                "",
                "watch",
                "",
                "other",
                "pods",
                "",
                "",
            ),
        ];
        for (method, path, query, verb, group, namespace, resource, subresource, name) in cases {
            let info = parse(method, path, query);
            assert!(info.is_resource, "{path}");
            assert_eq!(
                (
                    info.verb,
                    &*info.group,
                    &*info.namespace,
                    &*info.resource,
                    &*info.subresource,
                    &*info.name
                ),
                (verb, group, namespace, resource, subresource, name),
                "{path}"
            );
        }
    }

    #[test]
    fn other_paths_are_not_resources() {
        for path in [
            "/",
            "/api",
            "/api/v1",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/version",
            "/healthz/ping",
        ] {
            let info = parse(Method::GET, path, "");
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }

    #[test]
    fn a_proxy_keeps_its_path() {
        let info = parse(
            Method::GET,
            "/api/v1/namespaces/a/pods/http:b:80/proxy/x%2Fy/",
            "z=1",
        );
        assert_eq!(
            (&*info.name, &*info.subresource, &*info.rest),
            ("http:b:80", "proxy", "/x%2Fy/")
        );
        assert!(info.is_long_running());
    }

    #[test]
    fn one_name_is_authorized_as_such() {
        let info = parse(
            Method::GET,
            "/api/v1/nodes",
            "fieldSelector=metadata.name%3Dn1",
        );
        assert_eq!((info.verb, &*info.name), ("list", "n1"));
    }

    #[test]
    fn decodes() {
        assert_eq!(decode("a%20b%zz+", false), "a b%zz+");
        assert_eq!(decode("a+b", true), "a b");
        assert_eq!(encode("a b/ü"), "a%20b%2F%C3%BC");
    }
}
