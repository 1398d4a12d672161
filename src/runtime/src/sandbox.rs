//! Sandboxes: namespaces that are kept by bind mounts of their files, without a process, and a
//! `/dev/shm`. `rkube pause` runs only if the containers share a PID namespace.
//!
//! The namespaces of a sandbox with a user namespace belong to that.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use jiff::Timestamp;
use nix::mount::{MsFlags, mount};
use rkube_fsutil::{remove_tree, write_atomic};
use serde::{Deserialize, Serialize};

use crate::beneath::check;
use crate::container::read_json;
use crate::error::{Context, Result, RuntimeError};
use crate::oci::{Namespaces, PidNamespace};
use crate::pause::PID_FILE;
use crate::shim::sys;
use crate::snapshot::unmount;
use crate::spec::{HostNamespaces, SandboxSpec};
use crate::status::{Sandbox, SandboxState};
use crate::tree::pin;
use crate::users::{self, Users};

/// Default size of a sandbox's `/dev/shm` in bytes, as in Docker.
const SHM_BYTES: u64 = 64 << 20;

/// Prefixes of kernel parameters that belong to the network namespace.
const NETWORK_SYSCTLS: &[&str] = &["net."];
/// Prefixes of kernel parameters that belong to the IPC namespace.
const IPC_SYSCTLS: &[&str] = &["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];

/// A sandbox, as recorded on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// ID of the sandbox.
    pub id: String,
    /// The specification.
    pub spec: SandboxSpec,
    /// Time of creation.
    pub created_at: Timestamp,
    /// PID of the `pause` process, if there is one.
    pub pid: Option<i32>,
    /// Whether the sandbox was stopped.
    #[serde(default)]
    pub stopped: bool,
    /// Directory of its pinned namespaces.
    #[serde(skip)]
    pub run: PathBuf,
}

impl SandboxRecord {
    /// Creates a sandbox's namespaces. On failure, nothing is left.
    pub fn create(id: String, spec: SandboxSpec, run: PathBuf, binary: &Path) -> Result<Self> {
        let mut record = Self {
            id,
            spec,
            created_at: Timestamp::now(),
            pid: None,
            stopped: false,
            run,
        };
        let result = record.build(binary);
        if let Err(e) = result {
            let _ = record.tear_down();
            return Err(e);
        }
        Ok(record)
    }

    fn build(&mut self, binary: &Path) -> Result<()> {
        check_sysctls(&self.spec)?;
        fs::create_dir_all(&self.run).context(|| format!("cannot make {}", self.run.display()))?;
        let spec = self.spec.clone();
        let run = self.run.clone();
        // The thread unshares its own namespaces. They stay alive through the bind mounts after it
        // exits.
        std::thread::Builder::new()
            .name("sandbox".into())
            .stack_size(128 * 1024)
            .spawn(move || make_namespaces(&spec, &run))
            .context(|| "cannot start a thread".into())?
            .join()
            .map_err(|_| {
                RuntimeError::Invalid("making the sandbox's namespaces failed".into())
            })??;
        if !self.spec.host.ipc {
            let shm = self.run.join("shm");
            fs::create_dir_all(&shm).context(|| format!("cannot make {}", shm.display()))?;
            let mut options = format!(
                "mode=1777,size={}",
                self.spec.shm_bytes.unwrap_or(SHM_BYTES)
            );
            if let Some(users) = self.spec.users {
                options.push_str(&format!(",uid={0},gid={0}", users.first));
            }
            let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
            mount(
                Some("shm"),
                &shm,
                Some("tmpfs"),
                flags,
                Some(options.as_str()),
            )
            .context(|| format!("cannot mount {}", shm.display()))?;
        }
        if self.spec.share_pid && !self.spec.host.pid {
            let pid = start_pause(binary, &self.run)?;
            self.pid = Some(pid);
            // Containers of a user namespace have no access to the files of this process.
            let namespace = PathBuf::from(format!("/proc/{pid}/ns/pid"));
            pin(&namespace, &self.run.join("pid"))?;
        }
        let ready = self.run.join("ready");
        fs::write(&ready, "").context(|| format!("cannot write {}", ready.display()))
    }

