//! Horizontal pod autoscalers: scale workloads to the replica count that their metrics require.

mod limits;
mod measure;
mod metrics;
mod replicas;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use rkube_api::selector::LabelSelector;

use crate::context::{Context, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::events::Severity::{Normal, Warning};
use crate::gc::Collector;
use crate::informers::Key;
use crate::queue::Queue;
use crate::served::Served;
use rkube_component_helpers::conditions::set_condition;
use rkube_component_helpers::label_selector::labels_or_empty;

use limits::{Bounds, History};
use measure::Scaled;

const NAME: &str = "horizontal-pod-autoscaler";
/// Interval between evaluations. Metrics are sampled and cannot be watched.
const SYNC_PERIOD: Duration = Duration::from_secs(15);

/// The controller of horizontal pod autoscalers.
pub struct AutoscalerController {
    ctx: Context,
    collector: Collector,
    queue: Queue<Key>,
    histories: Mutex<HashMap<Key, History>>,
    /// The selectors of the autoscalers' targets, to find those that share pods.
    selectors: Mutex<HashMap<Key, Arc<LabelSelector>>>,
}

impl AutoscalerController {
    /// Returns the controller.
    pub fn new(ctx: &Context, collector: &Collector) -> Self {
        Self {
            ctx: ctx.clone(),
            collector: collector.clone(),
            queue: Queue::new(),
            histories: Mutex::default(),
            selectors: Mutex::default(),
        }
    }
}

impl Controller for AutoscalerController {
    type Item = Key;

    fn name(&self) -> &'static str {
        "horizontal-pod-autoscaler-controller"
    }

    fn workers(&self) -> usize {
        5
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        let informers = &self.ctx.informers;
        watches
            .watches(&informers.autoscalers, |change, queue| {
                let spec_changed = change
                    .old()
                    .is_none_or(|old| old.spec != change.object().spec);
                let key = Key::of(&change.object().metadata);
                if change.is_deletion() {
                    queue.add(key);
                } else if spec_changed {
                    // As upstream: the target is often being created, too.
                    queue.add_after(key, SYNC_PERIOD);
                }
            })
            .reads(&informers.pods);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        self.sync(key).await
    }
}

fn set(
    status: &mut HorizontalPodAutoscalerStatus,
    kind: &str,
    holds: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let condition = HorizontalPodAutoscalerCondition {
        type_: kind.into(),
        status: if holds { "True" } else { "False" }.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_transition_time: Some(Time(now)),
    };
    set_condition(status.conditions.get_or_insert_default(), condition);
}

impl AutoscalerController {
    async fn sync(&self, key: Key) -> Result<()> {
        let store = &self.ctx.informers.autoscalers;
        let Some(scaler) = store.by_key(&key) else {
            self.histories.lock().remove(&key);
            self.selectors.lock().remove(&key);
            return Ok(());
        };
        self.queue.add_after(key.clone(), SYNC_PERIOD);
        let mut status = scaler.status.clone().unwrap_or_default();
        status.observed_generation = scaler.metadata.generation;
        let outcome = self.scale(&key, &scaler, &mut status).await;
        if scaler.status.as_ref() != Some(&status) {
            let mut changed = HorizontalPodAutoscaler::clone(&scaler);
            changed.status = Some(status);
            let written = optional(self.ctx.update_status(store, &changed).await);
            if let Err(error) = &written {
                let message = error.to_string();
                let recorder = &self.ctx.recorder;
                recorder.event(NAME, &*scaler, Warning, "FailedUpdateStatus", message);
            }
            written?;
        }
        if let Err(error) = outcome {
            // Errors are reported in conditions and events; the next period retries anyway.
            tracing::debug!(autoscaler = %key, %error, "cannot scale");
        }
        Ok(())
    }

    fn target(
        &self,
        namespace: &str,
        scaler: &HorizontalPodAutoscaler,
    ) -> Result<(Arc<Served>, String)> {
        let wanted = &scaler.spec.scale_target_ref;
        let version = wanted.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let served = self.collector.served();
        let resource = served
            .into_iter()
            .find(|served| served.kind == wanted.kind && served.group == group)
            .ok_or_else(|| {
                Error::other(format!(
                    "no matches for kind {:?} in group {group:?}",
                    wanted.kind
                ))
            })?;
        let path = format!("{}/{}/scale", resource.path(namespace), wanted.name);
        Ok((resource, path))
    }

