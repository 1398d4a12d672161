//! Who may use the registry: users of an htpasswd file, by basic or token authentication.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use parking_lot::Mutex;
use ring::{hmac, rand};
use serde::{Deserialize, Serialize};

use crate::error::{Code, Refusal};

/// The time for which a token is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(300);
/// Maximum number of passwords whose check is remembered.
const MAX_REMEMBERED: usize = 1024;
/// Compared with the password of an unknown user, so that the answer takes as long.
const NOBODY: &str = "$2y$10$7EqJtq98hPqEX7fNZaFWoOhi5BWX4Z1vWLsHW3tQ0ZG7GM5vK6Y5e";

/// How clients prove who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Name and password with each request.
    #[default]
    Basic,
    /// Tokens for single repositories, which the registry gives for name and password.
    Token,
}

/// An htpasswd file that cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub struct AuthError {
    /// The number of the line; 0 if the file has no user.
    pub line: usize,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for AuthError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => f.write_str(&self.reason),
            line => write!(f, "line {line}: {}", self.reason),
        }
    }
}

impl std::error::Error for AuthError {}

/// The users of a registry.
pub struct Auth {
    users: BTreeMap<String, String>,
    scheme: Scheme,
    /// Signs tokens; new with each process.
    key: hmac::Key,
    /// Signatures of names and passwords that were right: bcrypt is slow on purpose.
    right: Mutex<HashSet<Vec<u8>>>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Auth of {} users", self.users.len())
    }
}

/// What a request wants to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// `repository` or `registry`.
    pub kind: &'static str,
    /// The repository, or `catalog`.
    pub name: String,
    /// `pull`, `push`, `delete` or `*`.
    pub action: &'static str,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    user: String,
    expires: u64,
    /// `KIND:NAME:ACTION`.
    access: BTreeSet<String>,
}

/// An answer to the request of a token.
#[derive(Serialize)]
struct Token {
    token: String,
    access_token: String,
    expires_in: u64,
}

impl Auth {
    /// Reads the users of an htpasswd file, whose passwords must be hashed by bcrypt (`htpasswd -B`).
    pub fn parse(text: &str, scheme: Scheme) -> Result<Self, AuthError> {
        let mut users = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let wrong = |reason: &str| AuthError {
                line,
                reason: reason.to_owned(),
            };
            let (user, hash) = text
                .split_once(':')
                .ok_or_else(|| wrong("a line is NAME:HASH"))?;
            if user.is_empty() {
                return Err(wrong("a user has no name"));
            }
            if bcrypt::verify("", hash).is_err() {
                return Err(wrong("the password is not hashed by bcrypt (htpasswd -B)"));
            }
            users.insert(user.to_owned(), hash.to_owned());
        }
        if users.is_empty() {
            return Err(AuthError {
                line: 0,
                reason: "the file has no users".to_owned(),
            });
        }
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new());
        Ok(Self {
            users,
            scheme,
            key: key.map_err(|_| AuthError {
                line: 0,
                reason: "the system gives no random numbers".to_owned(),
            })?,
            right: Mutex::default(),
        })
    }

    /// Returns the signature of a name and password.
    fn sign(&self, user: &str, password: &str) -> Vec<u8> {
        let mut text = (user.len() as u64).to_le_bytes().to_vec();
        text.extend(user.as_bytes());
        text.extend(password.as_bytes());
        hmac::sign(&self.key, &text).as_ref().to_vec()
    }

    /// Whether the check of a request hashes a password, which takes long.
    pub fn is_slow(&self, headers: &HeaderMap) -> bool {
        let seen = basic(headers).map(|(user, password)| self.sign(&user, &password));
        seen.is_some_and(|seen| !self.right.lock().contains(&seen))
    }

    /// Whether a password is that of a user. Blocks.
    fn is_right(&self, user: &str, password: &str) -> bool {
        let seen = self.sign(user, password);
        if self.right.lock().contains(&seen) {
            return true;
        }
        let hash = self.users.get(user).map_or(NOBODY, String::as_str);
        let right =
            bcrypt::verify(password, hash).unwrap_or(false) && self.users.contains_key(user);
        if right {
            let mut known = self.right.lock();
            if known.len() >= MAX_REMEMBERED {
                known.clear();
            }
            known.insert(seen);
        }
        right
    }

    /// Returns the user of a request with basic authentication. Blocks.
    fn basic(&self, headers: &HeaderMap) -> Option<String> {
        let (user, password) = basic(headers)?;
        self.is_right(&user, &password).then_some(user)
    }

    /// Refuses a request that may not do what it wants. Blocks. `realm` is the URL of the registry.
    pub fn check(
        &self,
        headers: &HeaderMap,
        wanted: &[Access],
        realm: &str,
    ) -> Result<(), Refusal> {
        if self.basic(headers).is_some() {
            return Ok(());
        }
        let given = credentials(headers, "bearer").and_then(|token| self.claims(token));
        let may = given.is_some_and(|claims| {
            wanted.iter().all(|access| {
                claims.access.contains(&access.scope()) || claims.access.contains(&access.all())
            })
        });
        match may {
            true => Ok(()),
            false => Err(self.challenge(wanted, realm)),
        }
    }

    fn challenge(&self, wanted: &[Access], realm: &str) -> Refusal {
        let service = realm.rsplit('/').next().unwrap_or_default();
        let text = match self.scheme {
            Scheme::Basic => "Basic realm=\"rkube registry\"".to_owned(),
            Scheme::Token => {
                let scopes: Vec<String> = wanted.iter().map(Access::scope).collect();
                let scope = match scopes.is_empty() {
                    true => String::new(),
                    false => format!(",scope=\"{}\"", scopes.join(" ")),
                };
                format!("Bearer realm=\"{realm}/token\",service=\"{service}\"{scope}")
            }
        };
        Refusal::new(Code::Unauthorized, "authentication required").header(WWW_AUTHENTICATE, text)
    }

    /// Answers the request of a token. Blocks. `scopes` are those of the query.
    pub fn token(&self, headers: &HeaderMap, scopes: &[&str]) -> Result<String, Refusal> {
        let Some(user) = self.basic(headers) else {
            return Err(Refusal::new(Code::Unauthorized, "authentication required")
                .header(WWW_AUTHENTICATE, "Basic realm=\"rkube registry\""));
        };
        let mut access = BTreeSet::new();
        for scope in scopes.iter().flat_map(|scope| scope.split(' ')) {
            let Some((rest, actions)) = scope.rsplit_once(':') else {
                continue;
            };
            access.extend(actions.split(',').map(|action| format!("{rest}:{action}")));
        }
        let claims = Claims {
            user,
            expires: now() + TOKEN_LIFETIME.as_secs(),
            access,
        };
        let text = serde_json::to_vec(&claims).map_err(std::io::Error::from)?;
        let signature = hmac::sign(&self.key, &text);
        let token = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(&text),
            URL_SAFE_NO_PAD.encode(signature)
        );
        let answer = Token {
            token: token.clone(),
            access_token: token,
            expires_in: TOKEN_LIFETIME.as_secs(),
        };
        Ok(serde_json::to_string(&answer).map_err(std::io::Error::from)?)
    }

    /// Returns what a token says, if it is ours and still valid.
    fn claims(&self, token: &str) -> Option<Claims> {
        let (text, signature) = token.split_once('.')?;
        let text = URL_SAFE_NO_PAD.decode(text).ok()?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, &text, &signature).ok()?;
        let claims: Claims = serde_json::from_slice(&text).ok()?;
        (claims.expires > now() && self.users.contains_key(&claims.user)).then_some(claims)
    }
}

