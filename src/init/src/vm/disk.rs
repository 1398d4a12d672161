//! The disk that holds a virtual machine's state.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::mount::{MsFlags, mount as mount_fs};

/// The only disk of the machine.
const DEVICE: &str = "/dev/vda";
/// Maximum time for the disk to appear after its driver was loaded.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Mounts the state disk at `root`. The kernel replays its journal after a crash.
pub fn mount(root: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + DISK_TIMEOUT;
    while !Path::new(DEVICE).exists() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the machine has no disk {DEVICE}"
        );
        // The driver probes the device asynchronously, and nothing listens for uevents yet.
        std::thread::sleep(Duration::from_millis(10));
    }
    std::fs::create_dir_all(root)?;
    mount_fs(
        Some(DEVICE),
        root,
        Some("ext4"),
        MsFlags::MS_NOATIME,
        // The disk is a sparse image: inode tables that were never written read as zeros and
        // need no initialization.
        Some("noinit_itable"),
    )
    .with_context(|| format!("cannot mount the state disk {DEVICE}"))
}
