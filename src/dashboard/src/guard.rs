//! Who may talk to the dashboard.
//!
//! It holds the administrator's rights, and every page that the user has open
//! and every process on the machine can reach its port. So: a secret cookie, got
//! for a link that works once; the host's name must be the loopback's (against
//! DNS rebinding); the origin must be the page's own (against forged requests).

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use base64::Engine as _;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};

/// Bytes of a secret.
const SECRET: usize = 32;
/// Sessions at a time; a link makes one, and a user opens few.
const SESSIONS: usize = 64;

/// A secret's hash: what is looked up takes no longer for a good guess.
type Digest = [u8; 32];

/// The secrets in force.
pub struct Guard {
    cookie: String,
    links: Mutex<HashSet<Digest>>,
    sessions: Mutex<HashSet<Digest>>,
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// What to tell.
    pub message: &'static str,
}

/// What an admitted request gets.
#[derive(Debug)]
pub enum Admission {
    /// It has a session.
    Session,
    /// It came by the link and gets a session by this cookie.
    Link(HeaderValue),
}

const fn refuse(status: StatusCode, message: &'static str) -> Refusal {
    Refusal { status, message }
}

impl Guard {
    /// A guard that admits nobody yet.
    pub fn new() -> Self {
        Self {
            // Cookies do not keep ports apart: several dashboards must.
            cookie: format!("rkube-{}", &secret()[..8]),
            links: Mutex::default(),
            sessions: Mutex::default(),
        }
    }

    /// A token that admits one browser.
    pub fn token(&self) -> String {
        let token = secret();
        self.links.lock().insert(digest(&token));
        token
    }

    /// Checks a request for any path but those that are nobody's.
    pub fn admit(&self, request: &Parts) -> Result<Admission, Refusal> {
        let host = check_host(&request.headers)?;
        // A whole address is for proxies, and says another thing than the header may.
        if request.uri.authority().is_some() {
            return Err(refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "The dashboard is no proxy.",
            ));
        }
        let token = token_of(request);
        check_origin(request, host, token.is_some())?;
        if let Some(token) = token {
            // A second opening in the browser that has the session is no theft.
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
        let session = secret();
        let mut sessions = self.sessions.lock();
        if sessions.len() >= SESSIONS {
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

/// The token of the one path that takes one.
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

/// The name must be the loopback's: any other is a name that somebody made
/// resolve to it. The port may differ, as the user may have forwarded it.
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

/// A request comes from the page itself, or from the user's typing the address.
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
    // Opening the page by a link elsewhere is fine: it shows nothing to others.
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
    // Browsers name the origin of everything that changes something.
    let reads = matches!(request.method, Method::GET | Method::HEAD)
        && !headers.contains_key(header::UPGRADE);
    if !reads && own.is_none() {
        return Err(foreign);
    }
    Ok(())
}

fn secret() -> String {
    let mut bytes = [0; SECRET];
    SystemRandom::new()
        .fill(&mut bytes)
        .expect("the kernel gives random bytes");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn digest(secret: &str) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, secret.as_bytes()).as_ref());
    out
}
