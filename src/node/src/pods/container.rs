//! From a container's specification to what the runtime is asked for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{PodSecurityContext, SecurityContext};
use rkube_config::paths;
use rkube_runtime::{ContainerSpec, ImageStatus, Mount, PidMode, SeccompProfile, Security};

use super::env::{Fields, environment, expand};
use super::instance::keys;
use super::{ObjectHold, plan, qos};
use crate::agent::Agent;
use crate::kinds::*;
use crate::volumes::Mounted;

/// Profiles that `Localhost` seccomp names are relative to.
const SECCOMP_ROOT: &str = "/var/lib/rkube/seccomp";

/// Where the node keeps a pod's files.
pub(crate) fn pod_dir(uid: &str) -> PathBuf {
    Path::new(paths::PODS).join(uid)
}

/// Where a pod's logs are.
pub(crate) fn log_dir(pod: &Pod) -> PathBuf {
    Path::new(paths::POD_LOGS).join(format!("{}_{}_{}", pod.namespace(), pod.name(), pod.uid()))
}

/// The log of one attempt of a container.
pub(crate) fn log_path(pod: &Pod, container: &str, attempt: u32) -> PathBuf {
    log_dir(pod).join(container).join(format!("{attempt}.log"))
}

/// Where an attempt of a container leaves its last words.
pub(crate) fn message_file(uid: &str, container: &str, attempt: u32) -> PathBuf {
    pod_dir(uid)
        .join("containers")
        .join(container)
        .join(attempt.to_string())
}

/// What a container is made from, besides its specification.
pub(crate) struct Making<'a> {
    pub agent: &'a Agent,
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub attempt: u32,
    pub image: &'a ImageStatus,
    pub pod_ip: Option<IpAddr>,
    pub volumes: &'a Mounted,
    /// The container whose processes an ephemeral one sees.
    pub target: Option<String>,
}

/// Builds the specification. An error is a mistake of the pod's, worded for its status.
pub(crate) async fn specify(
    m: &Making<'_>,
    objects: &mut ObjectHold,
) -> Result<ContainerSpec, String> {
    let Making {
        agent,
        pod,
        container,
        ..
    } = *m;
    check_non_root(pod, container, m.image)?;
    let fields = Fields {
        pod,
        node_name: &agent.config.name,
        node_ip: agent.config.ip.into(),
        pod_ip: m.pod_ip,
    };
    let env = environment(agent, &fields, container, objects).await?;
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expand_all = |list: &Option<Vec<String>>| {
        list.as_ref()
            .filter(|l| !l.is_empty())
            .map(|l| l.iter().map(|a| expand(a, lookup)).collect::<Vec<_>>())
    };
    let (command, args) = (expand_all(&container.command), expand_all(&container.args));
    let mut mounts = Vec::new();
    let mut image_mounts = Vec::new();
    for mount in container.volume_mounts.iter().flatten() {
        let sub_path = match mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
            Some(expression) => {
                let text = expand(expression, lookup);
                if text.contains("$(") {
                    return Err(format!(
                        "missing value for {:?} in subPathExpr {expression:?}",
                        mount.name
                    ));
                }
                Some(text)
            }
            None => mount.sub_path.clone().filter(|s| !s.is_empty()),
        };
        if let Some(image) = m.volumes.image(&mount.name) {
            image_mounts.push(rkube_runtime::ImageMount {
                image: image.to_owned(),
                container_path: mount.mount_path.clone().into(),
                sub_path: sub_path.unwrap_or_default(),
            });
            continue;
        }
        mounts.push(m.volumes.mount(mount, sub_path.as_deref())?);
    }
    add_pod_files(m, &mut mounts)?;
    let message_path = container
        .termination_message_path
        .clone()
        .unwrap_or_else(|| "/dev/termination-log".into());
    add_message_file(m, &message_path, &mut mounts)?;

    let labels = BTreeMap::from([
        (keys::POD_NAME.to_owned(), pod.name().to_owned()),
        (keys::POD_NAMESPACE.to_owned(), pod.namespace().to_owned()),
        (keys::POD_UID.to_owned(), pod.uid().to_owned()),
        (keys::CONTAINER_NAME.to_owned(), container.name.clone()),
    ]);
    let policy = container
        .termination_message_policy
        .clone()
        .unwrap_or_else(|| "File".into());
    let annotations = BTreeMap::from([
        (keys::HASH.to_owned(), plan::hash(container)),
        (
            keys::RESOURCES.to_owned(),
            serde_json::to_string(&container.resources.clone().unwrap_or_default())
                .map_err(|e| e.to_string())?,
        ),
        (keys::RESTART_COUNT.to_owned(), m.attempt.to_string()),
        (keys::MESSAGE_PATH.to_owned(), message_path),
        (keys::MESSAGE_POLICY.to_owned(), policy),
        (keys::GRACE.to_owned(), pod.grace_seconds().to_string()),
        (
            keys::IMAGE_NAME.to_owned(),
            image_name(m.image, container.image.as_deref().unwrap_or_default()),
        ),
    ]);
    let node_memory = i64::try_from(agent.machine.memory_bytes).unwrap_or(i64::MAX);
    let security = security(pod, container, m.volumes.fs_group());
    Ok(ContainerSpec {
        name: container.name.clone(),
        attempt: m.attempt,
        image: m.image.id.clone(),
        command,
        args,
        env,
        working_dir: container.working_dir.clone().filter(|w| !w.is_empty()),
        mounts,
        image_mounts,
        resources: qos::runtime_resources(container),
        oom_score_adj: Some(qos::oom_score_adj(pod, container, node_memory)),
        security,
        pid: match &m.target {
            Some(id) => PidMode::Container(id.clone()),
            None => PidMode::Sandbox,
        },
        tty: container.tty.unwrap_or(false),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        log_path: Some(log_path(pod, &container.name, m.attempt)),
        stop_signal: container
            .lifecycle
            .as_ref()
            .and_then(|l| l.stop_signal.clone()),
        labels,
        annotations,
        ..Default::default()
    })
}

