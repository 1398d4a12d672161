//! Creates and stops pod sandboxes: volumes first, then namespaces, network and files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rkube_network::{AttachPod, HostPort, NodeNetwork, Protocol};
use rkube_runtime::{HostNamespaces, Runtime, Sandbox, SandboxSpec};
use tokio_util::sync::CancellationToken;

use super::context::PodContext;
use super::files::{self, Resolver};
use super::instance::keys;
use super::object_hold::SharedHold;
use super::paths::{log_dir, pod_dir};
use super::plan::SandboxView;
use super::{qos, unsupported, users};
use crate::delay::doubled;
use crate::host::Host;
use crate::kinds::*;
use crate::policies;
use crate::recorder::Severity::Warning;
use crate::static_pods;
use crate::volumes::{self, VolumeSources, Volumes};

/// Delay before the second attempt to set up volumes; doubles with each attempt.
const INITIAL_MOUNT_DELAY: Duration = Duration::from_millis(500);
/// Maximum delay between attempts to set up volumes (the kubelet's).
const MAX_MOUNT_DELAY: Duration = Duration::from_secs(122);

/// Error returned when a sandbox cannot be created: reason and message of the pod's event.
#[derive(Debug)]
pub(crate) struct NotCreated {
    pub reason: &'static str,
    pub message: String,
}

impl NotCreated {
    fn new(cause: impl std::fmt::Display) -> Self {
        Self {
            reason: "FailedCreatePodSandBox",
            message: format!("Failed to create pod sandbox: {cause}"),
        }
    }
}

/// A ready sandbox and the pod's address.
pub(crate) struct NewSandbox {
    pub view: SandboxView,
    pub ip: IpAddr,
}

/// Returns the pod's IP address; `None` if its sandbox is not attached to the network.
pub(crate) fn address(
    host: &Host,
    network: &NodeNetwork,
    pod: &Pod,
    sandbox: &str,
) -> Option<IpAddr> {
    if pod.host_network() {
        return Some(host.ip());
    }
    let attached = network.pod(sandbox);
    attached.map(|pod| host.config.first_pod_ip(pod.ip))
}

/// Sets up the pod's volumes; retries until it succeeds. Returns `None` when cancelled.
pub(crate) async fn fill_volumes(
    context: &PodContext,
    pod: &Arc<Pod>,
    objects: &SharedHold,
    cancel: &CancellationToken,
) -> Option<Volumes> {
    let sources = VolumeSources {
        host: context.host.clone(),
        client: context.client.clone(),
        images: context.images.clone(),
    };
    let mut failures: u32 = 0;
    let mut recorded: Vec<String> = Vec::new();
    loop {
        let attempt = volumes::set_up(&sources, pod, objects);
        let problems = tokio::select! {
            done = attempt => match done {
                Ok(volumes) => return Some(volumes),
                Err(problems) => problems,
            },
            () = cancel.cancelled() => return None,
        };
        let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
        if messages != recorded {
            for (problem, message) in problems.iter().zip(&messages) {
                context
                    .recorder
                    .pod(pod, Warning, problem.event(), message.clone());
            }
            recorded = messages;
        }
        tokio::select! {
            () = tokio::time::sleep(doubled(INITIAL_MOUNT_DELAY, failures, MAX_MOUNT_DELAY)) => {}
            // A missing object may have been created.
            () = volumes::any_change(&problems) => {}
            () = cancel.cancelled() => return None,
        }
        failures = failures.saturating_add(1);
    }
}

/// Creates a pod's sandbox; `attempt` counts from 0.
///
/// # Errors
///
/// Fails without leaving a sandbox behind, also for a pod whose specification the node cannot
/// honour.
pub(crate) async fn create(
    context: &PodContext,
    pod: &Pod,
    attempt: u32,
) -> Result<NewSandbox, NotCreated> {
    context
        .plugins
        .prepare_claims(&context.client, pod)
        .await
        .map_err(|e| NotCreated {
            reason: "FailedPrepareDynamicResources",
            message: format!("Failed to prepare dynamic resources: {e}"),
        })?;
    unsupported::sandbox(&context.client, pod, context.runtime.supports_users())
        .await
        .map_err(NotCreated::new)?;
    make(context, pod, attempt)
        .await
        .map_err(|e| NotCreated::new(format!("{e:#}")))
}

