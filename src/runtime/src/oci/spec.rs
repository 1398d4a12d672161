//! Generation of a container's OCI configuration and the plan of its process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rkube_cgroups::devices::DeviceRule;
use rkube_cgroups::{Resources, node as cgroup};
use serde_json::{Map, Value, json};

use super::capabilities;
use super::devices::Devices;
use super::user::Resolved;
use crate::error::{Context, Result, RuntimeError};
use crate::image::manifest::RunConfig;
use crate::seccomp;
use crate::shim::plan::Plan;
use crate::spec::{ContainerSpec, MountPropagation};

/// The version of the runtime specification that the configuration follows.
const OCI_VERSION: &str = "1.0.2";

/// `PATH` of containers if neither the image nor the pod sets it.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Paths masked in containers by default, because they expose or control the machine.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Directory of the machine's processors. How each is throttled tells what others do on it.
const CPUS: &str = "/sys/devices/system/cpu";

/// Paths that are read-only in containers by default.
const READ_ONLY: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Paths of the namespaces that a container joins; `None` for the node's.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// Network namespace.
    pub network: Option<PathBuf>,
    /// IPC namespace: System V IPC and POSIX message queues.
    pub ipc: Option<PathBuf>,
    /// UTS namespace: host name.
    pub uts: Option<PathBuf>,
    /// PID namespace.
    pub pid: PidNamespace,
    /// User namespace, which owns the others.
    pub user: Option<PathBuf>,
}

/// The PID namespace of a container.
#[derive(Clone, Debug, Default)]
pub enum PidNamespace {
    /// A new namespace.
    #[default]
    New,
    /// The node's namespace.
    Host,
    /// The namespace at this path.
    Join(PathBuf),
}

/// The inputs of a configuration.
pub struct Inputs<'a> {
    /// The container's specification.
    pub spec: &'a ContainerSpec,
    /// The image's default process.
    pub image: &'a RunConfig,
    /// The resolved user.
    pub user: &'a Resolved,
    /// Path of the mounted root file system.
    pub rootfs: &'a Path,
    /// Host name of the sandbox.
    pub hostname: &'a str,
    /// Path of the sandbox's `/dev/shm`.
    pub shm: &'a Path,
    /// The namespaces to join.
    pub namespaces: &'a Namespaces,
    /// Cgroup of the container.
    pub cgroup: &'a str,
    /// Image volumes: the mounted source on the node, and the target in the container.
    pub image_volumes: &'a [(PathBuf, PathBuf)],
}

/// The generated configuration of a container.
pub struct Generated {
    /// The content of `config.json`.
    pub config: Value,
    /// The process to run.
    pub plan: Plan,
    /// Devices allowed in addition to the default ones; `None` for all devices.
    pub devices: Option<Vec<DeviceRule>>,
}

/// Generates the OCI configuration and the plan. Creates missing mount sources.
pub fn generate(inputs: &Inputs<'_>) -> Result<Generated> {
    let spec = inputs.spec;
    let security = &spec.security;
    let plan = plan(inputs)?;

    let mut devices = if security.privileged {
        Devices::all()?
    } else {
        Devices::restricted()
    };
    for device in &spec.devices {
        devices.add(device)?;
    }
    let mut resources = resources(&spec.resources);
    resources.insert("devices".into(), Value::Array(devices.rules));

    let (masked, read_only) = if security.privileged {
        (Vec::new(), Vec::new())
    } else {
        let mut read_only = security
            .readonly_paths
            .clone()
            .unwrap_or_else(|| READ_ONLY.iter().map(ToString::to_string).collect());
        // A read-only mount of v1 does not make the mounted controllers read-only.
        read_only.extend(
            cgroup::v1_controllers()
                .iter()
                .map(|p| p.display().to_string()),
        );
        let masked = security.masked_paths.clone();
        (
            masked.unwrap_or_else(|| masked_by_default(Path::new(CPUS))),
            read_only,
        )
    };

    let mut process = json!({
        "terminal": spec.tty,
        // The launcher's executor sets the user, the directory and the capabilities.
        "user": {"uid": 0, "gid": 0},
        "cwd": "/",
        "args": plan.args,
        "env": plan.env,
    });
    if let Some(adjustment) = spec.oom_score_adj {
        process["oomScoreAdj"] = json!(clamp_oom_score(adjustment)?);
    }
    let mut linux = json!({
        "namespaces": namespaces(inputs.namespaces, security.privileged),
        "cgroupsPath": inputs.cgroup,
        "resources": resources,
        "devices": devices.nodes,
        "maskedPaths": masked,
        "readonlyPaths": read_only,
    });
    if !spec.sysctls.is_empty() {
        linux["sysctl"] = json!(spec.sysctls);
    }
    if spec
        .mounts
        .iter()
        .any(|m| m.propagation == MountPropagation::Bidirectional)
    {
        linux["rootfsPropagation"] = json!("shared");
    }
    let mut config = json!({
        "ociVersion": OCI_VERSION,
        "root": {"path": inputs.rootfs, "readonly": security.read_only_rootfs},
        "mounts": mounts(inputs)?,
        "process": process,
        "linux": linux,
    });
    for hook in &spec.hooks {
        let mut entry = json!({"path": hook.path, "args": hook.args, "env": hook.env});
        if let Some(seconds) = hook.timeout {
            entry["timeout"] = json!(seconds);
        }
        match &mut config["hooks"][&hook.stage] {
            Value::Array(list) => list.push(entry),
            none => *none = json!([entry]),
        }
    }
    Ok(Generated {
        config,
        plan,
        devices: devices.allowed,
    })
}

