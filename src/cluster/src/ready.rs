//! Waiting for a cluster that boots.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as ApiNode, NodeCondition};
use kube::{Api, Client};
use rkube_drivers::{Driver, NodeState};
use rkube_failure::{Failure, Kind, Source};

use crate::files::Home;
use crate::profile::Profile;

/// Nodes that the API server may know from an earlier life, and that boot now: what
/// it says of them counts once they have spoken since.
#[derive(Debug)]
pub(crate) struct Booted {
    nodes: Vec<String>,
    /// By this machine's clock.
    at: Timestamp,
}

impl Booted {
    /// None.
    pub(crate) fn nobody() -> Self {
        Self {
            nodes: Vec::new(),
            at: Timestamp::now(),
        }
    }

    /// The profile's nodes that do not run now.
    pub(crate) async fn those_down(
        driver: &dyn Driver,
        home: &Home,
        profile: &Profile,
    ) -> Result<Self, Failure> {
        let states = driver.states(&profile.plan(home)).await?;
        let nodes = profile.nodes.iter().zip(states);
        let down = nodes.filter(|(_, state)| *state != NodeState::Running);
        Ok(Self {
            nodes: down.map(|(node, _)| node.name.clone()).collect(),
            ..Self::nobody()
        })
    }

    /// When they booted, by the cluster's clock, in whole seconds as heartbeats are.
    async fn since(&self, client: &Client) -> Timestamp {
        if self.nodes.is_empty() {
            return self.at;
        }
        let asked = Timestamp::now();
        let answer = client.send(http_get("/readyz").map(Into::into)).await;
        let there = answer.ok().and_then(|answer| {
            let date = answer.headers().get(http::header::DATE)?.to_str().ok()?;
            jiff::fmt::rfc2822::DateTimeParser::new()
                .parse_timestamp(date)
                .ok()
        });
        // The header has whole seconds, too.
        let ahead = there.map_or(0, |there| there.as_second() - asked.as_second());
        Timestamp::from_second(self.at.as_second() + ahead - 1).unwrap_or(self.at)
    }
}

/// How often to look again while the API server comes up.
const RETRY: Duration = Duration::from_millis(10);

/// Waits until the API server says that it is ready.
pub(crate) async fn wait_for_api(client: &Client, deadline: Instant) -> Result<(), Failure> {
    loop {
        let request = http_get("/readyz");
        let error = match client.request_text(request).await {
            Ok(_) => return Ok(()),
            Err(e) => e.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Source::ControlPlane,
                Kind::Timeout,
                format!("the API server does not become ready: {error}"),
            )
            .advise("look at its log with: rkube logs"));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// A GET without a body, for paths that are no resources.
fn http_get(path: &str) -> http::Request<Vec<u8>> {
    let mut request = http::Request::new(Vec::new());
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    request
}

pub(crate) fn is_ready(node: &ApiNode) -> bool {
    ready_condition(node).is_some_and(|c| c.status == "True")
}

fn ready_condition(node: &ApiNode) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready")
}

/// Whether a node has reported at a time or later.
fn spoke_since(node: &ApiNode, since: Timestamp) -> bool {
    ready_condition(node)
        .and_then(|c| c.last_heartbeat_time.as_ref())
        .is_some_and(|beat| beat.0 >= since)
}

/// Waits until every one of `names` is ready.
pub(crate) async fn wait_for_nodes(
    client: &Client,
    names: &[String],
    booted: &Booted,
    deadline: Instant,
) -> Result<(), Failure> {
    use futures::{StreamExt, TryStreamExt};
    use kube::runtime::{WatchStreamExt, watcher};
    let api: Api<ApiNode> = Api::all(client.clone());
    let mut waiting: std::collections::BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let watch = async {
        let since = booted.since(client).await;
        let mut changes = watcher(api, watcher::Config::default())
            .default_backoff()
            .touched_objects()
            .boxed();
        while !waiting.is_empty() {
            // Errors are retried by the back-off above; the deadline ends it.
            if let Ok(Some(node)) = changes.try_next().await
                && let Some(name) = node.metadata.name.as_deref()
                && is_ready(&node)
                && (spoke_since(&node, since) || !booted.nodes.iter().any(|n| n == name))
                // The control plane gives them just after a node has registered.
                && node.metadata.labels.iter().flatten().any(|(k, _)| k.starts_with("node-role.kubernetes.io/"))
            {
                waiting.remove(name);
            }
        }
    };
    let limit = deadline.saturating_duration_since(Instant::now());
    if tokio::time::timeout(limit, watch).await.is_err() {
        let names: Vec<&str> = waiting.into_iter().collect();
        return Err(Failure::new(
            Source::Guest,
            Kind::Timeout,
            format!("not ready in time: {}", names.join(", ")),
        )
        .advise(
            "look at the node's log with: rkube logs -n NODE, and at: kubectl describe node NODE",
        ));
    }
    Ok(())
}