/// Creates the namespaces, the network and the files of a sandbox.
async fn make(context: &PodContext, pod: &Pod, attempt: u32) -> anyhow::Result<NewSandbox> {
    let cluster = &context.host.config.cluster;
    let names = files::hostname(pod, context.host.name(), &cluster.dns_domain)
        .map_err(anyhow::Error::msg)?;
    tokio::fs::create_dir_all(pod_dir(pod.uid())).await?;
    tokio::fs::create_dir_all(log_dir(pod)).await?;
    let runtime = &context.runtime;
    update_weights(runtime, &context.pods.active()).await;
    let limits = rkube_runtime::Resources {
        pids_limit: context.host.config.kubelet.pod_pids_limit,
        ..context.resources.of_pod(pod)
    };
    runtime
        .configure_cgroup(&qos::cgroup_parent(pod), &limits)
        .await?;
    let mut specification = specification(pod, &names.name, attempt);
    let (subject, node) = (pod.clone(), context.host.config.ip);
    specification.users =
        tokio::task::spawn_blocking(move || users::range(&subject, node)).await??;
    let sandbox = runtime.run_sandbox(specification).await?;
    let finish = async {
        let ip = attach(context, pod, &sandbox).await?;
        write_files(context, pod, &names, ip).await?;
        anyhow::Ok(ip)
    };
    match finish.await {
        Ok(ip) => Ok(NewSandbox {
            view: SandboxView {
                id: sandbox.id,
                attempt,
                ready: true,
            },
            ip,
        }),
        Err(e) => {
            stop(context, &sandbox.id).await;
            if let Err(e) = runtime.remove_sandbox(&sandbox.id).await {
                tracing::warn!("removing sandbox {}: {e}", sandbox.id);
            }
            Err(e)
        }
    }
}

