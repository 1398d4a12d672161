//! What the annotations of an Ingress say. The names are those of ingress-nginx; the ones that are
//! understood are in [`APPLY`].

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;

use crate::table::Protocol;

/// The prefix of the annotations.
pub const PREFIX: &str = "nginx.ingress.kubernetes.io/";

/// Answers to requests of other origins.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Allowed origins, `*` for all, perhaps with a wildcard for one part of the name.
    pub origins: Vec<String>,
    /// The value of `Access-Control-Allow-Methods`.
    pub methods: HeaderValue,
    /// The value of `Access-Control-Allow-Headers`.
    pub headers: HeaderValue,
    /// The value of `Access-Control-Expose-Headers`.
    pub expose: Option<HeaderValue>,
    /// Whether credentials are allowed.
    pub credentials: bool,
    /// The value of `Access-Control-Max-Age`.
    pub max_age: u64,
}

/// The settings of the routes of an Ingress.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether HTTP is redirected to HTTPS if the host has TLS.
    pub ssl_redirect: bool,
    /// Whether HTTP is redirected to HTTPS in any case.
    pub force_ssl_redirect: bool,
    /// The path that requests get, with `$1` for groups of the route's pattern.
    pub rewrite: Option<String>,
    /// Whether paths are regular expressions.
    pub use_regex: bool,
    /// The protocol of the backends; without it, their `appProtocol` decides.
    pub protocol: Option<Protocol>,
    /// The greatest size of a request's body.
    pub max_body: Option<u64>,
    /// The time limit of a connection to a backend.
    pub connect_timeout: Duration,
    /// The time in which a backend must send something.
    pub read_timeout: Duration,
    /// The time in which a client must send something of a body, and a backend take it.
    pub send_timeout: Duration,
    /// The answers to other origins.
    pub cors: Option<Cors>,
    /// Clients that may send requests; empty for all.
    pub allow: Vec<IpNet>,
    /// Clients that may not.
    pub deny: Vec<IpNet>,
    /// The name of the cookie for session affinity.
    pub cookie: Option<String>,
    /// Where `/` is redirected to.
    pub app_root: Option<String>,
    /// Where everything is redirected to, and with which code.
    pub redirect: Option<(String, u16)>,
    /// The `Host` that backends see.
    pub upstream_host: Option<HeaderValue>,
    /// The value of `X-Forwarded-Prefix`.
    pub forwarded_prefix: Option<HeaderValue>,
    /// Why all requests are refused.
    pub refused: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ssl_redirect: true,
            force_ssl_redirect: false,
            rewrite: None,
            use_regex: false,
            protocol: None,
            max_body: None,
            connect_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(60),
            cors: None,
            allow: Vec::new(),
            deny: Vec::new(),
            cookie: None,
            app_root: None,
            redirect: None,
            upstream_host: None,
            forwarded_prefix: None,
            refused: None,
        }
    }
}

/// Applies the value of an annotation.
type Apply = fn(&mut Settings, &str) -> Result<(), String>;

