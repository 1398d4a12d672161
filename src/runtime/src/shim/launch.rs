//! Creation of a container's processes with the crate `libcontainer`.
//!
//! The code runs in a launcher process that the shim forks for each launch, because the library
//! changes directories, opens files and allocates memory. The processes that it creates become
//! children of the shim.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libcontainer::container::Container;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};

use nix::mount::MsFlags;

use super::error::ShimError;
use super::plan::Plan;
use super::sys::give_terminal;
use super::types::UserNamespace;
use crate::beneath::check;
use crate::users::{self, IdRange};
use rkube_cgroups::devices::{self, DeviceRule};
use rkube_cgroups::node as cgroup;

/// A process's standard streams, or the socket that its terminal is sent to.
pub enum Stdio {
    /// Standard input, output and error.
    Pipes(OwnedFd, OwnedFd, OwnedFd),
    /// Path of a listening UNIX socket, which receives the terminal.
    Console(PathBuf),
}

/// The parameters of a launch.
pub struct Launch<'a> {
    /// ID of the container.
    pub id: &'a str,
    /// Directory of the container's `config.json`.
    pub bundle: &'a Path,
    /// Directory of the launcher's state.
    pub state: &'a Path,
    /// Cgroup of the container.
    pub cgroup: &'a str,
    /// Devices allowed in addition to the default ones; `None` for all.
    pub devices: Option<&'a [DeviceRule]>,
    /// The container's user namespace, if it is not the node's.
    pub users: Option<&'a UserNamespace>,
    /// The process to run.
    pub plan: &'a Plan,
    /// Standard streams of the process.
    pub stdio: Stdio,
    /// Pipe for the report. It is closed on exec.
    pub report: OwnedFd,
}

