//! Evaluates the metrics of an autoscaler.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricSource, ContainerResourceMetricStatus, ExternalMetricSource,
    ExternalMetricStatus, HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus,
    PodsMetricSource, PodsMetricStatus, ResourceMetricSource, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use rkube_api::quantity::{Format, Quantity};
use rkube_component_helpers::label_selector;

use super::decide::{self, Proposal, Target};
use super::{AutoscalerController, NAME, metrics, set};
use crate::context::{Error, Result};
use crate::events::Severity::Warning;

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

impl Failure {
    fn new(reason: &'static str, what: &str, error: &Error) -> Self {
        Self(reason, format!("failed to get {what}: {error}"))
    }
}

/// The replica count that a metric proposes, the metric's name in messages, and its status.
type Measured = (i32, String, MetricStatus);

/// The pods that an autoscaler scales.
pub(super) struct Scaled<'a> {
    /// The autoscaler.
    pub scaler: &'a HorizontalPodAutoscaler,
    /// The namespace of autoscaler and pods.
    pub namespace: &'a str,
    /// The pods' label selector.
    pub selector: &'a str,
    /// The current number of replicas.
    pub current: i32,
}

impl AutoscalerController {
    /// Returns the highest replica count that any metric proposes.
    ///
    /// If some metrics fail, the others may still scale up but not down.
    pub(super) async fn measure(
        &self,
        scaled: &Scaled<'_>,
        status: &mut HorizontalPodAutoscalerStatus,
        why: &mut String,
    ) -> Result<i32> {
        let (scaler, current, now) = (scaled.scaler, scaled.current, self.ctx.now());
        let mut best: Option<(i32, String)> = None;
        let mut failure: Option<Failure> = None;
        let mut measured = Vec::new();
        for metric in scaler.spec.metrics.iter().flatten() {
            match self.one(scaled, metric).await {
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
        scaled: &Scaled<'_>,
        metric: &MetricSpec,
    ) -> std::result::Result<Measured, Failure> {
        let measured = if let Some(source) = &metric.resource {
            let what = format!("{} utilization", source.name);
            self.resource(scaled, source)
                .await
                .map_err(|error| Failure::new("FailedGetResourceMetric", &what, &error))
        } else if let Some(source) = &metric.container_resource {
            let what = format!("{} utilization", source.name);
            self.container_resource(scaled, source)
                .await
                .map_err(|error| Failure::new("FailedGetContainerResourceMetric", &what, &error))
        } else if let Some(source) = &metric.pods {
            self.pods_metric(scaled, source)
                .await
                .map_err(|error| Failure::new("FailedGetPodsMetric", "pods metric value", &error))
        } else if let Some(source) = &metric.object {
            self.object_metric(scaled, source).await.map_err(|error| {
                Failure::new("FailedGetObjectMetric", "object metric value", &error)
            })
        } else if let Some(source) = &metric.external {
            self.external_metric(scaled, source)
                .await
                .map_err(|error| Failure::new("FailedGetExternalMetric", "external metric", &error))
        } else {
            let text = format!("unknown metric source type {:?}", metric.type_);
            return Err(Failure("InvalidMetricSourceType", text));
        };
        let (replicas, name, status) = measured?;
        let status = MetricStatus {
            type_: metric.type_.clone(),
            ..status
        };
        Ok((replicas, name, status))
    }

    async fn resource(
        &self,
        scaled: &Scaled<'_>,
        source: &ResourceMetricSource,
    ) -> Result<Measured> {
        let proposal = self
            .of_resource(scaled, &source.name, None, &source.target)
            .await?;
        let name = match proposal.utilization {
            Some(_) => format!(
                "{} resource utilization (percentage of request)",
                source.name
            ),
            None => format!("{} resource", source.name),
        };
        let status = MetricStatus {
            resource: Some(ResourceMetricStatus {
                name: source.name.clone(),
                current: values(proposal),
            }),
            ..Default::default()
        };
        Ok((proposal.replicas, name, status))
    }

    async fn container_resource(
        &self,
        scaled: &Scaled<'_>,
        source: &ContainerResourceMetricSource,
    ) -> Result<Measured> {
        let container = Some(source.container.as_str());
        let proposal = self
            .of_resource(scaled, &source.name, container, &source.target)
            .await?;
        let status = MetricStatus {
            container_resource: Some(ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current: values(proposal),
            }),
            ..Default::default()
        };
        let name = format!("{} container resource {}", source.name, source.container);
        Ok((proposal.replicas, name, status))
    }

    async fn pods_metric(
        &self,
        scaled: &Scaled<'_>,
        source: &PodsMetricSource,
    ) -> Result<Measured> {
        let name = &source.metric.name;
        let mut samples = metrics::pods(
            &self.ctx,
            scaled.namespace,
            scaled.selector,
            name,
            source.metric.selector.as_ref(),
        )
        .await?;
        let pods = self.pods(scaled.namespace, scaled.selector).await?;
        let groups = decide::group(&pods, &mut samples, false, self.ctx.now());
        let target =
            per_pod(&source.target).ok_or_else(|| Error::other("the metric has no target"))?;
        let tolerance = decide::tolerance(scaled.scaler.spec.behavior.as_ref());
        let proposal = decide::propose(
            scaled.current,
            &groups,
            &samples,
            &Default::default(),
            target,
            tolerance,
        )
        .map_err(Error::Other)?;
        let status = MetricStatus {
            pods: Some(PodsMetricStatus {
                metric: source.metric.clone(),
                current: values(proposal),
            }),
            ..Default::default()
        };
        Ok((proposal.replicas, format!("pods metric {name}"), status))
    }

    async fn object_metric(
        &self,
        scaled: &Scaled<'_>,
        source: &ObjectMetricSource,
    ) -> Result<Measured> {
        let of = &source.described_object;
        let version = of.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let served = self.collector.served();
        let resource = served
            .iter()
            .find(|served| served.kind == of.kind && served.group == group)
            .ok_or_else(|| Error::other(format!("no kind {} is served", of.kind)))?;
        let name = &source.metric.name;
        let value = metrics::object(
            &self.ctx,
            scaled.namespace,
            resource,
            &of.name,
            name,
            source.metric.selector.as_ref(),
        )
        .await?;
        let (replicas, shown) = whole(scaled.scaler, &source.target, value, scaled.current)?;
        let status = MetricStatus {
            object: Some(ObjectMetricStatus {
                metric: source.metric.clone(),
                described_object: of.clone(),
                current: shown,
            }),
            ..Default::default()
        };
        Ok((replicas, format!("{} metric {name}", of.kind), status))
    }

    async fn external_metric(
        &self,
        scaled: &Scaled<'_>,
        source: &ExternalMetricSource,
    ) -> Result<Measured> {
        let name = &source.metric.name;
        let selector = source.metric.selector.as_ref();
        let value = metrics::external(&self.ctx, scaled.namespace, name, selector).await?;
        let (replicas, shown) = whole(scaled.scaler, &source.target, value, scaled.current)?;
        let status = MetricStatus {
            external: Some(ExternalMetricStatus {
                metric: source.metric.clone(),
                current: shown,
            }),
            ..Default::default()
        };
        Ok((replicas, format!("external metric {name}"), status))
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

    async fn of_resource(
        &self,
        scaled: &Scaled<'_>,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Result<Proposal> {
        let (namespace, selector) = (scaled.namespace, scaled.selector);
        let mut samples =
            metrics::resource(&self.ctx, namespace, selector, resource, container).await?;
        let pods = self.pods(namespace, selector).await?;
        let groups = decide::group(&pods, &mut samples, resource == "cpu", self.ctx.now());
        let target = per_pod(target).ok_or_else(|| Error::other("the metric has no target"))?;
        let requests = match target {
            Target::Utilization(_) => metrics::requests(&pods, resource, container)?,
            Target::Average(_) => Default::default(),
        };
        let tolerance = decide::tolerance(scaled.scaler.spec.behavior.as_ref());
        decide::propose(
            scaled.current,
            &groups,
            &samples,
            &requests,
            target,
            tolerance,
        )
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
