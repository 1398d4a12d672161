//! What ingress controllers need beyond their objects.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use kube::api::ListParams;
use kube::core::GroupVersionKind;
use rkube_failure::{Failure, Kind, Source};

use super::objects::Object;
use super::server::{Server, failure, none_if_missing};
use crate::Progress;

/// The addon whose controller is part of the binary.
pub(super) const ADDON: &str = "ingress";

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// The time that the controller may take to listen.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The period of the checks of that.
const CHECK_PERIOD: Duration = Duration::from_millis(20);

/// Takes the mark of the default from an addon's IngressClasses if the cluster has another default:
/// with two of them, the API server would refuse every Ingress without a class.
pub(super) async fn keep_default(
    server: &Server,
    objects: &mut [Object],
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let is_class = |o: &Object| {
        o.gvk.group == "networking.k8s.io" && o.gvk.kind == "IngressClass" && is_default(o)
    };
    let own: Vec<String> = objects
        .iter()
        .filter(|o| is_class(o))
        .map(|o| o.name.clone())
        .collect();
    if own.is_empty() {
        return Ok(());
    }
    let gvk = GroupVersionKind::gvk("networking.k8s.io", "v1", "IngressClass");
    let Some((resource, _)) = server.resolve(&gvk) else {
        return Ok(());
    };
    let listed = server
        .api(&resource, None)
        .list_metadata(&ListParams::default())
        .await;
    let listed = listed.map_err(|e| failure("cannot list IngressClasses", e))?;
    let other = listed.items.iter().find(|class| {
        let marked = class
            .annotations()
            .get(DEFAULT)
            .is_some_and(|v| v == "true");
        marked && !own.contains(&class.name_any())
    });
    let Some(other) = other else {
        return Ok(());
    };
    for object in objects.iter_mut().filter(|o| is_class(o)) {
        progress.warn(&format!(
            "the IngressClass {} is not the default, because {} is",
            object.name,
            other.name_any()
        ));
        let annotations = object.content.pointer_mut("/metadata/annotations");
        if let Some(annotations) = annotations.and_then(serde_json::Value::as_object_mut) {
            annotations.remove(DEFAULT);
        }
    }
    Ok(())
}

fn is_default(object: &Object) -> bool {
    let annotations = object.content.pointer("/metadata/annotations");
    annotations.is_some_and(|a| a[DEFAULT] == "true")
}

/// Waits until the controller serves. It then writes the endpoint of its service. One that is left
/// of an earlier service says nothing.
pub(super) async fn wait(server: &Server) -> Result<(), Failure> {
    let kind = |group: &str, kind: &str| {
        let resolved = server.resolve(&GroupVersionKind::gvk(group, "v1", kind));
        resolved.map(|(resource, _)| server.api(&resource, Some("kube-system")))
    };
    let (Some(slices), Some(services)) = (
        kind("discovery.k8s.io", "EndpointSlice"),
        kind("", "Service"),
    ) else {
        return Ok(());
    };
    let service = services.get_metadata(ADDON).await;
    let service = service.map_err(|e| failure("cannot read Service kube-system/ingress", e))?;
    let uid = service.uid().unwrap_or_default();
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = none_if_missing(slices.get_metadata(ADDON).await);
        let found =
            found.map_err(|e| failure("cannot read EndpointSlice kube-system/ingress", e))?;
        if found.is_some_and(|slice| slice.owner_references().iter().any(|o| o.uid == uid)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Source::Guest,
                Kind::Timeout,
                "the ingress controller does not listen on the ports 80 and 443 of its node",
            )
            .advise("see why in the log 'ingress' of: rkube logs"));
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}
