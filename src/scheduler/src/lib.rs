//! The scheduler: assigns every pod to a node, like upstream's kube-scheduler with its default
//! profile.
//!
//! [`watch`] maintains a compact in-memory [`cluster`] snapshot. Pods without a node wait in the
//! [`queue`]. [`cycle`] is a pure function that chooses a node for one pod by running the
//! [`plugins`]. The pod is then assumed to be on that node and bound by a separate task
//! ([`actions`]), so that the next pod need not wait. [`engine`] connects these modules and is the
//! only one that holds mutable state across cycles.

use rkube_client::events::{Recorder, Settings, Style};
use rkube_client::supervise::supervise;

pub mod actions;
pub mod cluster;
pub mod cycle;
pub mod devices;
pub mod engine;
pub mod model;
pub mod plugins;
pub mod queue;
pub mod resources;
pub mod watch;

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct Config {
    /// The scheduler's name: only pods with this `spec.schedulerName` are scheduled.
    pub name: String,
    /// Maximum number of binding requests in flight. Values below 1 count as 1.
    pub bindings: usize,
    /// Maximum time to bind or provision a pod's volumes. After it the attempt is abandoned and the
    /// pod returns to the queue.
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

/// Schedules pods until the future is dropped, which also aborts all tasks it spawned.
///
/// If the engine fails or panics, a new one is started. A pod on which a scheduling cycle panics is
/// retried with back-off, while the others are scheduled.
///
/// # Errors
///
/// Returns only if the event writer ends, which it does not by itself.
pub async fn run(client: kube::Client, config: Config) -> anyhow::Result<()> {
    let settings = Settings {
        style: Style::Series,
        field_manager: "kube-scheduler",
        host: None,
        instance: format!("{}-{}", config.name, std::process::id()),
    };
    let (recorder, events) = Recorder::new(client.clone(), settings);
    let engine = supervise("scheduler", || {
        let engine = engine::Engine::new(client.clone(), recorder.clone(), config.clone());
        async move {
            if let Err(error) = engine.run().await {
                tracing::error!("the scheduler failed: {error:#}");
            }
        }
    });
    // A separate task, so that events are written beside scheduling.
    let mut writer = tokio::task::JoinSet::new();
    writer.spawn(events);
    tokio::select! {
        () = engine => {}
        _ = writer.join_next() => {}
    }
    anyhow::bail!("the scheduler ended")
}
