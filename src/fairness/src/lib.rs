//! API priority and fairness: limits how many requests run at once and queues the others.
//!
//! The first `FlowSchema` that matches a request determines its flow and its priority level. Each
//! level has a share of the server's seats. A request that finds no free seat waits in one of its
//! level's queues. The queues are served fairly, so that one flow cannot starve the others. An
//! uncontended request costs one atomic operation.

mod allocation;
mod flow;
mod level;
mod queues;
mod rules;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use parking_lot::RwLock;
use rkube_api::{Object, meta};
use rkube_auth::UserInfo;
use tokio::sync::Notify;

use rkube_request::RequestInfo;

use level::TOTAL_SEATS;

pub use flow::Flow;
pub use level::{Level, Permit, Refusal};
use rules::Schema;

/// The longest time that a request waits for seats: a quarter of the request timeout.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Classifies requests into flows, and queues them while their priority level has no free seats.
#[derive(Default)]
pub struct Fairness {
    flows: RwLock<Arc<[Arc<Flow>]>>,
    levels: RwLock<BTreeMap<String, Arc<Level>>>,
    /// Notified when a request has to wait for seats.
    contended: Arc<Notify>,
}

impl Fairness {
    /// Returns the flow of a request. Returns `None` only before the first
    /// [`configure`](Self::configure).
    pub fn classify(&self, user: &UserInfo, info: &RequestInfo) -> Option<Arc<Flow>> {
        let flows = self.flows.read();
        flows
            .iter()
            .find(|flow| flow.schema.matches(user, info))
            .or_else(|| flows.last())
            .cloned()
    }

    /// Acquires `seats` of the flow's level, waiting if none are free.
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

    /// Returns all priority levels, for metrics.
    pub fn levels(&self) -> Vec<Arc<Level>> {
        self.levels.read().values().cloned().collect()
    }

    /// Returns whether a priority level of this name is configured.
    pub fn has_level(&self, name: &str) -> bool {
        self.levels.read().contains_key(name)
    }

    /// Returns the notifier that is signalled when a request has to wait for seats.
    pub fn contended(&self) -> &Arc<Notify> {
        &self.contended
    }

    /// Applies the given `FlowSchema` and `PriorityLevelConfiguration` objects. Levels that remain
    /// keep their seats and queues.
    pub fn configure(&self, schemas: &[Arc<Object>], configurations: &[Arc<Object>]) {
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
            level.set_nominal(TOTAL_SEATS, shares);
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

    /// Redistributes seats: levels with spare seats lend them to levels that are short.
    ///
    /// Returns whether any level needed more than its nominal seats. If none did, each level gets
    /// its nominal seats back.
    pub fn adjust(&self) -> bool {
        let levels = self.levels();
        let limited: Vec<&Arc<Level>> = levels.iter().filter(|l| !l.is_exempt()).collect();
        // Exempt levels are not limited. The nominal seats that they used are not available for
        // lending.
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
        let seats = allocation::share(f64::from(TOTAL_SEATS.saturating_sub(exempt)), &demands);
        for (level, seats) in limited.iter().zip(seats) {
            level.set_current(seats);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
        // Without demand, each level keeps its nominal seats.
        assert!(!fairness.adjust());
        low.want(300);
        assert!(fairness.adjust());
        assert!(low.current() > 200, "{}", low.current());
        assert!(high.current() >= 200, "half may be lent");
        assert!(low.current() + high.current() <= TOTAL_SEATS + 1);
    }
}