    /// Returns the path that pins its network namespace; `None` if it is the node's.
    pub fn netns(&self) -> Option<PathBuf> {
        (!self.spec.host.network).then(|| self.run.join("net"))
    }

    /// Returns whether containers can be created in it.
    pub fn is_ready(&self) -> bool {
        !self.stopped
            && self.run.join("ready").exists()
            && self.pid.is_none_or(|pid| process_is(pid, "pause"))
    }

    /// Returns the sandbox's status.
    pub fn status(&self) -> Sandbox {
        Sandbox {
            id: self.id.clone(),
            state: if self.is_ready() {
                SandboxState::Ready
            } else {
                SandboxState::NotReady
            },
            netns_path: self.netns(),
            pid: self.pid,
            created_at: self.created_at,
            spec: self.spec.clone(),
        }
    }

    /// Returns the host name of its containers.
    pub fn hostname(&self) -> String {
        if self.spec.host.network || self.spec.hostname.is_empty() {
            nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default()
        } else {
            self.spec.hostname.clone()
        }
    }

    /// Returns the path of its containers' `/dev/shm`.
    pub fn shm(&self) -> PathBuf {
        if self.spec.host.ipc {
            PathBuf::from("/dev/shm")
        } else {
            self.run.join("shm")
        }
    }

    /// Returns the namespaces that its containers join.
    pub fn namespaces(&self) -> Namespaces {
        let own = |host: bool, name: &str| (!host).then(|| self.run.join(name));
        Namespaces {
            network: own(self.spec.host.network, "net"),
            uts: own(self.spec.host.network, "uts"),
            ipc: own(self.spec.host.ipc, "ipc"),
            pid: match self.pid {
                _ if self.spec.host.pid => PidNamespace::Host,
                Some(pid) => {
                    let pinned = self.run.join("pid");
                    // Sandboxes of earlier versions have no such file.
                    let of_process = || PathBuf::from(format!("/proc/{pid}/ns/pid"));
                    PidNamespace::Join(if pinned.exists() {
                        pinned
                    } else {
                        of_process()
                    })
                }
                None => PidNamespace::New,
            },
            user: self.spec.users.map(|_| self.run.join("user")),
        }
    }

    /// Opens its user namespace; `None` if it is the node's.
    pub fn users(&self) -> Result<Option<Users>> {
        let open = |range| Users::open(&self.run.join("user"), range);
        self.spec.users.map(open).transpose()
    }

    /// Releases the namespaces and kills the `pause` process. Can be repeated.
    pub fn tear_down(&self) -> Result<()> {
        if let Some(pid) = self.pid {
            kill_pause(pid, &self.run)?;
        }
        release(&self.run)
    }

    /// Writes the record to `dir`.
    pub fn save(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).context(|| format!("cannot make {}", dir.display()))?;
        let bytes = serde_json::to_vec(self)
            .map_err(|e| RuntimeError::Invalid(format!("cannot encode a sandbox: {e}")))?;
        let path = dir.join("sandbox.json");
        write_atomic(&path, &bytes).context(|| format!("cannot write {}", path.display()))
    }

    /// Reads the record in `dir`. Returns `None` if it is missing or corrupt, and fails if it cannot
    /// be read.
    pub fn load(dir: &Path, run: PathBuf) -> io::Result<Option<Self>> {
        let Some(mut record) = read_json::<Self>(&dir.join("sandbox.json"))? else {
            return Ok(None);
        };
        record.run = run;
        Ok(Some(record))
    }
}

/// Kills the `pause` process of the sandbox with the run directory `run`, even if the sandbox was
/// never recorded. Releases the namespaces and removes the directory. Can be repeated.
pub fn release(run: &Path) -> Result<()> {
    let recorded = fs::read_to_string(run.join(PID_FILE)).unwrap_or_default();
    if let Ok(pid) = recorded.parse() {
        kill_pause(pid, run)?;
    }
    for name in ["net", "ipc", "uts", "pid", "user", "shm"] {
        unmount(&run.join(name))?;
    }
    remove_tree(run).context(|| format!("cannot remove {}", run.display()))
}

