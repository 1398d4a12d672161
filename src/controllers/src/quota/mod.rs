//! Resource quotas: maintains their usage.
//!
//! Admission increases the usage when objects are created or updated. This controller recomputes
//! it when a quota changes, an object is deleted, or a resource begins to be served. It also does
//! so from time to time, for whatever went unnoticed.

mod usage;

use std::time::Duration;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use rkube_component_helpers::resource::ResourceList;

use crate::common::pods;
use crate::context::{Context, Result, optional};
use crate::controller::{Controller, Watches};
use crate::gc::Collector;
use crate::informers::{Change, Key};
use crate::queue::Queue;
use crate::served::Served;

const NAME: &str = "resourcequota-controller";
/// Time to collect deletions before recomputing. Emptying a namespace then updates its quotas
/// once, and admission's own updates have been observed by then.
const COLLECTION_DELAY: Duration = Duration::from_millis(100);

/// Interval in which the usage is recomputed anyway; upstream's interval.
const RESYNC_PERIOD: Duration = Duration::from_secs(300);

/// The controller of resource quotas.
pub struct QuotaController {
    ctx: Context,
    collector: Collector,
    queue: Queue<Key>,
}

impl QuotaController {
    /// Returns the controller.
    pub fn new(ctx: &Context, collector: &Collector) -> Self {
        Self {
            ctx: ctx.clone(),
            collector: collector.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for QuotaController {
    type Item = Key;

    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        watches.watches(&informers.quotas, |change, queue| match change {
            Change::Updated(old, new) if is_settled(old, new) => {}
            Change::Deleted(_) => {}
            _ => queue.add(Key::of(&change.object().metadata)),
        });
        let quotas = informers.quotas.clone();
        let queue = self.queue.clone();
        self.collector.on_gone(move |node| {
            for quota in quotas.in_namespace(&node.namespace) {
                queue.add_after(Key::of(&quota.metadata), COLLECTION_DELAY);
            }
        });
        let quotas = informers.quotas.clone();
        let queue = self.queue.clone();
        // Quotas may limit resources that are not served yet.
        self.collector.on_listed(move || {
            for quota in quotas.list() {
                queue.add_after(Key::of(&quota.metadata), COLLECTION_DELAY);
            }
        });
        let quotas = informers.quotas.clone();
        // A terminated pod no longer counts.
        watches.watches(&informers.pods, move |change, queue| {
            let Change::Updated(old, new) = change else {
                return;
            };
            if pods::is_terminal(old) || !pods::is_terminal(new) {
                return;
            }
            for quota in quotas.in_namespace(new.metadata.namespace.as_deref().unwrap_or_default())
            {
                queue.add_after(Key::of(&quota.metadata), COLLECTION_DELAY);
            }
        });
    }

    async fn prepare(&self) {
        // Usage can concern any kind.
        self.ctx.informers.synced().await;
        self.collector.discovered().await;
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        if self.ctx.informers.quotas.by_key(&key).is_some() {
            self.queue.add_after(key.clone(), RESYNC_PERIOD);
        }
        sync(&self.ctx, &self.collector, key).await
    }
}

/// Returns whether an update changed neither the limits nor made the status lag behind them.
fn is_settled(old: &ResourceQuota, new: &ResourceQuota) -> bool {
    let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|spec| spec.hard.clone());
    hard(old) == hard(new)
        && new.status.as_ref().and_then(|status| status.hard.clone()) == hard(new)
}

async fn sync(ctx: &Context, collector: &Collector, key: Key) -> Result<()> {
    let store = &ctx.informers.quotas;
    let Some(quota) = store.by_key(&key) else {
        return Ok(());
    };
    let hard = quota
        .spec
        .as_ref()
        .and_then(|spec| spec.hard.clone())
        .unwrap_or_default();
    let state = usage::State {
        pods: ctx.informers.pods.in_namespace(&key.namespace),
        services: ctx.informers.services.in_namespace(&key.namespace),
        claims: ctx.informers.claims.in_namespace(&key.namespace),
        count: &|group, plural| {
            let served = collector.served();
            let known = |served: &Served| served.group == group && served.plural == plural;
            served
                .iter()
                .any(|served| known(served))
                .then(|| collector.count(group, plural, &key.namespace))
        },
    };
    let used = usage::used(&quota, &state, ctx.now()).to_typed();
    let status = ResourceQuotaStatus {
        hard: Some(hard).filter(|hard| !hard.is_empty()),
        used: Some(used).filter(|used| !used.is_empty()),
    };
    if is_same_status(quota.status.as_ref(), &status) {
        return Ok(());
    }
    let mut changed = ResourceQuota::clone(&quota);
    changed.status = Some(status);
    optional(ctx.update_status(store, &changed).await).map(drop)
}

fn is_same_status(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    old.is_some_and(|old| {
        ResourceList::from_typed(old.hard.as_ref()) == ResourceList::from_typed(new.hard.as_ref())
            && ResourceList::from_typed(old.used.as_ref())
                == ResourceList::from_typed(new.used.as_ref())
    })
}