/// A creator of container processes.
pub trait Launcher {
    /// Creates the container and starts its first process. Returns the process's PID.
    fn run(&self, launch: Launch<'_>) -> Result<i32, ShimError>;
    /// Starts another process in the running container. Returns its PID. `process` is a file with
    /// its OCI description.
    fn exec(&self, launch: Launch<'_>, process: &Path) -> Result<i32, ShimError>;
}

/// The launcher based on the crate `libcontainer`.
pub struct Libcontainer;

impl Launcher for Libcontainer {
    fn run(&self, launch: Launch<'_>) -> Result<i32, ShimError> {
        if launch.users.is_some() {
            users::show_kernel(launch.bundle).map_err(ShimError::io(
                "cannot show the kernel's files to the container",
            ))?;
        }
        let (builder, report) = builder(
            launch.id,
            launch.state,
            launch.plan,
            launch.stdio,
            launch.report,
            Entry::First,
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
        // On v1, the library applies the device rules. On v2, it is built without this feature.
        if let Some(allowed) = launch.devices
            && cgroup::is_v2()
        {
            let mut rules = devices::defaults();
            rules.extend_from_slice(allowed);
            devices::attach(&cgroup::v2_dir(launch.cgroup), &rules)
                .map_err(ShimError::io("cannot restrict the container's devices"))?;
        }
        // Report the PID before the process runs, so that its exit cannot be observed first.
        announce(&report, pid)?;
        container.start()?;
        Ok(pid)
    }

    fn exec(&self, launch: Launch<'_>, process: &Path) -> Result<i32, ShimError> {
        // Refresh the state stored by the library. Otherwise a container whose start was
        // interrupted would reject every command.
        let dir = launch.state.join(launch.id);
        Container::load(dir)?;
        let users = launch.users.map(Joined::open).transpose()?;
        let (builder, report) = builder(
            launch.id,
            launch.state,
            launch.plan,
            launch.stdio,
            launch.report,
            Entry::Later(users),
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

/// Returns the builder for a launch, and the report pipe.
fn builder(
    id: &str,
    state: &Path,
    plan: &Plan,
    stdio: Stdio,
    report: OwnedFd,
    entry: Entry,
) -> Result<(ContainerBuilder, File), ShimError> {
    let report = File::from(report);
    let executor = PlanExecutor {
        plan: plan.clone(),
        report: report.as_raw_fd(),
        entry,
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

/// Sets the propagation of the container's mounts, which the library leaves as it is on the node:
/// what is mounted on the node would appear in all of them.
fn propagate(spec: &Spec) -> Result<(), String> {
    for mount in spec.mounts().iter().flatten() {
        let mut flags = mount.options().iter().flatten().filter_map(|option| {
            Some(match option.as_str() {
                "rprivate" => MsFlags::MS_PRIVATE,
                "rslave" => MsFlags::MS_SLAVE,
                "rshared" => MsFlags::MS_SHARED,
                _ => return None,
            })
        });
        if let Some(flag) = flags.next() {
            let target = mount.destination();
            let none: Option<&str> = None;
            nix::mount::mount(none, target, none, flag | MsFlags::MS_REC, none)
                .map_err(|e| format!("cannot set the propagation of {}: {e}", target.display()))?;
        }
    }
    Ok(())
}

/// Writes the PID to the report.
fn announce(report: &File, pid: i32) -> Result<(), ShimError> {
    let mut report = report;
    Ok(report.write_all(format!("P{pid}\n").as_bytes())?)
}

/// An executor that replaces the launcher's process by the plan's.
#[derive(Clone)]
struct PlanExecutor {
    plan: Plan,
    /// Descriptor of the report pipe, inherited through the launcher's forks.
    report: i32,
    entry: Entry,
}

/// The last steps of a process that is in its container.
#[derive(Clone)]
enum Entry {
    /// It is the container's first process: the mounts are new.
    First,
    /// It joined the namespaces of the first process but this one, which the library leaves out.
    Later(Option<Joined>),
}

/// An open user namespace to join.
#[derive(Clone)]
struct Joined {
    namespace: Arc<File>,
    range: IdRange,
}

impl Joined {
    fn open(users: &UserNamespace) -> Result<Self, ShimError> {
        let namespace = File::open(&users.path)
            .map_err(ShimError::io("cannot open the container's user namespace"))?;
        Ok(Self {
            namespace: Arc::new(namespace),
            range: users.range,
        })
    }

    /// Makes this process, which has all rights on the node, one of the user namespace's root.
    fn enter(&self, plan: &Plan) -> io::Result<()> {
        // Its terminal was made by a user of the node.
        if let Some(uid) = self.range.on_node(plan.uid) {
            for fd in 0..3 {
                give_terminal(fd, uid)?;
            }
        }
        // SAFETY: the descriptor is open, and this process has a single thread.
        check(unsafe { libc::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWUSER) })?;
        // SAFETY: no memory is involved.
        check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
        // SAFETY: as above.
        check(unsafe { libc::setresgid(0, 0, 0) })?;
        // SAFETY: as above.
        check(unsafe { libc::setresuid(0, 0, 0) }).map(drop)
    }
}

impl Executor for PlanExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let entered = match &self.entry {
            Entry::First => propagate(spec),
            Entry::Later(None) => Ok(()),
            Entry::Later(Some(users)) => users
                .enter(&self.plan)
                .map_err(|e| format!("cannot join the container's user namespace: {e}")),
        };
        let reason = match entered {
            Ok(()) => self.plan.become_process(),
            Err(reason) => reason,
        };
        let text = format!("E{reason}\n");
        // SAFETY: the buffer outlives the call; the descriptor is inherited and open.
        unsafe { libc::write(self.report, text.as_ptr().cast(), text.len()) };
        // The launcher must not continue in a partially created container.
        // SAFETY: ends the process without running any destructor.
        unsafe { libc::_exit(128) }
    }

    fn validate(&self, _spec: &Spec) -> Result<(), ExecutorValidationError> {
        // The plan looks up its program later, as the container's user.
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
