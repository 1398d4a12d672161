//! Resource quotas: maintains their usage.
//!
//! Admission increases the usage when objects are created or updated. This controller recomputes
//! it when a quota changes or an object is deleted.

mod usage;

use std::time::Duration;

use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use rkube_component_helpers::resource::ResourceList;

use crate::common::pods;
use crate::context::{Context, Result, optional};
use crate::gc::Collector;
use crate::informers::{Change, Key};
use crate::queue::Queue;

const NAME: &str = "resourcequota-controller";
/// How long to collect deletions before recomputing. Emptying a namespace then updates its quotas
/// once, and admission's own updates have been observed by then.
const GATHER: Duration = Duration::from_millis(100);

/// Registers event handlers and returns the controller's run loop. Call before the informers start.
pub fn start(ctx: &Context, collector: &Collector) -> impl Future<Output = ()> + Send + use<> {
    let queue: Queue<Key> = Queue::new();
    let informers = ctx.informers.clone();
    {
        let queue = queue.clone();
        informers.quotas.on_change(move |change| {
            let hard =
                |quota: &ResourceQuota| quota.spec.as_ref().and_then(|spec| spec.hard.clone());
            let same = |old: &ResourceQuota, new: &ResourceQuota| {
                hard(old) == hard(new)
                    && new.status.as_ref().and_then(|status| status.hard.clone()) == hard(new)
            };
            match change {
                Change::Updated(old, new) if same(old, new) => {}
                Change::Deleted(_) => {}
                _ => queue.add(Key::of(&change.object().metadata)),
            }
        });
    }
    {
        let (queue, quotas) = (queue.clone(), informers.quotas.clone());
        collector.on_gone(move |node| {
            for quota in quotas.in_namespace(&node.namespace) {
                queue.add_after(Key::of(&quota.metadata), GATHER);
            }
        });
    }
    {
        // A terminated pod no longer counts.
        let (queue, quotas) = (queue.clone(), informers.quotas.clone());
        informers.pods.on_change(move |change| {
            if let Change::Updated(old, new) = change
                && !pods::is_terminal(old)
                && pods::is_terminal(new)
            {
                for quota in
                    quotas.in_namespace(new.metadata.namespace.as_deref().unwrap_or_default())
                {
                    queue.add_after(Key::of(&quota.metadata), GATHER);
                }
            }
        });
    }
    let (ctx, collector) = (ctx.clone(), collector.clone());
    async move {
        informers.synced().await;
        let (ctx, collector) = (&ctx, &collector);
        queue.work(NAME, 5, |key| sync(ctx, collector, key)).await;
    }
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
        count: &|group, plural| collector.count(group, plural, &key.namespace),
    };
    let used = usage::used(&quota, &state, ctx.now()).to_typed();
    let status = ResourceQuotaStatus {
        hard: Some(hard).filter(|hard| !hard.is_empty()),
        used: Some(used).filter(|used| !used.is_empty()),
    };
    if same(quota.status.as_ref(), &status) {
        return Ok(());
    }
    let mut changed = ResourceQuota::clone(&quota);
    changed.status = Some(status);
    optional(ctx.update_status(store, &changed).await).map(drop)
}

fn same(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    old.is_some_and(|old| {
        ResourceList::from_typed(old.hard.as_ref()) == ResourceList::from_typed(new.hard.as_ref())
            && ResourceList::from_typed(old.used.as_ref())
                == ResourceList::from_typed(new.used.as_ref())
    })
}