/// Kills the `pause` process of the sandbox with the run directory `run`. Does nothing if its PID
/// belongs to another process by now, which may be the `pause` of another sandbox.
fn kill_pause(pid: i32, run: &Path) -> Result<()> {
    // From here on, the descriptor is that of the process that is examined.
    let Ok(process) = sys::pidfd(pid) else {
        return Ok(());
    };
    let pinned = run.join("pid");
    let is_own = match (fs::metadata(&pinned), namespace_of(pid)) {
        (Ok(pinned), Some(own)) => (pinned.dev(), pinned.ino()) == own,
        // It was never pinned, or was by an earlier version. A directory of before the machine's
        // restart is gone with its file system, and so is the process.
        _ => run.exists(),
    };
    if is_own && process_is(pid, "pause") {
        sys::signal(&process, libc::SIGKILL)
            .context(|| format!("cannot kill the pause process {pid}"))?;
    }
    Ok(())
}

/// Returns the device and inode of a process's PID namespace.
fn namespace_of(pid: i32) -> Option<(u64, u64)> {
    let namespace = fs::metadata(format!("/proc/{pid}/ns/pid")).ok()?;
    Some((namespace.dev(), namespace.ino()))
}

/// Returns whether `pid` is a live process of that name. PIDs are reused after a restart, and a
/// zombie keeps its name until it is reaped.
fn process_is(pid: i32, name: &str) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let Some((head, tail)) = stat.rsplit_once(") ") else {
        return false;
    };
    head.split_once(" (").is_some_and(|(_, comm)| comm == name) && !tail.starts_with(['Z', 'X'])
}

/// Rejects kernel parameters that are not in a namespace of the pod.
fn check_sysctls(spec: &SandboxSpec) -> Result<()> {
    for name in spec.sysctls.keys() {
        let normal = name.replace('/', ".");
        let among = |prefixes: &[&str]| prefixes.iter().any(|prefix| normal.starts_with(prefix));
        let owner = if among(NETWORK_SYSCTLS) {
            (spec.host.network, "network")
        } else if is_of_ipc(name) {
            (spec.host.ipc, "IPC namespace")
        } else {
            return Err(RuntimeError::Invalid(format!(
                "sysctl {name:?} is not in a separate kernel namespace"
            )));
        };
        if owner.0 {
            return Err(RuntimeError::Invalid(format!(
                "sysctl {name:?} is not allowed: the pod uses the node's {}",
                owner.1
            )));
        }
        if normal.contains("..") {
            return Err(RuntimeError::Invalid(format!("invalid sysctl {name:?}")));
        }
    }
    Ok(())
}

/// Returns whether a kernel parameter belongs to the IPC namespace.
fn is_of_ipc(name: &str) -> bool {
    let normal = name.replace('/', ".");
    IPC_SYSCTLS.iter().any(|prefix| normal.starts_with(prefix))
}

