//! Parses the method, path and query of an API request into its attributes.

use std::borrow::Cow;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

/// The decoded query parameters of a request.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses `a=b&c=d`. As by Go's parser, what has an invalid percent-encoding or a semicolon is
    /// left out.
    pub fn parse(query: &str) -> Self {
        Self(
            query
                .split('&')
                .filter(|pair| !pair.is_empty() && !pair.contains(';') && is_encoded(pair))
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

/// Returns whether each percent sign begins an encoded byte.
fn is_encoded(text: &str) -> bool {
    let mut parts = text.split('%');
    parts.next();
    parts.all(|part| {
        let digits = part.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// Percent-encodes a query value.
pub fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, RESERVED).to_string()
}

/// The characters to encode in a path: all but the unreserved ones, the separator, and those that
/// Go's `net/url` leaves as they are in a path.
const RESERVED_IN_PATHS: &AsciiSet = &RESERVED
    .remove(b'/')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b':')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

/// Percent-encodes a decoded path. Slashes are kept as separators.
pub fn encode_path(path: &str) -> String {
    percent_encoding::utf8_percent_encode(path, RESERVED_IN_PATHS).to_string()
}

/// The attributes of a request, as upstream's `RequestInfoFactory` derives them.
///
/// They are derived once, from the decoded path, so that an encoded slash separates segments like
/// any other. Authorization, dispatch and forwarding all use these attributes and never the path
/// as it was sent.
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
    /// Whether the path has the resource below a namespace, as in `namespaces/NS/pods`. False for
    /// a namespace itself (`namespaces/NS`), although [`namespace`](Self::namespace) is set for it.
    pub in_namespace: bool,
    /// Whether the path has the deprecated prefix `watch/`.
    pub watch_prefix: bool,
    /// The plural resource name.
    pub resource: String,
    /// The path segment after the name; empty if there is none.
    pub subresource: String,
    /// The object's name; empty for collections. For a list or watch of a single object, the name
    /// in its field selector.
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
        let mut info = Self {
            path: decode(raw_path, false).into_owned(),
            verb: method_verb(method),
            query: Query::parse(query),
            ..Self::default()
        };
        let path = std::mem::take(&mut info.path);
        info.read_path(method, &path);
        info.path = path;
        info
    }

    /// Reads the attributes of a resource request from the decoded path.
    fn read_path(&mut self, method: &Method, path: &str) {
        let trimmed = path.trim_start_matches('/').trim_end_matches('/');
        let segments: Vec<&str> = trimmed.split('/').collect();
        let mut parts = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                self.version = (*version).to_owned();
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                self.group = (*group).to_owned();
                self.version = (*version).to_owned();
                rest
            }
            _ => return,
        };
        self.is_resource = true;
        self.verb = resource_verb(method);
        if parts[0] == "watch" && parts.len() > 1 {
            self.watch_prefix = true;
            self.verb = "watch";
            parts = &parts[1..];
        }
        if parts[0] == "namespaces" && parts.len() > 1 {
            self.namespace = parts[1].to_owned();
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2]) {
                self.in_namespace = true;
                parts = &parts[2..];
            }
        }
        self.resource = parts[0].to_owned();
        if let Some(name) = parts.get(1) {
            self.name = (*name).to_owned();
        }
        if let Some(subresource) = parts.get(2) {
            self.subresource = (*subresource).to_owned();
            // Everything after the subresource, including a trailing slash.
            let before = segments.len() - parts.len() + 3;
            let length: usize = segments[..before].iter().map(|s| s.len() + 1).sum();
            let start = path.len() - path.trim_start_matches('/').len();
            self.rest = encode_path(path.get(start + length - 1..).unwrap_or_default());
        }
        if self.name.is_empty() {
            self.read_collection();
        }
    }

    /// Refines the verb of a request without a name.
    fn read_collection(&mut self) {
        match self.verb {
            "get" => {
                self.verb = if self.query.is_true("watch") {
                    "watch"
                } else {
                    "list"
                };
                // A field selector for a single name is authorized as a request for that name.
                if let Some(name) = self.query.get("fieldSelector").and_then(single_name) {
                    self.name = name.to_owned();
                }
            }
            "delete" => self.verb = "deletecollection",
            _ => {}
        }
    }

    /// Returns the name in the path; empty if [`name`](Self::name) comes from a field selector.
    pub fn name_in_path(&self) -> &str {
        let selected = !self.watch_prefix && matches!(self.verb, "list" | "watch");
        if selected { "" } else { &self.name }
    }

    /// Returns a query parameter with a selector, for authorization. It is empty unless the
    /// request's verb uses selectors.
    pub fn selector(&self, key: &str) -> &str {
        let used = matches!(self.verb, "list" | "watch" | "deletecollection");
        if !used || self.watch_prefix {
            return "";
        }
        self.query.get(key).unwrap_or_default()
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

fn resource_verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// Returns the name in `metadata.name=NAME`, if the selector requires exactly one name that an
/// object can have.
fn single_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|term| {
        let name = term.trim().strip_prefix("metadata.name=")?;
        let name = name.strip_prefix('=').unwrap_or(name);
        let possible = !matches!(name, "" | "." | "..") && !name.contains(['/', '%', '\\']);
        possible.then_some(name)
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
        // Verb, group, namespace, resource, subresource and name.
        let cases = [
            ("GET /api/v1/namespaces", "list,,,namespaces,,"),
            ("GET /api/v1/namespaces/x", "get,,x,namespaces,,x"),
            (
                "PUT /api/v1/namespaces/x/finalize",
                "update,,x,namespaces,finalize,x",
            ),
            ("GET /api/v1/namespaces/x/pods", "list,,x,pods,,"),
            ("GET /api/v1/namespaces/x/pods/p", "get,,x,pods,,p"),
            ("GET /api/v1/namespaces/x/pods/p/log", "get,,x,pods,log,p"),
            ("GET /api/v1/pods?watch=true", "watch,,,pods,,"),
            ("GET /api/v1/pods?watch=false", "list,,,pods,,"),
            (
                "DELETE /api/v1/namespaces/x/pods",
                "deletecollection,,x,pods,,",
            ),
            (
                "POST /apis/apps/v1/namespaces/x/deployments",
                "create,apps,x,deployments,,",
            ),
            ("GET /api/v1/watch/namespaces/x/pods", "watch,,x,pods,,"),
        ];
        for (request, wanted) in cases {
            let (method, uri) = request.split_once(' ').unwrap();
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let info = parse(method.parse().unwrap(), path, query);
            assert!(info.is_resource, "{request}");
            let found = [
                info.verb,
                &info.group,
                &info.namespace,
                &info.resource,
                &info.subresource,
                &info.name,
            ];
            assert_eq!(found.join(","), wanted, "{request}");
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
            ("http:b:80", "proxy", "/x/y/"),
            "decoded as a whole, as upstream's proxy does"
        );
        assert!(info.is_long_running());
        let rest = |path: &str| parse(Method::GET, path, "").rest;
        assert_eq!(rest("/api/v1/nodes/n/proxy"), "");
        assert_eq!(rest("/api/v1/nodes/n/proxy/"), "/");
        assert_eq!(rest("//api/v1/nodes/n/proxy/a%20b%3F%25/"), "/a%20b%3F%25/");
        assert_eq!(rest("/api/v1/namespaces/a/pods/p/proxy//x:y"), "//x:y");
    }

    #[test]
    fn an_encoded_slash_separates_like_any_other() {
        for (encoded, plain) in [
            ("/apis/g%2Fv1%2Fthings", "/apis/g/v1/things"),
            ("/api%2fv1/namespaces%2Fa/pods", "/api/v1/namespaces/a/pods"),
            (
                "/api/v1/namespaces/a/configmaps/b%2F..%2Fc",
                "/api/v1/namespaces/a/configmaps/b/../c",
            ),
            ("/api/v1/n%6fdes/n/pr%6Fxy/x", "/api/v1/nodes/n/proxy/x"),
        ] {
            let [encoded, plain] =
                [encoded, plain].map(|path| format!("{:?}", parse(Method::GET, path, "")));
            assert_eq!(encoded, plain);
        }
    }

    #[test]
    fn the_scope_of_a_path_is_kept() {
        for (path, namespace, within, name) in [
            ("/api/v1/namespaces/a", "a", false, "a"),
            ("/api/v1/namespaces/a/status", "a", false, "a"),
            ("/api/v1/namespaces/a/finalize", "a", false, "a"),
            ("/api/v1/namespaces/a/namespaces", "a", true, ""),
            ("/api/v1/namespaces/a/namespaces/b", "a", true, "b"),
            ("/api/v1/namespaces/a/namespaces/a", "a", true, "a"),
            ("/api/v1/namespaces/a/nodes/n/proxy", "a", true, "n"),
            ("/api/v1/namespaces//pods/p", "", true, "p"),
            ("/api/v1/watch/namespaces/a/pods/p", "a", true, "p"),
            ("/api/v1/nodes/n", "", false, "n"),
        ] {
            let info = parse(Method::GET, path, "");
            assert_eq!(
                (&*info.namespace, info.in_namespace, info.name_in_path()),
                (namespace, within, name),
                "{path}"
            );
        }
    }

    #[test]
    fn only_the_prefix_watches_a_named_object() {
        let info = parse(Method::GET, "/api/v1/namespaces/a/pods/p", "watch=1");
        assert_eq!((info.verb, &*info.name), ("get", "p"));
        for method in [Method::GET, Method::POST, Method::DELETE] {
            let info = parse(method, "/api/v1/watch/namespaces/a/pods/p", "");
            assert_eq!((info.verb, &*info.name), ("watch", "p"));
        }
    }

    #[test]
    fn one_name_is_authorized_as_such() {
        let info = parse(
            Method::GET,
            "/api/v1/nodes",
            "fieldSelector=metadata.name%3Dn1",
        );
        assert_eq!((info.verb, &*info.name), ("list", "n1"));
        assert_eq!(info.name_in_path(), "");
        let none = |method, query| parse(method, "/api/v1/nodes", query).name;
        assert_eq!(none(Method::GET, "fieldSelector=metadata.name%3D.."), "");
        assert_eq!(none(Method::DELETE, "fieldSelector=metadata.name%3Dn1"), "");
    }

    #[test]
    fn decodes() {
        assert_eq!(decode("a%20b%zz+", false), "a b%zz+");
        assert_eq!(decode("a+b", true), "a b");
        assert_eq!(encode("a b/ü"), "a%20b%2F%C3%BC");
        assert_eq!(
            encode_path("/a b/ü?;:@&=+$,!*"),
            "/a%20b/%C3%BC%3F;:@&=+$,%21%2A"
        );
    }
}
