//! Horizontal pod autoscalers: scale workloads to the replica count that their metrics require.

mod decide;
mod metrics;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::Scale;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricStatus, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus,
    MetricTarget, MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use rkube_api::quantity::{Format, Quantity};

use crate::context::{Context, Error, Result, optional};
use crate::discovery::Served;
use crate::events::Severity::{Normal, Warning};
use crate::gc::Collector;
use crate::informers::Key;
use crate::queue::Queue;
use rkube_component_helpers::conditions::set_condition;
use rkube_component_helpers::label_selector;

use decide::{Bounds, History, Proposal, Target};

const NAME: &str = "horizontal-pod-autoscaler";
/// Interval between evaluations. Metrics are sampled and cannot be watched.
const PERIOD: Duration = Duration::from_secs(15);

struct Controller {
    ctx: Context,
    collector: Collector,
    queue: Queue<Key>,
    histories: Mutex<HashMap<Key, History>>,
}

/// Registers event handlers and returns the controller's run loop. Call before the informers start.
pub fn start(ctx: &Context, collector: &Collector) -> impl Future<Output = ()> + Send + use<> {
    let queue: Queue<Key> = Queue::new();
    {
        let queue = queue.clone();
        ctx.informers.autoscalers.on_change(move |change| {
            let spec_changed = change
                .old()
                .is_none_or(|old| old.spec != change.object().spec);
            if spec_changed {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }
    let controller = Controller {
        ctx: ctx.clone(),
        collector: collector.clone(),
        queue,
        histories: Mutex::default(),
    };
    async move {
        controller.ctx.informers.autoscalers.synced().await;
        controller.ctx.informers.pods.synced().await;
        let controller = &controller;
        controller
            .queue
            .work("horizontal-pod-autoscaler-controller", 5, |key| {
                controller.sync(key)
            })
            .await;
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

fn amount(milli: i64) -> Text {
    Text(Quantity::from_milli(milli, Format::DecimalSi).to_string())
}

fn milli(text: Option<&Text>) -> Option<i64> {
    Quantity::parse(&text?.0)
        .ok()
        .map(|quantity| quantity.milli_value())
}

/// Returns the per-pod target of a metric, if it has one.
fn per_pod(target: &MetricTarget) -> Option<Target> {
    match (
        target.average_utilization,
        milli(target.average_value.as_ref()),
    ) {
        (Some(utilization), _) => Some(Target::Utilization(utilization)),
        (None, Some(average)) => Some(Target::Average(average)),
        (None, None) => None,
    }
}

fn values(proposal: Proposal) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(amount(proposal.average)),
        value: None,
    }
}

/// Why a metric could not be evaluated: reason and message.
struct Failure(&'static str, String);

impl Controller {
    async fn sync(&self, key: Key) -> Result<()> {
        let store = &self.ctx.informers.autoscalers;
        let Some(scaler) = store.by_key(&key) else {
            self.histories.lock().remove(&key);
            return Ok(());
        };
        self.queue.add_after(key.clone(), PERIOD);
        let mut status = scaler.status.clone().unwrap_or_default();
        status.observed_generation = scaler.metadata.generation;
        let outcome = self.reconcile(&key, &scaler, &mut status).await;
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

    async fn reconcile(
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
        let current = scale
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(0);
        status.current_replicas = Some(current);
        let bounds = Bounds {
            min: scaler.spec.min_replicas.unwrap_or(1),
            max: scaler.spec.max_replicas,
        };
        let mut why = String::new();
        let desired = if current == 0 && bounds.min != 0 {
            let text = "scaling is disabled since the replica count of the target is zero";
            set(status, "ScalingActive", false, "ScalingDisabled", text, now);
            0
        } else if current > bounds.max {
            why = "Current number of replicas above Spec.MaxReplicas".into();
            bounds.max
        } else if current < bounds.min {
            why = "Current number of replicas below Spec.MinReplicas".into();
            bounds.min
        } else {
            let selector = scale
                .status
                .as_ref()
                .and_then(|status| status.selector.clone())
                .unwrap_or_default();
            let recommended = self
                .measure(key, scaler, status, current, &selector, &mut why)
                .await?;
            let mut histories = self.histories.lock();
            let history = histories.entry(key.clone()).or_default();
            let (size, limited) = decide::damp(
                recommended,
                current,
                bounds,
                scaler.spec.behavior.as_ref(),
                history,
                now,
            );
            match limited {
                Some((reason, message)) => {
                    set(status, "ScalingLimited", true, reason, message, now)
                }
                None => {
                    let text = "the desired count is within the acceptable range";
                    set(
                        status,
                        "ScalingLimited",
                        false,
                        "DesiredWithinRange",
                        text,
                        now,
                    );
                }
            }
            size
        };
        status.desired_replicas = desired;
        if desired == current {
            let text = "recommended size matches current size";
            set(status, "AbleToScale", true, "ReadyForNewScale", text, now);
            return Ok(());
        }
        scale.spec.get_or_insert_default().replicas = Some(desired);
        let body = serde_json::to_vec(&scale)
            .map_err(|error| Error::Api(kube::Error::SerdeError(error)))?;
        match ctx.raw::<Scale>(http::Method::PUT, &path, body).await {
            Ok(_) => {
                let text =
                    format!("the HPA controller was able to update the target scale to {desired}");
                set(status, "AbleToScale", true, "SucceededRescale", &text, now);
                let message = format!("New size: {desired}; reason: {why}");
                ctx.recorder
                    .event(NAME, scaler, Normal, "SuccessfulRescale", message);
                self.histories
                    .lock()
                    .entry(key.clone())
                    .or_default()
                    .note(desired - current, now);
                status.last_scale_time = Some(Time(now));
                Ok(())
            }
            Err(error) => {
                let text =
                    format!("the HPA controller was unable to update the target scale: {error}");
                set(
                    status,
                    "AbleToScale",
                    false,
                    "FailedUpdateScale",
                    &text,
                    now,
                );
                let message = format!("New size: {desired}; reason: {why}; error: {error}");
                ctx.recorder
                    .event(NAME, scaler, Warning, "FailedRescale", message);
                Err(error)
            }
        }
    }

    /// Returns the highest replica count that any metric proposes.
    ///
    /// If some metrics fail, the others may still scale up but not down.
    async fn measure(
        &self,
        key: &Key,
        scaler: &HorizontalPodAutoscaler,
        status: &mut HorizontalPodAutoscalerStatus,
        current: i32,
        selector: &str,
        why: &mut String,
    ) -> Result<i32> {
        let now = self.ctx.now();
        let mut best: Option<(i32, String)> = None;
        let mut failure: Option<Failure> = None;
        let mut measured = Vec::new();
        for metric in scaler.spec.metrics.iter().flatten() {
            match self.one(key, scaler, metric, current, selector).await {
                Ok((replicas, name, value)) => {
                    measured.push(value);
                    if best.as_ref().is_none_or(|(most, _)| replicas > *most) {
                        best = Some((replicas, name));
                    }
                }
                Err(error) => {
                    self.ctx
                        .recorder
                        .event(NAME, scaler, Warning, error.0, error.1.clone());
                    failure.get_or_insert(error);
                }
            }
        }
        status.current_metrics = (!measured.is_empty()).then_some(measured);
        match (best, failure) {
            (Some((replicas, name)), None) => {
                let text = format!(
                    "the HPA was able to successfully calculate a replica count from {name}"
                );
                set(
                    status,
                    "ScalingActive",
                    true,
                    "ValidMetricFound",
                    &text,
                    now,
                );
                let side = if replicas > current { "above" } else { "below" };
                *why = if replicas < current {
                    "All metrics below target".into()
                } else {
                    format!("{name} {side} target")
                };
                Ok(replicas)
            }
            (Some((replicas, name)), Some(_)) if replicas > current => {
                *why = format!("{name} above target");
                Ok(replicas)
            }
            (_, Some(Failure(reason, message))) => {
                let text = format!("the HPA was unable to compute the replica count: {message}");
                set(status, "ScalingActive", false, reason, &text, now);
                status.desired_replicas = current;
                Err(Error::Other(message))
            }
            (None, None) => Ok(current),
        }
    }

    async fn one(
        &self,
        key: &Key,
        scaler: &HorizontalPodAutoscaler,
        metric: &MetricSpec,
        current: i32,
        selector: &str,
    ) -> std::result::Result<(i32, String, MetricStatus), Failure> {
        let mut status = MetricStatus {
            type_: metric.type_.clone(),
            ..Default::default()
        };
        let namespace = key.namespace.as_str();
        if let Some(source) = &metric.resource {
            let fail = |error: Error| {
                Failure(
                    "FailedGetResourceMetric",
                    format!("failed to get {} utilization: {error}", source.name),
                )
            };
            let proposal = self
                .of_resource(
                    scaler,
                    namespace,
                    selector,
                    current,
                    &source.name,
                    None,
                    &source.target,
                )
                .await
                .map_err(fail)?;
            let name = match proposal.utilization {
                Some(_) => format!(
                    "{} resource utilization (percentage of request)",
                    source.name
                ),
                None => format!("{} resource", source.name),
            };
            status.resource = Some(ResourceMetricStatus {
                name: source.name.clone(),
                current: values(proposal),
            });
            return Ok((proposal.replicas, name, status));
        }
        if let Some(source) = &metric.container_resource {
            let fail = |error: Error| {
                Failure(
                    "FailedGetContainerResourceMetric",
                    format!("failed to get {} utilization: {error}", source.name),
                )
            };
            let container = Some(source.container.as_str());
            let proposal = self
                .of_resource(
                    scaler,
                    namespace,
                    selector,
                    current,
                    &source.name,
                    container,
                    &source.target,
                )
                .await
                .map_err(fail)?;
            status.container_resource = Some(ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current: values(proposal),
            });
            let name = format!("{} container resource {}", source.name, source.container);
            return Ok((proposal.replicas, name, status));
        }
        if let Some(source) = &metric.pods {
            let fail = |error: Error| {
                Failure(
                    "FailedGetPodsMetric",
                    format!("failed to get pods metric value: {error}"),
                )
            };
            let name = &source.metric.name;
            let mut samples = metrics::pods(
                &self.ctx,
                namespace,
                selector,
                name,
                source.metric.selector.as_ref(),
            )
            .await
            .map_err(fail)?;
            let pods = self.pods(namespace, selector).await.map_err(fail)?;
            let groups = decide::group(&pods, &mut samples, false, self.ctx.now());
            let target = per_pod(&source.target)
                .ok_or_else(|| fail(Error::other("the metric has no target")))?;
            let tolerance = decide::tolerance(scaler.spec.behavior.as_ref());
            let proposal = decide::propose(
                current,
                &groups,
                &samples,
                &Default::default(),
                target,
                tolerance,
            )
            .map_err(|text| fail(Error::Other(text)))?;
            status.pods = Some(PodsMetricStatus {
                metric: source.metric.clone(),
                current: values(proposal),
            });
            return Ok((proposal.replicas, format!("pods metric {name}"), status));
        }
        if let Some(source) = &metric.object {
            let fail = |error: Error| {
                Failure(
                    "FailedGetObjectMetric",
                    format!("failed to get object metric value: {error}"),
                )
            };
            let of = &source.described_object;
            let group = of
                .api_version
                .as_deref()
                .and_then(|version| version.split_once('/'))
                .map_or("", |(group, _)| group);
            let served = self.collector.served();
            let resource = served
                .iter()
                .find(|served| served.kind == of.kind && served.group == group);
            let resource = resource
                .ok_or_else(|| fail(Error::other(format!("no kind {} is served", of.kind))))?;
            let name = &source.metric.name;
            let value = metrics::object(
                &self.ctx,
                namespace,
                resource,
                &of.name,
                name,
                source.metric.selector.as_ref(),
            )
            .await
            .map_err(fail)?;
            let (replicas, shown) = whole(scaler, &source.target, value, current).map_err(fail)?;
            status.object = Some(ObjectMetricStatus {
                metric: source.metric.clone(),
                described_object: of.clone(),
                current: shown,
            });
            return Ok((replicas, format!("{} metric {name}", of.kind), status));
        }
        if let Some(source) = &metric.external {
            let fail = |error: Error| {
                Failure(
                    "FailedGetExternalMetric",
                    format!("failed to get external metric: {error}"),
                )
            };
            let name = &source.metric.name;
            let value =
                metrics::external(&self.ctx, namespace, name, source.metric.selector.as_ref())
                    .await
                    .map_err(fail)?;
            let (replicas, shown) = whole(scaler, &source.target, value, current).map_err(fail)?;
            status.external = Some(ExternalMetricStatus {
                metric: source.metric.clone(),
                current: shown,
            });
            return Ok((replicas, format!("external metric {name}"), status));
        }
        Err(Failure(
            "InvalidMetricSourceType",
            format!("unknown metric source type {:?}", metric.type_),
        ))
    }

    async fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Arc<Pod>>> {
        let selector = rkube_api::selector::LabelSelector::parse(selector)
            .map_err(|error| Error::other(format!("invalid selector {selector:?}: {error:?}")))?;
        let mut pods = self.ctx.informers.pods.in_namespace(namespace);
        pods.retain(|pod| {
            let labels = label_selector::labels_or_empty(pod.metadata.labels.as_ref());
            selector.matches_with(|key| labels.get(key).map(String::as_str))
        });
        Ok(pods)
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "they are the fields of two kinds of metric source"
    )]
    async fn of_resource(
        &self,
        scaler: &HorizontalPodAutoscaler,
        namespace: &str,
        selector: &str,
        current: i32,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<Proposal> {
        let mut samples =
            metrics::resource(&self.ctx, namespace, selector, resource, container).await?;
        let pods = self.pods(namespace, selector).await?;
        let groups = decide::group(&pods, &mut samples, resource == "cpu", self.ctx.now());
        let target = per_pod(target).ok_or_else(|| Error::other("the metric has no target"))?;
        let requests = match target {
            Target::Utilization(_) => metrics::requests(&pods, resource, container)?,
            Target::Average(_) => Default::default(),
        };
        let tolerance = decide::tolerance(scaler.spec.behavior.as_ref());
        decide::propose(current, &groups, &samples, &requests, target, tolerance)
            .map_err(Error::Other)
    }
}

/// Computes the replica count for a metric whose value applies to the whole target (object and
/// external metrics).
fn whole(
    scaler: &HorizontalPodAutoscaler,
    target: &MetricTarget,
    value: i64,
    current: i32,
) -> Result<(i32, MetricValueStatus)> {
    let (up, down) = decide::tolerance(scaler.spec.behavior.as_ref());
    let within = |ratio: f64| 1.0 - down <= ratio && ratio <= 1.0 + up;
    let (ratio, replicas, shown) =
        if let Some(wanted) = milli(target.value.as_ref()).filter(|wanted| *wanted > 0) {
            let ratio = value as f64 / wanted as f64;
            let shown = MetricValueStatus {
                value: Some(amount(value)),
                ..Default::default()
            };
            (ratio, (ratio * f64::from(current)).ceil() as i32, shown)
        } else if let Some(each) = milli(target.average_value.as_ref()).filter(|each| *each > 0) {
            let ratio = value as f64 / (each as f64 * f64::from(current.max(1)));
            let shown = MetricValueStatus {
                average_value: Some(amount(value / i64::from(current.max(1)))),
                ..Default::default()
            };
            (ratio, (value as f64 / each as f64).ceil() as i32, shown)
        } else {
            return Err(Error::other("the metric has no target"));
        };
    Ok((if within(ratio) { current } else { replicas }, shown))
}