/// Creates the namespaces of the calling thread and pins them in `run`.
fn make_namespaces(spec: &SandboxSpec, run: &Path) -> Result<()> {
    let mut flags = 0;
    let mut pins: Vec<&str> = Vec::new();
    if !spec.host.network {
        flags |= libc::CLONE_NEWNET | libc::CLONE_NEWUTS;
        pins.extend(["net", "uts"]);
    }
    if !spec.host.ipc {
        flags |= libc::CLONE_NEWIPC;
        pins.push("ipc");
    }
    let failed = || "cannot make the sandbox's namespaces".to_owned();
    match spec.users {
        None => {
            // SAFETY: these namespaces are per thread, and this thread exits soon.
            check(unsafe { libc::unshare(flags) }).context(failed)?;
        }
        Some(range) => {
            if spec.host != HostNamespaces::default() {
                return Err(RuntimeError::Invalid(
                    "a sandbox with a user namespace cannot use other namespaces of the node"
                        .into(),
                ));
            }
            users::make(range, flags, |namespaces| {
                let mut all = pins.iter().chain(&["user"]);
                all.try_for_each(|name| pin(&namespaces.join(name), &run.join(name)))
            })?;
            for name in pins.drain(..) {
                let file = File::open(run.join(name)).context(failed)?;
                // SAFETY: the descriptor is open, and this thread exits soon.
                check(unsafe { libc::setns(file.as_raw_fd(), 0) }).context(failed)?;
            }
        }
    }
    if !spec.host.network {
        if !spec.hostname.is_empty() {
            nix::unistd::sethostname(&spec.hostname)
                .context(|| format!("cannot set the host name {:?}", spec.hostname))?;
        }
        loopback_up().context(|| "cannot bring up the sandbox's loopback device".into())?;
        // As in containerd, unprivileged users may bind low ports and use ping in the pod's
        // network.
        set_sysctl("net.ipv4.ip_unprivileged_port_start", "0", spec);
        set_sysctl("net.ipv4.ping_group_range", "0 2147483647", spec);
    }
    for (name, value) in &spec.sysctls {
        let path = sysctl_path(name);
        let write = || fs::write(&path, value);
        match spec.users {
            Some(range) if is_of_ipc(name) => users::as_root(range, write),
            _ => write(),
        }
        .context(|| format!("cannot set sysctl {name}={value}"))?;
    }
    pins.iter().try_for_each(|name| {
        let own = Path::new("/proc/thread-self/ns").join(name);
        pin(&own, &run.join(name))
    })
}

/// Returns the path of a kernel parameter, whose name is dotted or a path.
fn sysctl_path(name: &str) -> PathBuf {
    // In the dotted form, a slash represents a dot in an interface name.
    if name.contains('/') && !name.contains('.') {
        Path::new("/proc/sys").join(name)
    } else {
        let swapped: String = name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect();
        Path::new("/proc/sys").join(swapped)
    }
}

/// Sets a default, unless the pod overrides it. Kernels may lack the parameter.
fn set_sysctl(name: &str, value: &str, spec: &SandboxSpec) {
    if !spec.sysctls.contains_key(name)
        && let Err(e) = fs::write(sysctl_path(name), value)
    {
        tracing::debug!("cannot set {name}: {e}");
    }
}

/// Brings up the loopback interface of the calling thread's network namespace.
fn loopback_up() -> io::Result<()> {
    // SAFETY: no memory is involved.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: ifreq is plain data, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the struct outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}

/// Starts the first process of the shared PID namespace. Returns its PID.
fn start_pause(binary: &Path, run: &Path) -> Result<i32> {
    let output = Command::new(binary)
        .arg("pause")
        .arg(run)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .context(|| format!("cannot run {}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| {
        RuntimeError::Invalid(format!(
            "cannot start the sandbox's pause process: {}",
            text.trim().trim_start_matches("error ")
        ))
    })
}

/// Connects to a port on the loopback address of a network namespace (the node's if `None`), first
/// over IPv4, then IPv6.
pub fn connect(netns: Option<PathBuf>, port: u16) -> Result<std::net::TcpStream> {
    let dial = move || -> io::Result<std::net::TcpStream> {
        if let Some(netns) = netns {
            let file = File::open(netns)?;
            // SAFETY: the descriptor is open, and the thread exits after this.
            check(unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) })?;
        }
        std::net::TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, port)).or_else(|first| {
            std::net::TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)).map_err(|_| first)
        })
    };
    std::thread::Builder::new()
        .name("sandbox-dial".into())
        .stack_size(128 * 1024)
        .spawn(dial)
        .context(|| "cannot start a thread".into())?
        .join()
        .map_err(|_| RuntimeError::Invalid("connecting to the sandbox failed".into()))?
        .context(|| format!("cannot connect to port {port} in the sandbox"))
}
