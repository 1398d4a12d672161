//! The choice between hardware virtualization and emulation.

use std::fs::File;
use std::path::Path;

use rkube_failure::{Failure, Kind, Source};

/// Environment variable that overrides the choice: `kvm`, `hvf` or `tcg`.
const OVERRIDE: &str = "RKUBE_QEMU_ACCEL";

/// QEMU's accelerators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// KVM, on Linux.
    Kvm,
    /// The Hypervisor framework, on macOS.
    Hvf,
    /// Emulation of all instructions (TCG).
    Emulation,
}

impl Accelerator {
    /// Returns the value of QEMU's option `-accel`.
    pub fn accel(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Emulation => "tcg,thread=multi",
        }
    }

    /// Returns the value of QEMU's option `-cpu`. Emulation turns off five-level page tables, which
    /// slow it down and are not needed for the memory of nodes.
    pub fn cpu(self) -> &'static str {
        match self {
            Self::Kvm | Self::Hvf => "host",
            Self::Emulation if cfg!(target_arch = "x86_64") => "max,la57=off",
            Self::Emulation => "max",
        }
    }
}

/// Returns the accelerator that the environment names, otherwise the fastest one of this host, with
/// the reason if that is emulation.
pub fn choose() -> (Accelerator, Option<Failure>) {
    match std::env::var(OVERRIDE).as_deref() {
        Ok("kvm") => return (Accelerator::Kvm, None),
        Ok("hvf") => return (Accelerator::Hvf, None),
        Ok("tcg") => return (Accelerator::Emulation, None),
        _ => {}
    }
    if cfg!(target_os = "macos") {
        return (Accelerator::Hvf, None);
    }
    let lacks = |why: String, advice: &str| {
        let failure = Failure::new(
            Source::Host,
            Kind::Unsupported,
            format!("{why}: the nodes are emulated, about ten times slower"),
        );
        (Accelerator::Emulation, Some(failure.advise(advice)))
    };
    if cfg!(target_arch = "x86_64") && !virtualizes(&read("/proc/cpuinfo")) {
        return lacks(
            "this processor has no virtualization (vmx or svm)".into(),
            "turn it on in the firmware, or in the hypervisor that this machine runs on",
        );
    }
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => (Accelerator::Kvm, None),
        Err(e) if Path::new("/dev/kvm").exists() => lacks(
            format!("cannot use /dev/kvm: {e}"),
            "join the group that may: sudo usermod -aG kvm $USER, then log in again",
        ),
        Err(_) => lacks(
            "there is no /dev/kvm".into(),
            "load KVM's module: sudo modprobe kvm_intel, or kvm_amd",
        ),
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Whether the CPU flags include AMD's or Intel's virtualization. In some clouds `/dev/kvm` exists
/// without them, and cannot run ordinary kernels.
fn virtualizes(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .find(|l| l.starts_with("flags"))
        .is_some_and(|l| l.split_whitespace().any(|f| f == "vmx" || f == "svm"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtualization_is_a_flag_of_its_own() {
        assert!(virtualizes("model name : x\nflags\t\t: fpu vmx sse\n"));
        assert!(!virtualizes("flags : fpu svm_lock\nvmx flags : vnmi\n"));
        assert!(!virtualizes(""));
    }
}