/// The image's name as the status shows it: fully qualified, the one asked for first.
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

fn mounts_path(container: &Container, path: &str) -> bool {
    container
        .volume_mounts
        .iter()
        .flatten()
        .any(|m| m.mount_path.trim_end_matches('/') == path)
}

fn add_pod_files(m: &Making<'_>, mounts: &mut Vec<Mount>) -> Result<(), String> {
    let dir = pod_dir(m.pod.uid());
    for (file, path) in [
        ("etc-hosts", "/etc/hosts"),
        ("resolv.conf", "/etc/resolv.conf"),
        ("hostname", "/etc/hostname"),
    ] {
        let host = dir.join(file);
        if host.exists() && !mounts_path(m.container, path) {
            mounts.push(Mount::bind(host, path));
        }
    }
    Ok(())
}

fn add_message_file(m: &Making<'_>, path: &str, mounts: &mut Vec<Mount>) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    if path.is_empty() {
        return Ok(());
    }
    let host = message_file(m.pod.uid(), &m.container.name, m.attempt);
    let done = (|| {
        if let Some(parent) = host.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::File::create(&host)?;
        // Any user of the container may leave its last words.
        std::fs::set_permissions(&host, std::fs::Permissions::from_mode(0o666))
    })();
    done.map_err(|e: std::io::Error| format!("making {}: {e}", host.display()))?;
    mounts.push(Mount::bind(host, path));
    Ok(())
}

fn number(id: i64) -> Option<u32> {
    u32::try_from(id).ok()
}

fn contexts<'a>(
    pod: &'a Pod,
    container: &'a Container,
) -> (Option<&'a PodSecurityContext>, Option<&'a SecurityContext>) {
    (
        pod.spec().security_context.as_ref(),
        container.security_context.as_ref(),
    )
}