/// Returns the paths masked by default, on a machine with the processors of a directory.
fn masked_by_default(cpus: &Path) -> Vec<String> {
    let mut throttles: Vec<String> = fs::read_dir(cpus)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("cpu"));
            number.is_some_and(|n| n.parse::<u32>().is_ok())
        })
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    throttles.sort();
    let fixed = MASKED.iter().map(ToString::to_string);
    fixed.chain(throttles).collect()
}

/// Returns the plan: the command, its environment and its privileges.
fn plan(inputs: &Inputs<'_>) -> Result<Plan> {
    let (spec, image) = (inputs.spec, inputs.image);
    let args = match (&spec.command, &spec.args) {
        (Some(command), args) if !command.is_empty() => command
            .iter()
            .chain(args.iter().flatten())
            .cloned()
            .collect(),
        (_, Some(args)) if !args.is_empty() => {
            image.entrypoint.iter().chain(args).cloned().collect()
        }
        _ => image
            .entrypoint
            .iter()
            .chain(&image.cmd)
            .cloned()
            .collect::<Vec<String>>(),
    };
    if args.is_empty() {
        return Err(RuntimeError::Invalid(format!(
            "no command specified for container {:?}",
            spec.name
        )));
    }
    let wanted = capabilities::requested_set(&spec.security)?;
    let granted = wanted & capabilities::available();
    if granted != wanted && !spec.security.privileged {
        tracing::warn!(
            container = spec.name,
            missing = capabilities::names(wanted & !granted).join(","),
            "this node cannot grant every capability"
        );
    }
    let seccomp = if spec.security.privileged {
        None
    } else {
        seccomp::program(&spec.security.seccomp, &capabilities::names(granted))?
    };
    let cwd = spec
        .working_dir
        .clone()
        .filter(|dir| !dir.is_empty())
        .or_else(|| Some(image.working_dir.clone()).filter(|dir| !dir.is_empty()))
        .unwrap_or_else(|| "/".into());
    Ok(Plan {
        args,
        env: environment(inputs),
        cwd: if cwd.starts_with('/') {
            cwd
        } else {
            format!("/{cwd}")
        },
        uid: inputs.user.user.uid,
        gid: inputs.user.user.gid,
        groups: inputs.user.user.groups.clone(),
        capabilities: granted,
        no_new_privileges: spec.security.no_new_privileges,
        seccomp,
    })
}

/// Returns the environment: defaults (PATH, HOSTNAME, TERM, HOME), overridden by the image's
/// variables, and those by the pod's.
fn environment(inputs: &Inputs<'_>) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        if values.insert(name.to_string(), value.to_string()).is_none() {
            order.push(name.to_string());
        }
    };
    set("PATH", DEFAULT_PATH);
    set("HOSTNAME", inputs.hostname);
    if inputs.spec.tty {
        set("TERM", "xterm");
    }
    // Otherwise the C library would look it up with the image's name service.
    set("HOME", &inputs.user.home);
    for variable in &inputs.image.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, value);
    }
    for (name, value) in &inputs.spec.env {
        set(name, value);
    }
    order
        .iter()
        .map(|name| format!("{name}={}", values[name]))
        .collect()
}

