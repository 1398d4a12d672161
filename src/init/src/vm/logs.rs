//! Where services' logs go: to the host, which shows them also when the machine
//! does not run any more.

use std::fs::File;

use rkube_config::machine::LOG_PORT;

/// The machine's port for the logs of the service `role`, if it has one. A port
/// can be opened once, so the caller must keep it.
pub fn port(role: &str) -> Option<File> {
    let entries = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    for entry in entries.flatten() {
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim().strip_prefix(LOG_PORT) == Some(role) {
            let device = std::path::Path::new("/dev").join(entry.file_name());
            return File::options().write(true).open(device).ok();
        }
    }
    None
}