impl Access {
    fn scope(&self) -> String {
        format!("{}:{}:{}", self.kind, self.name, self.action)
    }

    fn all(&self) -> String {
        format!("{}:{}:*", self.kind, self.name)
    }
}

/// Returns the credentials of a scheme.
fn credentials<'a>(headers: &'a HeaderMap, scheme: &str) -> Option<&'a str> {
    let (name, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    name.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

/// Returns the name and password of a request.
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let encoded = credentials(headers, "basic")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, text.parse().unwrap())])
    }

    fn encoded(text: &str) -> HeaderMap {
        headers(&format!("Basic {}", STANDARD.encode(text)))
    }

    fn users(scheme: Scheme) -> Auth {
        let hash = bcrypt::hash("secret", 4).unwrap();
        Auth::parse(&format!("# users\n\nme:{hash}\n"), scheme).unwrap()
    }

    fn access(name: &str, action: &'static str) -> Access {
        Access {
            kind: "repository",
            name: name.to_owned(),
            action,
        }
    }

    #[test]
    fn passwords() {
        let auth = users(Scheme::Basic);
        let wanted = [access("a", "pull")];
        // The second time, the check is remembered.
        for _ in 0..2 {
            assert!(auth.check(&encoded("me:secret"), &wanted, "").is_ok());
            for wrong in ["me:", "me:Secret", "you:secret", ":", "me"] {
                assert!(auth.check(&encoded(wrong), &wanted, "").is_err(), "{wrong}");
            }
            assert!(auth.check(&HeaderMap::new(), &wanted, "").is_err());
            assert!(auth.check(&headers("Basic %%%"), &wanted, "").is_err());
        }
    }

    #[test]
    fn tokens_are_for_what_they_name() {
        let auth = users(Scheme::Token);
        assert!(auth.token(&encoded("me:wrong"), &[]).is_err());
        let scopes = [
            "repository:a/b:pull,push repository:c:*",
            "registry:catalog:*",
        ];
        let answer = auth.token(&encoded("me:secret"), &scopes).unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let token = answer["token"].as_str().unwrap();
        let may = |token: &str, wanted: &[Access]| {
            let headers = headers(&format!("Bearer {token}"));
            auth.check(&headers, wanted, "http://x").is_ok()
        };
        assert!(may(token, &[access("a/b", "push"), access("c", "delete")]));
        assert!(!may(token, &[access("a/b", "delete")]));
        assert!(!may(token, &[access("a", "pull")]));
        assert!(!may(&token[1..], &[]));
        assert!(!may(&format!("{token}x"), &[]));
        assert!(!may("", &[]));
        // Another process has another key.
        let other = users(Scheme::Token);
        let headers = headers(&format!("Bearer {token}"));
        assert!(other.check(&headers, &[], "http://x").is_err());
    }

    #[test]
    fn files_that_cannot_be_used() {
        for (text, line) in [
            ("", 0),
            ("# nobody", 0),
            ("me", 1),
            ("\n:x", 2),
            ("me:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", 1),
            ("me:$apr1$x$y", 1),
        ] {
            assert_eq!(
                Auth::parse(text, Scheme::Basic).unwrap_err().line,
                line,
                "{text}"
            );
        }
    }
}
