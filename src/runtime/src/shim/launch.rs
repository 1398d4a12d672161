//! Making a container's processes, by the crate `libcontainer`.
//!
//! Everything here runs in a process forked off the shim for one launch, which
//! then ends: the library changes directories, opens files and allocates as it
//! likes. What it makes becomes the shim's child.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};

use super::plan::Plan;
use crate::cgroup;
use crate::device_filter::{self, DeviceRule};

/// A process's standard streams, or the socket that its terminal is sent to.
pub enum Stdio {
    /// Standard input, output and error.
    Pipes(OwnedFd, OwnedFd, OwnedFd),
    /// A listening UNIX socket's path.
    Console(PathBuf),
}

/// What every launch needs.
pub struct Launch<'a> {
    /// The container.
    pub id: &'a str,
    /// The directory with its `config.json`.
    pub bundle: &'a Path,
    /// Where the launcher keeps its own state.
    pub state: &'a Path,
    /// The container's cgroup.
    pub cgroup: &'a str,
    /// The devices that it may use besides the default ones; none for all.
    pub devices: Option<&'a [DeviceRule]>,
    /// What the process becomes.
    pub plan: &'a Plan,
    /// Its streams.
    pub stdio: Stdio,
    /// Where progress is reported; closed on exec.
    pub report: OwnedFd,
}

/// Makes a container's processes. One implementation today; a seam for others.
pub trait Launcher {
    /// Makes the container and starts its first process; returns its PID.
    fn run(&self, launch: Launch<'_>) -> Result<i32, String>;
    /// Starts a further process in the running container; returns its PID.
    /// `process` is a file with its OCI description.
    fn exec(&self, launch: Launch<'_>, process: &Path) -> Result<i32, String>;
}

/// The crate's launcher.
pub struct Libcontainer;

impl Launcher for Libcontainer {
    fn run(&self, launch: Launch<'_>) -> Result<i32, String> {
        let (builder, report) = builder(
            launch.id,
            launch.state,
            launch.plan,
            launch.stdio,
            launch.report,
        )?;
        let mut container = builder
            .as_init(launch.bundle)
            .with_systemd(false)
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(|e| chain(&e))?;
        let pid = container
            .pid()
            .ok_or("the launcher returned no process")?
            .as_raw();
        // On v1 the library writes the rules itself; on v2 this build of it cannot.
        if let Some(devices) = launch.devices
            && cgroup::is_v2()
        {
            device_filter::attach(&cgroup::v2_dir(launch.cgroup), devices)
                .map_err(|e| format!("cannot restrict the container's devices: {e}"))?;
        }
        // Known before the process runs, so that its end cannot come first.
        announce(&report, pid)?;
        container.start().map_err(|e| chain(&e))?;
        Ok(pid)
    }

    fn exec(&self, launch: Launch<'_>, process: &Path) -> Result<i32, String> {
        // The library keeps the state that it saw last; a container whose start
        // was cut short would refuse every command.
        let dir = launch.state.join(launch.id);
        Container::load(dir).map_err(|e| chain(&e))?;
        let (builder, report) = builder(
            launch.id,
            launch.state,
            launch.plan,
            launch.stdio,
            launch.report,
        )?;
        let pid = builder
            .as_tenant()
            .with_process(Some(process))
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(|e| chain(&e))?
            .as_raw();
        announce(&report, pid)?;
        Ok(pid)
    }
}

fn builder(
    id: &str,
    state: &Path,
    plan: &Plan,
    stdio: Stdio,
    report: OwnedFd,
) -> Result<(ContainerBuilder, File), String> {
    let report = File::from(report);
    let executor = PlanExecutor {
        plan: plan.clone(),
        report: report.as_raw_fd(),
    };
    let builder = ContainerBuilder::new(id.to_string(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(state)
        .map_err(|e| chain(&e))?;
    let builder = match stdio {
        Stdio::Pipes(stdin, stdout, stderr) => builder
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr),
        Stdio::Console(path) => builder.with_console_socket(Some(path)),
    };
    Ok((builder, report))
}

fn announce(report: &File, pid: i32) -> Result<(), String> {
    let mut report = report;
    report
        .write_all(format!("P{pid}\n").as_bytes())
        .map_err(|e| e.to_string())
}

/// An error with its causes, without repetitions.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let part = e.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = e.source();
    }
    text
}

/// Hands the launcher's process over to the plan.
#[derive(Clone)]
struct PlanExecutor {
    plan: Plan,
    /// The report pipe, inherited through the launcher's forks.
    report: i32,
}

impl Executor for PlanExecutor {
    fn exec(&self, _spec: &Spec) -> Result<(), ExecutorError> {
        let reason = self.plan.become_process();
        let text = format!("E{reason}\n");
        // SAFETY: the buffer outlives the call; the descriptor is inherited and open.
        unsafe { libc::write(self.report, text.as_ptr().cast(), text.len()) };
        // Nothing of the launcher's shall run in a half-made container.
        // SAFETY: ends the process without running any destructor.
        unsafe { libc::_exit(128) }
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The plan looks for its program as the user who runs it.
        Ok(())
    }

    fn setup_envs(
        &self,
        _envs: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        // The plan has its environment.
        Ok(())
    }
}
