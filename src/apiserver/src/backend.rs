//! The objects of the cluster: store, watch cache and resources.

use std::sync::Arc;

use rkube_store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::config::Config;
use crate::resources::Resources;
use crate::webhooks::client::WebhookClient;

/// Everything that reading and encoding objects needs. Requests, controllers
/// and streams share it.
pub struct Backend {
    /// The server's configuration.
    pub config: Config,
    /// The store, which every write goes to.
    pub store: Arc<dyn Store>,
    /// The watch cache, which every read is served from.
    pub cache: Arc<Cache>,
    /// The resources that are served.
    pub resources: Resources,
    /// The client of conversion and admission webhooks.
    pub webhook_client: Arc<WebhookClient>,
    /// Changes whenever watches are due a bookmark.
    pub bookmarks: watch::Sender<u64>,
    /// Cancelled when the server shuts down.
    pub shutdown: CancellationToken,
}
