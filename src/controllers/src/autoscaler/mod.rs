//! Horizontal pod autoscalers: scale workloads to the replica count that their metrics require.

mod decide;
mod measure;
mod metrics;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;

use crate::context::{Context, Error, Result, optional};
use crate::controller::{Controller, Watches};
use crate::discovery::Served;
use crate::events::Severity::{Normal, Warning};
use crate::gc::Collector;
use crate::informers::Key;
use crate::queue::Queue;
use rkube_component_helpers::conditions::set_condition;

use decide::{Bounds, History};
use measure::Scaled;

const NAME: &str = "horizontal-pod-autoscaler";
/// Interval between evaluations. Metrics are sampled and cannot be watched.
const PERIOD: Duration = Duration::from_secs(15);

/// The controller of horizontal pod autoscalers.
pub struct AutoscalerController {
    ctx: Context,
    collector: Collector,
    queue: Queue<Key>,
    histories: Mutex<HashMap<Key, History>>,
}

impl AutoscalerController {
    /// Returns the controller.
    pub fn new(ctx: &Context, collector: &Collector) -> Self {
        Self {
            ctx: ctx.clone(),
            collector: collector.clone(),
            queue: Queue::new(),
            histories: Mutex::default(),
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
            .on(&informers.autoscalers, |change, queue| {
                let spec_changed = change
                    .old()
                    .is_none_or(|old| old.spec != change.object().spec);
                if spec_changed {
                    queue.add(Key::of(&change.object().metadata));
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
            return Ok(());
        };
        self.queue.add_after(key.clone(), PERIOD);
        let mut status = scaler.status.clone().unwrap_or_default();
        status.observed_generation = scaler.metadata.generation;
        let outcome = self.scale(&key, &scaler, &mut status).await;
        if scaler.status.as_ref() != Some(&status) {
            let mut changed = HorizontalPodAutoscaler::clone(&scaler);
            changed.status = Some(status);
            optional(self.ctx.update_status(store, &changed).await)?;
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
        let (desired, why) = self.desired(key, scaler, status, &scale).await?;
        let spec = scale.spec.get_or_insert_default();
        let current = spec.replicas.unwrap_or(0);
        status.desired_replicas = desired;
        if desired == current {
            let text = "recommended size matches current size";
            set(status, "AbleToScale", true, "ReadyForNewScale", text, now);
            return Ok(());
        }
        spec.replicas = Some(desired);
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
        let text = format!("the HPA controller was able to update the target scale to {desired}");
        set(status, "AbleToScale", true, "SucceededRescale", &text, now);
        let message = format!("New size: {desired}; reason: {why}");
        ctx.recorder
            .event(NAME, scaler, Normal, "SuccessfulRescale", message);
        self.histories
            .lock()
            .entry(key.clone())
            .or_default()
            .note(desired.saturating_sub(current), now);
        status.last_scale_time = Some(Time(now));
        Ok(())
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
        // The API server omits a zero, and the comparison with the stored status must see that.
        status.current_replicas = Some(current).filter(|count| *count != 0);
        let bounds = Bounds {
            min: scaler.spec.min_replicas.unwrap_or(1),
            max: scaler.spec.max_replicas,
        };
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
        let selector = scale.status.as_ref().and_then(|s| s.selector.as_deref());
        let scaled = Scaled {
            scaler,
            namespace: &key.namespace,
            selector: selector.unwrap_or_default(),
            current,
        };
        let mut why = String::new();
        let recommended = self.measure(&scaled, status, &mut why).await?;
        let mut histories = self.histories.lock();
        let (size, limited) = decide::damp(
            recommended,
            current,
            bounds,
            scaler.spec.behavior.as_ref(),
            histories.entry(key.clone()).or_default(),
            now,
        );
        let (limits, reason, message) = match limited {
            Some((reason, message)) => (true, reason, message),
            None => {
                let text = "the desired count is within the acceptable range";
                (false, "DesiredWithinRange", text)
            }
        };
        set(status, "ScalingLimited", limits, reason, message, now);
        Ok((size, why))
    }
}
