//! Decides which requests the dashboard accepts.
//!
//! The dashboard has administrator rights. Every page in the user's browser and every process on
//! the host can reach its port. Requests therefore need a secret cookie, which the browser gets for
//! a link that works once. The host must be the loopback (against DNS rebinding), and the origin
//! must be that of the page (against forged requests).

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};

/// Length of a secret in bytes.
const SECRET_BYTES: usize = 32;
/// Maximum number of sessions. Every link opens one, and a user opens few links.
const MAX_SESSIONS: usize = 64;

/// The hash of a secret. Looking up hashes leaks no prefix of a secret through timing.
type Digest = [u8; 32];

/// The valid secrets.
pub struct Guard {
    cookie: String,
    links: Mutex<HashSet<Digest>>,
    sessions: Mutex<HashSet<Digest>>,
}

/// The reason why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the response.
    pub status: StatusCode,
    /// The text of the response.
    pub message: &'static str,
}

/// The reason why a request was admitted.
#[derive(Debug)]
pub enum Admission {
    /// By the cookie of a session.
    Session,
    /// By a link. The response sets this cookie, which opens a session.
    Link(HeaderValue),
}

const fn refuse(status: StatusCode, message: &'static str) -> Refusal {
    Refusal { status, message }
}

impl Guard {
    /// Creates a guard that refuses every request.
    pub fn new() -> Self {
        Self {
            // Cookies are shared among ports, so every dashboard needs a unique name.
            cookie: format!("rkube-{}", &new_secret()[..8]),
            links: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    /// Returns a new token, which admits one browser.
    pub fn token(&self) -> String {
        let token = new_secret();
        self.links.lock().insert(digest(&token));
        token
    }

    /// Checks a request, whatever its path is.
    pub fn admit(&self, request: &Parts) -> Result<Admission, Refusal> {
        let host = check_host(&request.headers)?;
        // An absolute URI is meant for proxies and can differ from the header.
        if request.uri.authority().is_some() {
            return Err(refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "The dashboard is no proxy.",
            ));
        }
        let token = token_of(request);
        check_origin(request, host, token.is_some())?;
        if let Some(token) = token {
            // The browser with the session may open the link again.
            if self.has_session(&request.headers) {
                return Ok(Admission::Session);
            }
            if !self.links.lock().remove(&digest(token)) {
                return Err(refuse(
                    StatusCode::UNAUTHORIZED,
                    "This link has been used, or is not of this dashboard. Run `rkube dashboard` again for a new one.",
                ));
            }
            return self.open_session();
        }
        if self.has_session(&request.headers) {
            return Ok(Admission::Session);
        }
        Err(refuse(
            StatusCode::UNAUTHORIZED,
            "The dashboard opens by the link that `rkube dashboard` prints. The link works once, in one browser.",
        ))
    }

    fn open_session(&self) -> Result<Admission, Refusal> {
        let session = new_secret();
        let mut sessions = self.sessions.lock();
        if sessions.len() >= MAX_SESSIONS {
            return Err(refuse(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many browsers have opened this dashboard.",
            ));
        }
        sessions.insert(digest(&session));
        let cookie = format!(
            "{}={session}; Path=/; HttpOnly; SameSite=Strict",
            self.cookie
        );
        HeaderValue::from_str(&cookie)
            .map(Admission::Link)
            .map_err(|_| refuse(StatusCode::INTERNAL_SERVER_ERROR, "no cookie could be made"))
    }

    fn has_session(&self, headers: &HeaderMap) -> bool {
        headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .any(|(name, value)| {
                name == self.cookie && self.sessions.lock().contains(&digest(value))
            })
    }
}

/// Returns the token in a request for the page, the only path that accepts one.
fn token_of(request: &Parts) -> Option<&str> {
    if request.method != Method::GET || request.uri.path() != "/" {
        return None;
    }
    request
        .uri
        .query()?
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))
}

/// Returns the host, which must be a name or address of the loopback. An attacker can make any
/// other name resolve to it. The port can differ, since it may be forwarded.
fn check_host(headers: &HeaderMap) -> Result<&str, Refusal> {
    let wrong = refuse(
        StatusCode::MISDIRECTED_REQUEST,
        "The dashboard answers at 127.0.0.1 and localhost only.",
    );
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(wrong);
    };
    let Ok(host) = host.to_str() else {
        return Err(wrong);
    };
    let loopback = match host.parse::<SocketAddr>() {
        Ok(address) => address.ip().is_loopback(),
        Err(_) => match host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => match host.rsplit_once(':') {
                Some((name, port)) => name == "localhost" && port.parse::<u16>().is_ok(),
                None => host == "localhost",
            },
        },
    };
    if loopback { Ok(host) } else { Err(wrong) }
}

/// Checks that a request comes from the page itself, or from the address bar.
fn check_origin(request: &Parts, host: &str, link: bool) -> Result<(), Refusal> {
    let foreign = refuse(
        StatusCode::FORBIDDEN,
        "The request comes from another page.",
    );
    let headers = &request.headers;
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or("?"));
    let own = text("origin").map(|origin| origin == format!("http://{host}"));
    if own == Some(false) {
        return Err(foreign);
    }
    // A link in another page may open this one: the other page cannot read the response.
    let opening = request.method == Method::GET
        && request.uri.path() == "/"
        && text("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
        && text("sec-fetch-dest").is_none_or(|dest| dest == "document");
    match text("sec-fetch-site") {
        None | Some("same-origin" | "none") => {}
        _ if opening => {}
        _ => return Err(foreign),
    }
    if link && !opening {
        return Err(foreign);
    }
    // Browsers send the origin with every request that can change something.
    let reads = matches!(request.method, Method::GET | Method::HEAD)
        && !headers.contains_key(header::UPGRADE);
    if !reads && own.is_none() {
        return Err(foreign);
    }
    Ok(())
}

fn new_secret() -> String {
    let mut bytes = [0; SECRET_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the system provides random bytes");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn digest(secret: &str) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, secret.as_bytes()).as_ref());
    out
}