    /// Brings the target to the replica count that the metrics require, and records the outcome in
    /// the status.
    async fn scale(
        &self,
        key: &Key,
        scaler: &HorizontalPodAutoscaler,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Result<()> {
        let (ctx, now) = (&self.ctx, self.ctx.now());
        let found: Result<(String, Scale)> = async {
            let (_, path) = self.target(&key.namespace, scaler)?;
            let scale = ctx.raw(http::Method::GET, &path, Vec::new()).await?;
            Ok((path, scale))
        }
        .await;
        let (path, mut scale) = match found {
            Ok(found) => found,
            Err(error) => {
                let text = format!(
                    "the HPA controller was unable to get the target's current scale: {error}"
                );
                set(status, "AbleToScale", false, "FailedGetScale", &text, now);
                ctx.recorder
                    .event(NAME, scaler, Warning, "FailedGetScale", error.to_string());
                return Err(error);
            }
        };
        let text = "the HPA controller was able to get the target's current scale";
        set(status, "AbleToScale", true, "SucceededGetScale", text, now);
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or(0);
        // The API server omits a zero, and the comparison with the stored status must see that.
        status.current_replicas = Some(current).filter(|count| *count != 0);
        self.history(key, |history| history.start(current, now));
        let (desired, why) = match self.desired(key, scaler, status, &scale).await {
            Ok(found) => found,
            Err(error) => {
                let reason = "FailedComputeMetricsReplicas";
                let recorder = &ctx.recorder;
                recorder.event(NAME, scaler, Warning, reason, error.to_string());
                return Err(error);
            }
        };
        if desired == current {
            status.desired_replicas = desired;
            return Ok(());
        }
        scale.spec.get_or_insert_default().replicas = Some(desired);
        let body = serde_json::to_vec(&scale)
            .map_err(|error| Error::Api(kube::Error::SerdeError(error)))?;
        if let Err(error) = ctx.raw::<Scale>(http::Method::PUT, &path, body).await {
            let text = format!("the HPA controller was unable to update the target scale: {error}");
            let reason = "FailedUpdateScale";
            set(status, "AbleToScale", false, reason, &text, now);
            let message = format!("New size: {desired}; reason: {why}; error: {error}");
            ctx.recorder
                .event(NAME, scaler, Warning, "FailedRescale", message);
            return Err(error);
        }
        status.desired_replicas = desired;
        let text = format!("the HPA controller was able to update the target scale to {desired}");
        set(status, "AbleToScale", true, "SucceededRescale", &text, now);
        let message = format!("New size: {desired}; reason: {why}");
        ctx.recorder
            .event(NAME, scaler, Normal, "SuccessfulRescale", message);
        if scaler.spec.behavior.is_some() {
            self.history(key, |history| {
                history.note(desired.saturating_sub(current), now);
            });
        }
        status.last_scale_time = Some(Time(now));
        Ok(())
    }

    fn history<T>(&self, key: &Key, use_it: impl FnOnce(&mut History) -> T) -> T {
        use_it(self.histories.lock().entry(key.clone()).or_default())
    }

    /// Returns the desired replica count and, if it differs from the current one, why.
    async fn desired(
        &self,
        key: &Key,
        scaler: &HorizontalPodAutoscaler,
        status: &mut HorizontalPodAutoscalerStatus,
        scale: &Scale,
    ) -> Result<(i32, String)> {
        let now = self.ctx.now();
        let spec = scale.spec.as_ref();
        let current = spec.and_then(|spec| spec.replicas).unwrap_or(0);
        let bounds = Bounds {
            min: scaler.spec.min_replicas.unwrap_or(1),
            max: scaler.spec.max_replicas,
        };
        status.current_metrics = None;
        if current == 0 && bounds.min != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            set(status, "ScalingActive", false, "ScalingDisabled", text, now);
            return Ok((0, String::new()));
        }
        if current > bounds.max {
            let why = "Current number of replicas above Spec.MaxReplicas";
            return Ok((bounds.max, why.into()));
        }
        if current < bounds.min {
            let why = "Current number of replicas below Spec.MinReplicas";
            return Ok((bounds.min, why.into()));
        }
        let found = scale.status.as_ref();
        let selector = found.and_then(|status| status.selector.as_deref());
        let selector = selector.unwrap_or_default();
        let pods = match self.select(key, selector) {
            Ok(pods) => pods,
            Err((event, reason, message, text)) => {
                let recorder = &self.ctx.recorder;
                recorder.event(NAME, scaler, Warning, event, message.clone());
                set(status, "ScalingActive", false, reason, &text, now);
                return Err(Error::Other(message));
            }
        };
        let scaled = Scaled {
            scaler,
            namespace: &key.namespace,
            selector,
            pods,
            current,
            existing: found.map_or(0, |status| status.replicas),
        };
        let measured = self.measure(&scaled, status).await;
        let (recommended, name) = measured.map_err(Error::Other)?;
        let why = match recommended.cmp(&current) {
            std::cmp::Ordering::Greater => format!("{name} above target"),
            std::cmp::Ordering::Less => "All metrics below target".to_owned(),
            std::cmp::Ordering::Equal => String::new(),
        };
        let behavior = scaler.spec.behavior.as_ref();
        let limited = self.history(key, |history| {
            limits::apply(recommended, current, bounds, behavior, history, now)
        });
        let (reason, text) = limited.able;
        set(status, "AbleToScale", true, reason, text, now);
        let (reason, text) = limited.limit;
        set(
            status,
            "ScalingLimited",
            limited.is_limited,
            reason,
            text,
            now,
        );
        Ok((limited.size, why))
    }

