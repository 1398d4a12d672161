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

use super::metrics::{self, Answer};
use super::replicas::{self, Proposal, Target, Tolerances};
use super::{AutoscalerController, NAME, set};
use crate::events::Severity::Warning;

fn amount(milli: i64) -> Text {
    Text(Quantity::from_milli(milli, Format::DecimalSi).to_string())
}

fn milli(text: Option<&Text>) -> Option<i64> {
    Quantity::parse(&text?.0)
        .ok()
        .map(|quantity| quantity.milli_value())
}

fn values(proposal: Proposal) -> MetricValueStatus {
    MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(amount(proposal.average)),
        value: None,
    }
}

fn value(milli: i64) -> MetricValueStatus {
    MetricValueStatus {
        value: Some(amount(milli)),
        ..Default::default()
    }
}

fn average(milli: i64) -> MetricValueStatus {
    MetricValueStatus {
        average_value: Some(amount(milli)),
        ..Default::default()
    }
}

/// Why a metric could not be evaluated.
struct Failure {
    /// The reason of the event and of the condition.
    reason: &'static str,
    /// The message of the event, and the end of the condition's.
    message: String,
    /// The message in that of all metrics.
    outer: String,
}

/// The replica count that a metric proposes, the metric's name in messages, and its status.
type Measured = (i32, String, MetricStatus);

/// The target of an autoscaler and its pods.
pub(super) struct Scaled<'a> {
    /// The autoscaler.
    pub(super) scaler: &'a HorizontalPodAutoscaler,
    /// The namespace of autoscaler and pods.
    pub(super) namespace: &'a str,
    /// The pods' label selector.
    pub(super) selector: &'a str,
    /// The pods.
    pub(super) pods: Vec<Arc<Pod>>,
    /// The wanted number of replicas.
    pub(super) current: i32,
    /// The number of replicas that exist.
    pub(super) existing: i32,
}

impl Scaled<'_> {
    fn tolerances(&self) -> Tolerances {
        Tolerances::of(self.scaler.spec.behavior.as_ref())
    }

    fn check_pods(&self) -> Answer<()> {
        replicas::ready_count(&self.pods).map(|_| ())
    }
}

impl AutoscalerController {
    /// Returns the highest replica count that any metric proposes, with the metric's name. Sets the
    /// condition `ScalingActive` and the status of each metric.
    ///
    /// If some metrics fail, the others may still scale up but not down.
    pub(super) async fn measure(
        &self,
        scaled: &Scaled<'_>,
        status: &mut HorizontalPodAutoscalerStatus,
    ) -> Answer<(i32, String)> {
        let (scaler, now) = (scaled.scaler, self.ctx.now());
        let mut replicas = 0;
        let mut name = String::new();
        let mut first: Option<Failure> = None;
        let mut failed = 0;
        let mut statuses = Vec::new();
        let specs = scaler.spec.metrics.as_deref().unwrap_or_default();
        for metric in specs {
            match self.one(scaled, metric).await {
                Ok((proposed, of, value)) => {
                    statuses.push(value);
                    if replicas == 0 || proposed > replicas {
                        (replicas, name) = (proposed, of);
                    }
                }
                Err(failure) => {
                    // The statuses are in the order of the metrics.
                    statuses.push(MetricStatus::default());
                    failed += 1;
                    let (reason, message) = (failure.reason, failure.message.clone());
                    let recorder = &self.ctx.recorder;
                    recorder.event(NAME, scaler, Warning, reason, message);
                    first.get_or_insert(failure);
                }
            }
        }
        status.current_metrics = (!statuses.is_empty()).then_some(statuses);
        if let Some(failure) = first
            && (failed >= specs.len() || replicas < scaled.current)
        {
            let message = &failure.message;
            let text = format!("the HPA was unable to compute the replica count: {message}");
            set(status, "ScalingActive", false, failure.reason, &text, now);
            return Err(format!(
                "invalid metrics ({failed} invalid out of {}), first error is: {}",
                specs.len(),
                failure.outer
            ));
        }
        let text =
            format!("the HPA was able to successfully calculate a replica count from {name}");
        set(
            status,
            "ScalingActive",
            true,
            "ValidMetricFound",
            &text,
            now,
        );
        Ok((replicas, name))
    }

