//! Controllers and scheduler on a store that several control planes may share.
//!
//! Each of them runs in one control plane at a time, which holds the Lease of its component
//! in `kube-system`, as upstream's components do. The embedded store belongs to one control plane,
//! so nobody is asked there.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use rkube_apiserver::ApiServer;
use rkube_client::election::{Election, Timing};
use rkube_client::events::{Recorder, Settings, Style};
use rkube_config::{NodeConfig, paths};

/// The file of what tells this control plane from others.
const IDENTITY: &str = "control-plane-id";

/// A control plane that may not be the only one.
pub struct Candidate {
    identity: String,
    server: Arc<ApiServer>,
}

impl Candidate {
    /// Returns the candidate, or nothing where the store is not shared.
    ///
    /// # Errors
    /// The identity can be neither read nor kept.
    pub fn new(config: &NodeConfig, server: &Arc<ApiServer>) -> anyhow::Result<Option<Self>> {
        if config.store.is_none() {
            return Ok(None);
        }
        let id = identity(&Path::new(paths::STATE).join(IDENTITY))?;
        Ok(Some(Self {
            identity: format!("{}_{id}", config.name),
            server: server.clone(),
        }))
    }

    /// Runs a component whenever this control plane leads, until the component ends.
    async fn run<T, F: Future<Output = T>>(
        &self,
        component: &'static str,
        start: impl Fn() -> F,
    ) -> T {
        let client = self.server.client(&format!("system:{component}"), &[]);
        let settings = Settings {
            style: Style::Counted,
            field_manager: component,
            host: None,
            instance: String::new(),
        };
        let (recorder, events) = Recorder::new(client.clone(), settings);
        let election = Election {
            client,
            namespace: "kube-system".into(),
            name: component,
            identity: self.identity.clone(),
            timing: Timing::default(),
            recorder,
        };
        let leading = async {
            loop {
                match election.lead(&start).await {
                    Ok(ended) => return ended,
                    Err(error) => tracing::warn!("{error}: {component} waits for its turn"),
                }
            }
        };
        tokio::pin!(events);
        tokio::pin!(leading);
        tokio::select! {
            ended = &mut leading => ended,
            // The recorder lives as long as the election.
            () = &mut events => leading.await,
        }
    }
}

/// Runs a component until it ends: at once, or for as long as `candidate` leads.
pub async fn run<T, F: Future<Output = T>>(
    candidate: Option<&Candidate>,
    component: &'static str,
    start: impl Fn() -> F,
) -> T {
    match candidate {
        None => start().await,
        Some(candidate) => candidate.run(component, start).await,
    }
}

/// Returns the text of a file; a new one if there is none. A control plane that restarts with it
/// goes on at once, instead of waiting until its lease has expired.
fn identity(file: &Path) -> anyhow::Result<String> {
    let in_file = || format!("the identity in {}", file.display());
    match std::fs::read_to_string(file) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(in_file);
        }
        _ => {}
    }
    let new = uuid::Uuid::new_v4().to_string();
    rkube_fsutil::write_durable(file, new.as_bytes()).with_context(in_file)?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::identity;

    #[test]
    fn an_identity_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("id");
        let first = identity(&file).unwrap();
        assert_eq!(identity(&file).unwrap(), first);
        // Nothing was written before the power went.
        std::fs::write(&file, "").unwrap();
        let second = identity(&file).unwrap();
        assert!(!second.is_empty() && second != first);
        assert!(identity(folder.path()).is_err());
    }
}
