//! Builds the runtime's container specification from a container of a pod.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

use k8s_openapi::api::core::v1::{PodSecurityContext, SecurityContext};
use rkube_config::KubeletOptions;
use rkube_runtime::{
    ContainerSpec, ImageMount, ImageStatus, Mount, PidMode, SeccompProfile, Security,
};

mod message;

pub(crate) use message::termination_message;

use super::env::{EnvSources, Fields, environment, expand};
use super::instance::keys;
use super::object_hold::ObjectHold;
use super::paths::{log_path, message_file, pod_dir};
use super::{plan, qos, unsupported};
use crate::eviction::types::signed;
use crate::host::Host;
use crate::kinds::*;
use crate::service_env::ServiceEnvReceiver;
use crate::volumes::Mounted;

/// Directory that `localhostProfile` names of seccomp profiles are relative to.
const SECCOMP_ROOT: &str = "/var/lib/rkube/seccomp";

/// Inputs for a container besides its own specification.
pub(crate) struct ContainerSources<'a> {
    pub host: &'a Host,
    pub services: &'a ServiceEnvReceiver,
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub attempt: u32,
    pub image: &'a ImageStatus,
    pub pod_ip: Option<IpAddr>,
    pub volumes: &'a Mounted,
    /// ID of the container whose PID namespace an ephemeral container joins.
    pub target: Option<String>,
}

/// Adds the variables of proxies that a container does not have in either spelling.
fn add_proxies(env: &mut Vec<(String, String)>, proxies: Vec<(String, String)>) {
    let own: Vec<String> = env.iter().map(|(name, _)| name.to_lowercase()).collect();
    let missing = |(name, _): &(String, String)| !own.contains(&name.to_lowercase());
    env.extend(proxies.into_iter().filter(missing));
}

/// Builds the runtime's specification of a container.
///
/// # Errors
///
/// Fails if the pod is invalid or refers to missing objects. The message becomes the waiting
/// message of the container.
pub(crate) async fn specify(
    sources: &ContainerSources<'_>,
    objects: &mut ObjectHold,
) -> Result<ContainerSpec, String> {
    let ContainerSources {
        host,
        pod,
        container,
        ..
    } = *sources;
    check_non_root(pod, container, sources.image)?;
    unsupported::late_app_armor(container)?;
    let env_sources = EnvSources {
        fields: Fields {
            pod,
            node_name: host.name(),
            node_ips: host.config.ips(),
            pod_ips: host.pod_ips(sources.pod_ip),
        },
        node: &host.allocatable(),
        services: sources.services,
        volumes: sources.volumes,
    };
    let mut env = environment(&env_sources, container, objects).await?;
    let proxies = &host.config.registries.proxies;
    if proxies.pods {
        add_proxies(&mut env, proxies.variables(host.config.host_ip));
    }
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let (mut mounts, image_mounts) = volume_mounts(sources.volumes, container, lookup)?;
    add_pod_files(sources, &mut mounts);
    let message_path = container
        .termination_message_path
        .clone()
        .unwrap_or_else(|| "/dev/termination-log".into());
    add_message_file(sources, &message_path, &mut mounts)?;
    let expand_all = |list: &Option<Vec<String>>| {
        list.as_ref()
            .filter(|l| !l.is_empty())
            .map(|l| l.iter().map(|a| expand(a, lookup)).collect::<Vec<_>>())
    };
    let (command, args) = (expand_all(&container.command), expand_all(&container.args));
    let memory = signed(host.machine.memory_bytes);
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt: sources.attempt,
        image: sources.image.id.clone(),
        command,
        args,
        working_dir: container.working_dir.clone().filter(|w| !w.is_empty()),
        mounts,
        image_mounts,
        resources: qos::runtime_resources(container),
        oom_score_adj: Some(qos::oom_score_adj(pod, container, memory)),
        security: security(
            pod,
            container,
            sources.volumes.fs_group(),
            default_seccomp(&host.config.kubelet),
        ),
        pid: match &sources.target {
            Some(id) => PidMode::Container(id.clone()),
            None => PidMode::Sandbox,
        },
        tty: container.tty.unwrap_or(false),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        log_path: Some(log_path(pod, &container.name, sources.attempt)),
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|l| l.stop_signal.clone()),
        labels: labels(pod, container),
        annotations: annotations(sources, message_path)?,
        env,
        ..Default::default()
    })
}