/// Returns the runtime's specification of a sandbox, without the IDs of its users.
fn specification(pod: &Pod, hostname: &str, attempt: u32) -> SandboxSpec {
    let spec = pod.spec();
    let labels = BTreeMap::from([
        (keys::POD_NAME.to_owned(), pod.name().to_owned()),
        (keys::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (keys::POD_UID.to_owned(), pod.uid().to_owned()),
    ]);
    let sysctls = spec
        .security_context
        .iter()
        .flat_map(|c| c.sysctls.iter().flatten())
        .map(|s| (s.name.clone(), s.value.clone()))
        .collect();
    SandboxSpec {
        id: None,
        namespace: pod.namespace().into(),
        name: pod.name().into(),
        uid: pod.uid().into(),
        attempt,
        hostname: hostname.to_owned(),
        host: HostNamespaces {
            network: pod.host_network(),
            pid: spec.host_pid.unwrap_or(false),
            ipc: spec.host_ipc.unwrap_or(false),
        },
        users: None,
        share_pid: spec.share_process_namespace.unwrap_or(false),
        sysctls,
        cgroup_parent: qos::cgroup_parent(pod),
        shm_bytes: None,
        labels,
        annotations: policies::record(pod).into_iter().collect(),
    }
}

/// Attaches a sandbox to the pod network and returns the pod's address; the node's address for a
/// pod on the host network.
async fn attach(context: &PodContext, pod: &Pod, sandbox: &Sandbox) -> anyhow::Result<IpAddr> {
    let Some(netns) = sandbox.netns_path.as_ref().filter(|_| !pod.host_network()) else {
        return Ok(context.host.ip());
    };
    let network = context.network.clone();
    let attach = AttachPod {
        sandbox_id: sandbox.id.clone(),
        netns: netns.clone(),
        host_ports: host_ports(pod),
        bandwidth: None,
    };
    let attached = tokio::task::spawn_blocking(move || network.attach_pod(&attach)).await??;
    let config = &context.host.config;
    let first = config.first_pod_ip(attached.ip);
    let in_effect = context
        .policies
        .attached(&sandbox.id, pod, config.pod_ips(first))
        .await;
    match in_effect {
        // It must run without the API. The policies take effect as soon as they are known.
        Err(e) if static_pods::is_static(pod) => {
            tracing::warn!(pod = %pod.full_name(), "static pod without network policies: {e:#}");
        }
        done => done?,
    }
    Ok(first)
}

/// Sets the CPU weights of the QoS cgroups from the requests of `pods`. Errors are only logged.
pub(crate) async fn update_weights(runtime: &Runtime, pods: &[Arc<Pod>]) {
    for (tier, resources) in qos::tiers(pods) {
        if let Err(e) = runtime.configure_cgroup(tier, &resources).await {
            tracing::warn!("weighing {tier}: {e}");
        }
    }
}

/// Stops a sandbox with all its containers and detaches it from the network. Errors are only
/// logged.
pub(crate) async fn stop(context: &PodContext, id: &str) {
    if let Err(e) = context.runtime.stop_sandbox(id).await {
        tracing::warn!("stopping sandbox {id}: {e}");
    }
    let network = context.network.clone();
    let sandbox = id.to_owned();
    let detached = tokio::task::spawn_blocking(move || network.detach_pod(&sandbox)).await;
    if let Ok(Err(e)) = detached {
        tracing::warn!("detaching sandbox {id}: {e}");
    }
    context.policies.detached(id).await;
}

/// Returns the ports of the node that lead to the pod, each once.
pub(super) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let mut ports: Vec<HostPort> = Vec::new();
    let all = pod
        .init_containers()
        .iter()
        .filter(|c| is_sidecar(c))
        .chain(&pod.spec().containers)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
            let host_ip = match p.host_ip.as_deref().unwrap_or_default() {
                "" => None,
                ip => Some(ip.parse().ok()?),
            };
            Some(HostPort {
                protocol: match p.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_ip,
                host_port: number(p.host_port?)?,
                container_port: number(p.container_port)?,
            })
        });
    for port in all {
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

/// Writes `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname` for the pod's containers.
async fn write_files(
    context: &PodContext,
    pod: &Pod,
    names: &files::Hostname,
    ip: IpAddr,
) -> anyhow::Result<()> {
    let dir = pod_dir(pod.uid());
    let node_hosts = if pod.host_network() {
        tokio::fs::read_to_string("/etc/hosts")
            .await
            .unwrap_or_default()
    } else {
        String::new()
    };
    let node_resolver = tokio::fs::read_to_string("/etc/resolv.conf")
        .await
        .unwrap_or_default();
    let cluster = &context.host.config.cluster;
    let mut resolver = files::resolver(pod, cluster, &Resolver::parse(&node_resolver));
    for message in resolver.limit() {
        context
            .recorder
            .pod(pod, Warning, "DNSConfigForming", message);
    }
    tokio::fs::write(
        dir.join("etc-hosts"),
        files::hosts(pod, names, &context.host.config.pod_ips(ip), &node_hosts),
    )
    .await?;
    tokio::fs::write(dir.join("resolv.conf"), resolver.render()).await?;
    tokio::fs::write(dir.join("hostname"), format!("{}\n", names.name)).await?;
    // Containers of any user must be able to read these files, whatever the umask was.
    for file in ["etc-hosts", "resolv.conf", "hostname"] {
        use std::os::unix::fs::PermissionsExt;
        tokio::fs::set_permissions(dir.join(file), std::fs::Permissions::from_mode(0o644)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{ContainerPort, PodSecurityContext, Sysctl};

    #[test]
    fn host_ports_are_those_of_lasting_containers() {
        let container = |name: &str, host_port: Option<i32>, protocol: Option<&str>| Container {
            name: name.into(),
            ports: Some(vec![ContainerPort {
                container_port: 80,
                host_port,
                host_ip: Some("127.0.0.1".into()),
                protocol: protocol.map(Into::into),
                ..Default::default()
            }]),
            ..Default::default()
        };
        let sidecar = Container {
            restart_policy: Some("Always".into()),
            ..container("sidecar", Some(53), Some("UDP"))
        };
        let pod = Pod {
            spec: Some(PodSpec {
                init_containers: Some(vec![sidecar, container("init", Some(1), None)]),
                containers: vec![
                    container("a", Some(8080), None),
                    container("b", None, None),
                    container("c", Some(0), None),
                    container("d", Some(70_000), None),
                ],
                ..Default::default()
            }),
            ..Default::default()
        };
        let ports = host_ports(&pod);
        let numbers: Vec<u16> = ports.iter().map(|p| p.host_port).collect();
        assert_eq!(numbers, [53, 8080]);
        assert!(matches!(ports[0].protocol, Protocol::Udp));
        assert!(matches!(ports[1].protocol, Protocol::Tcp));
        assert_eq!(ports[1].container_port, 80);
        assert!(ports[1].host_ip.is_some());
    }

    #[test]
    fn specifications_follow_the_pod() {
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some("p".into()),
                namespace: Some("ns".into()),
                uid: Some("u".into()),
                ..Default::default()
            },
            spec: Some(PodSpec {
                host_pid: Some(true),
                share_process_namespace: Some(true),
                security_context: Some(PodSecurityContext {
                    sysctls: Some(vec![Sysctl {
                        name: "net.core.somaxconn".into(),
                        value: "1024".into(),
                    }]),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let spec = specification(&pod, "host", 3);
        assert_eq!((spec.name.as_str(), spec.namespace.as_str()), ("p", "ns"));
        assert_eq!((spec.hostname.as_str(), spec.attempt), ("host", 3));
        assert!(spec.host.pid && !spec.host.ipc && !spec.host.network && spec.share_pid);
        assert_eq!(spec.cgroup_parent, "/kubepods/besteffort/podu");
        assert_eq!(spec.sysctls["net.core.somaxconn"], "1024");
        assert_eq!(spec.labels[keys::POD_UID], "u");
    }
}
