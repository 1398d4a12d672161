//! A node's container: its description, creation, start, stop and logs.

use std::collections::HashMap;
use std::path::Path;

use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum as Summary,
    EndpointIpamConfig, EndpointSettings, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, Mount, MountType, MountVolumeOptions, NetworkingConfig, PortBinding,
    RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, LogsOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use futures::TryStreamExt;
use rkube_config::{paths, ports};
use rkube_failure::Failure;
use rkube_failure::{Kind, Source};

use super::engine::{Engine, failure, is_missing};
use super::objects::{label, labels, runs};
use super::{archive, boot, rights};
use crate::types::{ClusterPlan, HostMount, Log, NodePlan};

/// Label of a container: the digest of its description.
const SPEC_LABEL: &str = "io.rkube.spec";
/// Time in seconds that a node has to stop gracefully before it is killed.
const STOP_TIMEOUT_SECONDS: i32 = 5;
/// Maximum number of returned lines of the first process's output.
const INIT_LINES: &str = "1000";

/// Starts a node unless it runs. Reuses its container if the plan still describes it, and replaces
/// it otherwise.
pub async fn start(
    engine: &Engine,
    plan: &ClusterPlan,
    name: &str,
    image: &str,
    network: &str,
    existing: Option<&ContainerSummary>,
) -> Result<(), Failure> {
    if existing.is_some_and(runs) {
        return Ok(());
    }
    let node = plan.node(name).ok_or_else(|| {
        Failure::new(
            Source::Driver,
            Kind::NotFound,
            format!("the plan has no node '{name}'"),
        )
    })?;
    let here = engine.is_this_machine();
    let capabilities = here.then(rights::bounded).flatten();
    let devices = rights::devices(&node.mounts, here);
    let mut body = describe(
        plan,
        node,
        image,
        network,
        engine.is_local(),
        (capabilities.as_deref(), devices),
    );
    let digest = digest(&body)?;
    if let Some(labels) = &mut body.labels {
        labels.insert(SPEC_LABEL.to_owned(), digest.clone());
    }
    let reusable = existing
        .filter(|c| label(c, SPEC_LABEL) == Some(&digest))
        .and_then(|c| c.id.clone());
    let id = match reusable {
        Some(id) => id,
        None => {
            if let Some(id) = existing.and_then(|c| c.id.as_deref()) {
                remove(engine, id).await?;
            }
            create(engine, name, body).await?
        }
    };
    upload(engine, &id, &plan.node_etc(name)).await?;
    engine
        .docker
        .start_container(&id, None::<StartContainerOptions>)
        .await
        .map_err(|e| failure(format!("cannot start the node {name}"), &e))
}

/// Freezes a node's processes, or lets them go on.
pub async fn set_paused(
    engine: &Engine,
    container: &ContainerSummary,
    paused: bool,
) -> Result<(), Failure> {
    let is_paused = container.state == Some(Summary::PAUSED);
    let Some(id) = container.id.as_deref() else {
        return Ok(());
    };
    if is_paused == paused || !runs(container) {
        return Ok(());
    }
    let done = match paused {
        true => engine.docker.pause_container(id).await,
        false => engine.docker.unpause_container(id).await,
    };
    match done {
        Ok(()) => Ok(()),
        Err(e) if is_missing(&e) => Ok(()),
        Err(e) => {
            let what = if paused { "pause" } else { "unpause" };
            Err(failure(format!("cannot {what} a node"), &e))
        }
    }
}

/// Asks a node to stop and waits until it has.
pub async fn stop(engine: &Engine, container: &ContainerSummary) -> Result<(), Failure> {
    // A frozen process does not hear that it is to stop.
    set_paused(engine, container, false).await?;
    let Some(id) = container.id.as_deref() else {
        return Ok(());
    };
    let options = StopContainerOptionsBuilder::default()
        .t(STOP_TIMEOUT_SECONDS)
        .build();
    match engine.docker.stop_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        // It was removed or stopped concurrently.
        Err(e) if is_missing(&e) => Ok(()),
        Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 304, ..
        }) => Ok(()),
        Err(e) => Err(failure("cannot stop a node", &e)),
    }
}

async fn remove(engine: &Engine, id: &str) -> Result<(), Failure> {
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    match engine.docker.remove_container(id, Some(options)).await {
        Ok(()) => Ok(()),
        Err(e) if is_missing(&e) => Ok(()),
        Err(e) => Err(failure("cannot replace a node's container", &e)),
    }
}

async fn create(engine: &Engine, name: &str, body: ContainerCreateBody) -> Result<String, Failure> {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    engine
        .docker
        .create_container(Some(options), body)
        .await
        .map(|answer| answer.id)
        .map_err(|e| {
            failure(
                format!("cannot create the container of the node {name}"),
                &e,
            )
        })
}

/// Copies the node's configuration, certificates and keys into its container.
async fn upload(engine: &Engine, id: &str, etc: &Path) -> Result<(), Failure> {
    let content = archive::of_etc(etc).map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot read {}: {e}", etc.display()),
        )
    })?;
    let options = UploadToContainerOptionsBuilder::default().path("/").build();
    engine
        .docker
        .upload_to_container(id, Some(options), bollard::body_full(content.into()))
        .await
        .map_err(|e| failure("cannot hand a node its configuration", &e))
}