/// The container's privileges: its own settings over the pod's.
fn security(pod: &Pod, container: &Container, fs_group: Option<i64>) -> Security {
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
        _ => SeccompProfile::RuntimeDefault,
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
    let unmasked = own.and_then(|c| c.proc_mount.as_deref()) == Some("Unmasked");
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

/// Refuses an image that would run as root where the pod says it must not.
fn check_non_root(pod: &Pod, container: &Container, image: &ImageStatus) -> Result<(), String> {
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

/// What a container wrote as its last words, by its policy: 4 KiB of its file at
/// most, else (after a failure, when asked for) the end of its log.
pub(crate) fn last_words(uid: &str, status: &rkube_runtime::ContainerStatus) -> String {
    const MAX: u64 = 4096;
    const LOG_MAX: u64 = 2048;
    const LOG_LINES: usize = 80;
    let spec = &status.spec;
    let file = message_file(uid, &spec.name, spec.attempt);
    let mut text = tail(&file, MAX, false);
    let fallback = spec
        .annotations
        .get(keys::MESSAGE_POLICY)
        .map(String::as_str)
        == Some("FallbackToLogsOnError");
    if text.is_empty()
        && fallback
        && status.exit_code != Some(0)
        && let Some(log) = &spec.log_path
    {
        let raw = tail(log, 4 * LOG_MAX, true);
        let lines: Vec<String> = raw
            .lines()
            .filter_map(|l| crate::server::logs::Line::parse(l.as_bytes()))
            .map(|l| {
                let mut text = String::from_utf8_lossy(l.content).into_owned();
                if !l.partial {
                    text.push('\n');
                }
                text
            })
            .collect();
        text = lines[lines.len().saturating_sub(LOG_LINES)..].concat();
        if text.len() as u64 > LOG_MAX {
            let mut cut = text.len() - LOG_MAX as usize;
            while !text.is_char_boundary(cut) {
                cut += 1;
            }
            text.drain(..cut);
        }
    }
    if text.is_empty() {
        text.clone_from(&status.message);
    }
    text
}

/// The beginning, or the end, of a file; empty when there is none.
fn tail(path: &Path, max: u64, end: bool) -> String {
    use std::io::{Read, Seek, SeekFrom};
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        if end && len > max {
            file.seek(SeekFrom::Start(len - max))?;
        }
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_or_else(
        |_| String::new(),
        |b| String::from_utf8_lossy(&b).into_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(own: SecurityContext, pod: PodSecurityContext) -> (Pod, Container) {
        let c = Container {
            security_context: Some(own),
            ..Default::default()
        };
        let p = Pod {
            spec: Some(PodSpec {
                security_context: Some(pod),
                ..Default::default()
            }),
            ..Default::default()
        };
        (p, c)
    }

    #[test]
    fn a_containers_own_settings_win() {
        let (p, c) = with(
            SecurityContext {
                run_as_user: Some(5),
                ..Default::default()
            },
            PodSecurityContext {
                run_as_user: Some(1),
                run_as_group: Some(2),
                fs_group: Some(3),
                supplemental_groups: Some(vec![4]),
                ..Default::default()
            },
        );
        let s = security(&p, &c, None);
        assert_eq!((s.run_as_user, s.run_as_group), (Some(5), Some(2)));
        assert_eq!(s.supplemental_groups, [4, 3]);
        assert_eq!(s.seccomp, SeccompProfile::RuntimeDefault);
    }

    #[test]
    fn root_is_refused_where_it_must_not_be() {
        let must = || PodSecurityContext {
            run_as_non_root: Some(true),
            ..Default::default()
        };
        let image = |uid, name: Option<&str>| ImageStatus {
            uid,
            username: name.map(Into::into),
            ..Default::default()
        };
        let (p, c) = with(SecurityContext::default(), must());
        assert!(check_non_root(&p, &c, &image(Some(0), None)).is_err());
        assert!(check_non_root(&p, &c, &image(None, None)).is_err());
        assert!(check_non_root(&p, &c, &image(None, Some("www"))).is_err());
        assert!(check_non_root(&p, &c, &image(Some(1), None)).is_ok());
        let (p, c) = with(
            SecurityContext {
                run_as_user: Some(7),
                ..Default::default()
            },
            must(),
        );
        assert!(check_non_root(&p, &c, &image(Some(0), None)).is_ok());
    }
}