/// The annotations that are understood.
const APPLY: &[(&str, Apply)] = &[
    ("affinity", |s, v| match v {
        "cookie" => {
            s.cookie.get_or_insert_with(|| "INGRESSCOOKIE".to_owned());
            Ok(())
        }
        _ => Err("only \"cookie\" is known".into()),
    }),
    ("app-root", |s, v| location(v).map(|v| s.app_root = Some(v))),
    ("backend-protocol", |s, v| {
        s.protocol = match v.to_ascii_uppercase().as_str() {
            // Detected by what is received.
            "AUTO_HTTP" => None,
            "HTTP" => Some(Protocol::Http),
            "HTTPS" => Some(Protocol::Https),
            "GRPC" => Some(Protocol::Grpc),
            "GRPCS" => Some(Protocol::Grpcs),
            _ => return Err("only HTTP, HTTPS, GRPC and GRPCS are known".into()),
        };
        Ok(())
    }),
    ("cors-allow-credentials", |s, v| {
        boolean(v).map(|v| cors(s).credentials = v)
    }),
    ("cors-allow-headers", |s, v| {
        header(v).map(|v| cors(s).headers = v)
    }),
    ("cors-allow-methods", |s, v| {
        header(v).map(|v| cors(s).methods = v)
    }),
    ("cors-allow-origin", |s, v| {
        let origins: Vec<String> = list(v).map(ToOwned::to_owned).collect();
        if origins.is_empty() {
            return Err("it names no origin".into());
        }
        cors(s).origins = origins;
        Ok(())
    }),
    ("cors-expose-headers", |s, v| {
        header(v).map(|v| cors(s).expose = Some(v))
    }),
    ("cors-max-age", |s, v| {
        number(v).map(|v| cors(s).max_age = v)
    }),
    ("denylist-source-range", |s, v| {
        networks(v).map(|v| s.deny = v)
    }),
    ("enable-cors", |s, v| {
        if boolean(v)? {
            cors(s);
        }
        Ok(())
    }),
    ("enable-modsecurity", |_, v| disabled(v)),
    ("enable-owasp-core-rules", |_, v| disabled(v)),
    ("force-ssl-redirect", |s, v| {
        boolean(v).map(|v| s.force_ssl_redirect = v)
    }),
    ("permanent-redirect", |s, v| {
        let code = s.redirect.take().map_or(301, |(_, code)| code);
        location(v).map(|v| s.redirect = Some((v, code)))
    }),
    ("permanent-redirect-code", |s, v| redirect_code(s, v)),
    ("proxy-body-size", |s, v| {
        size(v).map(|v| s.max_body = (v > 0).then_some(v))
    }),
    ("proxy-buffering", |_, v| off(v)),
    ("proxy-connect-timeout", |s, v| {
        seconds(v).map(|v| s.connect_timeout = v)
    }),
    ("proxy-read-timeout", |s, v| {
        seconds(v).map(|v| s.read_timeout = v)
    }),
    ("proxy-request-buffering", |_, v| off(v)),
    ("proxy-send-timeout", |s, v| {
        seconds(v).map(|v| s.send_timeout = v)
    }),
    ("rewrite-target", |s, v| {
        if v.is_empty() {
            return Err("it is empty".into());
        }
        if v.contains("://") {
            return Err("other servers need temporal-redirect or permanent-redirect".into());
        }
        s.rewrite = Some(v.to_owned());
        // As ingress-nginx: groups are of no use without a pattern.
        s.use_regex = true;
        Ok(())
    }),
    ("session-cookie-name", |s, v| {
        if v.is_empty()
            || !v
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return Err("it is not the name of a cookie".into());
        }
        // `affinity` is before it in the order of names.
        let cookie = s.cookie.as_mut();
        let cookie = cookie.ok_or("it needs the annotation affinity: cookie")?;
        *cookie = v.to_owned();
        Ok(())
    }),
    ("ssl-redirect", |s, v| {
        boolean(v).map(|v| s.ssl_redirect = v)
    }),
    ("temporal-redirect", |s, v| {
        location(v).map(|v| s.redirect = Some((v, 302)))
    }),
    ("upstream-vhost", |s, v| {
        header(v).map(|v| s.upstream_host = Some(v))
    }),
    ("use-regex", |s, v| {
        boolean(v).map(|v| s.use_regex = v || s.rewrite.is_some())
    }),
    ("whitelist-source-range", |s, v| {
        networks(v).map(|v| s.allow = v)
    }),
    ("allowlist-source-range", |s, v| {
        networks(v).map(|v| s.allow = v)
    }),
    ("x-forwarded-prefix", |s, v| {
        header(v).map(|v| s.forwarded_prefix = Some(v))
    }),
];

/// Annotations that keep requests away. Where one of them is not understood, all requests are
/// refused: an app must not be open to those whom its Ingress wants to keep out.
const GUARDS: &[&str] = &[
    "allowlist-source-range",
    "auth-",
    "configuration-snippet",
    "denylist-source-range",
    "enable-modsecurity",
    "enable-owasp-core-rules",
    "modsecurity-",
    "satisfy",
    "server-snippet",
    "whitelist-source-range",
];

