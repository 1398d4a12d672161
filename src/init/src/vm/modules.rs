//! Loads the kernel modules that the driver put into the initramfs.

use std::fs::File;
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use rkube_config::machine::MODULES_ORDER;

/// Loads the modules listed in the order file, one file name per line, and removes `dir`. A
/// module that fails to load is reported and skipped: code that needs it fails with a more
/// specific error.
pub fn load_all(dir: &Path) -> anyhow::Result<()> {
    let order = dir.join(MODULES_ORDER);
    let text = std::fs::read_to_string(&order)
        .with_context(|| format!("cannot read {}", order.display()))?;
    for name in text.lines() {
        let path = dir.join(name);
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => rkube_fsutil::say!("init: cannot load the module {name}: {e}"),
        }
    }
    // The initramfs is in memory, and the loaded modules no longer need their files.
    std::fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}