    async fn one(&self, scaled: &Scaled<'_>, metric: &MetricSpec) -> Result<Measured, Failure> {
        let (reason, prefix, measured) = if let Some(source) = &metric.resource {
            let prefix = format!("failed to get {} resource metric value", source.name);
            let measured = self.resource(scaled, source).await;
            ("FailedGetResourceMetric", prefix, measured)
        } else if let Some(source) = &metric.container_resource {
            let prefix = format!("failed to get {} container metric value", source.container);
            let measured = self.container_resource(scaled, source).await;
            ("FailedGetContainerResourceMetric", prefix, measured)
        } else if let Some(source) = &metric.pods {
            let prefix = "failed to get pods metric value".to_owned();
            let measured = self.pods_metric(scaled, source).await;
            ("FailedGetPodsMetric", prefix, measured)
        } else if let Some(source) = &metric.object {
            let mut prefix = "failed to get object metric value".to_owned();
            if source.target.type_ == "AverageValue" {
                prefix += &format!(": failed to get {} object metric", source.metric.name);
            }
            let measured = self.object_metric(scaled, source).await;
            ("FailedGetObjectMetric", prefix, measured)
        } else if let Some(source) = &metric.external {
            let name = &source.metric.name;
            let mut prefix = format!("failed to get {name} external metric value");
            if source.target.average_value.is_some() {
                prefix += &format!(": failed to get {name} external metric");
            } else if source.target.value.is_some() {
                prefix += &format!(": failed to get external metric {name}");
            }
            let measured = self.external_metric(scaled, source).await;
            ("FailedGetExternalMetric", prefix, measured)
        } else {
            let message = format!("unknown metric source type {:?}", metric.type_);
            return Err(Failure {
                reason: "InvalidMetricSourceType",
                outer: message.clone(),
                message,
            });
        };
        match measured {
            Ok((replicas, name, status)) => {
                let status = MetricStatus {
                    type_: metric.type_.clone(),
                    ..status
                };
                Ok((replicas, name, status))
            }
            Err(message) => Err(Failure {
                reason,
                outer: format!("{prefix}: {message}"),
                message,
            }),
        }
    }

    async fn resource(
        &self,
        scaled: &Scaled<'_>,
        source: &ResourceMetricSource,
    ) -> Answer<Measured> {
        let proposal = self
            .of_resource(scaled, &source.name, None, &source.target)
            .await?;
        let kind = match proposal.utilization {
            Some(_) => "resource utilization (percentage of request)",
            None => "resource",
        };
        let status = MetricStatus {
            resource: Some(ResourceMetricStatus {
                name: source.name.clone(),
                current: values(proposal),
            }),
            ..Default::default()
        };
        Ok((proposal.replicas, format!("{} {kind}", source.name), status))
    }

