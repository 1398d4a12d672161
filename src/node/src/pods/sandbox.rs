//! Making a pod's sandbox: volumes first, then namespaces, network and files.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rkube_network::{AttachPod, HostPort, Protocol};
use rkube_runtime::{HostNamespaces, SandboxSpec};
use tokio_util::sync::CancellationToken;

use super::container::{log_dir, pod_dir};
use super::files::{self, Resolver};
use super::instance::keys;
use super::plan::SandboxView;
use super::{ObjectHold, qos};
use crate::agent::Agent;
use crate::kinds::*;
use crate::recorder::Severity::Warning;
use crate::volumes::{self, Volumes};

/// A sandbox that containers can be made in.
pub(crate) struct Made {
    pub view: SandboxView,
    pub ip: IpAddr,
}

/// The network of a pod: its address, once attached.
pub(crate) fn address(agent: &Agent, pod: &Pod, sandbox: &str) -> Option<IpAddr> {
    if pod.host_network() {
        return Some(agent.config.ip.into());
    }
    agent.network.pod(sandbox).map(|p| p.ip.into())
}

/// Fills the pod's volumes; tries again until it succeeds or is cancelled.
pub(crate) async fn fill_volumes(
    agent: &Arc<Agent>,
    pod: &Arc<Pod>,
    objects: &Arc<tokio::sync::Mutex<ObjectHold>>,
    cancel: &CancellationToken,
) -> Option<Volumes> {
    let mut pause = std::time::Duration::from_millis(500);
    let mut told: Vec<String> = Vec::new();
    loop {
        let attempt = volumes::set_up(agent, pod, objects);
        let problems = tokio::select! {
            done = attempt => match done {
                Ok(volumes) => return Some(volumes),
                Err(problems) => problems,
            },
            () = cancel.cancelled() => return None,
        };
        let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
        if messages != told {
            for message in &messages {
                agent
                    .recorder
                    .pod(pod, Warning, "FailedMount", message.clone());
            }
            told = messages;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // What was missing may have come.
            () = volumes::any_change(&problems) => {}
            () = cancel.cancelled() => return None,
        }
        pause = (pause * 2).min(std::time::Duration::from_secs(122));
    }
}

/// Makes the sandbox, so-manieth of its pod.
pub(crate) async fn make(agent: &Arc<Agent>, pod: &Pod, attempt: u32) -> anyhow::Result<Made> {
    let names = files::hostname(pod, &agent.config.name, &agent.config.cluster.dns_domain)
        .map_err(anyhow::Error::msg)?;
    let dir = pod_dir(pod.uid());
    tokio::fs::create_dir_all(&dir).await?;
    tokio::fs::create_dir_all(log_dir(pod)).await?;
    weigh(agent).await;
    agent
        .runtime
        .configure_cgroup(&qos::cgroup_parent(pod), &qos::pod_resources(pod))
        .await?;
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
    let sandbox = agent
        .runtime
        .run_sandbox(SandboxSpec {
            id: None,
            namespace: pod.namespace().into(),
            name: pod.name().into(),
            uid: pod.uid().into(),
            attempt,
            hostname: names.name.clone(),
            host: HostNamespaces {
                network: pod.host_network(),
                pid: spec.host_pid.unwrap_or(false),
                ipc: spec.host_ipc.unwrap_or(false),
            },
            share_pid: spec.share_process_namespace.unwrap_or(false),
            sysctls,
            cgroup_parent: qos::cgroup_parent(pod),
            shm_bytes: None,
            labels,
            annotations: BTreeMap::new(),
        })
        .await?;
    let finish = async {
        let ip = match &sandbox.netns_path {
            Some(netns) if !pod.host_network() => {
                let network = agent.network.clone();
                let attach = AttachPod {
                    sandbox_id: sandbox.id.clone(),
                    netns: netns.clone(),
                    host_ports: host_ports(pod),
                    bandwidth: None,
                };
                let attached =
                    tokio::task::spawn_blocking(move || network.attach_pod(&attach)).await??;
                IpAddr::V4(attached.ip)
            }
            _ => agent.config.ip.into(),
        };
        write_files(agent, pod, &names, ip).await?;
        anyhow::Ok(ip)
    };
    match finish.await {
        Ok(ip) => Ok(Made {
            view: SandboxView {
                id: sandbox.id,
                attempt,
                ready: true,
            },
            ip,
        }),
        Err(e) => {
            discard(agent, &sandbox.id).await;
            Err(e)
        }
    }
}

/// Sets the weights of the classes of pods by what their pods ask for.
pub(crate) async fn weigh(agent: &Agent) {
    for (tier, resources) in qos::tiers(&agent.pods.active()) {
        if let Err(e) = agent.runtime.configure_cgroup(tier, &resources).await {
            tracing::warn!("weighing {tier}: {e}");
        }
    }
}

/// Stops a sandbox, gives its address back and forgets it.
pub(crate) async fn discard(agent: &Agent, id: &str) {
    stop(agent, id).await;
    if let Err(e) = agent.runtime.remove_sandbox(id).await {
        tracing::warn!("removing sandbox {id}: {e}");
    }
}

/// Stops a sandbox with all that runs in it, and gives its address back.
pub(crate) async fn stop(agent: &Agent, id: &str) {
    if let Err(e) = agent.runtime.stop_sandbox(id).await {
        tracing::warn!("stopping sandbox {id}: {e}");
    }
    let network = agent.network.clone();
    let sandbox = id.to_owned();
    let detached = tokio::task::spawn_blocking(move || network.detach_pod(&sandbox)).await;
    if let Ok(Err(e)) = detached {
        tracing::warn!("detaching sandbox {id}: {e}");
    }
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    pod.init_containers()
        .iter()
        .filter(|c| is_sidecar(c))
        .chain(&pod.spec().containers)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            let number = |n: i32| u16::try_from(n).ok().filter(|n| *n > 0);
            Some(HostPort {
                protocol: match p.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_ip: p.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: number(p.host_port?)?,
                container_port: number(p.container_port)?,
            })
        })
        .collect()
}

/// Writes `/etc/hosts`, `/etc/resolv.conf` and `/etc/hostname` for the pod's containers.
async fn write_files(
    agent: &Agent,
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
    let resolver = files::resolver(pod, &agent.config.cluster, &Resolver::parse(&node_resolver));
    tokio::fs::write(
        dir.join("etc-hosts"),
        files::hosts(pod, names, &[ip], &node_hosts),
    )
    .await?;
    tokio::fs::write(dir.join("resolv.conf"), resolver.render()).await?;
    tokio::fs::write(dir.join("hostname"), format!("{}\n", names.name)).await?;
    // A container's umask or user must not decide who can resolve names.
    for file in ["etc-hosts", "resolv.conf", "hostname"] {
        use std::os::unix::fs::PermissionsExt;
        tokio::fs::set_permissions(dir.join(file), std::fs::Permissions::from_mode(0o644)).await?;
    }
    Ok(())
}
