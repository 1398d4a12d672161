//! The rolling window of samples. Nodes are only asked while clients ask for their usage.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use rkube_api::{Object, meta};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::samples::{self, Round, Sample};
use crate::ApiServer;
use crate::body;
use crate::cache::{Cache, Filter};
use crate::conditions::find_condition;
use crate::connect::{self, Transports};

/// The age up to which the last round serves for answers.
const FRESH_PERIOD: Duration = Duration::from_secs(2);
/// The time for which rounds are kept. It exceeds the period of an autoscaler, so that the
/// window of its samples is that period.
const KEEP_PERIOD: Duration = Duration::from_secs(60);
/// The time between the first two rounds, for which the first question waits.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// The time limit for a node's answer.
const NODE_TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum size of a node's answer in bytes.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// A round and the time at which it was taken.
struct TimedRound {
    at: Instant,
    round: Arc<Round>,
}

/// The rounds of the last minute, in ascending order of time.
#[derive(Default)]
pub struct Rounds {
    taken: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    rounds: VecDeque<TimedRound>,
    /// Whether a task is waiting to drop the rounds.
    is_tended: bool,
}

impl Window {
    fn forget(&mut self, now: Instant) {
        while let Some(first) = self.rounds.front() {
            if now.duration_since(first.at) < KEEP_PERIOD {
                break;
            }
            self.rounds.pop_front();
        }
    }

    /// Returns how long to wait before the next round is needed; `None` if the rounds suffice.
    fn due(&self, now: Instant) -> Option<Duration> {
        let last = self.rounds.back();
        let age = last.map(|last| now.duration_since(last.at));
        match (self.rounds.len(), age) {
            (1, Some(age)) => Some(FIRST_WINDOW.saturating_sub(age)),
            (_, Some(age)) if age < FRESH_PERIOD => None,
            _ => Some(Duration::ZERO),
        }
    }
}

impl Rounds {
    /// Returns the rounds of the last minute, the last one not older than two seconds. There are
    /// at least two, so the first question takes a second.
    pub(super) async fn current(self: &Arc<Self>, server: &ApiServer) -> Vec<Arc<Round>> {
        // Concurrent questions wait for the same round.
        let mut window = self.taken.lock().await;
        window.forget(Instant::now());
        while let Some(wait) = window.due(Instant::now()) {
            tokio::time::sleep(wait).await;
            let round = ask_all(&server.backend().cache, &server.transports).await;
            window.rounds.push_back(TimedRound {
                at: Instant::now(),
                round: Arc::new(round),
            });
        }
        if !window.is_tended {
            window.is_tended = true;
            tokio::spawn(drop_when_unused(Arc::downgrade(self)));
        }
        window.rounds.iter().map(|t| t.round.clone()).collect()
    }
}

/// Waits until no client has asked for a while, and drops the rounds.
async fn drop_when_unused(rounds: Weak<Rounds>) {
    loop {
        tokio::time::sleep(KEEP_PERIOD).await;
        let Some(rounds) = rounds.upgrade() else {
            return;
        };
        let mut window = rounds.taken.lock().await;
        window.forget(Instant::now());
        if window.rounds.is_empty() {
            window.rounds.shrink_to_fit();
            window.is_tended = false;
            return;
        }
    }
}

/// Asks all nodes whose agents are connected.
async fn ask_all(cache: &Cache, transports: &Transports) -> Round {
    let Some(nodes) = cache.existing("", "nodes") else {
        return Round::new();
    };
    let nodes = nodes.list(&Filter::default());
    let asked = nodes.iter().map(|node| async move {
        let node = node.tree();
        // The answer of such a node would only be waited for in vain.
        let is_lost = find_condition(&node, "Ready").is_some_and(|c| c["status"] == "Unknown");
        if is_lost {
            return None;
        }
        match ask(transports, &node).await {
            Ok(sample) => Some((meta::name(&node).to_owned(), Arc::new(sample))),
            Err(why) => {
                tracing::debug!(node = meta::name(&node), why, "no usage of a node");
                None
            }
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

async fn ask(transports: &Transports, node: &Object) -> Result<Sample, String> {
    let asked = async {
        let target = connect::location::agent_of_node(node, "/metrics/resource")
            .await
            .map_err(|status| status.message)?;
        let uri = format!(
            "{}://{}{}",
            target.scheme, target.authority, target.path_and_query
        );
        let request = Request::builder()
            .method(Method::GET)
            .uri(uri)
            .body(body::empty())
            .map_err(|error| error.to_string())?;
        let response = transports
            .client(target.trust)
            .request(request)
            .await
            .map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("the agent answered {}", response.status()));
        }
        let page: Bytes = Limited::new(response.into_body(), MAX_PAGE_BYTES)
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        Ok(samples::read(&String::from_utf8_lossy(&page)))
    };
    match tokio::time::timeout(NODE_TIMEOUT, asked).await {
        Ok(result) => result,
        Err(_) => Err("the agent does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_taken_when_the_last_one_is_old() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut window = Window::default();
        let push = |window: &mut Window, at| {
            window.rounds.push_back(TimedRound {
                at,
                round: Arc::default(),
            });
        };
        assert_eq!(window.due(at(0)), Some(Duration::ZERO));
        push(&mut window, at(0));
        assert_eq!(window.due(at(0)), Some(FIRST_WINDOW));
        assert_eq!(window.due(at(3)), Some(Duration::ZERO));
        push(&mut window, at(1));
        assert_eq!(window.due(at(2)), None);
        assert_eq!(window.due(at(3)), Some(Duration::ZERO));
        push(&mut window, at(6));
        window.forget(at(61));
        assert_eq!(window.rounds.len(), 1);
        window.forget(at(66));
        assert!(window.rounds.is_empty());
    }
}
