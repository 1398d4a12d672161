//! Short names for the API types that the agent uses, and accessors for their fields.

pub(crate) use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
pub(crate) use k8s_openapi::api::core::v1::{
    ConfigMap, Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, EphemeralContainer, HostIP, Node, ObjectReference,
    PersistentVolume, PersistentVolumeClaim, Pod, PodCondition, PodIP, PodSpec, PodStatus, Probe,
    ResourceRequirements, Secret, Service, ServiceAccount, Volume, VolumeMount,
};
pub(crate) use k8s_openapi::api::discovery::v1::EndpointSlice;
pub(crate) use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub(crate) use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    MicroTime, ObjectMeta, OwnerReference, Time,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Accessors for a pod's fields; absent fields have the API's defaults.
pub(crate) trait PodExt {
    /// Returns the specification; empty if absent.
    fn spec(&self) -> &PodSpec;
    /// Returns the name; empty if absent.
    fn name(&self) -> &str;
    /// Returns the namespace; empty if absent.
    fn namespace(&self) -> &str;
    /// Returns the UID; empty if absent.
    fn uid(&self) -> &str;
    /// Returns `name_namespace(uid)`, the form of upstream's messages.
    fn full_name(&self) -> String;
    /// Returns the init containers, including sidecars.
    fn init_containers(&self) -> &[Container];
    /// Returns the restart policy, by default `Always`.
    fn restart_policy(&self) -> &str;
    /// Returns whether the pod uses the network of the node.
    fn host_network(&self) -> bool;
    /// Returns whether the pod has a deletion timestamp.
    fn deleting(&self) -> bool;
    /// Returns the grace period for stopping containers, in seconds.
    fn grace_seconds(&self) -> i64;
    /// Returns the ephemeral containers, converted to ordinary containers.
    fn ephemeral(&self) -> Vec<Container>;
    /// Returns the init, main or ephemeral container of this name.
    fn container(&self, name: &str) -> Option<std::borrow::Cow<'_, Container>>;
    /// Returns the phase in the API; empty if absent.
    fn api_phase(&self) -> &str;
}

fn empty_spec() -> &'static PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    &EMPTY
}

impl PodExt for Pod {
    fn spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or_else(|| empty_spec())
    }
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }
    fn full_name(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }
    fn init_containers(&self) -> &[Container] {
        self.spec().init_containers.as_deref().unwrap_or_default()
    }
    fn restart_policy(&self) -> &str {
        self.spec().restart_policy.as_deref().unwrap_or("Always")
    }
    fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }
    fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }
    fn grace_seconds(&self) -> i64 {
        if self.deleting()
            && let Some(seconds) = self.metadata.deletion_grace_period_seconds
        {
            return seconds;
        }
        self.spec().termination_grace_period_seconds.unwrap_or(30)
    }
    fn ephemeral(&self) -> Vec<Container> {
        self.spec()
            .ephemeral_containers
            .iter()
            .flatten()
            .map(ephemeral_as_container)
            .collect()
    }
    fn container(&self, name: &str) -> Option<std::borrow::Cow<'_, Container>> {
        self.init_containers()
            .iter()
            .chain(&self.spec().containers)
            .find(|c| c.name == name)
            .map(std::borrow::Cow::Borrowed)
            .or_else(|| {
                self.ephemeral()
                    .into_iter()
                    .find(|c| c.name == name)
                    .map(std::borrow::Cow::Owned)
            })
    }
    fn api_phase(&self) -> &str {
        self.status
            .as_ref()
            .and_then(|s| s.phase.as_deref())
            .unwrap_or_default()
    }
}

pub(crate) use rkube_component_helpers::resource::is_sidecar;

fn ephemeral_as_container(e: &EphemeralContainer) -> Container {
    Container {
        name: e.name.clone(),
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        security_context: e.security_context.clone(),
        resources: e.resources.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        tty: e.tty,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        volume_mounts: e.volume_mounts.clone(),
        volume_devices: e.volume_devices.clone(),
        working_dir: e.working_dir.clone(),
        ..Default::default()
    }
}

