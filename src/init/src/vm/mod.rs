//! PID 1 of a node that is a virtual machine.
//!
//! The kernel runs it from an initramfs as `rkube vm-init`. It loads modules, mounts the
//! state disk as the node's root, writes the node's identity, sets up the network and
//! executes `rkube init machine`.

mod button;
mod disk;
mod logs;
mod modules;
mod mounts;
mod network;

pub(crate) use button::pressed;
pub(crate) use logs::port as log_port;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkube_config::machine::{FACTS, IDENTITY, MODULES, MachineFacts};
use rkube_config::{NodeConfig, paths};

/// Maximum time for services and containers to exit; emulated machines are slow.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// Runs `rkube vm-init`. Returns only on error, which ends the machine: the kernel panics when
/// PID 1 exits.
pub fn boot() -> anyhow::Result<()> {
    mounts::early()?;
    modules::load_all(Path::new(MODULES))?;
    let root = Path::new("/new");
    disk::mount(root)?;
    mounts::root(root)?;
    mounts::identity(root, &firmware(IDENTITY)?)?;
    let facts: MachineFacts = serde_json::from_slice(&firmware(FACTS)?)
        .context("what the hypervisor says of this machine is damaged")?;
    mounts::tools(root)?;
    mounts::enter(root)?;
    let config = NodeConfig::read(paths::NODE_CONFIG)?;
    crate::cgroup::make_room(Path::new("/"))?;
    crate::write_identity(Path::new("/"), &config)?;
    mounts::machine_id()?;
    network::set_up(&config, &facts)?;

    let error = std::os::unix::process::CommandExt::exec(
        std::process::Command::new(paths::BINARY)
            .args(["init", "machine"])
            .env_clear(),
    );
    Err(error).with_context(|| format!("cannot run {}", paths::BINARY))
}

/// Runs `rkube init machine`: runs the node until the power button is pressed or a signal
/// requests a stop, then powers the machine off.
pub fn run(config: &NodeConfig) -> anyhow::Result<()> {
    let button = button::open();
    if button.is_none() {
        rkube_fsutil::say!(
            "init: this machine has no power button; it can only be switched off hard"
        );
    }
    crate::run_until(config, button.as_ref(), STOP_GRACE)?;
    // Processes that ignored SIGTERM would keep the disk busy.
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    nix::unistd::sync();
    mounts::leave();
    nix::unistd::sync();
    reboot(RebootMode::RB_POWER_OFF).context("cannot power off")?;
    Ok(())
}

/// Reads a file that QEMU passed to the machine with `-fw_cfg`.
fn firmware(name: &str) -> anyhow::Result<Vec<u8>> {
    let path = format!("/sys/firmware/qemu_fw_cfg/by_name/{name}/raw");
    std::fs::read(&path).with_context(|| format!("cannot read {path}"))
}
