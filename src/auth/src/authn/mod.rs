//! Authentication: maps the credentials of a request to a [`UserInfo`].
//!
//! Credentials are tried in upstream's order: front-proxy headers, client certificate, bearer
//! token (in a secret, of a service account, then bootstrap token). A request without credentials
//! has no user. A request with only invalid credentials is rejected; it is not anonymous.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use jiff::Timestamp;
use rkube_api::Object;
use rkube_api::status::Status;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, json};

use crate::token::PublicKey;
use crate::{ObjectReader, UserInfo, names, tree};

mod bootstrap_token;
mod certificate;
mod front_proxy;
mod legacy_token;
mod service_account;
#[cfg(test)]
mod tests;

use certificate::Authority;
pub(crate) use front_proxy::percent_decoded;
pub use legacy_token::LAST_USED;

/// The trusted CAs, keys and issuers of authentication.
#[derive(Clone, Debug, Default)]
pub struct AuthnConfig {
    /// CA certificates (PEM) that client certificates must chain to.
    pub client_ca_pem: Vec<u8>,
    /// The front proxy (API aggregation), if any.
    pub front_proxy: Option<FrontProxyConfig>,
    /// Public keys (SPKI PEM, ECDSA P-256) that verify service-account tokens.
    pub service_account_keys_pem: Vec<Vec<u8>>,
    /// The issuer of service-account tokens, `https://kubernetes.default.svc.cluster.local` by
    /// default.
    pub issuer: String,
    /// The audiences of the API server; the issuer if empty.
    pub api_audiences: Vec<String>,
}

/// The proxies that may assert a user with the headers `X-Remote-User`, `X-Remote-Uid`,
/// `X-Remote-Group` and `X-Remote-Extra-*`.
#[derive(Clone, Debug, Default)]
pub struct FrontProxyConfig {
    /// CA certificates (PEM) that the proxy's certificate must chain to.
    pub ca_pem: Vec<u8>,
    /// Accepted common names of the proxy's certificate; any if empty.
    pub allowed_names: Vec<String>,
}

/// An error of the authentication configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A CA certificate is invalid.
    #[error("the {what} is not usable: {reason}")]
    Ca {
        /// The CA bundle.
        what: &'static str,
        /// The reason.
        reason: String,
    },
    /// A key is invalid.
    #[error(transparent)]
    Key(#[from] crate::token::KeyError),
}

/// The authenticators of the API server.
pub struct Authenticators {
    client_ca: Option<Authority>,
    front_proxy: Option<(Authority, Vec<String>)>,
    keys: Vec<PublicKey>,
    issuer: String,
    api_audiences: Vec<String>,
    reader: Arc<dyn ObjectReader>,
    used: Option<TokenUse>,
}

/// The callback for a use of a service account's token from a secret. It is called when the
/// secret's label with the day of the last use is to be changed to the second argument.
pub type TokenUse = Box<dyn Fn(&Object, &str) + Send + Sync>;

/// A user, and those of the requested audiences for which the credential is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authenticated {
    user: UserInfo,
    audiences: Vec<String>,
}

/// The result of one authenticator: `Ok(Some)` if it succeeds, `Ok(None)` if the request has no
/// credential of its kind, `Err(reason)` if the credential is invalid.
type Outcome<T> = Result<Option<T>, String>;

impl Authenticators {
    /// Reads the CAs and keys of `config`.
    pub fn new(
        config: AuthnConfig,
        reader: Arc<dyn ObjectReader>,
    ) -> Result<Authenticators, ConfigError> {
        let client_ca = match &config.client_ca_pem[..] {
            [] => None,
            pem => Some(Authority::from_pem("client CA", pem)?),
        };
        let front_proxy = match config.front_proxy {
            Some(proxy) => Some((
                Authority::from_pem("front-proxy CA", &proxy.ca_pem)?,
                proxy.allowed_names,
            )),
            None => None,
        };
        let keys: Result<Vec<PublicKey>, _> = config
            .service_account_keys_pem
            .iter()
            .map(|pem| PublicKey::from_pem(pem))
            .collect();
        let api_audiences = match config.api_audiences {
            audiences if audiences.is_empty() => vec![config.issuer.clone()],
            audiences => audiences,
        };
        Ok(Authenticators {
            client_ca,
            front_proxy,
            keys: keys?,
            issuer: config.issuer,
            api_audiences,
            reader,
            used: None,
        })
    }

    /// Has uses of tokens in secrets reported.
    #[must_use]
    pub fn on_token_use(mut self, used: TokenUse) -> Authenticators {
        self.used = Some(used);
        self
    }