/// Returns the `linux.namespaces` of the configuration.
fn namespaces(paths: &Namespaces, privileged: bool) -> Value {
    let mut out = vec![json!({"type": "mount"})];
    // A privileged container manages the node's cgroups, unless it has no rights over them.
    if !privileged || paths.user.is_some() {
        out.push(json!({"type": "cgroup"}));
    }
    for (kind, path) in [
        ("network", &paths.network),
        ("ipc", &paths.ipc),
        ("uts", &paths.uts),
        ("user", &paths.user),
    ] {
        if let Some(path) = path {
            out.push(json!({"type": kind, "path": path}));
        }
    }
    match &paths.pid {
        PidNamespace::New => out.push(json!({"type": "pid"})),
        PidNamespace::Join(path) => out.push(json!({"type": "pid", "path": path})),
        PidNamespace::Host => {}
    }
    Value::Array(out)
}

/// Returns the default mounts except those that the pod replaces, followed by the pod's, parents
/// before children.
fn mounts(inputs: &Inputs<'_>) -> Result<Vec<Value>> {
    let spec = inputs.spec;
    let privileged = spec.security.privileged;
    let sys = if privileged { "rw" } else { "ro" };
    let mut out = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
               "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
               "options": ["nosuid", "noexec", "nodev", sys]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
               "options": ["nosuid", "noexec", "nodev", "relatime", sys]}),
        json!({"destination": "/dev/shm", "type": "bind", "source": inputs.shm,
               "options": ["rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"]}),
    ];
    let mut own: Vec<(PathBuf, Value)> = Vec::new();
    for mount in &spec.mounts {
        let source = source(&mount.host_path)?;
        let target = target(&mount.container_path)?;
        let mut options = vec![if mount.non_recursive { "bind" } else { "rbind" }];
        options.push(match mount.propagation {
            MountPropagation::Private => "rprivate",
            MountPropagation::HostToContainer => "rslave",
            MountPropagation::Bidirectional => "rshared",
        });
        options.push(match (mount.read_only, mount.recursive_read_only) {
            (true, true) => "rro",
            (true, false) => "ro",
            (false, _) => "rw",
        });
        own.push((
            target.clone(),
            json!({"destination": target, "type": "bind", "source": source, "options": options}),
        ));
    }
    for (source, path) in inputs.image_volumes {
        let target = target(path)?;
        own.push((
            target.clone(),
            json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", "ro"]}),
        ));
    }
    for tmpfs in &spec.tmpfs {
        let target = target(&tmpfs.container_path)?;
        let mut options = vec!["nosuid".to_string(), "nodev".to_string()];
        options.extend(tmpfs.size_bytes.map(|bytes| format!("size={bytes}")));
        options.extend(tmpfs.mode.map(|mode| format!("mode={mode:o}")));
        own.push((
            target.clone(),
            json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}),
        ));
    }
    out.retain(|mount| {
        let path = Path::new(mount["destination"].as_str().unwrap_or_default());
        !own.iter().any(|(target, _)| replaces(target, path))
    });
    own.sort_by_key(|(target, _)| target.components().count());
    out.extend(own.into_iter().map(|(_, mount)| mount));
    Ok(out)
}

/// Returns whether a mount of the pod at `target` takes the place of the default one at `path`. What
/// it mounts at `/dev` may lack the directories below.
fn replaces(target: &Path, path: &Path) -> bool {
    target == path || (target == Path::new("/dev") && path.starts_with(target))
}

/// Returns the canonical path of a mount's source. Creates a missing one as a directory, as Docker
/// and other CRI runtimes do.
pub fn source(path: &Path) -> Result<PathBuf> {
    if !path.is_absolute() {
        return Err(RuntimeError::Invalid(format!(
            "mount source {} is not absolute",
            path.display()
        )));
    }
    match fs::canonicalize(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(path)
                .context(|| format!("cannot make mount source {}", path.display()))?;
            fs::canonicalize(path)
        }
        other => other,
    }
    .context(|| format!("cannot find mount source {}", path.display()))
}

/// Returns the normalized target of a mount, without `..`. Fails for the root.
fn target(path: &Path) -> Result<PathBuf> {
    crate::beneath::clean(path)
        .map(|clean| Path::new("/").join(clean))
        .ok_or_else(|| RuntimeError::Invalid(format!("cannot mount at {:?}", path.display())))
}

