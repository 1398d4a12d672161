//! How nodes reach image registries: mirrors, certificates, credentials and proxies.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The name of the settings for registries that have none of their own.
pub const ANY: &str = "*";
/// The registry of names without one.
pub const DOCKER_HUB: &str = "docker.io";
/// The host of its API.
pub const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// The header with credentials for the registry, in requests to the cache.
pub const AUTH_HEADER: &str = "x-rkube-registry-auth";
/// The header with the secret of the cache, in requests to it.
pub const TOKEN_HEADER: &str = "x-rkube-cache-token";
/// The header with the profile whose settings the cache uses.
pub const PROFILE_HEADER: &str = "x-rkube-profile";

/// Settings of all registries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Registries {
    /// Settings by the `host[:port]` of image names; those of [`ANY`] are for all other registries.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, Registry>,
    /// PEM bundles of certificates that are trusted besides those of the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roots: Vec<String>,
    /// Proxies for HTTP.
    #[serde(skip_serializing_if = "Proxies::is_default")]
    pub proxies: Proxies,
}

/// Settings of one registry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Registry {
    /// Endpoints that are tried before the registry itself, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Endpoint>,
    /// The registry itself. Its URL may be empty, which means the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Endpoint>,
}

/// An endpoint that speaks the registry protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Endpoint {
    /// The URL with the path before the repository, `https://mirror.example/v2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// Whether tags are looked up here.
    pub resolve: bool,
    /// Whether content is fetched here.
    pub pull: bool,
    /// Whether images are pushed here.
    pub push: bool,
    /// PEM bundles of certificates that are trusted here only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca: Vec<String>,
    /// Client certificate and key, PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<(String, String)>,
    /// Whether any certificate is accepted.
    pub skip_verify: bool,
    /// Headers of every request.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// Rewrites of repositories, of which the first that changes something counts: regular
    /// expressions and replacements with `$1`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewrites: Vec<(String, String)>,
    /// Credentials, if an image pull secret or the command line gives none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// Whether credentials for the registry are passed to this mirror, which is the user's cache.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub passes_login: bool,
    /// Time to wait for a connection, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dial_timeout_millis: Option<u64>,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            url: String::new(),
            resolve: true,
            pull: true,
            push: true,
            ca: Vec::new(),
            identity: None,
            skip_verify: false,
            headers: Vec::new(),
            rewrites: Vec::new(),
            login: None,
            passes_login: false,
            dial_timeout_millis: None,
        }
    }
}

/// Credentials of an endpoint.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Login {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// OAuth2 refresh token, used instead of user name and password.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identity_token: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keep secrets out of logs.
        f.debug_struct("Login")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// Proxies for HTTP, as in the environment of the host.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Proxies {
    /// `HTTP_PROXY`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub http: String,
    /// `HTTPS_PROXY`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub https: String,
    /// `NO_PROXY`
    #[serde(skip_serializing_if = "String::is_empty")]
    pub no_proxy: String,
    /// Whether containers of pods get the variables.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub pods: bool,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URLs of proxies may contain passwords.
        f.debug_struct("Proxies")
            .field("no_proxy", &self.no_proxy)
            .field("pods", &self.pods)
            .finish_non_exhaustive()
    }
}

impl Proxies {
    /// Returns whether there is nothing to say.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether there is a proxy.
    pub fn any(&self) -> bool {
        !self.http.is_empty() || !self.https.is_empty()
    }

    /// Returns the variables in both spellings, for processes on a node. Proxies on the host's
    /// loopback are at `host` there.
    pub fn variables(&self, host: Option<Ipv4Addr>) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let values = [
            ("HTTP_PROXY", at_host(&self.http, host.map(IpAddr::V4))),
            ("HTTPS_PROXY", at_host(&self.https, host.map(IpAddr::V4))),
            ("NO_PROXY", self.no_proxy.clone()),
        ];
        if !self.any() {
            return all;
        }
        for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
            all.push((name.to_owned(), value.clone()));
            all.push((name.to_ascii_lowercase(), value));
        }
        all
    }
}

impl Registries {
    /// Returns whether there are no settings.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the settings of the registry with the name `host[:port]`.
    pub fn of(&self, name: &str) -> Option<&Registry> {
        self.hosts.get(name).or_else(|| self.hosts.get(ANY))
    }

    /// Returns the ports on the host's loopback that the settings name.
    pub fn loopback_ports(&self) -> Vec<u16> {
        let endpoints = self.hosts.values().flat_map(|registry| {
            let server = registry.server.iter();
            registry.mirrors.iter().chain(server)
        });
        let proxies = [&self.proxies.http, &self.proxies.https];
        endpoints
            .map(|endpoint| &endpoint.url)
            .chain(proxies)
            .filter_map(|url| loopback_port(url))
            .collect()
    }
}

/// The parts of a URL around its host and port.
struct Parts<'a> {
    scheme: &'a str,
    /// The user with the `@`.
    user: &'a str,
    host: &'a str,
    port: Option<&'a str>,
    rest: &'a str,
}