    /// Returns the user of a request, `Ok(None)` if it has no credentials.
    ///
    /// `peer_certificates` is the certificate chain of the TLS client, leaf first. TLS must
    /// have verified that the client holds the leaf's key. The chain itself is verified here,
    /// so TLS may accept any client certificate.
    ///
    /// # Errors
    ///
    /// A 401 status if all credentials are invalid.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        peer_certificates: &[CertificateDer<'_>],
    ) -> Result<Option<UserInfo>, Status> {
        self.authenticate_at(headers, peer_certificates, Timestamp::now())
    }

    fn authenticate_at(
        &self,
        headers: &HeaderMap,
        peer_certificates: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Result<Option<UserInfo>, Status> {
        let token = || {
            let found = bearer_token(headers).transpose().map(|token| {
                let answer = token.and_then(|token| self.token(&token, &self.api_audiences, now));
                answer.and_then(|found| found.ok_or_else(|| "invalid bearer token".to_owned()))
            });
            found.transpose().map(|found| found.map(|f| f.user))
        };
        let mut errors = Vec::new();
        let attempts: [&dyn Fn() -> Outcome<UserInfo>; 3] = [
            &|| self.proxied(headers, peer_certificates, now),
            &|| self.certified(peer_certificates, now),
            &token,
        ];
        for attempt in attempts {
            match attempt() {
                Ok(Some(mut user)) => {
                    // Authenticated users are in `system:authenticated`, unless the credential
                    // identifies the anonymous user.
                    let known = user.in_group(names::ALL_AUTHENTICATED)
                        || user.in_group(names::ALL_UNAUTHENTICATED);
                    if !known && user.name != names::ANONYMOUS {
                        user.groups.push(names::ALL_AUTHENTICATED.to_owned());
                    }
                    return Ok(Some(user));
                }
                Ok(None) => {}
                Err(why) => errors.push(why),
            }
        }
        if errors.is_empty() {
            return Ok(None);
        }
        tracing::info!(reasons = ?errors, "unable to authenticate the request");
        Err(Status::unauthorized())
    }

    /// Authenticates a front proxy and returns the user that it asserts.
    fn proxied(
        &self,
        headers: &HeaderMap,
        chain: &[CertificateDer<'_>],
        now: Timestamp,
    ) -> Outcome<UserInfo> {
        let (Some((authority, allowed)), [_, ..]) = (&self.front_proxy, chain) else {
            return Ok(None);
        };
        let Some(user) = front_proxy::asserted_user(headers) else {
            return Ok(None);
        };
        let proxy = authority.identify(chain, now)?;
        if !allowed.is_empty() && !allowed.contains(&proxy.name) {
            return Err(format!(
                "x509: subject with cn={} is not in the allowed list",
                proxy.name
            ));
        }
        Ok(Some(user))
    }

    /// Returns the user of a client certificate.
    fn certified(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Outcome<UserInfo> {
        let (Some(authority), [_, ..]) = (&self.client_ca, chain) else {
            return Ok(None);
        };
        let user = authority.identify(chain, now)?;
        if user.name == names::KUBELET_CLIENT {
            // The server shows this certificate to addresses that nodes report. A node that
            // directs such a request back at the server must not act with the certificate's rights.
            return Err("the certificate of the API server is for node agents only".to_owned());
        }
        Ok((!user.name.is_empty()).then_some(user))
    }

    /// Returns the user of a bearer token that is valid for any of `audiences`.
    fn token(&self, token: &str, audiences: &[String], now: Timestamp) -> Outcome<Authenticated> {
        match self.legacy_token(token, audiences, now) {
            Ok(None) => {}
            answer => return answer,
        }
        match self.service_account(token, audiences, now) {
            Ok(None) => {}
            answer => return answer,
        }
        let user = bootstrap_token::authenticate(&*self.reader, token, now);
        Ok(user.map(|user| {
            let audiences = audiences
                .iter()
                .filter(|a| self.api_audiences.contains(a))
                .cloned()
                .collect();
            Authenticated { user, audiences }
        }))
    }

    /// Returns the user of a request to `path` without credentials: `system:anonymous` on the
    /// health endpoints, `None` elsewhere.
    pub fn anonymous(&self, path: &str) -> Option<UserInfo> {
        let open = ["/healthz", "/livez", "/readyz"];
        let below = |root: &str| {
            path.strip_prefix(root)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        open.into_iter().any(below).then(UserInfo::anonymous)
    }

    /// Processes a `TokenReview`. Returns the object with its status.
    pub fn token_review(&self, review: &Object) -> Object {
        self.token_review_at(review, Timestamp::now())
    }

    fn token_review_at(&self, review: &Object, now: Timestamp) -> Object {
        let token = tree::text(review, &["spec", "token"]);
        let asked: Vec<String> = tree::strings(review, &["spec", "audiences"])
            .into_iter()
            .map(str::to_owned)
            .collect();
        let audiences = if asked.is_empty() {
            &self.api_audiences
        } else {
            &asked
        };
        let answer = self.token(token, audiences, now);
        let answer =
            answer.and_then(|found| found.ok_or_else(|| "invalid bearer token".to_owned()));
        let mut status = Map::new();
        match answer {
            Ok(Authenticated {
                mut user,
                audiences,
            }) if !audiences.is_empty() => {
                if !user.in_group(names::ALL_AUTHENTICATED) {
                    user.groups.push(names::ALL_AUTHENTICATED.to_owned());
                }
                status.insert("authenticated".into(), true.into());
                status.insert("user".into(), user.to_value());
                status.insert("audiences".into(), audiences.into());
            }
            Ok(Authenticated {
                audiences: good, ..
            }) => {
                let why = format!(
                    "token audiences {good:?} is invalid for the target audiences {audiences:?}"
                );
                status.insert("user".into(), json!({}));
                status.insert("error".into(), why.into());
            }
            Err(why) => {
                status.insert("user".into(), json!({}));
                status.insert("error".into(), why.into());
            }
        }
        let mut answer = review.clone();
        answer["status"] = Object::Object(status);
        answer
    }
}

/// Returns the bearer token of a request, from the `Authorization` header or from the
/// subprotocols of a WebSocket handshake, because browsers cannot set the header.
fn bearer_token(headers: &HeaderMap) -> Outcome<String> {
    if let Some(value) = headers
        .get(http::header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
    {
        let mut parts = value.trim().splitn(3, ' ');
        if let (Some(scheme), Some(token)) = (parts.next(), parts.next())
            && scheme.eq_ignore_ascii_case("bearer")
            && !token.is_empty()
        {
            return Ok(Some(token.to_owned()));
        }
    }
    websocket_token(headers)
}

/// Prefix of the WebSocket subprotocol that carries a bearer token.
const TOKEN_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

fn websocket_token(headers: &HeaderMap) -> Outcome<String> {
    let is = |name, value: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok());
        values
            .flat_map(|v| v.split(','))
            .any(|v| v.trim().eq_ignore_ascii_case(value))
    };
    if !is(http::header::CONNECTION, "upgrade") || !is(http::header::UPGRADE, "websocket") {
        return Ok(None);
    }
    let protocols = headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|v| v.to_str().ok());
    let (mut token, mut others) = (None, 0);
    for protocol in protocols.flat_map(|v| v.split(',')).map(str::trim) {
        match protocol.strip_prefix(TOKEN_PROTOCOL) {
            None => others += 1,
            Some(_) if token.is_some() => {
                return Err("multiple base64.bearer.authorization tokens specified".into());
            }
            Some(encoded) => token = Some(encoded),
        }
    }
    let Some(encoded) = token.filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let decoded = URL_SAFE_NO_PAD.decode(encoded);
    let decoded = decoded.map_err(|_| "invalid base64.bearer.authorization token encoding")?;
    let token =
        String::from_utf8(decoded).map_err(|_| "invalid base64.bearer.authorization token")?;
    if others == 0 {
        return Err("missing additional subprotocol".into());
    }
    Ok(Some(token))
}

/// Removes the credentials from a request's headers, so that later stages can neither use nor
/// forward them: the `Authorization` header, WebSocket subprotocols with a token, and
/// `X-Remote-*`.
pub fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(http::header::AUTHORIZATION);
    let protocols = http::header::SEC_WEBSOCKET_PROTOCOL;
    let offered: Vec<String> = headers
        .get_all(&protocols)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(|v| v.trim().to_owned())
        .collect();
    if offered
        .iter()
        .any(|protocol| protocol.starts_with(TOKEN_PROTOCOL))
    {
        let rest: Vec<&str> = offered
            .iter()
            .map(String::as_str)
            .filter(|p| !p.starts_with(TOKEN_PROTOCOL))
            .collect();
        match http::HeaderValue::from_str(&rest.join(",")) {
            Ok(value) if !rest.is_empty() => {
                headers.insert(protocols, value);
            }
            _ => {
                headers.remove(protocols);
            }
        }
    }
    let remote: Vec<_> = headers
        .keys()
        .filter(|name| front_proxy::is_proxy_header(name.as_str()))
        .cloned()
        .collect();
    for name in remote {
        headers.remove(name);
    }
}
