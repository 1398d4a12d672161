//! Creation of a container's processes with the crate `libcontainer`.
//!
//! The code runs in a process that the shim forks for each launch, because the library
//! changes directories, opens files and allocates. The processes that it creates become
//! the shim's children.

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

use super::error::ShimError;
use super::plan::Plan;
use crate::device_filter::{self, DeviceRule};
use rkube_cgroups::node as cgroup;

/// A process's standard streams, or the socket that its terminal is sent to.
pub enum Stdio {
    /// Standard input, output and error.
    Pipes(OwnedFd, OwnedFd, OwnedFd),
    /// A listening UNIX socket's path.
    Console(PathBuf),
}

/// The parameters of a launch.
pub struct Launch<'a> {
    /// The container.
    pub id: &'a str,
    /// The directory with its `config.json`.
    pub bundle: &'a Path,
    /// The launcher's directory for its state.
    pub state: &'a Path,
    /// The container's cgroup.
    pub cgroup: &'a str,
    /// Devices allowed in addition to the default ones; `None` for all.
    pub devices: Option<&'a [DeviceRule]>,
    /// The process to run.
    pub plan: &'a Plan,
    /// Its streams.
    pub stdio: Stdio,
    /// Pipe for progress reports; closed on exec.
    pub report: OwnedFd,
}

/// Creates a container's processes.
pub trait Launcher {
    /// Creates the container and starts its first process. Returns its PID.
    fn run(&self, launch: Launch<'_>) -> Result<i32, ShimError>;
    /// Starts a further process in the running container. Returns its PID. `process` is a
    /// file with its OCI description.
    fn exec(&self, launch: Launch<'_>, process: &Path) -> Result<i32, ShimError>;
}

/// The launcher of the crate `libcontainer`.
pub struct Libcontainer;

impl Launcher for Libcontainer {
    fn run(&self, launch: Launch<'_>) -> Result<i32, ShimError> {
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
            .build()?;
        let pid = container
            .pid()
            .ok_or("the launcher returned no process")?
            .as_raw();
        // On v1 the library writes the rules itself; on v2 this build of it cannot.
        if let Some(devices) = launch.devices
            && cgroup::is_v2()
        {
            device_filter::attach(&cgroup::v2_dir(launch.cgroup), devices)
                .map_err(ShimError::io("cannot restrict the container's devices"))?;
        }
        // Reported before the process runs, so that its exit cannot be seen first.
        announce(&report, pid)?;
        container.start()?;
        Ok(pid)
    }

    fn exec(&self, launch: Launch<'_>, process: &Path) -> Result<i32, ShimError> {
        // Refreshes the state that the library has stored. Otherwise a container whose
        // start was interrupted would reject every command.
        let dir = launch.state.join(launch.id);
        Container::load(dir)?;
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
            .build()?
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
) -> Result<(ContainerBuilder, File), ShimError> {
    let report = File::from(report);
    let executor = PlanExecutor {
        plan: plan.clone(),
        report: report.as_raw_fd(),
    };
    let builder = ContainerBuilder::new(id.to_string(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(state)?;
    let builder = match stdio {
        Stdio::Pipes(stdin, stdout, stderr) => builder
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr),
        Stdio::Console(path) => builder.with_console_socket(Some(path)),
    };
    Ok((builder, report))
}

fn announce(report: &File, pid: i32) -> Result<(), ShimError> {
    let mut report = report;
    Ok(report.write_all(format!("P{pid}\n").as_bytes())?)
}

/// Replaces the launcher's process by the plan's.
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
        // No code of the launcher may run in an incomplete container.
        // SAFETY: ends the process without running any destructor.
        unsafe { libc::_exit(128) }
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The plan looks up its program as the container's user.
        Ok(())
    }

    fn setup_envs(
        &self,
        _envs: std::collections::HashMap<String, String>,
    ) -> Result<(), ExecutorSetEnvsError> {
        // The plan sets the environment.
        Ok(())
    }
}
