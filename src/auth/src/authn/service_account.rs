//! Authentication with service-account tokens. The bound objects must still exist.

use jiff::{SignedDuration, Timestamp};
use rkube_api::{Object, meta};

use super::{Authenticated, Authenticators, Outcome};
use crate::token::{self, Claims};
use crate::{UserInfo, names, tree};

/// The key in a user's extra values with the ID of the token or certificate.
pub(super) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Tolerated clock skew.
const LEEWAY: SignedDuration = SignedDuration::from_mins(1);

impl Authenticators {
    /// Returns the user of a service-account token that is valid for any of `audiences`.
    pub(super) fn service_account(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Outcome<Authenticated> {
        let Some(claims) = token::verify(token, &self.issuer, &self.keys)? else {
            return Ok(None);
        };
        let good_for = match claims.get("aud") {
            Some(Object::String(one)) => vec![one.as_str()],
            Some(Object::Array(many)) => many.iter().filter_map(Object::as_str).collect(),
            _ => Vec::new(),
        };
        let audiences_met: Vec<String> = audiences
            .iter()
            .filter(|a| good_for.contains(&a.as_str()))
            .cloned()
            .collect();
        if audiences_met.is_empty() {
            return Err(format!(
                "token audiences {good_for:?} is invalid for the target audiences {audiences:?}"
            ));
        }
        check_times(&claims, now)?;
        let user = self.bearer(&claims, now)?;
        Ok(Some(Authenticated {
            user,
            audiences: audiences_met,
        }))
    }

    /// Returns the user that a token's claims describe. Fails if the account or the bound
    /// object does not exist, has another UID, or was deleted longer ago than [`LEEWAY`].
    fn bearer(&self, claims: &Claims, now: Timestamp) -> Result<UserInfo, String> {
        let kubernetes = claims
            .get("kubernetes.io")
            .ok_or("the token is no service account's")?;
        let claim = |kind: &str, field: &str| tree::text(kubernetes, &[kind, field]);
        let namespace = tree::text(kubernetes, &["namespace"]);
        let name = claim("serviceaccount", "name");
        let uid = claim("serviceaccount", "uid");
        let deleted = |object: &Object| {
            let since = meta::deletion_timestamp(object).and_then(meta::parse_time);
            since.is_some_and(|since| now.duration_since(since) > LEEWAY)
        };

        let account = self.reader.get("", "serviceaccounts", namespace, name);
        let account = account.ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        if tree::uid(&account) != uid {
            return Err(format!(
                "service account UID ({}) does not match claim ({uid})",
                tree::uid(&account)
            ));
        }
        if deleted(&account) {
            return Err(format!(
                "service account {namespace}/{name} has been deleted"
            ));
        }

        let has = |kind: &str| {
            kubernetes
                .get(kind)
                .is_some_and(|reference| reference.is_object())
        };
        let check =
            |kind: &str, resource: &str, namespace: &str, title: &str| -> Result<(), String> {
                let (name, uid) = (claim(kind, "name"), claim(kind, "uid"));
                match self.reader.get("", resource, namespace, name) {
                    Some(object) if tree::uid(&object) != uid => Err(format!(
                        "{title} ({}) does not match service account {kind} ref claim ({uid})",
                        tree::uid(&object)
                    )),
                    Some(object) if !deleted(&object) => Ok(()),
                    _ => Err("service account token has been invalidated".into()),
                }
            };
        if has("secret") {
            check("secret", "secrets", namespace, "secret UID")?;
        }
        if has("pod") {
            check("pod", "pods", namespace, "pod UID")?;
        } else if has("node") {
            check("node", "nodes", "", "node UID")?;
        }

        let mut user = UserInfo {
            name: names::service_account_user(namespace, name),
            uid: uid.to_owned(),
            groups: names::service_account_groups(namespace).into(),
            ..UserInfo::default()
        };
        let mut add = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(
                    format!("authentication.kubernetes.io/{key}"),
                    vec![value.to_owned()],
                );
            }
        };
        if !claim("pod", "name").is_empty() && !claim("pod", "uid").is_empty() {
            add("pod-name", claim("pod", "name"));
            add("pod-uid", claim("pod", "uid"));
        }
        if !claim("node", "name").is_empty() {
            add("node-name", claim("node", "name"));
            add("node-uid", claim("node", "uid"));
        }
        if let Some(id) = claims
            .get("jti")
            .and_then(Object::as_str)
            .filter(|id| !id.is_empty())
        {
            add("credential-id", &format!("JTI={id}"));
        }
        Ok(user)
    }
}

/// Checks the validity period of a token, with [`LEEWAY`] on both ends.
fn check_times(claims: &Claims, now: Timestamp) -> Result<(), String> {
    // Times may have a fraction, which is smaller than the leeway.
    let time = |claim: &str| {
        let value = claims.get(claim)?;
        let second = value
            .as_i64()
            .or_else(|| value.as_f64().map(|f| f as i64))?;
        Timestamp::from_second(second).ok()
    };
    // Tokens of this issuer always expire.
    let expires = time("exp").ok_or("service account token has no expiry")?;
    if now.duration_since(expires) > LEEWAY {
        return Err("service account token has expired".into());
    }
    if time("nbf").is_some_and(|from| from.duration_since(now) > LEEWAY) {
        return Err("service account token is not valid yet".into());
    }
    if time("iat").is_some_and(|at| at.duration_since(now) > LEEWAY) {
        return Err("service account token is issued in the future".into());
    }
    Ok(())
}