fn parts(url: &str) -> Option<Parts<'_>> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (user, place) = authority.split_at(authority.rfind('@').map_or(0, |i| i + 1));
    let (host, port) = match place.rfind(':').filter(|_| !place.ends_with(']')) {
        Some(colon) => (&place[..colon], Some(&place[colon + 1..])),
        None => (place, None),
    };
    Some(Parts {
        scheme,
        user,
        host,
        port,
        rest,
    })
}

/// Returns whether a host without a port is the loopback.
pub fn is_loopback(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Returns the port of a URL whose host is the loopback.
fn loopback_port(url: &str) -> Option<u16> {
    let parts = parts(url).filter(|parts| is_loopback(parts.host))?;
    match (parts.port, parts.scheme) {
        (Some(port), _) => port.parse().ok(),
        (None, "https") => Some(443),
        (None, _) => Some(80),
    }
}

/// Returns a URL with the address `host` instead of a loopback name.
pub fn at_host(url: &str, host: Option<IpAddr>) -> String {
    match (parts(url), host) {
        (Some(p), Some(host)) if is_loopback(p.host) => {
            let port = p.port.map(|port| format!(":{port}")).unwrap_or_default();
            let host = match host {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
            format!("{}://{}{host}{port}{}", p.scheme, p.user, p.rest)
        }
        _ => url.to_owned(),
    }
}

/// Returns whether a registry `host[:port]` is among those declared insecure: by its name, with or
/// without the port, or by a range of addresses.
pub fn is_declared(insecure: &[String], name: &str) -> bool {
    let (host, _) = match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (name, ""),
    };
    let ip: Option<IpAddr> = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok();
    insecure.iter().any(|entry| {
        let entry = entry.trim_start_matches("http://");
        let entry = entry.trim_start_matches("https://").trim_end_matches('/');
        entry == name
            || entry == host
            || entry
                .parse::<IpNet>()
                .is_ok_and(|range| ip.is_some_and(|ip| range.contains(&ip)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_registries_are_names_or_ranges() {
        let insecure = ["a.example:5000", "b.example", "10.0.0.0/24"].map(str::to_owned);
        for (name, expected) in [
            ("a.example:5000", true),
            ("a.example:5001", false),
            ("a.example", false),
            ("b.example", true),
            ("b.example:5000", true),
            ("10.0.0.7:5000", true),
            ("10.0.1.7:5000", false),
        ] {
            assert_eq!(is_declared(&insecure, name), expected, "{name}");
        }
    }

    #[test]
    fn the_loopback_of_the_host_is_elsewhere_on_a_node() {
        let host = Some(IpAddr::V4(Ipv4Addr::new(192, 168, 58, 1)));
        for (url, expected) in [
            ("http://localhost:5000/v2", "http://192.168.58.1:5000/v2"),
            ("http://u:p@127.0.0.1:3128", "http://u:p@192.168.58.1:3128"),
            ("http://[::1]:80/", "http://192.168.58.1:80/"),
            ("https://a.example/localhost", "https://a.example/localhost"),
        ] {
            assert_eq!(at_host(url, host), expected);
        }
        assert_eq!(at_host("http://localhost", None), "http://localhost");
        let registries = Registries {
            hosts: BTreeMap::from([(
                ANY.to_owned(),
                Registry {
                    mirrors: [
                        "http://localhost:5000/v2",
                        "https://127.0.0.1",
                        "http://m:1",
                    ]
                    .map(|url| Endpoint {
                        url: url.into(),
                        ..Endpoint::default()
                    })
                    .into(),
                    server: None,
                },
            )]),
            proxies: Proxies {
                http: "http://localhost:3128".into(),
                ..Proxies::default()
            },
            ..Registries::default()
        };
        assert_eq!(registries.loopback_ports(), [5000, 443, 3128]);
    }

    #[test]
    fn variables_come_in_both_spellings() {
        let proxies = Proxies {
            http: "http://localhost:1".into(),
            no_proxy: "a".into(),
            ..Proxies::default()
        };
        let variables = proxies.variables(Some(Ipv4Addr::new(10, 0, 0, 1)));
        let texts: Vec<String> = variables.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(
            texts.join(" "),
            "HTTP_PROXY=http://10.0.0.1:1 http_proxy=http://10.0.0.1:1 NO_PROXY=a no_proxy=a"
        );
        let only = Proxies {
            no_proxy: "a".into(),
            ..Proxies::default()
        };
        assert!(only.variables(None).is_empty());
    }

    #[test]
    fn settings_survive_a_file_and_hide_passwords() {
        let registries = Registries {
            hosts: BTreeMap::from([(
                "a".to_owned(),
                Registry {
                    server: Some(Endpoint {
                        login: Some(Login {
                            password: "secret".into(),
                            ..Login::default()
                        }),
                        identity: Some(("c".into(), "k".into())),
                        rewrites: vec![("a".into(), "b".into())],
                        ..Endpoint::default()
                    }),
                    ..Registry::default()
                },
            )]),
            ..Registries::default()
        };
        let text = serde_yaml::to_string(&registries).unwrap();
        assert_eq!(
            serde_yaml::from_str::<Registries>(&text).unwrap(),
            registries
        );
        assert!(!format!("{registries:?}").contains("secret"));
    }
}