/// Returns a quantity in whole units, rounded up; 0 if it is invalid.
pub(crate) fn quantity_value(q: &Quantity) -> i64 {
    rkube_api::quantity::Quantity::parse(&q.0).map_or(0, |q| q.value())
}

/// Returns a quantity in thousandths, rounded up; 0 if it is invalid.
pub(crate) fn quantity_milli(q: &Quantity) -> i64 {
    rkube_api::quantity::Quantity::parse(&q.0).map_or(0, |q| q.milli_value())
}

/// Resolves a port given by number, or by name among the container's ports.
///
/// # Errors
///
/// Fails for an invalid number or an unknown name.
pub(crate) fn resolve_port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    match port {
        IntOrString::Int(n) => u16::try_from(*n)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| format!("invalid port number: {n}")),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|p| p.name.as_deref() == Some(name))
            .and_then(|p| u16::try_from(p.container_port).ok())
            .or_else(|| name.parse().ok().filter(|n| *n > 0))
            .ok_or_else(|| format!("couldn't find port: {name:?} in the container's ports")),
    }
}

/// Returns the current time in whole seconds, the resolution of the API.
pub(crate) fn now() -> Time {
    Time(seconds(jiff::Timestamp::now()))
}

/// Truncates a time to whole seconds.
pub(crate) fn seconds(t: jiff::Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(t.as_second()).unwrap_or(t)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ContainerPort;

    #[test]
    fn ports_have_numbers_or_names() {
        let container = Container {
            ports: Some(vec![ContainerPort {
                name: Some("web".into()),
                container_port: 8080,
                ..Default::default()
            }]),
            ..Default::default()
        };
        let resolve = |port: IntOrString| resolve_port(&port, &container);
        let name = |n: &str| IntOrString::String(n.into());
        assert_eq!(resolve(IntOrString::Int(80)), Ok(80));
        assert_eq!(resolve(name("web")), Ok(8080));
        assert_eq!(resolve(name("9090")), Ok(9090));
        assert_eq!(
            resolve(IntOrString::Int(0)).unwrap_err(),
            "invalid port number: 0"
        );
        assert!(resolve(IntOrString::Int(65_536)).is_err());
        assert_eq!(
            resolve(name("none")).unwrap_err(),
            "couldn't find port: \"none\" in the container's ports"
        );
    }

    #[test]
    fn absent_fields_have_defaults() {
        let pod = Pod::default();
        assert_eq!(pod.restart_policy(), "Always");
        assert_eq!(pod.grace_seconds(), 30);
        assert!(!pod.host_network() && !pod.deleting());
        assert_eq!(pod.full_name(), "_()");
        assert_eq!(pod.api_phase(), "");
    }

    #[test]
    fn a_deletion_sets_the_grace() {
        let mut pod = Pod::default();
        pod.metadata.deletion_grace_period_seconds = Some(5);
        assert_eq!(pod.grace_seconds(), 30);
        pod.metadata.deletion_timestamp = Some(now());
        assert_eq!(pod.grace_seconds(), 5);
    }

    #[test]
    fn containers_of_all_lists_are_found() {
        let container = |name: &str| Container {
            name: name.into(),
            ..Default::default()
        };
        let pod = Pod {
            spec: Some(PodSpec {
                init_containers: Some(vec![container("i")]),
                containers: vec![container("c")],
                ephemeral_containers: Some(vec![EphemeralContainer {
                    name: "e".into(),
                    image: Some("debug".into()),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        for name in ["i", "c", "e"] {
            assert_eq!(pod.container(name).unwrap().name, name);
        }
        assert_eq!(pod.container("e").unwrap().image.as_deref(), Some("debug"));
        assert!(pod.container("x").is_none());
    }

    #[test]
    fn quantities_are_rounded_up() {
        let quantity = |q: &str| Quantity(q.into());
        assert_eq!(quantity_value(&quantity("1500m")), 2);
        assert_eq!(quantity_milli(&quantity("1500m")), 1500);
        assert_eq!(quantity_value(&quantity("1Ki")), 1024);
        assert_eq!(quantity_value(&quantity("x")), 0);
    }
}
