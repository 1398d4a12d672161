//! Secrets of the type `kubernetes.io/service-account-token`: fills them in, and deletes them with
//! their service account.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use rkube_auth::token::TokenSigner;

use crate::context::{Context, Deletion, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::{Change, Key};
use crate::queue::Queue;

/// Annotation with the name of a secret's service account.
const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// Annotation with the UID of a secret's service account.
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
/// Number of objects processed concurrently.
const CONCURRENCY: usize = 5;

/// An object to be processed, and the reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// A secret was created or changed.
    Secret(Key),
    /// A service account was created, changed or deleted.
    Account(Key),
    /// A secret was deleted. Its account must not name it any longer.
    Reference {
        /// The account.
        account: Key,
        /// The name of the secret.
        secret: String,
    },
}

/// Returns an annotation of a secret, empty if it is not there.
fn annotation<'a>(secret: &'a Secret, name: &str) -> &'a str {
    let annotations = secret.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(name))
        .map_or("", String::as_str)
}

/// Returns the key of a secret's service account.
fn account_of(secret: &Secret) -> Key {
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    Key::new(namespace, annotation(secret, ACCOUNT))
}

/// Returns whether a secret is for this account: by name, and by UID if the secret has one.
fn is_for(secret: &Secret, account: &ServiceAccount) -> bool {
    let uid = annotation(secret, ACCOUNT_UID);
    account_of(secret) == Key::of(&account.metadata)
        && (uid.is_empty() || account.metadata.uid.as_deref() == Some(uid))
}

/// Returns the secret with everything that it lacks, `None` if it lacks nothing. `sign` makes a
/// token.
///
/// # Errors
///
/// The error of `sign`.
pub fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    ca: &str,
    sign: impl FnOnce() -> Result<String>,
) -> Result<Option<Secret>> {
    let none = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&none);
    let get = |key: &str| data.get(key).map_or(&[][..], |value| &value.0);
    let mut missing: Vec<(&str, Vec<u8>)> = Vec::new();
    if !ca.is_empty() && get("ca.crt") != ca.as_bytes() {
        missing.push(("ca.crt", ca.into()));
    }
    if get("namespace").is_empty() {
        let namespace = secret.metadata.namespace.clone().unwrap_or_default();
        missing.push(("namespace", namespace.into_bytes()));
    }
    if get("token").is_empty() {
        missing.push(("token", sign()?.into_bytes()));
    }
    let uid = account.metadata.uid.clone().unwrap_or_default();
    if missing.is_empty() && annotation(secret, ACCOUNT_UID) == uid {
        return Ok(None);
    }
    let mut filled = secret.clone();
    let annotations = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_UID.to_owned(), uid);
    let data = filled.data.get_or_insert_default();
    for (key, value) in missing {
        data.insert(key.to_owned(), ByteString(value));
    }
    Ok(Some(filled))
}

/// The controller of the secrets with tokens of service accounts.
pub struct AccountTokens {
    ctx: Context,
    queue: Queue<Due>,
    signer: TokenSigner,
}

impl AccountTokens {
    /// Returns the controller. `signer` has the key by which the API server verifies tokens.
    pub fn new(ctx: &Context, signer: TokenSigner) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
            signer,
        }
    }

    /// Returns the account with this key. A missing one is asked for, because the informers of
    /// secrets and accounts are not in step.
    async fn account(&self, key: &Key) -> Result<Option<ServiceAccount>> {
        if key.name.is_empty() {
            return Ok(None);
        }
        if let Some(known) = self.ctx.informers.service_accounts.by_key(key) {
            return Ok(Some(ServiceAccount::clone(&known)));
        }
        optional(self.ctx.get(&key.namespace, &key.name).await)
    }

    async fn secret(&self, key: &Key) -> Result<()> {
        let store = &self.ctx.informers.account_tokens;
        let Some(secret) = store.by_key(key) else {
            return Ok(());
        };
        if secret.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let mut account = self.account(&account_of(&secret)).await?;
        if account.as_ref().is_some_and(|a| !is_for(&secret, a)) {
            // The cached account may be older than the secret.
            account = optional(
                self.ctx
                    .get(&key.namespace, annotation(&secret, ACCOUNT))
                    .await,
            )?;
        }
        let Some(account) = account.filter(|account| is_for(&secret, account)) else {
            tracing::debug!(%key, "deleting a token of a service account that does not exist");
            let how = Deletion::default();
            let gone = self.ctx.delete(store, &secret.metadata, &how);
            return optional(gone.await).map(drop);
        };
        let uid = account.metadata.uid.as_deref().unwrap_or_default();
        let name = annotation(&secret, ACCOUNT);
        let sign = || {
            let token = self
                .signer
                .issue_for_secret(&key.namespace, name, uid, &key.name);
            token.map_err(|e| Error::other(e.to_string()))
        };
        let ca = &self.ctx.config.ca_cert_pem;
        match filled(&secret, &account, ca, sign)? {
            Some(filled) => optional(self.ctx.update(store, &filled).await).map(drop),
            None => Ok(()),
        }
    }

    /// Removes a deleted secret from the list of its account.
    async fn unreference(&self, account: &Key, secret: &str) -> Result<()> {
        let store = &self.ctx.informers.service_accounts;
        let found: Option<ServiceAccount> =
            optional(self.ctx.get(&account.namespace, &account.name).await)?;
        let Some(mut found) = found else {
            return Ok(());
        };
        let references = found.secrets.get_or_insert_default();
        let before = references.len();
        references.retain(|reference| reference.name.as_deref() != Some(secret));
        let again: Option<Secret> = optional(self.ctx.get(&account.namespace, secret).await)?;
        if references.len() == before || again.is_some() {
            return Ok(());
        }
        optional(self.ctx.update(store, &found).await).map(drop)
    }
}

