//! The state disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::mount::{MsFlags, mount as mount_fs};

/// The only disk of the machine.
const DEVICE: &str = "/dev/vda";
/// Timeout of the disk's appearance after its driver was loaded.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Mounts the state disk at `root`. The kernel replays its journal after a crash.
pub fn mount(root: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + DISK_TIMEOUT;
    while !Path::new(DEVICE).exists() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the machine has no disk {DEVICE}"
        );
        // The driver finds its device in the background and no event tells of it
        // before there is anything that listens.
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::create_dir_all(root)?;
    mount_fs(
        Some(DEVICE),
        root,
        Some("ext4"),
        MsFlags::MS_NOATIME,
        // Tables that were never written read as zeros: they need not be written.
        Some("noinit_itable"),
    )
    .with_context(|| format!("cannot mount the state disk {DEVICE}"))
}