/// Returns the bind mounts and image mounts for a container's volume mounts.
fn volume_mounts(
    volumes: &Mounted,
    container: &Container,
    lookup: impl Fn(&str) -> Option<String> + Copy,
) -> Result<(Vec<Mount>, Vec<ImageMount>), String> {
    let (mut mounts, mut image_mounts) = (Vec::new(), Vec::new());
    for mount in container.volume_mounts.iter().flatten() {
        let sub_path = sub_path(mount, lookup)?;
        if let Some(image) = volumes.image(&mount.name) {
            image_mounts.push(ImageMount {
                image: image.to_owned(),
                container_path: mount.mount_path.clone().into(),
                sub_path: sub_path.unwrap_or_default(),
            });
            continue;
        }
        mounts.push(volumes.mount(mount, sub_path.as_deref())?);
    }
    Ok((mounts, image_mounts))
}

/// Returns the mount's path within its volume: `subPath`, or `subPathExpr` with its variables
/// expanded. A variable in it must not be empty.
pub(super) fn sub_path(
    mount: &VolumeMount,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Option<String>, String> {
    let Some(expression) = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) else {
        return Ok(mount.sub_path.clone().filter(|s| !s.is_empty()));
    };
    let missing = RefCell::new(BTreeSet::new());
    let text = expand(expression, |name| {
        let value = lookup(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    let missing = Vec::from_iter(missing.into_inner());
    if !missing.is_empty() {
        return Err(format!("missing value for {}", missing.join(", ")));
    }
    Ok(Some(text))
}

fn labels(pod: &Pod, container: &Container) -> BTreeMap<String, String> {
    BTreeMap::from([
        (keys::POD_NAME.to_owned(), pod.name().to_owned()),
        (keys::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (keys::POD_UID.to_owned(), pod.uid().to_owned()),
        (keys::CONTAINER_NAME.to_owned(), container.name.clone()),
    ])
}

/// Returns the annotations from which a restarted agent recovers the container's state.
fn annotations(
    sources: &ContainerSources<'_>,
    message_path: String,
) -> Result<BTreeMap<String, String>, String> {
    let ContainerSources { pod, container, .. } = *sources;
    let policy = container
        .termination_message_policy
        .clone()
        .unwrap_or_else(|| "File".into());
    let resources = container.resources.clone().unwrap_or_default();
    Ok(BTreeMap::from([
        (keys::HASH.to_owned(), plan::hash(container)),
        (
            keys::RESOURCES.to_owned(),
            serde_json::to_string(&resources).map_err(|e| e.to_string())?,
        ),
        (keys::RESTART_COUNT.to_owned(), sources.attempt.to_string()),
        (keys::MESSAGE_PATH.to_owned(), message_path),
        (keys::MESSAGE_POLICY.to_owned(), policy),
        (keys::GRACE.to_owned(), pod.grace_seconds().to_string()),
        (
            keys::IMAGE_NAME.to_owned(),
            image_name(
                sources.image,
                container.image.as_deref().unwrap_or_default(),
            ),
        ),
    ]))
}

/// Returns the image name for the status: the fully qualified form of `asked` if there is one.
fn image_name(image: &ImageStatus, asked: &str) -> String {
    image
        .repo_tags
        .iter()
        .find(|t| {
            t.as_str() == asked
                || t.ends_with(&format!("/{asked}"))
                || t.ends_with(&format!("/{asked}:latest"))
        })
        .or(image.repo_tags.first())
        .or(image.repo_digests.first())
        .cloned()
        .unwrap_or_else(|| asked.to_owned())
}

pub(super) fn mounts_path(container: &Container, path: &str) -> bool {
    container
        .volume_mounts
        .iter()
        .flatten()
        .any(|m| m.mount_path.trim_end_matches('/') == path)
}

fn add_pod_files(sources: &ContainerSources<'_>, mounts: &mut Vec<Mount>) {
    let dir = pod_dir(sources.pod.uid());
    for (file, path) in [
        ("etc-hosts", "/etc/hosts"),
        ("resolv.conf", "/etc/resolv.conf"),
        ("hostname", "/etc/hostname"),
    ] {
        let host = dir.join(file);
        if host.exists() && !mounts_path(sources.container, path) {
            mounts.push(Mount::bind(host, path));
        }
    }
}

fn add_message_file(
    sources: &ContainerSources<'_>,
    path: &str,
    mounts: &mut Vec<Mount>,
) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    if path.is_empty() {
        return Ok(());
    }
    let host = message_file(sources.pod.uid(), &sources.container.name, sources.attempt);
    let done = (|| {
        if let Some(parent) = host.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::File::create(&host)?;
        // The container may run as any user.
        std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o666))
    })();
    done.map_err(|e: std::io::Error| format!("making {}: {e}", host.display()))?;
    mounts.push(Mount::bind(host, path));
    Ok(())
}

fn number(id: i64) -> Option<u32> {
    u32::try_from(id).ok()
}

/// Returns the security contexts of the pod and of the container.
fn contexts<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> (Option<&'a PodSecurityContext>, Option<&'a SecurityContext>) {
    (
        pod.spec().security_context.as_ref(),
        container.security_context.as_ref(),
    )
}

/// Returns the seccomp profile of containers that name none.
pub(super) fn default_seccomp(options: &KubeletOptions) -> SeccompProfile {
    if options.no_seccomp_default {
        SeccompProfile::Unconfined
    } else {
        SeccompProfile::RuntimeDefault
    }
}

/// Returns the container's security settings; its own security context overrides the pod's.
pub(super) fn security(
    pod: &Pod,
    container: &Container,
    fs_group: Option<i64>,
    default_seccomp: SeccompProfile,
) -> Security {
    let (pod_context, own) = contexts(pod, container);
    let privileged = own.and_then(|c| c.privileged).unwrap_or(false);
    let profile = own
        .and_then(|c| c.seccomp_profile.as_ref())
        .or(pod_context.and_then(|c| c.seccomp_profile.as_ref()));
    let seccomp = match profile.map(|p| (p.type_.as_str(), p.localhost_profile.as_deref())) {
        _ if privileged => SeccompProfile::Unconfined,
        Some(("Unconfined", _)) => SeccompProfile::Unconfined,
        Some(("Localhost", Some(file))) => {
            SeccompProfile::Localhost(Path::new(SECCOMP_ROOT).join(file))
        }
        Some(_) => SeccompProfile::RuntimeDefault,
        None => default_seccomp,
    };
    let capabilities = own.and_then(|c| c.capabilities.as_ref());
    let list = |l: Option<&Vec<String>>| l.cloned().unwrap_or_default();
    let mut groups: Vec<u32> = pod_context
        .and_then(|c| c.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|g| number(*g))
        .collect();
    groups.extend(
        pod_context
            .and_then(|c| c.fs_group)
            .or(fs_group)
            .and_then(number)
            .filter(|g| !groups.contains(g)),
    );
    // The API accepts it with a user namespace only. Without, it would open the node.
    let unmasked = own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked")
        && pod.spec().host_users == Some(false);
    Security {
        privileged,
        run_as_user: own
            .and_then(|c| c.run_as_user)
            .or(pod_context.and_then(|c| c.run_as_user))
            .and_then(number),
        run_as_user_name: None,
        run_as_group: own
            .and_then(|c| c.run_as_group)
            .or(pod_context.and_then(|c| c.run_as_group))
            .and_then(number),
        supplemental_groups: groups,
        strict_supplemental_groups: pod_context
            .and_then(|c| c.supplemental_groups_policy.as_deref())
            == Some("Strict"),
        add_capabilities: list(capabilities.and_then(|c| c.add.as_ref())),
        drop_capabilities: list(capabilities.and_then(|c| c.drop.as_ref())),
        read_only_rootfs: own
            .and_then(|c| c.read_only_root_filesystem)
            .unwrap_or(false),
        no_new_privileges: own.and_then(|c| c.allow_privilege_escalation) == Some(false),
        seccomp,
        masked_paths: unmasked.then(Vec::new),
        readonly_paths: unmasked.then(Vec::new),
    }
}

/// Rejects an image that would run as root if `runAsNonRoot` is set.
pub(super) fn check_non_root(
    pod: &Pod,
    container: &Container,
    image: &ImageStatus,
) -> Result<(), String> {
    let (pod_context, own) = contexts(pod, container);
    let non_root = own
        .and_then(|c| c.run_as_non_root)
        .or(pod_context.and_then(|c| c.run_as_non_root))
        .unwrap_or(false);
    if !non_root {
        return Ok(());
    }
    let place = format!(
        "(pod: {:?}, container: {})",
        pod.full_name(),
        container.name
    );
    let user = own
        .and_then(|c| c.run_as_user)
        .or(pod_context.and_then(|c| c.run_as_user));
    match user {
        Some(0) => Err(format!(
            "container's runAsUser breaks non-root policy {place}"
        )),
        Some(_) => Ok(()),
        None => match (&image.uid, &image.username) {
            (Some(0), _) => Err(format!(
                "container has runAsNonRoot and image will run as root {place}"
            )),
            (Some(_), _) => Ok(()),
            (None, Some(name)) if !name.is_empty() => Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
            )),
            _ => Err(format!(
                "container has runAsNonRoot and image will run as root {place}"
            )),
        },
    }
}

#[cfg(test)]
mod tests;
