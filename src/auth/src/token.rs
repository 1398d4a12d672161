//! Service-account tokens: JSON Web Tokens, signed with ES256 and bound to an object.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING};
use ring::signature::{EcdsaKeyPair, KeyPair, UnparsedPublicKey};
use rkube_api::gvk::{GroupKind, GroupResource, parse_api_version};
use rkube_api::status::{FieldError, Status};
use rkube_api::{Object, meta};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Map, json};

use crate::{ObjectReader, names, tree};

/// Default lifetime of a token, in seconds.
const DEFAULT_EXPIRATION: i64 = 3600;
/// The lifetime in seconds that the ServiceAccount plugin requests for a projected volume. A
/// pod's token with this lifetime is accepted for [`EXTENDED_EXPIRATION`] seconds, which is
/// also upstream's default: clients that do not reload the file keep working.
pub const WARN_ONLY_EXPIRATION: i64 = 3607;
const EXTENDED_EXPIRATION: i64 = 24 * 365 * 60 * 60;
const MIN_EXPIRATION: i64 = 600;
/// The issuer of tokens in secrets, which do not expire.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
const MAX_EXPIRATION: i64 = 1 << 32;

/// DER prefix of a P-256 key's SubjectPublicKeyInfo; the point follows.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Length of an uncompressed point: a tag and two coordinates of 32 bytes.
const POINT_LENGTH: usize = 65;

/// The reason why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the service-account key is not usable: {0}")]
pub struct KeyError(pub String);

/// A public key for the verification of tokens.
#[derive(Clone)]
pub(crate) struct PublicKey {
    point: [u8; POINT_LENGTH],
    /// The base64url SHA-256 of the key's SubjectPublicKeyInfo.
    id: String,
}

impl PublicKey {
    pub(crate) fn from_pem(pem: &[u8]) -> Result<PublicKey, KeyError> {
        let spki =
            SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|e| KeyError(e.to_string()))?;
        let point = spki
            .strip_prefix(&P256_SPKI)
            .and_then(|point| point.try_into().ok());
        point
            .map(PublicKey::from_point)
            .ok_or_else(|| KeyError("it is not an ECDSA P-256 public key".into()))
    }

    fn from_point(point: [u8; POINT_LENGTH]) -> PublicKey {
        let spki = [&P256_SPKI[..], &point].concat();
        let id = URL_SAFE_NO_PAD.encode(ring::digest::digest(&ring::digest::SHA256, &spki));
        PublicKey { point, id }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point)
            .verify(message, signature)
            .is_ok()
    }

    fn to_jwk(&self) -> Object {
        json!({
            "use": "sig",
            "kty": "EC",
            "kid": self.id,
            "crv": "P-256",
            "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&self.point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&self.point[33..]),
        })
    }
}

/// A signer of service-account tokens.
pub struct TokenSigner {
    issuer: String,
    audiences: Vec<String>,
    key: EcdsaKeyPair,
    key_id: String,
    random: SystemRandom,
}

/// The content of a token.
#[derive(Clone, Copy, Debug)]
pub struct TokenSpec<'a> {
    /// The service account that the token authenticates.
    pub service_account: &'a Object,
    /// The pod that the token is bound to.
    pub pod: Option<&'a Object>,
    /// The secret that the token is bound to.
    pub secret: Option<&'a Object>,
    /// The node that the token is bound to, or that the bound pod runs on.
    pub node: Option<&'a Object>,
    /// The audiences that accept the token.
    pub audiences: &'a [String],
    /// Lifetime in seconds.
    pub expiration_seconds: i64,
    /// Time in seconds after which the use of the token is considered stale.
    pub warn_after_seconds: Option<i64>,
}

/// A signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedToken {
    /// The token in JWS compact serialization.
    pub token: String,
    /// Expiration time.
    pub expires: Timestamp,
    /// The claim `jti`; the user's credential ID is `JTI=<id>`.
    pub id: String,
}