/// Converts limits to the `linux.resources` of the configuration.
fn resources(wanted: &Resources) -> Map<String, Value> {
    let mut out = Map::new();
    let mut cpu = Map::new();
    if let Some(shares) = wanted.cpu_shares {
        cpu.insert("shares".into(), json!(shares.clamp(2, 262_144)));
    }
    if let Some(quota) = wanted.cpu_quota.filter(|q| *q > 0) {
        cpu.insert("quota".into(), json!(quota));
        cpu.insert("period".into(), json!(wanted.cpu_period.unwrap_or(100_000)));
    }
    if let Some(cpus) = wanted.cpuset_cpus.as_ref().filter(|c| !c.is_empty()) {
        cpu.insert("cpus".into(), json!(cpus));
    }
    if let Some(mems) = wanted.cpuset_mems.as_ref().filter(|c| !c.is_empty()) {
        cpu.insert("mems".into(), json!(mems));
    }
    if !cpu.is_empty() {
        out.insert("cpu".into(), Value::Object(cpu));
    }
    let mut unified = wanted.unified.clone();
    let mut memory = Map::new();
    if let Some(limit) = wanted.memory_limit.filter(|l| *l > 0) {
        memory.insert("limit".into(), json!(limit));
        if let Some(swap) = wanted
            .memory_swap_limit
            .filter(|s| *s >= limit && cgroup::accounts_swap())
        {
            if cgroup::is_v2() {
                // libcontainer does not write zero, which means "no swap" here.
                unified
                    .entry("memory.swap.max".into())
                    .or_insert_with(|| (swap - limit).to_string());
            } else {
                memory.insert("swap".into(), json!(swap));
            }
        }
    }
    if !memory.is_empty() {
        out.insert("memory".into(), Value::Object(memory));
    }
    if let Some(limit) = wanted.pids_limit.filter(|l| *l > 0) {
        out.insert("pids".into(), json!({"limit": limit}));
    }
    if !wanted.hugepage_limits.is_empty() {
        if cgroup::has_controller("hugetlb") {
            let limits: Vec<Value> = wanted
                .hugepage_limits
                .iter()
                .map(|(size, limit)| json!({"pageSize": size, "limit": limit}))
                .collect();
            out.insert("hugepageLimits".into(), Value::Array(limits));
        } else {
            tracing::warn!(
                "this node has no hugetlb controller: huge page limits are not enforced"
            );
        }
    }
    if cgroup::is_v2() && !unified.is_empty() {
        out.insert("unified".into(), json!(unified));
    }
    out
}

/// Clamps a value of `oom_score_adj` to what this process may grant. Without `CAP_SYS_RESOURCE`, it
/// cannot set a value below its own.
fn clamp_oom_score(wanted: i32) -> Result<i32> {
    let wanted = wanted.clamp(-1000, 1000);
    if capabilities::available() & 1 << capabilities::SYS_RESOURCE != 0 {
        return Ok(wanted);
    }
    let path = "/proc/self/oom_score_adj";
    let text = fs::read_to_string(path).context(|| format!("cannot read {path}"))?;
    let own: i32 = text.trim().parse().unwrap_or(0);
    if wanted < own {
        tracing::debug!(
            wanted,
            granted = own,
            "oom_score_adj is clamped to what this node may grant"
        );
    }
    Ok(wanted.max(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_the_pod_replace_default_ones() {
        for (target, path, gone) in [
            ("/dev", "/dev", true),
            ("/dev", "/dev/shm", true),
            ("/dev/shm", "/dev/shm", true),
            ("/dev/shm", "/dev", false),
            ("/dev/x", "/dev/shm", false),
            ("/sys", "/sys/fs/cgroup", false),
        ] {
            let replaced = replaces(Path::new(target), Path::new(path));
            assert_eq!(replaced, gone, "{target} {path}");
        }
    }

    #[test]
    fn throttling_of_processors_is_masked() {
        let cpus = tempfile::tempdir().unwrap();
        for dir in [
            "cpu0/thermal_throttle",
            "cpu10/thermal_throttle",
            "cpu2",
            "cpufreq/thermal_throttle",
        ] {
            fs::create_dir_all(cpus.path().join(dir)).unwrap();
        }
        let masked = masked_by_default(cpus.path());
        let own: Vec<&str> = masked[MASKED.len()..]
            .iter()
            .map(|path| path.strip_prefix(cpus.path().to_str().unwrap()).unwrap())
            .collect();
        assert_eq!(own, ["/cpu0/thermal_throttle", "/cpu10/thermal_throttle"]);
        assert_eq!(masked_by_default(Path::new("/nowhere")), MASKED);
    }
}