/// Builds the description of a node's container.
fn describe(
    plan: &ClusterPlan,
    node: &NodePlan,
    image: &str,
    network: &str,
    local: bool,
    (capabilities, devices): (Option<&[&str]>, Vec<String>),
) -> ContainerCreateBody {
    let mut mounts = vec![
        volume(plan, &node.name, "state", paths::STATE),
        volume(plan, &node.name, "log", "/var/log"),
        images(plan),
    ];
    if local {
        mounts.extend(tool_box());
    }
    mounts.extend(node.mounts.iter().map(folder));
    let (exposed, bindings) = published(plan, node);
    let endpoint = EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(node.ip.to_string()),
            ipv6_address: plan.ipv6_of(node.ip).map(|ip| ip.addr().to_string()),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    let bytes = node
        .memory_bytes
        .and_then(|bytes| i64::try_from(bytes).ok());
    let mut host = HostConfig {
        cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
        network_mode: Some(network.to_owned()),
        port_bindings: Some(bindings),
        mounts: Some(mounts),
        nano_cpus: node
            .cpu_millis
            .and_then(|millis| i64::try_from(millis * 1_000_000).ok()),
        memory: bytes,
        // Equal to the memory limit: no additional swap.
        memory_swap: bytes,
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::UNLESS_STOPPED),
            maximum_retry_count: None,
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".into()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "10m".to_owned()),
                ("max-file".to_owned(), "1".to_owned()),
            ])),
        }),
        ..HostConfig::default()
    };
    rights::grant(&mut host, capabilities, devices);
    ContainerCreateBody {
        hostname: Some(node.name.clone()),
        image: Some(image.to_owned()),
        env: environment(),
        exposed_ports: Some(exposed),
        labels: Some(labels(plan, Some(&node.name))),
        host_config: Some(host),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(network.to_owned(), endpoint)])),
        }),
        ..ContainerCreateBody::default()
    }
}

/// Returns the environment variables that are passed on to the node's processes.
fn environment() -> Option<Vec<String>> {
    let set: Vec<String> = ["RKUBE_LOG", "RUST_BACKTRACE"]
        .iter()
        .filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?)))
        .collect();
    (!set.is_empty()).then_some(set)
}

fn volume(plan: &ClusterPlan, node: &str, what: &str, target: &str) -> Mount {
    mount_volume(
        format!("rkube-{node}-{what}"),
        target,
        labels(plan, Some(node)),
    )
}

/// The volume of image blobs and layers, shared by the cluster's nodes.
fn images(plan: &ClusterPlan) -> Mount {
    mount_volume(
        format!("rkube-{}-images", plan.name),
        paths::IMAGES,
        labels(plan, None),
    )
}

fn mount_volume(name: String, target: &str, labels: HashMap<String, String>) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name),
        target: Some(target.to_owned()),
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(true),
            labels: Some(labels),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

/// Bind mounts of the host's programs and libraries. Symbolic links among these directories are
/// recreated inside the node.
fn tool_box() -> Vec<Mount> {
    std::iter::once("usr")
        .chain(paths::USR_LINKS)
        .map(|name| (name, Path::new("/").join(name)))
        .filter(|(_, path)| path.symlink_metadata().is_ok_and(|m| m.is_dir()))
        .map(|(name, path)| Mount {
            typ: Some(MountType::BIND),
            source: Some(path.display().to_string()),
            target: Some(format!("{}/{name}", boot::TOOL_BOX)),
            read_only: Some(true),
            ..Mount::default()
        })
        .collect()
}

/// The bind mount of a folder of the host.
fn folder(mount: &HostMount) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(mount.host.display().to_string()),
        target: Some(mount.node.display().to_string()),
        read_only: Some(mount.read_only),
        ..Mount::default()
    }
}

type Bindings = HashMap<String, Option<Vec<PortBinding>>>;

/// Returns the exposed ports and the port bindings, in the engine's notation.
fn published(plan: &ClusterPlan, node: &NodePlan) -> (Vec<String>, Bindings) {
    let mut bindings = Bindings::new();
    let mut publish = |port: u16, protocol: &str, ip: &str, host: u16| {
        bindings
            .entry(format!("{port}/{protocol}"))
            .or_default()
            .get_or_insert_default()
            .push(PortBinding {
                host_ip: Some(ip.to_owned()),
                host_port: Some(host.to_string()),
            });
    };
    if let Some(host) = node.ssh_port {
        publish(ports::SSH, "tcp", "127.0.0.1", host);
    }
    if let Some(host) = plan.api_port.filter(|_| node.control_plane) {
        publish(ports::API_SERVER, "tcp", "127.0.0.1", host);
    }
    let of_cluster = plan.ports.iter().filter(|_| node.control_plane);
    for port in of_cluster.chain(&node.ports) {
        publish(
            port.node_port,
            port.protocol.as_str(),
            &port.host_ip.to_string(),
            port.host_port,
        );
    }
    let mut exposed: Vec<String> = bindings.keys().cloned().collect();
    exposed.sort();
    (exposed, bindings)
}

