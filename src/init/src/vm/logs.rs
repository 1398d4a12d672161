//! Services' logs of a virtual machine. They are written to the host, which can show them
//! when the machine no longer runs.

use std::fs::File;

use rkube_config::machine::LOG_PORT;

/// Opens the machine's virtio port for the logs of the service `role`. Returns `None` if it
/// has none. A port can be opened only once, so the caller must keep the file.
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
