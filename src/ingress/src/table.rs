//! The routing table: what is compiled from the cluster's objects, and how a request finds its
//! route in it. A table never changes; a new one takes its place.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use regex::Regex;

use crate::certificates::Certificates;
use crate::settings::Settings;

/// The address of a server behind a backend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// An endpoint.
    Address(SocketAddr),
    /// The name and the port of a service of type ExternalName.
    Name(Arc<str>, u16),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// The protocol that a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// HTTP/2 without TLS, as gRPC servers speak it.
    Grpc,
    /// HTTP/2 over TLS.
    Grpcs,
}

impl Protocol {
    /// Whether connections are encrypted.
    pub fn tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }

    /// Whether requests are sent as HTTP/2.
    pub fn http2(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }
}

/// How the requests of one client find the same endpoint again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// They do not.
    None,
    /// By the client's address (`sessionAffinity: ClientIP`).
    ClientIp,
    /// By a cookie of this name.
    Cookie(Arc<str>),
}

/// A port of a service, and its endpoints.
#[derive(Debug)]
pub struct Backend {
    /// `NAMESPACE-SERVICE-PORT`, for the access log.
    pub name: Arc<str>,
    /// The protocol of the endpoints.
    pub protocol: Protocol,
    /// The endpoints that take new requests.
    pub endpoints: Vec<Target>,
    /// How an endpoint is chosen.
    pub affinity: Affinity,
    next: AtomicUsize,
}

impl Backend {
    /// Creates a backend.
    pub fn new(
        name: Arc<str>,
        protocol: Protocol,
        endpoints: Vec<Target>,
        affinity: Affinity,
    ) -> Self {
        Self {
            name,
            protocol,
            endpoints,
            affinity,
            // Tables change often; each would begin with the same endpoint otherwise.
            next: AtomicUsize::new(rand::random::<u16>().into()),
        }
    }

    /// Returns the index of the endpoint that is tried first.
    pub fn first(&self, client: IpAddr, cookie: Option<&str>) -> usize {
        let key = match &self.affinity {
            Affinity::None => None,
            Affinity::ClientIp => Some(client.to_string()),
            Affinity::Cookie(_) => cookie.map(ToOwned::to_owned),
        };
        if let Some(key) = key {
            return self.of_key(&key);
        }
        self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len().max(1)
    }

    /// Returns the endpoint with the highest hash of key and address. Endpoints that come or go
    /// thereby move only the keys that they get or had.
    fn of_key(&self, key: &str) -> usize {
        let scored = self.endpoints.iter().enumerate();
        let best = scored.max_by_key(|(_, target)| hash(key, &target.to_string()));
        best.map_or(0, |(i, _)| i)
    }
}

/// FNV-1a, followed by a mix of the bits. The same in every process, so that cookies keep their
/// meaning.
fn hash(a: &str, b: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in a.bytes().chain([0]).chain(b.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// A path of an Ingress.
#[derive(Debug)]
pub struct Route {
    /// `NAMESPACE/NAME` of the Ingress.
    pub ingress: Arc<str>,
    /// The path as the Ingress spells it.
    pub path: Arc<str>,
    /// What the Ingress' annotations say.
    pub settings: Arc<Settings>,
    /// The path as a regular expression, if it is one.
    pub pattern: Option<Regex>,
    /// Where requests go.
    pub backend: Arc<Backend>,
}

/// The rules of one host.
#[derive(Debug, Default)]
pub struct Host {
    /// Routes by their exact path.
    pub exact: HashMap<String, Arc<Route>>,
    /// Routes by their prefix, without a slash at its end.
    pub prefixes: HashMap<String, Arc<Route>>,
    /// Routes with a regular expression, the longest first.
    pub patterns: Vec<Arc<Route>>,
    /// The default backend of an Ingress that has rules for this host.
    pub fallback: Option<Arc<Route>>,
    /// Names that Ingresses with a rule for this host list for TLS, by the Ingresses' namespace:
    /// another one's requests are not redirected.
    pub tls: HashMap<Arc<str>, TlsNames>,
}

/// Names that are listed for TLS.
#[derive(Debug, Default)]
pub struct TlsNames {
    /// All names that the rules are for.
    pub all: bool,
    /// Names.
    pub exact: HashSet<String>,
    /// Names `*.NAME` as `NAME`.
    pub wildcard: HashSet<String>,
}

impl TlsNames {
    /// Adds a name as an Ingress spells it; empty for all.
    pub fn add(&mut self, name: &str) {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix("*.") {
            _ if name.is_empty() => self.all = true,
            Some(parent) => {
                self.wildcard.insert(parent.to_owned());
            }
            None => {
                self.exact.insert(name);
            }
        }
    }

    /// Whether a name in lower case is listed.
    pub fn contains(&self, host: &str) -> bool {
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty());
        self.all
            || self.exact.contains(host)
            || parent.is_some_and(|(_, parent)| self.wildcard.contains(parent))
    }
}

impl Host {
    /// Finds the route of a normalized path: an exact one, else the longest.
    fn find(&self, path: &str) -> Option<&Arc<Route>> {
        if let Some(route) = self.exact.get(path) {
            return Some(route);
        }
        let prefix = self.longest_prefix(path);
        let length = prefix.map_or(0, |(length, _)| length);
        let mut patterns = self.patterns.iter();
        let pattern =
            patterns.find(|route| route.pattern.as_ref().is_some_and(|p| p.is_match(path)));
        match pattern {
            Some(route) if route.path.len() >= length => Some(route),
            _ => prefix.map(|(_, route)| route).or(self.fallback.as_ref()),
        }
    }

    fn longest_prefix(&self, path: &str) -> Option<(usize, &Arc<Route>)> {
        if self.prefixes.is_empty() {
            return None;
        }
        let mut rest = path.trim_end_matches('/');
        loop {
            if let Some(route) = self.prefixes.get(rest) {
                return Some((rest.len(), route));
            }
            rest = &rest[..rest.rfind('/')?];
        }
    }
}

/// The result of a search for a route.
#[derive(Debug)]
pub struct Found<'a> {
    /// The route.
    pub route: &'a Arc<Route>,
    /// Whether the host of the request is listed for TLS.
    pub tls: bool,
}

