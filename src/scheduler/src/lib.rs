//! The scheduler: gives every pod a node, as upstream's kube-scheduler does with
//! its default profile.
//!
//! [`watch`] keeps a picture of the [`cluster`], small and in memory; pods
//! without a node wait in the [`queue`]; [`cycle`] chooses a node for one pod by
//! asking the [`plugins`], a pure function; the pod is then assumed to be there
//! and bound by a task of its own ([`actions`]), so that the next pod need not
//! wait. [`engine`] ties these together and is the only place with state.

// Reuses the readers and writers of typed objects that are compiled there.
use rkube_client as _;

pub mod actions;
pub mod cluster;
pub mod cycle;
pub mod engine;
pub mod model;
pub mod plugins;
pub mod queue;
pub mod resources;
pub mod watch;

/// What the scheduler is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods with this `spec.schedulerName` are the scheduler's.
    pub name: String,
    /// How many bindings may be under way at once.
    pub bindings: usize,
    /// How long volumes may take to be bound or made before the pod is tried
    /// anew.
    pub volume_timeout: std::time::Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: "default-scheduler".to_owned(),
            bindings: 32,
            volume_timeout: std::time::Duration::from_secs(600),
        }
    }
}

/// Schedules pods until the future is dropped; then everything it started ends
/// with it. Returns only when the watches end, which they do not by themselves.
pub async fn run(client: kube::Client, config: Config) -> anyhow::Result<()> {
    engine::Engine::new(client, config).run().await
}
