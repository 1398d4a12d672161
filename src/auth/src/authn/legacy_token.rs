//! Authentication with tokens in secrets of service accounts. They do not expire, and are valid as
//! long as the secret holds them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rkube_api::{Object, meta};

use super::{Authenticated, Authenticators, Outcome};
use crate::token::{self, Claims, LEGACY_ISSUER};
use crate::{UserInfo, names, tree};

/// The label with the day on which the token was last used.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The label that makes a token invalid.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

impl Authenticators {
    /// Returns the user of a token in a secret. These tokens are for the API server only.
    pub(super) fn legacy_token(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Outcome<Authenticated> {
        let Some(claims) = token::verify(token, LEGACY_ISSUER, &self.keys)? else {
            return Ok(None);
        };
        let audiences_met: Vec<String> = audiences
            .iter()
            .filter(|a| self.api_audiences.contains(a))
            .cloned()
            .collect();
        if audiences_met.is_empty() {
            return Err(format!(
                "token audiences {:?} is invalid for the target audiences {audiences:?}",
                self.api_audiences
            ));
        }
        let user = self.holder(token, &claims, now)?;
        Ok(Some(Authenticated {
            user,
            audiences: audiences_met,
        }))
    }

    /// Returns the user that the claims describe. Fails if the secret does not hold the token any
    /// longer, or if the account is another or is being deleted.
    fn holder(&self, token: &str, claims: &Claims, now: Timestamp) -> Result<UserInfo, String> {
        let claim = |name: &str| {
            let key = format!("kubernetes.io/serviceaccount/{name}");
            let text = claims.get(&key).and_then(Object::as_str);
            text.filter(|t| !t.is_empty())
                .ok_or_else(|| format!("{name} claim is missing"))
        };
        let (namespace, secret_name) = (claim("namespace")?, claim("secret.name")?);
        let (name, uid) = (
            claim("service-account.name")?,
            claim("service-account.uid")?,
        );
        let user = names::service_account_user(namespace, name);
        if claims.get("sub").and_then(Object::as_str) != Some(&user) {
            return Err("sub claim is invalid".into());
        }
        let secret = self.reader.get("", "secrets", namespace, secret_name);
        let secret = secret.filter(|secret| meta::deletion_timestamp(secret).is_none());
        let secret = secret.ok_or("Token has been invalidated")?;
        let held = STANDARD.decode(tree::text(&secret, &["data", "token"]));
        if held.as_deref() != Ok(token.as_bytes()) {
            return Err("Token does not match server's copy".into());
        }
        let account = self.reader.get("", "serviceaccounts", namespace, name);
        let account = account.ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
        if meta::deletion_timestamp(&account).is_some() {
            return Err(format!(
                "ServiceAccount {namespace}/{name} has been deleted"
            ));
        }
        if tree::uid(&account) != uid {
            return Err(format!(
                "ServiceAccount UID ({}) does not match claim ({uid})",
                tree::uid(&account)
            ));
        }
        if !tree::text(&secret, &["metadata", "labels", INVALID_SINCE]).is_empty() {
            return Err(format!(
                "the token in secret {namespace}/{secret_name} for service account \
                 {namespace}/{name} has been marked invalid. Use tokens from the TokenRequest API \
                 or manually created secret-based tokens, or remove the \
                 '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            ));
        }
        self.note_use(&secret, now);
        Ok(UserInfo {
            name: user,
            uid: uid.to_owned(),
            groups: names::service_account_groups(namespace).into(),
            ..UserInfo::default()
        })
    }

    /// Reports the use of a secret's token, once a day.
    fn note_use(&self, secret: &Object, now: Timestamp) {
        let today = now.strftime("%Y-%m-%d").to_string();
        if let Some(used) = &self.used
            && tree::text(secret, &["metadata", "labels", LAST_USED]) != today
        {
            used(secret, &today);
        }
    }
}