impl Controller for AccountTokens {
    type Item = Due;

    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }

    fn workers(&self) -> usize {
        CONCURRENCY
    }

    fn queue(&self) -> &Queue<Due> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Due>) {
        let informers = &self.ctx.informers;
        watches
            .watches(&informers.service_accounts, |change, queue| {
                queue.add(Due::Account(Key::of(&change.object().metadata)));
            })
            .watches(&informers.account_tokens, |change, queue| {
                let secret = change.object();
                let key = Key::of(&secret.metadata);
                let Change::Deleted(_) = change else {
                    return queue.add(Due::Secret(key));
                };
                let account = account_of(secret);
                if !account.name.is_empty() {
                    queue.add(Due::Reference {
                        account,
                        secret: key.name,
                    });
                }
            });
    }

    async fn reconcile(&self, due: Due) -> Result<()> {
        match due {
            Due::Secret(key) => self.secret(&key).await,
            Due::Reference { account, secret } => self.unreference(&account, &secret).await,
            Due::Account(key) => {
                for secret in self.ctx.informers.account_tokens.indexed(&key.to_string()) {
                    self.queue.add(Due::Secret(Key::of(&secret.metadata)));
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(data: serde_json::Value, uid: &str) -> Secret {
        let mut annotations = json!({ACCOUNT: "sa"});
        if !uid.is_empty() {
            annotations[ACCOUNT_UID] = uid.into();
        }
        serde_json::from_value(json!({
            "metadata": {"name": "t", "namespace": "ns", "annotations": annotations},
            "type": "kubernetes.io/service-account-token",
            "data": data,
        }))
        .unwrap()
    }

    fn account(name: &str) -> ServiceAccount {
        let value = json!({"metadata": {"name": name, "namespace": "ns", "uid": "u1"}});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn only_what_is_missing_is_filled_in() {
        let sign = || Ok("signed".to_owned());
        let fill = |secret: &Secret| filled(secret, &account("sa"), "CA", sign).unwrap();
        let new = fill(&secret(json!({"own": "eA=="}), "")).unwrap();
        let data = new.data.as_ref().unwrap();
        let texts = ["ca.crt", "namespace", "token", "own"].map(|key| &data[key].0[..]);
        assert_eq!(texts, [&b"CA"[..], b"ns", b"signed", b"x"]);
        assert_eq!(annotation(&new, ACCOUNT_UID), "u1");
        assert!(fill(&new).is_none());
        // A token and a namespace stay; another CA does not.
        let mut other = new.clone();
        let data = other.data.as_mut().unwrap();
        data.insert("ca.crt".into(), ByteString(b"old".to_vec()));
        data.insert("token".into(), ByteString(b"kept".to_vec()));
        let again = fill(&other).unwrap().data.unwrap();
        assert_eq!(again["ca.crt"].0, b"CA");
        assert_eq!(again["token"].0, b"kept");
        // Without a signature nothing is written.
        let failing = filled(&secret(json!({}), ""), &account("sa"), "CA", || {
            Err(Error::other("no"))
        });
        assert!(failing.is_err());
    }

    #[test]
    fn secrets_belong_to_an_account_by_name_and_uid() {
        assert!(is_for(&secret(json!({}), ""), &account("sa")));
        assert!(is_for(&secret(json!({}), "u1"), &account("sa")));
        assert!(!is_for(&secret(json!({}), "u2"), &account("sa")));
        assert!(!is_for(&secret(json!({}), ""), &account("other")));
    }
}
