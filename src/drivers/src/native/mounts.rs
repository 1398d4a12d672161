//! The file systems of a native node, mounted inside its namespaces.
//!
//! The root is an overlay on a small skeleton. The host's `/usr` is mounted read-only for its
//! programs; the rest of the host's file systems is not visible.

use std::path::Path;

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};
use rkube_cgroups::Hierarchy;
use rkube_config::paths;
use rkube_init::rootfs::{
    bind, bind_file, bind_flags, make_dir, roots_of_trust, skeleton, special, tool_box,
};

use super::folders;
use super::types::SandboxSpec;

/// Builds the node's file systems and makes them the root of this process.
pub fn enter(spec: &SandboxSpec, hierarchies: &[Hierarchy]) -> anyhow::Result<()> {
    // Mounts made here must not propagate to the host.
    bind_flags(Path::new("/"), MsFlags::MS_PRIVATE | MsFlags::MS_REC)?;

    let root = spec.dir.join("root");
    let lower = spec.dir.join("skeleton");
    let (upper, work) = (spec.dir.join("upper"), spec.dir.join("work"));
    for folder in [&root, &lower, &upper, &work] {
        make_dir(folder, 0o755)?;
    }
    skeleton(&lower)?;
    roots_of_trust(&lower)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        escape(&lower)?,
        escape(&upper)?,
        escape(&work)?
    );
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .with_context(|| format!("cannot mount the node's root on {}", root.display()))?;

    special(&root, hierarchies)?;
    // A write to it restarts or crashes the host.
    let request = root.join("proc/sysrq-trigger");
    if request.exists() {
        bind(&root.join("dev/null"), &request, true)?;
    }
    tool_box(Path::new("/"), &root)?;

    bind(&spec.etc, &root.join("etc/rkube"), true)?;
    let binary = root.join(rel(paths::BINARY));
    bind_file(&spec.binary, &binary)?;
    for (source, place, mode) in [
        (spec.dir.join("state"), paths::STATE, 0o700),
        (spec.images.clone(), paths::IMAGES, 0o700),
        (spec.dir.join("log"), "/var/log", 0o755),
    ] {
        make_dir(&source, mode)?;
        let target = root.join(rel(place));
        make_dir(&target, mode)?;
        bind(&source, &target, false)?;
    }

    // Cloned where the host's paths are visible, attached where they are not.
    let folders: Vec<_> = spec
        .mounts
        .iter()
        .map(|mount| Ok((folders::detach(mount)?, &mount.node)))
        .collect::<anyhow::Result<_>>()?;

    chdir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
    pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the host's root")?;
    chdir("/").context("cannot enter the new root")?;
    for (folder, target) in &folders {
        folders::attach(folder, target)?;
    }
    // Containers may request mount propagation, which needs a shared parent mount.
    bind_flags(Path::new("/"), MsFlags::MS_SHARED | MsFlags::MS_REC)
}

fn rel(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// Escapes a path for overlay options, which are separated by commas, and its layers by colons.
fn escape(path: &Path) -> anyhow::Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))?;
    Ok(text
        .replace('\\', "\\\\")
        .replace(',', "\\,")
        .replace(':', "\\:"))
}