/// All routes and certificates.
#[derive(Debug, Default)]
pub struct Table {
    /// Hosts by their name.
    pub exact: HashMap<String, Host>,
    /// Hosts `*.NAME` by `NAME`.
    pub wildcard: HashMap<String, Host>,
    /// Rules without a host.
    pub any: Host,
    /// The backend of requests that no rule takes.
    pub default: Option<Arc<Route>>,
    /// Certificates by server name.
    pub certificates: Certificates,
}

impl Table {
    /// Finds the route of a request. `host` is in lower case and has no port; `path` is
    /// [normalized](normalize).
    ///
    /// The host decides first: its own rules, else those of a wildcard, else those without a host.
    pub fn find(&self, host: &str, path: &str) -> Option<Found<'_>> {
        let rules = self.rules(host);
        let route = rules.find(path).or(self.default.as_ref())?;
        let namespace = route.ingress.split('/').next().unwrap_or_default();
        let listed = rules.tls.get(namespace);
        Some(Found {
            route,
            tls: listed.is_some_and(|names| names.contains(host)),
        })
    }

    /// Whether a server that takes escaped slashes and backslashes for slashes could read a
    /// [normalized](normalize) path as one of another route, or as one that leads upwards.
    pub fn is_ambiguous(&self, host: &str, path: &str, found: &Found<'_>) -> bool {
        if !["\\", "%2F", "%5C"].iter().any(|part| path.contains(part)) {
            return false;
        }
        let read = path
            .replace('\\', "/")
            .replace("%2F", "/")
            .replace("%5C", "/");
        if read.split('/').any(|segment| matches!(segment, "." | "..")) {
            return true;
        }
        let other = normalize(&read).and_then(|read| {
            let route = self.find(host, &read)?.route;
            Some(Arc::ptr_eq(route, found.route))
        });
        other != Some(true)
    }

    fn rules(&self, host: &str) -> &Host {
        if let Some(rules) = self.exact.get(host) {
            return rules;
        }
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty());
        parent
            .and_then(|(_, parent)| self.wildcard.get(parent))
            .unwrap_or(&self.any)
    }
}

/// Returns the path by which a request is matched: unreserved characters are decoded, other escapes
/// have upper-case digits, segments `.` and `..` are resolved, repeated slashes are one. `None` if
/// the path leads above its root or is not one.
///
/// What a server would resolve must not lead around the rules of a path.
pub fn normalize(path: &str) -> Option<Cow<'_, str>> {
    if !path.starts_with('/') {
        return None;
    }
    let plain = !path.contains('%') && !path.contains("//") && !path.contains("/.");
    if plain && path.is_ascii() {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path);
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/').skip(1) {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop()?;
            }
            other => segments.push(other),
        }
    }
    let directory = ["/", "/.", "/.."].iter().any(|end| decoded.ends_with(end));
    let mut whole = String::with_capacity(decoded.len());
    for segment in &segments {
        whole.push('/');
        whole.push_str(segment);
    }
    if directory || segments.is_empty() {
        whole.push('/');
    }
    Some(Cow::Owned(whole))
}

/// Decodes escapes of unreserved characters (RFC 3986), and escapes what is not ASCII.
fn decode_unreserved(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escaped = (bytes[i] == b'%')
            .then(|| bytes.get(i + 1..i + 3))
            .flatten();
        let value = escaped
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (byte, width) = match value {
            Some(value) => (value, 3),
            None => (bytes[i], 1),
        };
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        // A `%` that escapes nothing must not become part of an escape.
        let plain = width == 1 && byte.is_ascii() && byte != b'%';
        if unreserved || plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        i += width;
    }
    out
}

/// Returns a request's host as the table knows it: in lower case, without port and final dot.
pub fn host_name(authority: &str) -> String {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(name, _)| name),
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}
