//! ResourceQuota: enforces the quotas of a namespace.
//!
//! Before a write is stored, its usage is added to the status of every matching quota. This
//! process charges a namespace's quotas one request at a time. A concurrent update by another
//! process results in a conflict, after which the charge is computed again.

use std::sync::OnceLock;

use rkube_api::Object;
use rkube_api::status::Status;

use crate::types::{Operation, QuotaStore, Request};
use rkube_auth::{ObjectReader, tree};
use rkube_component_helpers::quota::Evaluator;
use rkube_component_helpers::resource::ResourceList;

mod rules;

/// Maximum number of retries after a conflict.
const MAX_RETRIES: usize = 3;
/// Number of locks that all namespaces share, by the hash of their name.
const LOCK_COUNT: usize = 32;

fn lock_of(namespace: &str) -> &'static tokio::sync::Mutex<()> {
    static TABLE: OnceLock<Vec<tokio::sync::Mutex<()>>> = OnceLock::new();
    let locks = TABLE.get_or_init(|| {
        (0..LOCK_COUNT)
            .map(|_| tokio::sync::Mutex::new(()))
            .collect()
    });
    let hash = namespace
        .bytes()
        .fold(5381usize, |hash, b| hash.wrapping_mul(33) ^ usize::from(b));
    &locks[hash % LOCK_COUNT]
}

/// Charges a request to the matching quotas. A dry run only checks them.
pub(super) async fn charge(
    reader: &dyn ObjectReader,
    request: &Request<'_>,
    store: &dyn QuotaStore,
) -> Result<(), Status> {
    if request.namespace.is_empty() || request.is("", "namespaces") || request.object.is_none() {
        return Ok(());
    }
    let Some(evaluator) = Evaluator::new(request.group, request.resource) else {
        return Ok(());
    };
    if !rules::handles(&evaluator, request)
        || reader
            .list("", "resourcequotas", Some(request.namespace))
            .is_empty()
    {
        return Ok(());
    }
    let _one_at_a_time = lock_of(request.namespace).lock().await;
    // After a conflict, only the quotas whose charge failed are charged again.
    let mut pending: Option<Vec<String>> = None;
    for attempt in 0.. {
        let mut quotas = store.quotas(request.namespace).await?;
        if let Some(names) = &pending {
            quotas.retain(|quota| names.iter().any(|name| name == tree::name(quota)));
        }
        let charged = check(&evaluator, request, &quotas)?;
        if request.dry_run {
            return Ok(());
        }
        let mut failed = Vec::new();
        let mut last = None;
        for quota in charged {
            let name = tree::name(&quota).to_owned();
            if let Err(error) = store.update_status(quota).await {
                failed.push(name);
                last = Some(error);
            }
        }
        match last {
            None => return Ok(()),
            Some(error) if attempt == MAX_RETRIES => return Err(error),
            Some(_) => pending = Some(failed),
        }
    }
    Ok(())
}

fn hard(quota: &Object) -> ResourceList {
    ResourceList::from_object(tree::at(quota, &["status", "hard"]))
}

fn used(quota: &Object) -> ResourceList {
    ResourceList::from_object(tree::at(quota, &["status", "used"]))
}

/// Returns the amounts of the resources that `wanted` selects.
fn mask(list: &ResourceList, wanted: impl Fn(&str) -> bool) -> ResourceList {
    ResourceList(
        list.0
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(k, v)| (k.clone(), *v))
            .collect(),
    )
}

/// Formats amounts as `cpu=1,memory=1Gi`.
fn pretty(list: &ResourceList) -> String {
    let parts: Vec<String> = list
        .0
        .iter()
        .map(|(name, amount)| format!("{name}={amount}"))
        .collect();
    parts.join(",")
}

/// Returns the quotas that the request is charged to, with the charge added to their status.
/// Fails if the request exceeds one of them.
fn check(
    evaluator: &Evaluator<'_>,
    request: &Request<'_>,
    quotas: &[Object],
) -> Result<Vec<Object>, Status> {
    let now = jiff::Timestamp::now();
    let object = request.new_object();
    let view = evaluator.view(object, now);
    let mut matching = Vec::new();
    for quota in quotas
        .iter()
        .filter(|quota| rules::matches(evaluator, quota, &view))
    {
        let name = tree::name(quota);
        let restricted: Vec<String> = hard(quota)
            .0
            .into_keys()
            .filter(|r| evaluator.counts(r))
            .collect();
        rules::constraints(evaluator, &restricted, object)
            .map_err(|why| request.forbidden(format!("failed quota: {name}: {why}")))?;
        let known = used(quota);
        if restricted
            .iter()
            .any(|resource| known.get(resource).is_none())
        {
            let resources = restricted.join(",");
            return Err(request.forbidden(format!(
                "status unknown for quota: {name}, resources: {resources}"
            )));
        }
        matching.push(quota);
    }
    let total = evaluator.usage(&view);
    let negative: Vec<&str> = total
        .0
        .iter()
        .filter(|(_, a)| a.sign() < 0)
        .map(|(n, _)| n.as_str())
        .collect();
    if !negative.is_empty() {
        return Err(request.forbidden(format!(
            "quota usage is negative for resource(s): {}",
            negative.join(",")
        )));
    }
    let before = request
        .old
        .filter(|_| request.operation == Operation::Update)
        .map(|before| evaluator.view(before, now));
    let mut charged = Vec::new();
    for quota in matching {
        let mut delta = total.clone();
        if let Some(before) = before
            .as_ref()
            .filter(|before| rules::matches(evaluator, quota, before))
        {
            delta = total.minus(&evaluator.usage(before));
            // The quota controller accounts for usage that an update releases.
            delta.0.retain(|_, amount| amount.sign() > 0);
        }
        let limits = hard(quota);
        delta
            .0
            .retain(|name, amount| !amount.is_zero() && limits.get(name).is_some());
        if delta.is_empty() {
            continue;
        }
        let mut after = used(quota);
        after.add(&delta);
        let exceeds = |name: &str| delta.get(name).is_some() && after.get(name) > limits.get(name);
        if request.subresource != "status" && after.0.keys().any(|name| exceeds(name)) {
            return Err(request.forbidden(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                tree::name(quota),
                pretty(&mask(&delta, exceeds)),
                pretty(&mask(&used(quota), exceeds)),
                pretty(&mask(&limits, exceeds))
            )));
        }
        let mut quota = quota.clone();
        tree::make_map(&mut quota, &["status"]).insert("used".into(), after.to_object());
        charged.push(quota);
    }
    Ok(charged)
}