    async fn container_resource(
        &self,
        scaled: &Scaled<'_>,
        source: &ContainerResourceMetricSource,
    ) -> Answer<Measured> {
        let container = Some(source.container.as_str());
        let proposal = self
            .of_resource(scaled, &source.name, container, &source.target)
            .await?;
        let kind = match proposal.utilization {
            Some(_) => "container resource utilization (percentage of request)",
            None => "resource",
        };
        let status = MetricStatus {
            container_resource: Some(ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current: values(proposal),
            }),
            ..Default::default()
        };
        Ok((proposal.replicas, format!("{} {kind}", source.name), status))
    }

    async fn pods_metric(
        &self,
        scaled: &Scaled<'_>,
        source: &PodsMetricSource,
    ) -> Answer<Measured> {
        let name = &source.metric.name;
        let selector = source.metric.selector.as_ref();
        let asked = metrics::pods(&self.ctx, scaled.namespace, scaled.selector, name, selector);
        let samples = asked
            .await
            .map_err(|error| format!("unable to get metric {name}: {error}"))?;
        let target = milli(source.target.average_value.as_ref())
            .ok_or("invalid pods metric source: no average value target was set")?;
        let proposal = self.proposed(scaled, samples, false, Target::Average(target), || {
            Ok(Default::default())
        })?;
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
    ) -> Answer<Measured> {
        let of = &source.described_object;
        let name = &source.metric.name;
        let target = match &*source.target.type_ {
            "Value" => milli(source.target.value.as_ref()).map(|wanted| (wanted, true)),
            "AverageValue" => milli(source.target.average_value.as_ref()).map(|each| (each, false)),
            _ => None,
        };
        let (target, is_value) = target.ok_or(
            "invalid object metric source: neither a value target nor an average value target was set",
        )?;
        let asked = self.object_value(scaled.namespace, source).await;
        let found = asked.map_err(|error| {
            // Upstream's message has its parts in this order.
            format!(
                "unable to get metric {name}: {} on {} {}/{error}",
                of.kind, scaled.namespace, of.name
            )
        })?;
        let status = |current| MetricStatus {
            object: Some(ObjectMetricStatus {
                metric: source.metric.clone(),
                described_object: of.clone(),
                current,
            }),
            ..Default::default()
        };
        if is_value {
            let replicas = self.for_value(scaled, found, target)?;
            let name = format!("{} metric {name}", of.kind);
            return Ok((replicas, name, status(value(found))));
        }
        let tolerances = scaled.tolerances();
        let (replicas, each) = replicas::for_average(found, target, scaled.existing, tolerances);
        let selector = metrics::format_selector(source.metric.selector.as_ref());
        let name = format!("external metric {name}({selector})");
        Ok((replicas, name, status(average(each))))
    }

    async fn object_value(&self, namespace: &str, source: &ObjectMetricSource) -> Answer<i64> {
        let of = &source.described_object;
        let version = of.api_version.as_deref().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let served = self.collector.served();
        let resource = served
            .iter()
            .find(|served| served.kind == of.kind && served.group == group)
            .ok_or_else(|| format!("no matches for kind {:?} in version {version:?}", of.kind))?;
        let metric = &source.metric;
        let selector = metric.selector.as_ref();
        metrics::object(
            &self.ctx,
            namespace,
            resource,
            &of.name,
            &metric.name,
            selector,
        )
        .await
    }

    async fn external_metric(
        &self,
        scaled: &Scaled<'_>,
        source: &ExternalMetricSource,
    ) -> Answer<Measured> {
        let name = &source.metric.name;
        let selector = source.metric.selector.as_ref();
        let each = milli(source.target.average_value.as_ref());
        let wanted = milli(source.target.value.as_ref());
        if each.is_none() && wanted.is_none() {
            return Err(
                "invalid external metric source: neither a value target nor an average value target was set"
                    .into(),
            );
        }
        let shown = metrics::format_selector(selector);
        let asked = metrics::external(&self.ctx, scaled.namespace, name, selector).await;
        let found = asked.map_err(|error| {
            let namespace = scaled.namespace;
            format!("unable to get external metric {namespace}/{name}/{shown}: {error}")
        })?;
        let (replicas, current) = match (each, wanted) {
            (Some(each), _) => {
                let tolerances = scaled.tolerances();
                let (replicas, each) =
                    replicas::for_average(found, each, scaled.existing, tolerances);
                (replicas, average(each))
            }
            (None, wanted) => {
                let wanted = wanted.unwrap_or_default();
                (self.for_value(scaled, found, wanted)?, value(found))
            }
        };
        let status = MetricStatus {
            external: Some(ExternalMetricStatus {
                metric: source.metric.clone(),
                current,
            }),
            ..Default::default()
        };
        Ok((replicas, format!("external metric {name}({shown})"), status))
    }

    fn for_value(&self, scaled: &Scaled<'_>, found: i64, wanted: i64) -> Answer<i32> {
        let ready = match scaled.current {
            0 => 0,
            _ => replicas::ready_count(&scaled.pods)
                .map_err(|error| format!("unable to calculate ready pods: {error}"))?,
        };
        let tolerances = scaled.tolerances();
        Ok(replicas::for_value(
            found,
            wanted,
            scaled.current,
            ready,
            tolerances,
        ))
    }

    async fn of_resource(
        &self,
        scaled: &Scaled<'_>,
        resource: &str,
        container: Option<&str>,
        target: &MetricTarget,
    ) -> Answer<Proposal> {
        let (namespace, selector) = (scaled.namespace, scaled.selector);
        let (what, target) = match (
            milli(target.average_value.as_ref()),
            target.average_utilization,
        ) {
            (Some(average), _) => ("usage", Target::Average(average)),
            (None, Some(utilization)) => ("utilization", Target::Utilization(utilization)),
            (None, None) => {
                return Err(
                    "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"
                        .into(),
                );
            }
        };
        let proposed = async {
            let asked = metrics::resource(&self.ctx, namespace, selector, resource, container);
            let samples = asked.await.map_err(|error| {
                format!("unable to get metrics for resource {resource}: {error}")
            })?;
            self.proposed(
                scaled,
                samples,
                resource == "cpu",
                target,
                || match target {
                    Target::Utilization(_) => metrics::requests(&scaled.pods, resource, container),
                    Target::Average(_) => Ok(Default::default()),
                },
            )
        };
        proposed
            .await
            .map_err(|error: String| format!("failed to get {resource} {what}: {error}"))
    }

    /// Computes the replica count from the pods' samples.
    fn proposed(
        &self,
        scaled: &Scaled<'_>,
        mut samples: std::collections::BTreeMap<String, replicas::Sample>,
        is_cpu: bool,
        target: Target,
        requests: impl FnOnce() -> Answer<std::collections::BTreeMap<String, i64>>,
    ) -> Answer<Proposal> {
        scaled.check_pods()?;
        let groups = replicas::group(&scaled.pods, &mut samples, is_cpu, self.ctx.now());
        if samples.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".into());
        }
        let (current, tolerances) = (scaled.current, scaled.tolerances());
        replicas::propose(current, &groups, &samples, &requests()?, target, tolerances)
    }
}