/// Reads the annotations of an Ingress. Returns the settings, and a message for each annotation
/// that is not followed.
pub fn read(annotations: &BTreeMap<String, String>) -> (Settings, Vec<String>) {
    let mut settings = Settings::default();
    let mut problems = Vec::new();
    let mut enabled = true;
    for (key, value) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let value = value.trim();
        enabled &= !(name == "enable-cors" && value == "false");
        let known = APPLY.iter().find(|(known, _)| *known == name);
        let result = match known {
            Some((_, apply)) => apply(&mut settings, value),
            None => Err("it is not known here".into()),
        };
        let Err(why) = result else {
            continue;
        };
        let guards = GUARDS.iter().any(|guard| name.starts_with(guard));
        if guards {
            problems.push(format!(
                "annotation {key}: {why}; all requests are refused, because it restricts access"
            ));
            settings.refused = Some(format!("the annotation {name} is not understood"));
        } else {
            problems.push(format!("annotation {key} has no effect: {why}"));
        }
    }
    let asked = annotations
        .get(&format!("{PREFIX}enable-cors"))
        .is_some_and(|v| v.trim() == "true");
    if !enabled || !asked {
        // Turned off, they are meant to wait.
        if enabled && settings.cors.is_some() {
            problems.push(format!(
                "annotations {PREFIX}cors-* have no effect: they need enable-cors: \"true\""
            ));
        }
        settings.cors = None;
    }
    (settings, problems)
}

fn cors(settings: &mut Settings) -> &mut Cors {
    settings.cors.get_or_insert_with(|| Cors {
        origins: vec!["*".into()],
        methods: HeaderValue::from_static("GET, PUT, POST, DELETE, PATCH, OPTIONS"),
        headers: HeaderValue::from_static(
            "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
        ),
        expose: None,
        credentials: true,
        max_age: 1_728_000,
    })
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("it is neither \"true\" nor \"false\"".into()),
    }
}

/// Bodies are always streamed.
fn off(text: &str) -> Result<(), String> {
    match text {
        "off" => Ok(()),
        _ => Err("bodies are always streamed".into()),
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it is not a number".into())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.strip_suffix('s').unwrap_or(text);
    match digits.parse::<u32>() {
        Ok(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err("it is not a number of seconds".into()),
    }
}

/// Reads a size as nginx does: bytes, or with the suffix `k`, `m` or `g`.
fn size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, factor) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 1 << 10),
        Some(b'm') => (&lower[..lower.len() - 1], 1 << 20),
        Some(b'g') => (&lower[..lower.len() - 1], 1 << 30),
        _ => (lower.as_str(), 1),
    };
    let value = digits.parse::<u64>().ok();
    value
        .and_then(|value| value.checked_mul(factor))
        .ok_or_else(|| "it is not a size such as 8m".into())
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
}

fn networks(text: &str) -> Result<Vec<IpNet>, String> {
    let parsed = list(text).map(|part| {
        let address = part.parse::<std::net::IpAddr>().map(IpNet::from);
        let network = address.or_else(|_| part.parse::<IpNet>());
        network.map_err(|_| format!("\"{part}\" is no address range"))
    });
    let networks: Vec<IpNet> = parsed.collect::<Result<_, String>>()?;
    match networks.is_empty() {
        true => Err("it names no address range".into()),
        false => Ok(networks),
    }
}

/// What does not exist may be turned off.
fn disabled(text: &str) -> Result<(), String> {
    match text {
        "false" => Ok(()),
        _ => Err("it is not known here".into()),
    }
}

fn header(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "it cannot be part of a header".into())
}

fn location(text: &str) -> Result<String, String> {
    if text.is_empty() || HeaderValue::from_str(text).is_err() {
        return Err("it is not a place to redirect to".into());
    }
    Ok(text.to_owned())
}

fn redirect_code(settings: &mut Settings, text: &str) -> Result<(), String> {
    let code = match text.parse::<u16>() {
        Ok(code @ 300..=308) => code,
        _ => return Err("it is not a code from 300 to 308".into()),
    };
    // `permanent-redirect` is before it in the order of names.
    let redirect = settings.redirect.as_mut();
    redirect
        .ok_or("it needs the annotation permanent-redirect")?
        .1 = code;
    Ok(())
}