impl TokenSigner {
    /// Reads a private key (PKCS#8 PEM, ECDSA P-256). `issuer` is also the API server's
    /// audience, which token requests without audiences get.
    pub fn from_pem(private_key_pem: &[u8], issuer: &str) -> Result<TokenSigner, KeyError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(private_key_pem)
            .map_err(|e| KeyError(e.to_string()))?;
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            der.secret_pkcs8_der(),
            &random,
        )
        .map_err(|e| KeyError(format!("it is not an ECDSA P-256 private key: {e}")))?;
        let point = key.public_key().as_ref().try_into();
        let point = point.map_err(|_| KeyError("its public key is of an odd length".into()))?;
        Ok(TokenSigner {
            issuer: issuer.to_owned(),
            audiences: vec![issuer.to_owned()],
            key,
            key_id: PublicKey::from_point(point).id,
            random,
        })
    }

    /// Replaces the audiences of the API server, which are the issuer by default.
    #[must_use]
    pub fn with_api_audiences(mut self, audiences: Vec<String>) -> TokenSigner {
        self.audiences = audiences;
        self
    }

    /// Returns the issuer of the tokens.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs a token.
    pub fn issue(&self, spec: &TokenSpec<'_>, now: Timestamp) -> Result<IssuedToken, KeyError> {
        let second = now.as_second();
        let id = uuid::Uuid::new_v4().to_string();
        let account = spec.service_account;
        let (namespace, name) = (tree::namespace(account), tree::name(account));
        let mut kubernetes = json!({"namespace": namespace, "serviceaccount": reference(account)});
        for (field, bound) in [
            ("pod", spec.pod),
            ("secret", spec.secret),
            ("node", spec.node),
        ] {
            if let Some(object) = bound {
                kubernetes[field] = reference(object);
            }
        }
        if let Some(seconds) = spec.warn_after_seconds {
            kubernetes["warnafter"] = (second + seconds).into();
        }
        let expiry = second.saturating_add(spec.expiration_seconds);
        let claims = json!({
            "iss": self.issuer,
            "sub": names::service_account_user(namespace, name),
            "aud": spec.audiences,
            "iat": second,
            "nbf": second,
            "exp": expiry,
            "jti": id,
            "kubernetes.io": kubernetes,
        });
        let token = self.sign(&claims)?;
        let expires = Timestamp::from_second(expiry).unwrap_or(Timestamp::MAX);
        Ok(IssuedToken { token, expires, id })
    }

    /// Signs the token that is stored in `secret`, a secret of the type
    /// `kubernetes.io/service-account-token`. It is valid as long as the secret holds it.
    ///
    /// # Errors
    ///
    /// The system's random source failed.
    pub fn issue_for_secret(
        &self,
        namespace: &str,
        account: &str,
        account_uid: &str,
        secret: &str,
    ) -> Result<String, KeyError> {
        self.sign(&json!({
            "iss": LEGACY_ISSUER,
            "sub": names::service_account_user(namespace, account),
            "kubernetes.io/serviceaccount/namespace": namespace,
            "kubernetes.io/serviceaccount/secret.name": secret,
            "kubernetes.io/serviceaccount/service-account.name": account,
            "kubernetes.io/serviceaccount/service-account.uid": account_uid,
        }))
    }

    fn sign(&self, claims: &Object) -> Result<String, KeyError> {
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let part = |value: &Object| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&self.random, signed.as_bytes());
        let signature =
            signature.map_err(|_| KeyError("the system's random source failed".into()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Handles `create serviceaccounts/token`. Validates `request` (a `TokenRequest`) and
    /// returns it with its status.
    pub fn token_request(
        &self,
        reader: &dyn ObjectReader,
        namespace: &str,
        name: &str,
        request: &Object,
        now: Timestamp,
    ) -> Result<Object, Status> {
        let kind = GroupKind::new("authentication.k8s.io", "TokenRequest");
        let given = [
            ("name", meta::name(request), name),
            ("namespace", meta::namespace(request), namespace),
        ];
        for (field, given, own) in given {
            if !given.is_empty() && given != own {
                let detail = format!("must match the service account {field} if specified");
                let error = FieldError::invalid(format!("metadata.{field}"), given, detail);
                return Err(Status::invalid(&kind, name, vec![error]));
            }
        }
        let account = find(reader, "serviceaccounts", namespace, name)?;
        let (asked_uid, uid) = (tree::uid(request), tree::uid(&account));
        if !asked_uid.is_empty() && asked_uid != uid {
            let why = format!(
                "the UID in the token request ({asked_uid}) does not match the UID of the service account ({uid})"
            );
            let resource = GroupResource::new("authentication.k8s.io", "TokenRequest");
            return Err(Status::conflict(&resource, name, why));
        }

        let mut answer = request.clone();
        meta::set_name(&mut answer, name);
        meta::set_namespace(&mut answer, namespace);
        meta::set_uid(&mut answer, uid);
        meta::set_creation_timestamp(&mut answer, &meta::rfc3339(now));
        let mut audiences: Vec<String> = tree::strings(request, &["spec", "audiences"])
            .into_iter()
            .map(str::to_owned)
            .collect();
        if audiences.is_empty() {
            audiences.clone_from(&self.audiences);
        }
        let expiration =
            tree::int(request, &["spec", "expirationSeconds"]).unwrap_or(DEFAULT_EXPIRATION);
        let spec = tree::make_map(&mut answer, &["spec"]);
        spec.insert("audiences".into(), audiences.clone().into());
        spec.insert("expirationSeconds".into(), expiration.into());
        let out_of_range = match expiration {
            ..MIN_EXPIRATION => Some("may not specify a duration less than 10 minutes"),
            MIN_EXPIRATION..=MAX_EXPIRATION => None,
            _ => Some("may not specify a duration larger than 2^32 seconds"),
        };
        if let Some(detail) = out_of_range {
            let error = FieldError::invalid("spec.expirationSeconds", expiration, detail);
            return Err(Status::invalid(&kind, "", vec![error]));
        }

        let bound = bound_object(reader, namespace, name, request)?;
        let extend = matches!(bound, Bound::Pod(..))
            && expiration == WARN_ONLY_EXPIRATION
            && audiences
                .iter()
                .all(|audience| self.audiences.contains(audience));
        let (pod, secret, node) = match &bound {
            Bound::Nothing => (None, None, None),
            Bound::Pod(pod, node) => (Some(pod), None, node.as_ref()),
            Bound::Secret(secret) => (None, Some(secret), None),
            Bound::Node(node) => (None, None, Some(node)),
        };
        let spec = TokenSpec {
            service_account: &account,
            pod: pod.map(|p| &**p),
            secret: secret.map(|s| &**s),
            node: node.map(|n| &**n),
            audiences: &audiences,
            expiration_seconds: if extend {
                EXTENDED_EXPIRATION
            } else {
                expiration
            },
            warn_after_seconds: extend.then_some(expiration),
        };
        let issued = self.issue(&spec, now);
        let issued =
            issued.map_err(|e| Status::internal(format!("failed to generate token: {}", e.0)))?;
        // The client sees the requested lifetime, so that it refreshes the token in time.
        let expires = now
            .checked_add(SignedDuration::from_secs(expiration))
            .unwrap_or(Timestamp::MAX);
        answer["status"] =
            json!({"token": issued.token, "expirationTimestamp": meta::rfc3339(expires)});
        Ok(answer)
    }
}

/// Returns an object reference with name and, if set, UID.
fn reference(object: &Object) -> Object {
    let mut reference = json!({"name": tree::name(object)});
    if !tree::uid(object).is_empty() {
        reference["uid"] = tree::uid(object).into();
    }
    reference
}

/// The object that a token is bound to; for a pod, also its node.
enum Bound {
    Nothing,
    Pod(Arc<Object>, Option<Arc<Object>>),
    Secret(Arc<Object>),
    Node(Arc<Object>),
}

/// Looks up the object that a token request is bound to, and checks its UID.
fn bound_object(
    reader: &dyn ObjectReader,
    namespace: &str,
    account: &str,
    request: &Object,
) -> Result<Bound, Status> {
    let Some(asked) = tree::at(request, &["spec", "boundObjectRef"]).filter(|r| r.is_object())
    else {
        return Ok(Bound::Nothing);
    };
    let (name, kind) = (tree::text(asked, &["name"]), tree::text(asked, &["kind"]));
    let (group, version) = parse_api_version(tree::text(asked, &["apiVersion"]));
    let (bound, uid) = match (group, kind) {
        ("", "Pod") => {
            let pod = find(reader, "pods", namespace, name)?;
            if tree::text(&pod, &["spec", "serviceAccountName"]) != account {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = tree::text(&pod, &["spec", "nodeName"]);
            // A deleted node is included by name, without a UID.
            let gone = || Arc::new(json!({"metadata": {"name": node}}));
            let node =
                (!node.is_empty()).then(|| reader.get("", "nodes", "", node).unwrap_or_else(gone));
            let uid = tree::uid(&pod).to_owned();
            (Bound::Pod(pod, node), uid)
        }
        ("", "Secret") => {
            let secret = find(reader, "secrets", namespace, name)?;
            let uid = tree::uid(&secret).to_owned();
            (Bound::Secret(secret), uid)
        }
        ("", "Node") => {
            let node = find(reader, "nodes", "", name)?;
            let uid = tree::uid(&node).to_owned();
            (Bound::Node(node), uid)
        }
        _ => {
            let text =
                format!("cannot bind token to object of type {group}/{version}, Kind={kind}");
            return Err(Status::bad_request(text));
        }
    };
    let asked = tree::text(asked, &["uid"]);
    if !asked.is_empty() && asked != uid {
        let why = format!(
            "the UID in the bound object reference ({asked}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(
            &GroupResource::new(group, kind),
            name,
            why,
        ));
    }
    Ok(bound)
}

fn find(
    reader: &dyn ObjectReader,
    resource: &str,
    namespace: &str,
    name: &str,
) -> Result<Arc<Object>, Status> {
    let found = reader.get("", resource, namespace, name);
    found.ok_or_else(|| Status::not_found(&GroupResource::new("", resource), name))
}

/// Returns the JSON Web Key Set for public keys (SPKI PEM), served at `/openid/v1/jwks`.
pub fn jwks(public_keys_pem: &[Vec<u8>]) -> Result<Object, KeyError> {
    let keys: Result<Vec<Object>, KeyError> = public_keys_pem
        .iter()
        .map(|pem| Ok(PublicKey::from_pem(pem)?.to_jwk()))
        .collect();
    Ok(json!({"keys": keys?}))
}

/// Returns the discovery document, served at `/.well-known/openid-configuration`.
pub fn openid_configuration(issuer: &str, jwks_uri: &str) -> Object {
    json!({
        "issuer": issuer,
        "jwks_uri": jwks_uri,
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}

/// The claims of a token.
pub(crate) type Claims = Map<String, Object>;

/// Verifies the signature of a token and returns its claims. Returns `Ok(None)` if it is not a
/// token of `issuer`. The caller must check times and audiences.
pub(crate) fn verify(
    token: &str,
    issuer: &str,
    keys: &[PublicKey],
) -> Result<Option<Claims>, String> {
    let parse = |part: &str| -> Option<Claims> {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
    };
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
        return Ok(None);
    };
    let Some(claims) = parse(payload) else {
        return Ok(None);
    };
    if claims.get("iss").and_then(Object::as_str) != Some(issuer) {
        return Ok(None);
    }
    let (Some(header), Ok(signature_bytes)) = (parse(header), URL_SAFE_NO_PAD.decode(signature))
    else {
        return Ok(None);
    };
    // The algorithm is fixed; the header must not select another one.
    if header.get("alg").and_then(Object::as_str) != Some("ES256") {
        return Err("invalid signature, unexpected algorithm".into());
    }
    let key_id = header.get("kid").and_then(Object::as_str).unwrap_or("");
    let mut candidates = keys
        .iter()
        .filter(|key| key_id.is_empty() || key.id == key_id)
        .peekable();
    if candidates.peek().is_none() {
        return Err("invalid signature, no keys found".into());
    }
    let signed = &token.as_bytes()[..token.len() - signature.len() - 1];
    if !candidates.any(|key| key.verifies(signed, &signature_bytes)) {
        return Err("invalid signature".into());
    }
    Ok(Some(claims))
}