/// Returns a digest of the description that does not depend on the order of its maps.
fn digest(body: &ContainerCreateBody) -> Result<String, Failure> {
    // The maps of serde_json::Value are sorted.
    let value = serde_json::to_value(body).map_err(|e| {
        Failure::new(
            Source::Driver,
            Kind::Error,
            format!("cannot describe a container: {e}"),
        )
    })?;
    let sum = ring::digest::digest(&ring::digest::SHA256, value.to_string().as_bytes());
    Ok(hex::encode(sum.as_ref()))
}

/// Returns the output of the node's first process and the logs of its services.
pub async fn logs(engine: &Engine, container: &ContainerSummary) -> Result<Vec<Log>, Failure> {
    let Some(id) = container.id.as_deref() else {
        return Ok(Vec::new());
    };
    let failed = |e: &bollard::errors::Error| failure("cannot read a node's logs", e);
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .tail(INIT_LINES)
        .build();
    let lines: Vec<LogOutput> = engine
        .docker
        .logs(id, Some(options))
        .try_collect()
        .await
        .map_err(|e| failed(&e))?;
    let mut found = vec![Log {
        name: "init".into(),
        content: lines
            .into_iter()
            .flat_map(|line| line.into_bytes())
            .collect(),
    }];
    let options = DownloadFromContainerOptionsBuilder::default()
        .path(paths::LOGS)
        .build();
    let download: Result<Vec<_>, _> = engine
        .docker
        .download_from_container(id, Some(options))
        .try_collect()
        .await;
    match download {
        Ok(pieces) => {
            let content: Vec<u8> = pieces.into_iter().flatten().collect();
            found.extend(archive::logs(&content).map_err(|e| {
                Failure::new(
                    Source::Provider,
                    Kind::Error,
                    format!("cannot read a node's logs: {e}"),
                )
            })?);
        }
        // The node has not created its log directory yet.
        Err(e) if is_missing(&e) => {}
        Err(e) => return Err(failed(&e)),
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn plan() -> ClusterPlan {
        let node = |name: &str, last, control_plane| NodePlan {
            name: name.into(),
            ip: Ipv4Addr::new(192, 168, 58, last),
            cpu_millis: Some(1500),
            memory_bytes: Some(1 << 30),
            control_plane,
            ssh_port: Some(20000 + u16::from(last)),
            mounts: Vec::new(),
            ports: Vec::new(),
        };
        ClusterPlan {
            name: "p".into(),
            dir: "/home/p".into(),
            run_dir: "/run/p".into(),
            owner_uid: None,
            binary: "/home/p/bin/rkube".into(),
            node_cidr: "192.168.58.0/24".parse().unwrap(),
            ipv6: None,
            loopback_ports: Vec::new(),
            api_port: Some(20001),
            ports: vec!["8080:30080".parse().unwrap()],
            machine: crate::types::MachineOptions::default(),
            nodes: vec![node("p", 2, true), node("p-m02", 3, false)],
        }
    }

    #[test]
    fn the_first_node_publishes_the_api_and_the_users_ports() {
        let plan = plan();
        let (exposed, bindings) = published(&plan, &plan.nodes[0]);
        assert_eq!(exposed, ["22/tcp", "30080/tcp", "8443/tcp"]);
        let port = |key: &str| bindings[key].as_ref().unwrap()[0].host_port.clone();
        assert_eq!(port("8443/tcp").as_deref(), Some("20001"));
        let (exposed, _) = published(&plan, &plan.nodes[1]);
        assert_eq!(exposed, ["22/tcp"]);
        let mut worker = plan.nodes[1].clone();
        worker.ports = vec!["0.0.0.0:80:8080".parse().unwrap()];
        assert_eq!(published(&plan, &worker).0, ["22/tcp", "8080/tcp"]);
    }

    #[test]
    fn folders_of_the_host_are_bind_mounts() {
        let mount = folder(&"/data:/mnt/x:ro".parse().unwrap());
        assert_eq!(mount.source.as_deref(), Some("/data"));
        assert_eq!(mount.target.as_deref(), Some("/mnt/x"));
        assert_eq!(mount.read_only, Some(true));
    }

    #[test]
    fn a_description_has_one_digest_and_changes_with_what_matters() {
        let plan = plan();
        let of = |image: &str, network: &str| {
            digest(&describe(
                &plan,
                &plan.nodes[0],
                image,
                network,
                false,
                (None, Vec::new()),
            ))
            .unwrap()
        };
        assert_eq!(of("a", "n"), of("a", "n"));
        assert_ne!(of("a", "n"), of("b", "n"));
        assert_ne!(of("a", "n"), of("a", "m"));
        let host = describe(&plan, &plan.nodes[0], "a", "n", false, (None, Vec::new()))
            .host_config
            .unwrap();
        assert_eq!(host.nano_cpus, Some(1_500_000_000));
        assert_eq!(host.memory, Some(1 << 30));
    }
}
