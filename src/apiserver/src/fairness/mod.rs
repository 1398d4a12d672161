//! API priority and fairness: who waits for whom when there is much to do.
//!
//! Each request is put into a flow by the first `FlowSchema` that matches it,
//! and each flow belongs to a priority level. A level has a share of all seats;
//! a request that finds no free seat waits in one of the level's queues, which
//! take turns, so that one flow cannot starve the others. While nobody waits, a
//! request costs one atomic operation.

mod allocation;
pub mod flow;
mod level;
mod queues;
mod rules;

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::HeaderValue;
use parking_lot::RwLock;
use rkube_api::{Object, meta};
use rkube_auth::UserInfo;
use rkube_store::{Expect, StoreError};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::ApiServer;
use crate::cache::{Filter, Watcher};
use crate::codec::encode;
use crate::request::RequestInfo;

use flow::Flow;
pub use level::{Level, Permit, Refusal};
use rules::Schema;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";

/// Seats of all levels together: upstream's 400 reads and 200 writes.
const SEATS: u32 = 600;
/// How often levels lend seats to each other while some are short of them.
const ADJUSTMENT: Duration = Duration::from_secs(10);
/// A request waits no longer than this: a quarter of a request's time.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Objects that a list may give out for one seat.
const OBJECTS_PER_SEAT: usize = 100;
/// Classifies requests, and has them wait.
#[derive(Default)]
pub struct Fairness {
    flows: RwLock<Arc<[Arc<Flow>]>>,
    levels: RwLock<BTreeMap<String, Arc<Level>>>,
    /// Told when a request has to wait.
    contended: Arc<Notify>,
}

impl Fairness {
    /// The flow of a request; `None` only while the configuration is missing.
    pub fn classify(&self, user: &UserInfo, info: &RequestInfo) -> Option<Arc<Flow>> {
        let flows = self.flows.read();
        flows
            .iter()
            .find(|flow| flow.schema.matches(user, info))
            .or_else(|| flows.last())
            .cloned()
    }

    /// Takes seats for a request, waiting for them if need be.
    pub async fn enter(
        &self,
        flow: &Flow,
        user: &UserInfo,
        info: &RequestInfo,
        seats: u32,
    ) -> Result<Permit, Refusal> {
        let level = &flow.level;
        let hash = || flow.schema.hash(user, info);
        level.enter(seats, hash, MAX_WAIT).await
    }

    /// Every level, for metrics.
    pub fn levels(&self) -> Vec<Arc<Level>> {
        self.levels.read().values().cloned().collect()
    }

    /// Takes over what the objects say.
    fn configure(&self, schemas: &[Arc<Object>], configurations: &[Arc<Object>]) {
        let mut levels = self.levels.write();
        let mut known: BTreeMap<String, Arc<Level>> = BTreeMap::new();
        for configuration in configurations {
            let name = meta::name(configuration);
            let level = match levels.get(name) {
                Some(level) => level.clone(),
                None => Arc::new(Level::new(name, self.contended.clone())),
            };
            level.configure(configuration);
            known.insert(name.to_owned(), level);
        }
        let shares: u64 = known.values().map(|l| l.shares()).sum();
        for level in known.values() {
            level.set_nominal(SEATS, shares);
        }
        let mut flows: Vec<Arc<Flow>> = schemas
            .iter()
            .filter_map(|object| {
                let schema = Schema::read(object);
                let level = known.get(&schema.level)?.clone();
                Some(Arc::new(Flow {
                    schema_uid: HeaderValue::from_str(meta::uid(object)).ok()?,
                    schema,
                    level,
                }))
            })
            .collect();
        flows.sort_by(|a, b| {
            (a.schema.precedence, &a.schema.name).cmp(&(b.schema.precedence, &b.schema.name))
        });
        *levels = known;
        *self.flows.write() = flows.into();
    }

    /// Lends seats of levels that do not need them to those that do. Says
    /// whether any level was short of seats of its own; if none was, each has
    /// its own again.
    fn adjust(&self) -> bool {
        let levels = self.levels();
        let limited: Vec<&Arc<Level>> = levels.iter().filter(|l| !l.is_exempt()).collect();
        // Exempt levels take what they like; what they took is not there to lend.
        let exempt: u32 = levels
            .iter()
            .filter(|l| l.is_exempt())
            .map(|l| l.take_demand().min(l.nominal()))
            .sum();
        let demands: Vec<(allocation::Item, bool)> = limited.iter().map(|l| l.demand()).collect();
        if !demands.iter().any(|(_, short)| *short) {
            for level in limited {
                level.set_current(level.nominal());
            }
            return false;
        }
        let demands: Vec<allocation::Item> = demands.into_iter().map(|(item, _)| item).collect();
        let seats = allocation::share(f64::from(SEATS.saturating_sub(exempt)), &demands);
        for (level, seats) in limited.iter().zip(seats) {
            level.set_current(seats);
        }
        true
    }
}

