//! Feeds the Corefile of the ConfigMap `coredns` to the node's name server.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use kube::Resource;
use rkube_client::reflector::{Changes, Event};
use rkube_config::paths;
use rkube_network::DnsServer;
use tracing::{info, warn};

use crate::kinds::{ConfigMap, ObjectReference};
use crate::recorder::{Recorder, Severity};
use crate::watching;

/// The namespace and the name of the ConfigMap, and the key of the text in it.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "coredns";
const KEY: &str = "Corefile";

/// Dependencies of the feed.
pub(crate) struct CorefileFeed {
    /// Client with the service proxy's identity, which may read the ConfigMap.
    pub client: kube::Client,
    pub dns: Arc<DnsServer>,
    /// Reports what is wrong; `None` on nodes whose reports would only repeat those of another.
    pub recorder: Option<Recorder>,
}

/// Feeds the name server until the future is dropped. A ConfigMap that is wrong changes nothing, not
/// even if the agent has restarted since; without one, the default configuration is used.
pub(crate) async fn run(feed: CorefileFeed) {
    let file = Path::new(paths::STATE).join("network").join(KEY);
    let mut configuration = Configuration::restore(feed.dns.clone(), file).await;
    let only =
        watching::source::<ConfigMap>(Some(NAMESPACE)).fields(format!("metadata.name={NAME}"));
    let mut events = Changes::new(feed.client.clone(), only);
    // As last applied, so that nothing happens when other fields change.
    let mut applied: Option<Found> = None;
    while let Some(event) = events.next().await {
        let map: Option<ConfigMap> = match event {
            Event::Listed(list) if !list.unreadable.is_empty() => continue,
            Event::Listed(list) => list.objects.into_iter().next(),
            Event::Applied(map) => Some(map),
            Event::Deleted(_) => None,
            // What is applied stays in use.
            Event::Unreadable(_) | Event::Failed(_) => continue,
        };
        let found = match &map {
            None => Found::Nothing,
            Some(map) => match map.data.as_ref().and_then(|data| data.get(KEY)) {
                Some(text) => Found::Text(text.clone()),
                None => Found::NoKey,
            },
        };
        if applied.as_ref() == Some(&found) {
            continue;
        }
        match configuration.apply(&found).await {
            Ok(()) => info!("the name server has a new configuration"),
            Err(message) => {
                warn!("{message}");
                if let (Some(recorder), Some(map)) = (&feed.recorder, &map) {
                    recorder.record(
                        reference(map),
                        Severity::Warning,
                        "InvalidCorefile",
                        message,
                    );
                }
            }
        }
        applied = Some(found);
    }
}

/// What the cluster has.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// No ConfigMap.
    Nothing,
    /// A ConfigMap without the text.
    NoKey,
    Text(String),
}

/// The name server's configuration, and the file that keeps it for the next agent.
struct Configuration {
    dns: Arc<DnsServer>,
    file: PathBuf,
    /// Whether the default is in use.
    default: bool,
}

impl Configuration {
    /// Uses the last valid text from before the agent started, if there is one.
    async fn restore(dns: Arc<DnsServer>, file: PathBuf) -> Self {
        let default = match tokio::fs::read_to_string(&file).await {
            Ok(text) => match dns.configure(Some(&text)) {
                Ok(()) => false,
                // This agent may understand less than the one that wrote it.
                Err(problem) => {
                    warn!("{}: {problem}", file.display());
                    true
                }
            },
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    warn!("reading {}: {error}", file.display());
                }
                true
            }
        };
        Self { dns, file, default }
    }

    /// Uses what was found.
    ///
    /// # Errors
    /// Fails with what is wrong with it and what is in use.
    async fn apply(&mut self, found: &Found) -> Result<(), String> {
        let text = match found {
            Found::Nothing => None,
            Found::Text(text) => Some(text.as_str()),
            Found::NoKey => return Err(self.refusal(&format!("the key {KEY} is missing"))),
        };
        if let Err(problem) = self.dns.configure(text) {
            return Err(self.refusal(&problem.to_string()));
        }
        self.default = text.is_none();
        let kept = match text {
            Some(text) => keep(&self.file, text).await,
            None => match tokio::fs::remove_file(&self.file).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        // It is in use until the agent ends.
        if let Err(error) = kept {
            warn!("keeping {}: {error}", self.file.display());
        }
        Ok(())
    }

    fn refusal(&self, problem: &str) -> String {
        let used = match self.default {
            true => "the default configuration is in use",
            false => "the last valid configuration stays in use",
        };
        format!("{problem}; {used}")
    }
}

/// Writes the text for the next agent.
async fn keep(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    let temporary = file.with_extension("new");
    tokio::fs::write(&temporary, text).await?;
    tokio::fs::rename(&temporary, file).await
}

fn reference(map: &ConfigMap) -> ObjectReference {
    map.object_ref(&())
}

#[cfg(test)]
mod tests {
    use rkube_network::DnsConfig;

    use super::*;

    async fn server() -> Arc<DnsServer> {
        let config = DnsConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            domain: "cluster.local".into(),
            upstreams: Vec::new(),
            resolv_conf: "/nonexistent".into(),
            host: None,
            host_names: Vec::new(),
        };
        Arc::new(DnsServer::start(config).await.unwrap())
    }

    #[tokio::test]
    async fn the_last_valid_text_outlives_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("network/Corefile");
        let wrong = Found::Text("nonsense {".into());
        let mut first = Configuration::restore(server().await, file.clone()).await;
        let why = first.apply(&Found::NoKey).await.unwrap_err();
        let default = "the key Corefile is missing; the default configuration is in use";
        assert_eq!(why, default);
        let valid = Found::Text(". {\n log\n}\n".into());
        first.apply(&valid).await.unwrap();
        let why = first.apply(&wrong).await.unwrap_err();
        let stays = "; the last valid configuration stays in use";
        assert!(why.ends_with(stays), "{why}");
        // The next agent.
        let mut second = Configuration::restore(server().await, file.clone()).await;
        let why = second.apply(&wrong).await.unwrap_err();
        assert!(why.ends_with(stays), "{why}");
        second.apply(&Found::Nothing).await.unwrap();
        assert!(!file.exists());
        let why = second.apply(&Found::NoKey).await.unwrap_err();
        assert_eq!(why, default);
    }
}
