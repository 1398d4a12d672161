//! Records events about pods and the node, with the rules of [`rkube_client::events`].

use std::borrow::Cow;

use jiff::Timestamp;
use rkube_client::events::{self, Report, Settings, Style};

pub(crate) use rkube_client::events::Severity;

use crate::kinds::*;

/// Component of all events, and field manager of their writes.
const COMPONENT: &str = "kubelet";

/// Queue of events. A background task writes them to the API in order.
#[derive(Clone)]
pub(crate) struct Recorder(events::Recorder);

impl Recorder {
    /// Starts the background task; `node` is the source host of all events.
    pub(crate) fn start(client: kube::Client, node: &str) -> Self {
        let (recorder, writer) = events::Recorder::new(client, settings(node));
        tokio::spawn(writer);
        Self(recorder)
    }

    /// Records an event about an object.
    ///
    /// Never blocks: if too many events are pending, this one is dropped.
    pub(crate) fn record(
        &self,
        object: ObjectReference,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.0.record(Report {
            component: COMPONENT.into(),
            regarding: object,
            severity,
            reason: reason.into(),
            action: "".into(),
            message: message.into(),
            at: Timestamp::now(),
        });
    }

    /// Records an event about a pod.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.record(reference(pod, None), severity, reason, message);
    }

    /// Records an event about one of a pod's containers.
    pub(crate) fn container(
        &self,
        pod: &Pod,
        container: &str,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.record(reference(pod, Some(container)), severity, reason, message);
    }
}

/// Returns the settings of a node's recorder: those of the kubelet.
fn settings(node: &str) -> Settings {
    Settings {
        style: Style::Counted,
        field_manager: COMPONENT,
        host: Some(node.to_owned()),
        instance: node.to_owned(),
    }
}

/// Returns a reference to a pod, or to one of its containers.
pub(crate) fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    let field_path = container.map(|name| {
        let list = if pod.init_containers().iter().any(|c| c.name == name) {
            "initContainers"
        } else if pod.spec().containers.iter().any(|c| c.name == name) {
            "containers"
        } else {
            "ephemeralContainers"
        };
        format!("spec.{list}{{{name}}}")
    });
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: Some(pod.name().into()),
        namespace: Some(pod.namespace().into()),
        uid: Some(pod.uid().into()),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

/// Returns a reference to the node. Its UID is the node's name, as in the kubelet's events.
pub(crate) fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.into()),
        uid: Some(name.into()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use rkube_client::events::correlate::Correlator;

    use super::*;

    fn pod() -> Pod {
        let container = |name: &str| Container {
            name: name.into(),
            ..Default::default()
        };
        Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                uid: Some("u".into()),
                resource_version: Some("7".into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                init_containers: Some(vec![container("i")]),
                containers: vec![container("c")],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn references_name_the_container() {
        let path = |name| reference(&pod(), name).field_path;
        assert_eq!(path(None), None);
        assert_eq!(path(Some("i")).as_deref(), Some("spec.initContainers{i}"));
        assert_eq!(path(Some("c")).as_deref(), Some("spec.containers{c}"));
        assert_eq!(
            path(Some("d")).as_deref(),
            Some("spec.ephemeralContainers{d}")
        );
        let r = reference(&pod(), None);
        assert_eq!(r.kind.as_deref(), Some("Pod"));
        assert_eq!(r.resource_version.as_deref(), Some("7"));
    }

    #[test]
    fn events_are_the_kubelets() {
        let report = Report {
            component: COMPONENT.into(),
            regarding: reference(&pod(), Some("c")),
            severity: Severity::Warning,
            reason: "BackOff".into(),
            action: "".into(),
            message: "m".into(),
            at: Timestamp::from_nanosecond(0x1234_5678_9abc).unwrap(),
        };
        let write = Correlator::default().step(&settings("n"), report);
        let event = write.expect("an event").event;
        assert_eq!(event.metadata.name.as_deref(), Some("p.123456789abc"));
        assert_eq!(event.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(event.type_.as_deref(), Some("Warning"));
        let source = event.source.unwrap();
        assert_eq!(source.component.as_deref(), Some("kubelet"));
        assert_eq!(source.host.as_deref(), Some("n"));
        assert_eq!(event.reporting_instance.as_deref(), Some("n"));
        assert_eq!(event.count, Some(1));
        assert_eq!(event.first_timestamp, event.last_timestamp);
        // The kubelet's events about its node are in the namespace `default`.
        assert_eq!(node_reference("n").namespace, None);
    }
}