/// How many seats a request takes.
pub fn width(server: &ApiServer, info: &RequestInfo, level: &Level) -> u32 {
    let lists = match info.verb {
        "list" => true,
        "watch" => {
            let revision = info.query.get("resourceVersion").unwrap_or_default();
            info.query.is_true("sendInitialEvents") || matches!(revision, "" | "0")
        }
        _ => false,
    };
    // One object by its name is a get.
    if !lists || !info.name.is_empty() {
        return 1;
    }
    let resource = server
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

/// Follows flow schemas and priority levels, and adjusts seats while they are
/// short.
pub async fn follow(server: Weak<ApiServer>, stop: CancellationToken) {
    loop {
        let (mut schemas, mut levels, contended) = {
            let Some(server) = server.upgrade() else {
                return;
            };
            let watch = |plural: &str| {
                let cache = server.cache.resource(GROUP, plural);
                let (_, position) = cache.snapshot(&Filter::nothing(), 0);
                Watcher::new(cache, position)
            };
            let watchers = (
                watch(SCHEMAS),
                watch(LEVELS),
                server.fairness.contended.clone(),
            );
            sync(&server).await;
            watchers
        };
        let mut moved = false;
        let mut next = tokio::time::Instant::now() + ADJUSTMENT;
        loop {
            let events = tokio::select! {
                () = stop.cancelled() => return,
                events = schemas.next() => Some(events),
                events = levels.next() => Some(events),
                // While seats are as they were, only a wait is news.
                () = contended.notified(), if !moved => {
                    moved = true;
                    next = tokio::time::Instant::now() + ADJUSTMENT;
                    None
                }
                () = tokio::time::sleep_until(next), if moved => {
                    next += ADJUSTMENT;
                    let Some(server) = server.upgrade() else { return };
                    moved = server.fairness.adjust();
                    None
                }
            };
            match events {
                None => {}
                Some(Ok(_)) => {
                    let Some(server) = server.upgrade() else {
                        return;
                    };
                    sync(&server).await;
                }
                Some(Err(_)) => break,
            }
        }
    }
}

/// Reads the objects, before the first request is served.
pub fn read(server: &ApiServer) {
    let list = |plural: &str| -> Vec<Arc<Object>> {
        let cache = server.cache.resource(GROUP, plural);
        cache
            .list(&Filter::default())
            .iter()
            .map(|o| o.tree())
            .collect()
    };
    server.fairness.configure(&list(SCHEMAS), &list(LEVELS));
}

async fn sync(server: &Arc<ApiServer>) {
    read(server);
    let cache = server.cache.resource(GROUP, SCHEMAS);
    for object in cache.list(&Filter::default()) {
        let schema = object.tree();
        let level = schema["spec"]["priorityLevelConfiguration"]["name"]
            .as_str()
            .unwrap_or_default();
        let found = server.fairness.levels.read().contains_key(level);
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
        let condition = schema["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|c| c["type"] == "Dangling");
        if condition.is_some_and(|c| c["status"] == status && c["message"] == message.as_str()) {
            continue;
        }
        let mut new = (*schema).clone();
        set_condition(&mut new, status, reason, &message);
        let key = format!("/registry/{GROUP}/{SCHEMAS}/{}", object.name);
        let Ok(bytes) = encode(&mut new) else {
            continue;
        };
        let expect = Expect::Revision(object.revision);
        match server.store.put(&key, bytes, expect).await {
            // Lost to another writer: its event leads here again.
            Ok(_) | Err(StoreError::Conflict { .. }) => {}
            Err(error) => tracing::warn!(%error, "a flow schema's status was not written"),
        }
    }
}

fn set_condition(schema: &mut Object, status: &str, reason: &str, message: &str) {
    if !schema["status"]["conditions"].is_array() {
        schema["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = schema["status"]["conditions"].as_array_mut() else {
        return;
    };
    let condition = json!({
        "type": "Dangling", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": meta::now_rfc3339(),
    });
    match conditions.iter_mut().find(|c| c["type"] == "Dangling") {
        Some(found) => *found = condition,
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &str, shares: u32) -> Arc<Object> {
        Arc::new(
            json!({"metadata": {"name": name, "uid": name}, "spec": {"type": "Limited", "limited": {
            "nominalConcurrencyShares": shares, "lendablePercent": 50,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 8, "handSize": 2, "queueLengthLimit": 5}}}}}),
        )
    }

    fn schema(name: &str, level: &str, precedence: u32, user: &str) -> Arc<Object> {
        Arc::new(json!({"metadata": {"name": name, "uid": name}, "spec": {
            "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}]}]}}))
    }

    #[test]
    fn requests_find_their_flow_and_levels_lend() {
        let fairness = Fairness::default();
        fairness.configure(
            &[
                schema("b", "low", 9000, "*"),
                schema("a", "high", 100, "jane"),
                schema("dangling", "none", 1, "*"),
            ],
            &[level("low", 20), level("high", 40)],
        );
        let info = RequestInfo::parse(&http::Method::GET, "/api/v1/pods", "");
        let flow = |user: &str| {
            let user = UserInfo::authenticated(user, &[]);
            fairness.classify(&user, &info).unwrap()
        };
        assert_eq!((flow("jane").name(), flow("joe").name()), ("a", "b"));
        let (low, high) = (flow("joe").level.clone(), flow("jane").level.clone());
        assert_eq!((low.nominal(), high.nominal()), (200, 400));
        // Nobody needs anything: everyone keeps what is his.
        assert!(!fairness.adjust());
        low.want(300);
        assert!(fairness.adjust());
        assert!(low.current() > 200, "{}", low.current());
        assert!(high.current() >= 200, "half may be lent");
        assert!(low.current() + high.current() <= SEATS + 1);
    }
}
