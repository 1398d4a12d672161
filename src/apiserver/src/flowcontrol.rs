//! Priority and fairness: reads its objects and estimates the seats of requests.

use std::sync::Arc;
use std::time::Duration;

use rkube_api::Object;
use rkube_store::{Expect, StoreError};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::cache::{Event, Filter};
use crate::codec::encode;
use crate::conditions::{find_condition, set_condition};
use crate::observer::CacheObserver;
use rkube_fairness::{Fairness, Level};
use rkube_request::RequestInfo;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";
/// Interval between redistributions of seats while levels are short of them.
const ADJUSTMENT_PERIOD: Duration = Duration::from_secs(10);
/// The number of listed objects per seat.
const OBJECTS_PER_SEAT: usize = 100;

/// Returns how many seats of `level` a request takes.
pub fn seats_of_request(backend: &Backend, info: &RequestInfo, level: &Level) -> u32 {
    let lists = match info.verb {
        "list" => true,
        "watch" => {
            let revision = info.query.get("resourceVersion").unwrap_or_default();
            info.query.is_true("sendInitialEvents") || matches!(revision, "" | "0")
        }
        _ => false,
    };
    // A list restricted to a single name costs no more than a get.
    if !lists || !info.name.is_empty() {
        return 1;
    }
    let resource = backend
        .resources
        .find(&info.group, &info.version, &info.resource);
    let Some(resource) = resource.filter(|r| r.is_stored()) else {
        return 1;
    };
    let objects = resource.cache.len();
    let limit: usize = info
        .query
        .non_empty("limit")
        .and_then(|l| l.parse().ok())
        .unwrap_or(0);
    let objects = if limit > 0 {
        objects.min(limit)
    } else {
        objects
    };
    let seats = u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(u32::MAX);
    seats.clamp(1, level.max_seats())
}

/// Applies changes of flow schemas and priority levels, and redistributes seats while levels are
/// short of them.
pub struct FlowController {
    backend: Arc<Backend>,
    fairness: Arc<Fairness>,
    /// Whether seats may be lent, so that they must be redistributed periodically.
    adjusting: bool,
    next_adjustment: Instant,
}

impl FlowController {
    /// Creates the controller that configures `fairness`.
    pub fn new(backend: Arc<Backend>, fairness: Arc<Fairness>) -> Self {
        Self {
            backend,
            fairness,
            adjusting: false,
            next_adjustment: Instant::now(),
        }
    }
}

impl CacheObserver for FlowController {
    fn resources(&self) -> Vec<(&'static str, &'static str)> {
        vec![(GROUP, SCHEMAS), (GROUP, LEVELS)]
    }

    async fn resync(&mut self) {
        self.adjusting = false;
        sync(&self.backend, &self.fairness).await;
    }

    async fn handle_events(&mut self, _: usize, _: &[Arc<Event>]) {
        sync(&self.backend, &self.fairness).await;
    }

    async fn wait_timer(&mut self) {
        if self.adjusting {
            tokio::time::sleep_until(self.next_adjustment).await;
        } else {
            self.fairness.contended().notified().await;
        }
    }

    async fn handle_timer(&mut self) {
        if self.adjusting {
            self.next_adjustment += ADJUSTMENT_PERIOD;
            self.adjusting = self.fairness.adjust();
        } else {
            self.adjusting = true;
            self.next_adjustment = Instant::now() + ADJUSTMENT_PERIOD;
        }
    }
}

/// Configures `fairness` from the objects in the cache. Called before the first request is served.
pub fn read(backend: &Backend, fairness: &Fairness) {
    let list = |plural: &str| -> Vec<Arc<Object>> {
        let cache = backend.cache.resource(GROUP, plural);
        cache
            .list(&Filter::default())
            .iter()
            .map(|o| o.tree())
            .collect()
    };
    fairness.configure(&list(SCHEMAS), &list(LEVELS));
}

async fn sync(backend: &Backend, fairness: &Fairness) {
    read(backend, fairness);
    let cache = backend.cache.resource(GROUP, SCHEMAS);
    for object in cache.list(&Filter::default()) {
        let schema = object.tree();
        let level = schema["spec"]["priorityLevelConfiguration"]["name"]
            .as_str()
            .unwrap_or_default();
        let found = fairness.has_level(level);
        let (status, reason, message) = if found {
            (
                "False",
                "Found",
                format!(
                    "This FlowSchema references the PriorityLevelConfiguration object named {level:?} and it exists"
                ),
            )
        } else {
            (
                "True",
                "NotFound",
                format!(
                    "This FlowSchema references the PriorityLevelConfiguration object named {level:?} but there is no such object"
                ),
            )
        };
        let condition = find_condition(&schema, "Dangling");
        if condition.is_some_and(|c| c["status"] == status && c["message"] == message.as_str()) {
            continue;
        }
        let mut new = (*schema).clone();
        // As upstream, lastTransitionTime also changes with the message.
        if let Some(conditions) = new["status"]["conditions"].as_array_mut() {
            conditions.retain(|c| c["type"] != "Dangling");
        }
        set_condition(&mut new["status"], "Dangling", status, reason, &message);
        let key = format!("/registry/{GROUP}/{SCHEMAS}/{}", object.name);
        let Ok(bytes) = encode(&mut new) else {
            continue;
        };
        let expect = Expect::Revision(object.revision);
        match backend.store.put(&key, bytes, expect).await {
            // Another writer was faster; its event triggers the controller again.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => tracing::warn!(%error, "a flow schema's status was not written"),
        }
    }
}
