//! The power button of a virtual machine.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

/// Size of the kernel's `struct input_event` on 64-bit machines, in bytes.
const EVENT: usize = 24;
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;
const PRESSED: i32 = 1;

/// Opens the power button's input device for non-blocking reads. Returns `None` if the
/// machine has none.
pub fn open() -> Option<File> {
    let entries = std::fs::read_dir("/sys/class/input").ok()?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|n| n.starts_with("event")) else {
            continue;
        };
        let title = std::fs::read_to_string(entry.path().join("device/name")).unwrap_or_default();
        if matches!(title.trim(), "Power Button" | "gpio-keys") {
            return File::options()
                .read(true)
                .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_CLOEXEC)
                .open(format!("/dev/input/{name}"))
                .ok();
        }
    }
    None
}

/// Returns whether `events`, as read from the device, contain a press of the power button.
pub fn pressed(events: &[u8]) -> bool {
    events.chunks_exact(EVENT).any(|event| {
        // A timestamp of two 64-bit words, then type, code and value.
        let kind = u16::from_ne_bytes([event[16], event[17]]);
        let code = u16::from_ne_bytes([event[18], event[19]]);
        let value = i32::from_ne_bytes([event[20], event[21], event[22], event[23]]);
        (kind, code, value) == (EV_KEY, KEY_POWER, PRESSED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pressing_the_power_key_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![0; 16];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        assert!(pressed(
            &[event(0, 0, 0), event(EV_KEY, KEY_POWER, 1)].concat()
        ));
        assert!(!pressed(&event(EV_KEY, KEY_POWER, 0)));
        assert!(!pressed(&event(EV_KEY, 30, 1)));
        assert!(!pressed(&event(EV_KEY, KEY_POWER, 1)[..20]));
    }
}
