//! Waits until a cluster is ready.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node as ApiNode, NodeCondition};
use kube::Client;
use rkube_client::reflector::{self, Changes, Event};
use rkube_drivers::{Driver, NodeState};
use rkube_failure::{Failure, Kind, Source, command};

use crate::files::Home;
use crate::profile::Profile;

/// Nodes that are being restarted. Their Ready condition is ignored until the kubelet has
/// posted a heartbeat that is newer than the restart.
#[derive(Debug)]
pub(crate) struct RestartedNodes {
    nodes: Vec<String>,
    /// The time of the restart by the host's clock.
    at: Timestamp,
}

impl RestartedNodes {
    /// Returns an empty set.
    pub(crate) fn none() -> Self {
        Self {
            nodes: Vec::new(),
            at: Timestamp::now(),
        }
    }

    /// Returns the nodes of a profile that are not running.
    pub(crate) async fn stopped(
        driver: &dyn Driver,
        home: &Home,
        profile: &Profile,
    ) -> Result<Self, Failure> {
        let states = driver.states(&profile.plan(home)).await?;
        let nodes = profile.nodes.iter().zip(states);
        // The kubelet of a paused node goes on, and posts its heartbeat when it is due.
        let up = [NodeState::Running, NodeState::Paused];
        let down = nodes.filter(|(_, state)| !up.contains(state));
        Ok(Self {
            nodes: down.map(|(node, _)| node.name.clone()).collect(),
            ..Self::none()
        })
    }

    /// Returns the time of the restart by the cluster's clock, in whole seconds as in heartbeats.
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
        // The resolution of the header is also one second.
        let ahead = there.map_or(0, |there| there.as_second() - asked.as_second());
        Timestamp::from_second(self.at.as_second() + ahead - 1).unwrap_or(self.at)
    }
}

/// The interval between checks while the API server starts.
const RETRY_PERIOD: Duration = Duration::from_millis(10);

/// Waits until the API server reports that it is ready.
pub(crate) async fn wait_for_api(
    client: &Client,
    profile: &str,
    deadline: Instant,
) -> Result<(), Failure> {
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
                format!("the API server did not become ready: {error}"),
            )
            .advise(format!(
                "see the log of the control plane with: {}",
                command("logs", profile)
            )));
        }
        tokio::time::sleep(RETRY_PERIOD).await;
    }
}

/// Creates a GET request without a body, for paths that are not resources.
fn http_get(path: &str) -> http::Request<Vec<u8>> {
    let mut request = http::Request::new(Vec::new());
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    request
}

/// Whether the Ready condition of a node is true.
pub(crate) fn is_ready(node: &ApiNode) -> bool {
    ready_condition(node).is_some_and(|c| c.status == "True")
}

fn ready_condition(node: &ApiNode) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready")
}

/// Whether the last heartbeat of a node is not older than `since`.
fn has_heartbeat_since(node: &ApiNode, since: Timestamp) -> bool {
    ready_condition(node)
        .and_then(|c| c.last_heartbeat_time.as_ref())
        .is_some_and(|beat| beat.0 >= since)
}

/// Whether a node is ready and the control plane has set its role labels, which it does after the
/// node has registered.
fn is_up(node: &ApiNode) -> bool {
    let mut labels = node.metadata.labels.iter().flatten();
    is_ready(node) && labels.any(|(key, _)| key.starts_with("node-role.kubernetes.io/"))
}

/// Waits until all of `names` are ready.
pub(crate) async fn wait_for_nodes(
    client: &Client,
    profile: &str,
    names: &[String],
    restarted: &RestartedNodes,
    deadline: Instant,
) -> Result<(), Failure> {
    let mut waiting: std::collections::BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let watch = async {
        let since = restarted.since(client).await;
        let source = reflector::Source::of::<ApiNode>(None).streamed();
        let mut changes = Changes::<ApiNode>::new(client.clone(), source);
        while !waiting.is_empty()
            && let Some(change) = changes.next().await
        {
            let nodes = match change {
                Event::Listed(list) => list.objects,
                Event::Applied(node) => vec![node],
                // Errors are retried with back-off until the deadline.
                Event::Deleted(_) | Event::Unreadable(_) | Event::Failed(_) => continue,
            };
            for node in nodes {
                if let Some(name) = node.metadata.name.as_deref()
                    && is_up(&node)
                    && (has_heartbeat_since(&node, since)
                        || !restarted.nodes.iter().any(|n| n == name))
                {
                    waiting.remove(name);
                }
            }
        }
    };
    let limit = deadline.saturating_duration_since(Instant::now());
    if tokio::time::timeout(limit, watch).await.is_err() {
        let names: Vec<&str> = waiting.into_iter().collect();
        let first = names.first().copied().unwrap_or("NODE");
        return Err(Failure::new(
            Source::Guest,
            Kind::Timeout,
            format!("not ready in time: {}", names.join(", ")),
        )
        .advise(format!(
            "see the log of the node with: {}, and: kubectl describe node {first}",
            command(&format!("logs --node {first}"), profile)
        )));
    }
    Ok(())
}
