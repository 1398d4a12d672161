//! The state shared by request handlers, controllers and streams: store, watch cache and resources.

use std::sync::Arc;

use rkube_store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::compaction::Compaction;
use crate::config::Config;
use crate::resources::Resources;
use crate::webhooks::client::WebhookClient;

/// Everything needed to read and encode objects.
pub struct Backend {
    /// The server's configuration.
    pub config: Config,
    /// The store, which receives every write.
    pub store: Arc<dyn Store>,
    /// The watch cache, which serves every read.
    pub cache: Arc<Cache>,
    /// The served resources.
    pub resources: Resources,
    /// The client of conversion and admission webhooks.
    pub webhook_client: Arc<WebhookClient>,
    /// The revisions that lists may still refer to.
    pub compaction: Compaction,
    /// Changes whenever a bookmark is due for running watches.
    pub bookmarks: watch::Sender<u64>,
    /// Cancelled when the server shuts down.
    pub shutdown: CancellationToken,
}
