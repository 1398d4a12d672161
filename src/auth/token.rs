//! Service-account tokens: ES256 JSON Web Tokens bound to an object.

use jiff::Timestamp;
use rkube_api::Object;
use rkube_api::status::Status;

use crate::ObjectReader;

/// Why a key is not usable.
#[derive(Debug, thiserror::Error)]
#[error("the service-account key is not usable: {0}")]
pub struct KeyError(pub String);

/// Signs service-account tokens.
pub struct TokenSigner {
    issuer: String,
}

/// What a token says about its bearer beyond the service account itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenSpec<'a> {
    /// The service account.
    pub service_account: Option<&'a Object>,
    /// The pod that the token is bound to.
    pub pod: Option<&'a Object>,
    /// The secret that the token is bound to.
    pub secret: Option<&'a Object>,
    /// The node that the token is bound to, or that the pod runs on.
    pub node: Option<&'a Object>,
    /// Whom the token is for.
    pub audiences: &'a [String],
    /// How long it is good for, in seconds.
    pub expiration_seconds: i64,
}

/// A signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedToken {
    /// The token in compact form.
    pub token: String,
    /// When it stops being valid.
    pub expires: Timestamp,
    /// The claim `jti`, `JTI=<this>` as a credential id.
    pub id: String,
}

impl TokenSigner {
    /// Reads a private key (PKCS#8 PEM, ECDSA P-256).
    pub fn from_pem(_private_key_pem: &[u8], issuer: &str) -> Result<TokenSigner, KeyError> {
        Ok(TokenSigner {
            issuer: issuer.to_owned(),
        })
    }

    /// The issuer that the tokens name.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a token.
    pub fn issue(&self, _spec: &TokenSpec<'_>, _now: Timestamp) -> Result<IssuedToken, KeyError> {
        Err(KeyError("signing is not there yet".into()))
    }

    /// Serves `create serviceaccounts/token`: checks `request` (a `TokenRequest`)
    /// and answers it with its status filled in.
    pub fn token_request(
        &self,
        _reader: &dyn ObjectReader,
        _namespace: &str,
        _name: &str,
        _request: &Object,
        _now: Timestamp,
    ) -> Result<Object, Status> {
        Ok(Object::Null)
    }
}

/// The key set at `/openid/v1/jwks` for these public keys (SPKI PEM).
pub fn jwks(_public_keys_pem: &[Vec<u8>]) -> Result<Object, KeyError> {
    Ok(serde_json::json!({"keys": []}))
}

/// The document at `/.well-known/openid-configuration`.
pub fn openid_configuration(issuer: &str, jwks_uri: &str) -> Object {
    serde_json::json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
