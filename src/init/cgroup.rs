//! Control groups of version 2 in a node.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// The group of a node's own processes, a leaf beside those of its pods.
const LEAF: &str = "init";

/// On version 2 no group but the machine's root may hold processes and hand
/// controllers down at once: moves the caller to a leaf of its own and enables
/// every controller for the leaf's siblings. Nothing is done where `base`, the
/// place where control groups are mounted, is not of version 2.
pub fn make_room(base: &Path) -> anyhow::Result<()> {
    if !base.join("cgroup.controllers").exists() {
        return Ok(());
    }
    let leaf = base.join(LEAF);
    fs::create_dir_all(&leaf).with_context(|| format!("cannot make {}", leaf.display()))?;
    let procs = leaf.join("cgroup.procs");
    fs::write(&procs, "0").with_context(|| format!("cannot write {}", procs.display()))?;
    enable_controllers(base);
    Ok(())
}

/// Hands every controller that `group` has down to its children. A controller
/// that refuses (a threaded or busy one) is left out: limits by it fail later
/// with their own message.
pub fn enable_controllers(group: &Path) {
    let Ok(available) = fs::read_to_string(group.join("cgroup.controllers")) else {
        return;
    };
    for controller in available.split_whitespace() {
        let _ = fs::write(
            group.join("cgroup.subtree_control"),
            format!("+{controller}"),
        );
    }
}
