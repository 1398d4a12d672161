//! Notes on secrets of service accounts the day on which their token was last used.

use std::sync::Weak;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use rkube_api::meta;
use rkube_auth::authn::{LAST_USED, TokenUse};
use serde_json::json;
use tokio::sync::mpsc;

use crate::ApiServer;

/// Maximum number of notes that wait to be written. Further ones are left to the next request with
/// the token.
const MAX_WAITING_NOTES: usize = 64;

/// A note that a secret's token was used.
pub struct TokenUseNote {
    namespace: String,
    name: String,
    uid: String,
    day: String,
}

/// Returns the callback for authentication, and the notes that it makes.
pub fn notes() -> (TokenUse, mpsc::Receiver<TokenUseNote>) {
    let (into, notes) = mpsc::channel(MAX_WAITING_NOTES);
    let used: TokenUse = Box::new(move |secret, day| {
        let note = TokenUseNote {
            namespace: meta::namespace(secret).to_owned(),
            name: meta::name(secret).to_owned(),
            uid: meta::uid(secret).to_owned(),
            day: day.to_owned(),
        };
        if into.try_send(note).is_err() {
            tracing::debug!("the use of a token is noted later");
        }
    });
    (used, notes)
}

/// Writes notes until the server is dropped.
pub async fn write(server: Weak<ApiServer>, mut notes: mpsc::Receiver<TokenUseNote>) {
    while let Some(note) = notes.recv().await {
        let Some(server) = server.upgrade() else {
            return;
        };
        let client = server.client("system:apiserver", &["system:masters"]);
        let secrets: Api<Secret> = Api::namespaced(client, &note.namespace);
        let patch = json!({"metadata": {"uid": note.uid, "labels": {LAST_USED: note.day}}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        if let Err(error) = secrets.patch(&note.name, &params, &patch).await {
            tracing::warn!(%error, secret = note.name, "the use of a token could not be noted");
        }
    }
}
