//! Starts and stops the ingress controller with its addon.
//!
//! The addon has a service account with the controller's rights. As long as it exists, the
//! controller has a token of it, and init runs the controller as long as there is a token. The
//! controller is thereby a process of its own, which goes on while the control plane restarts.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::networking::v1::Ingress;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::getppid;
use rkube_client::reflector::{Changes, Event, Source};
use rkube_config::paths;
use serde_json::json;

/// Namespace and name of the controller's service account, as in the addon's manifest.
const ACCOUNT: (&str, &str) = ("kube-system", "rkube-ingress");
/// The field manager of the controller's writes.
const MANAGER: &str = "rkube-ingress";
/// The lifetime of a token.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// The time after which a new one is made.
const RENEWAL: Duration = Duration::from_secs(8 * 3600);
/// The delay of another attempt after a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Name of [`Files::marker`].
const MARKER: &str = "ingress-enabled";

/// The files that say what is to be done.
struct Files {
    /// Init runs the controller as long as there is a token.
    token: PathBuf,
    /// Is there as long as Ingresses may have what the controller wrote, also after restarts.
    marker: PathBuf,
}

impl Files {
    /// Removes the token. Returns whether Ingresses are to be cleaned up.
    fn remove_token(&self) -> anyhow::Result<bool> {
        let place = || format!("cannot remove {}", self.token.display());
        if self.token.try_exists().with_context(place)? {
            // A token of an earlier version came without.
            self.mark()?;
            std::fs::remove_file(&self.token).with_context(place)?;
            wake_init()?;
        }
        let place = || format!("cannot read {}", self.marker.display());
        self.marker.try_exists().with_context(place)
    }

    fn mark(&self) -> anyhow::Result<()> {
        std::fs::write(&self.marker, "")
            .with_context(|| format!("cannot write {}", self.marker.display()))
    }
}

/// Follows the account until the watch ends.
pub async fn run(client: Client) -> anyhow::Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), ACCOUNT.0);
    let only = Source::of::<ServiceAccount>(Some(ACCOUNT.0))
        .fields(format!("metadata.name={}", ACCOUNT.1));
    let mut changes = Changes::<ServiceAccount>::new(client.clone(), only);
    let files = Files {
        token: paths::INGRESS_TOKEN.into(),
        marker: Path::new(paths::STATE).join(MARKER),
    };
    // The UID of the account; `None` if there is none.
    let mut account: Option<String> = None;
    // Whether there was a list: before, nothing is known.
    let mut known = false;
    let mut due = tokio::time::Instant::now();
    loop {
        tokio::select! {
            change = changes.next() => {
                let now = match change {
                    Some(Event::Listed(list)) if !list.unreadable.is_empty() => continue,
                    Some(Event::Listed(list)) => list.objects.first().and_then(ResourceExt::uid),
                    Some(Event::Applied(found)) => found.uid(),
                    Some(Event::Deleted(_)) => None,
                    Some(Event::Unreadable(_) | Event::Failed(_)) => continue,
                    None => anyhow::bail!("the watch of the ingress controller's account ended"),
                };
                if known && now == account {
                    continue;
                }
                account = now;
                known = true;
            }
            () = tokio::time::sleep_until(due), if known => {}
        }
        let done = match &account {
            Some(_) => enable(&accounts, &files).await,
            None => disable(&client, &files).await,
        };
        due = tokio::time::Instant::now() + if done.is_ok() { RENEWAL } else { RETRY };
        if let Err(error) = done {
            tracing::warn!("cannot start or stop the ingress controller: {error:#}");
        }
    }
}

/// Writes a new token and wakes init.
async fn enable(accounts: &Api<ServiceAccount>, files: &Files) -> anyhow::Result<()> {
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(ACCOUNT.1, &PostParams::default(), &request)
        .await
        .context("no token is given")?;
    let token = answer.status.and_then(|status| status.token);
    let token = token.context("the answer has no token")?;
    files.mark()?;
    let path = &files.token;
    let new = path.with_extension("new");
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(token.as_bytes()))
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))?;
    wake_init()
}

/// Removes the token, wakes init, and removes what the controller wrote to Ingresses. Can be repeated
/// after a failure.
async fn disable(client: &Client, files: &Files) -> anyhow::Result<()> {
    if !files.remove_token()? {
        return Ok(());
    }
    let all: Api<Ingress> = Api::all(client.clone());
    for ingress in all.list(&ListParams::default()).await?.items {
        let wrote = ingress.managed_fields().iter().any(|entry| {
            entry.manager.as_deref() == Some(MANAGER)
                && entry.subresource.as_deref() == Some("status")
        });
        let Some(namespace) = ingress.namespace().filter(|_| wrote) else {
            continue;
        };
        let api: Api<Ingress> = Api::namespaced(client.clone(), &namespace);
        let none = json!({ "status": { "loadBalancer": null } });
        let patched = api
            .patch_status(
                &ingress.name_any(),
                &PatchParams::default(),
                &Patch::Merge(none),
            )
            .await;
        match patched {
            Ok(_) => {}
            // It was deleted in the meantime.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
    }
    std::fs::remove_file(&files.marker)
        .with_context(|| format!("cannot remove {}", files.marker.display()))
}

/// Asks init, which is the parent of this process, to look which services are wanted.
fn wake_init() -> anyhow::Result<()> {
    kill(getppid(), Signal::SIGHUP).context("cannot wake init")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_up_is_due_until_it_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files {
            token: dir.path().join("token"),
            marker: dir.path().join("marker"),
        };
        // It was never enabled.
        assert!(!files.remove_token().unwrap());
        files.mark().unwrap();
        for _ in 0..2 {
            assert!(files.remove_token().unwrap());
        }
        std::fs::remove_file(&files.marker).unwrap();
        assert!(!files.remove_token().unwrap());
    }
}