    /// Returns the pods of a target's selector.
    ///
    /// # Errors
    ///
    /// Returns the event's and the condition's reason, and their messages, if the selector is
    /// missing or invalid, or if another autoscaler controls some of the pods.
    fn select(
        &self,
        key: &Key,
        selector: &str,
    ) -> std::result::Result<Vec<Arc<Pod>>, (&'static str, &'static str, String, String)> {
        if selector.is_empty() {
            let text = "the HPA target's scale is missing a selector";
            let message = "selector is required";
            return Err((
                "SelectorRequired",
                "InvalidSelector",
                message.into(),
                text.into(),
            ));
        }
        let parsed = LabelSelector::parse(selector).map_err(|error| {
            let message = format!(
                "couldn't convert selector into a corresponding internal selector object: {}",
                error.message
            );
            let reason = "InvalidSelector";
            (reason, reason, message.clone(), message)
        })?;
        let mut selectors = self.selectors.lock();
        selectors.insert(key.clone(), Arc::new(parsed.clone()));
        let mut pods = self.ctx.informers.pods.in_namespace(&key.namespace);
        pods.retain(|pod| is_selected(&parsed, pod));
        let others = sharing(&selectors, &key.namespace, &pods);
        if others.len() > 1 {
            let others: Vec<String> = others
                .iter()
                .map(|key| format!("{{{} {}}}", key.name, key.namespace))
                .collect();
            let message = format!(
                "pods by selector {selector} are controlled by multiple HPAs: [{}]",
                others.join(" ")
            );
            let reason = "AmbiguousSelector";
            return Err((reason, reason, message.clone(), message));
        }
        Ok(pods)
    }
}

fn is_selected(selector: &LabelSelector, pod: &Pod) -> bool {
    let labels = labels_or_empty(pod.metadata.labels.as_ref());
    selector.matches_with(|key| labels.get(key).map(String::as_str))
}

/// Returns the autoscalers of a namespace that select any of the pods.
fn sharing<'a>(
    selectors: &'a HashMap<Key, Arc<LabelSelector>>,
    namespace: &str,
    pods: &[Arc<Pod>],
) -> BTreeSet<&'a Key> {
    let selects = |selector: &LabelSelector| pods.iter().any(|pod| is_selected(selector, pod));
    selectors
        .iter()
        .filter(|(key, selector)| key.namespace == namespace && selects(selector))
        .map(|(key, _)| key)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upstream's tests of `AmbiguousSelector`: no, full and partial overlap.
    #[test]
    fn autoscalers_that_share_pods_are_found() {
        let selectors: HashMap<Key, Arc<LabelSelector>> = [
            ("n", "a", "name=web"),
            ("n", "b", "name=web"),
            ("n", "c", "cheddar=cheese"),
            ("other", "d", "name=web"),
        ]
        .into_iter()
        .map(|(namespace, name, selector)| {
            let parsed = LabelSelector::parse(selector).unwrap();
            (Key::new(namespace, name), Arc::new(parsed))
        })
        .collect();
        let pod = |labels: &[(&str, &str)]| {
            let mut pod = Pod::default();
            let labels = labels.iter().map(|(k, v)| ((*k).into(), (*v).into()));
            pod.metadata.labels = Some(labels.collect());
            Arc::new(pod)
        };
        let of = |pods: &[Arc<Pod>]| -> Vec<String> {
            let found = sharing(&selectors, "n", pods);
            found.iter().map(|key| key.name.clone()).collect()
        };
        assert_eq!(of(&[pod(&[("cheddar", "cheese")])]), ["c"]);
        assert_eq!(of(&[pod(&[("name", "web")])]), ["a", "b"]);
        let both = pod(&[("name", "web"), ("cheddar", "cheese")]);
        assert_eq!(of(&[pod(&[]), both]), ["a", "b", "c"]);
        assert!(of(&[]).is_empty());
    }
}
