//! `rkube docker-init`: the first process of a node's container, before it becomes `rkube init`.

/// Mount point of the host's directories of programs and libraries.
pub const TOOL_BOX: &str = "/.host";

/// Completes the container's file systems, then executes `rkube init`. Returns only on failure.
#[cfg(target_os = "linux")]
pub fn docker_init() -> anyhow::Result<()> {
    use std::path::Path;

    use anyhow::Context;
    use nix::mount::{MntFlags, MsFlags, umount2};
    use nix::sched::{CloneFlags, unshare};
    use rkube_config::{NodeConfig, paths};
    use rkube_init::{cgroup, rootfs};

    let root = Path::new("/");
    let config = NodeConfig::read(paths::NODE_CONFIG)?;
    let hierarchies = rkube_cgroups::hierarchies()?;
    // Engines without support for private cgroup namespaces leave that of the host.
    let groups = std::fs::read_to_string("/proc/self/cgroup").context("cannot read /proc")?;
    if groups.lines().any(|l| !l.ends_with(":/")) {
        unshare(CloneFlags::CLONE_NEWCGROUP).context("cannot create a cgroup namespace")?;
    }
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    rootfs::bind_flags(root, MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;
    // The engine's mounts show the host's devices and control groups; a node gets private ones.
    for place in ["/dev", "/sys", "/proc"] {
        match umount2(place, MntFlags::MNT_DETACH) {
            Ok(()) | Err(nix::errno::Errno::EINVAL) => {}
            Err(e) => return Err(e).with_context(|| format!("cannot replace {place}")),
        }
    }
    rootfs::skeleton(root)?;
    rootfs::special(root, &hierarchies)?;
    cgroup::share_cpuset(root)?;

    let host = Path::new(TOOL_BOX);
    if host.join("usr").is_dir() {
        rootfs::tool_box(host, root)?;
        rootfs::complete_links(root)?;
    }
    if let Some(folder) = Path::new(paths::BINARY).parent() {
        rootfs::make_dir(folder, 0o755)?;
    }
    rootfs::bind_file(Path::new("/rkube"), Path::new(paths::BINARY))?;
    let etc = Path::new(paths::NODE_CONFIG).parent().unwrap_or(root);
    rootfs::bind(etc, etc, true)?;
    rootfs::make_dir(Path::new(paths::STATE), 0o700)?;
    keep_manifests()?;
    // Containers may request mount propagation, which needs a shared parent mount.
    rootfs::bind_flags(root, MsFlags::MS_SHARED | MsFlags::MS_REC)?;
    cgroup::make_room(root)?;
    rkube_init::write_identity(root, &config)?;

    let error = std::os::unix::process::CommandExt::exec(
        std::process::Command::new(paths::BINARY).arg("init"),
    );
    Err(error).with_context(|| format!("cannot run {}", paths::BINARY))
}

/// Keeps the manifests of static pods in the node's volume: the container may be made again. A
/// directory of the host that is mounted there stays.
#[cfg(target_os = "linux")]
fn keep_manifests() -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use rkube_config::paths;
    use rkube_init::rootfs;

    let place = Path::new(paths::MANIFESTS);
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev());
    if device(place)? != device(Path::new("/etc"))? {
        return Ok(());
    }
    let kept = Path::new(paths::KEPT_MANIFESTS);
    rootfs::make_dir(kept, 0o755)?;
    rootfs::bind(kept, place, false)
}

/// Fails: nodes run on Linux only.
#[cfg(not(target_os = "linux"))]
pub fn docker_init() -> anyhow::Result<()> {
    anyhow::bail!("a node runs on Linux only")
}
