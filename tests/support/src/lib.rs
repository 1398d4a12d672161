//! Shared code of the whole-cluster tests: a cluster per test, stock kubectl, and a check
//! for leftovers.
//!
//! - `RKUBE_TEST_DRIVER` selects the driver (default: native).
//! - `RKUBE_TEST_BINARY` is the path of the rkube under test (default: the debug build).
//! - `RKUBE_TEST_KUBECTL` is the path of kubectl (default: the one in `PATH`).

pub mod browser;
pub mod engine;
pub mod image;
pub mod leftovers;
mod range;
mod skip;

pub use skip::{not_applicable, skipped, strict};

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The default timeout of a wait. It is generous, because a debug build on two busy cores
/// is slow.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Returns the timeout of a wait: [`LIMIT`], or four times as much with the qemu driver,
/// whose nodes may be emulated.
pub fn limit() -> Duration {
    if driver() == "qemu" { LIMIT * 4 } else { LIMIT }
}

/// Returns [`limit`] as kubectl's flag `--timeout`.
pub fn timeout() -> String {
    format!("--timeout={}s", limit().as_secs())
}

/// Returns the number of nodes for a test that asks for `count`: at most two with the qemu
/// driver, whose nodes may be emulated.
pub fn nodes(count: usize) -> usize {
    if driver() == "qemu" {
        count.min(2)
    } else {
        count
    }
}

/// Returns the path of the binary under test.
///
/// # Panics
/// If `RKUBE_TEST_BINARY` is not set and the binary was not built.
pub fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("RKUBE_TEST_BINARY") {
        return PathBuf::from(binary);
    }
    // A test program's path is `target/…/PROFILE/deps/NAME`.
    let test = std::env::current_exe().expect("a path");
    let binary = test
        .ancestors()
        .nth(2)
        .expect("a target directory")
        .join("rkube");
    assert!(
        binary.exists(),
        "{} is missing: run `cargo build -p rkube`, or set RKUBE_TEST_BINARY",
        binary.display()
    );
    binary
}

/// Returns the name of the driver under test.
pub fn driver() -> String {
    std::env::var("RKUBE_TEST_DRIVER").unwrap_or_else(|_| "native".into())
}

/// Returns whether the native driver is under test. If not, reports that `what` does not
/// apply.
pub fn is_native(what: &str) -> bool {
    let native = driver() == "native";
    if !native {
        not_applicable(&format!("{what} is the native driver's"));
    }
    native
}

/// Returns the reason why this machine cannot run whole-cluster tests, if there is one.
pub fn missing() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root");
    }
    if Command::new(kubectl_binary())
        .args(["version", "--client"])
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        return Some("no kubectl");
    }
    if driver() == "qemu"
        && let Some(reason) = missing_for_machines()
    {
        return Some(reason);
    }
    if driver() == "docker" && !engine::answers() {
        return Some("no container engine, or no docker command to look at it with");
    }
    None
}

/// Returns the reason why this machine cannot run virtual machines, if there is one.
/// `RKUBE_KERNEL` is the path of their kernel if none is installed.
pub fn missing_for_machines() -> Option<&'static str> {
    if !has("qemu-system-x86_64") && !has("qemu-system-aarch64") {
        return Some("no QEMU");
    }
    let kernels = || {
        let found = std::fs::read_dir("/boot").ok()?.flatten();
        let mut names = found.map(|e| e.file_name().to_string_lossy().into_owned());
        names.find_map(|n| Some(n.strip_prefix("vmlinuz-")?.to_owned()))
    };
    let release = kernels();
    let installed = release.is_some_and(|r| Path::new("/lib/modules").join(r).exists());
    if std::env::var_os("RKUBE_KERNEL").is_none() && !installed {
        return Some("no kernel for virtual machines in /boot or RKUBE_KERNEL");
    }
    None
}

fn kubectl_binary() -> PathBuf {
    std::env::var_os("RKUBE_TEST_KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from)
}

/// Skips the calling test if this machine cannot run whole-cluster tests.
#[macro_export]
macro_rules! require_machine {
    () => {
        if let Some(reason) = $crate::missing() {
            $crate::skip!("{reason}");
        }
    };
}

/// The result of a command.
#[derive(Debug)]
pub struct Done {
    /// The exit code, or -1 after a signal.
    pub code: i32,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
}

impl Done {
    fn new(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Returns the standard output. Panics unless the exit code is 0.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stdout
    }

    /// Returns the standard error. Panics unless the exit code is `code`.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(
            self.code, code,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stderr
    }
}

/// A temporary directory and a profile for one test. Dropping it deletes the cluster and,
/// unless the test failed, asserts that nothing is left.
///
/// With `RKUBE_TEST_KEEP`, a failed test keeps both.
pub struct Cluster {
    /// The profile's name, which is also the first node's.
    pub profile: String,
    dir: tempfile::TempDir,
    range: range::Range,
}

impl Cluster {
    /// Returns a profile that has not been started.
    pub fn plan(name: &str) -> Self {
        // The process ID keeps parallel test runs apart. Names must stay short.
        let profile = format!("t{}-{name}", std::process::id() % 100_000);
        Self {
            profile,
            dir: tempfile::tempdir().expect("a folder"),
            range: range::Range::claim(),
        }
    }

    /// Starts a cluster with `count` nodes, limited by [`nodes`].
    pub fn start(name: &str, count: usize) -> Self {
        let cluster = Self::plan(name);
        let nodes = nodes(count);
        cluster
            .rkube(&["start", "--nodes", &nodes.to_string()])
            .ok();
        cluster
    }

    /// Returns the path of a file in the test's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns `RKUBE_HOME` of the test.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// Returns the path of the test's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// Returns the name of node `i`, counted from 1.
    pub fn node(&self, i: usize) -> String {
        if i == 1 {
            self.profile.clone()
        } else {
            format!("{}-m{i:02}", self.profile)
        }
    }

    /// Asserts that nothing of the cluster is left on the host.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        leftovers::assert_none(&self.profile, &self.home(), &self.range.prefix());
    }

    fn prepare(&self, command: &mut Command) {
        command
            .env("RKUBE_HOME", self.home())
            .env("KUBECONFIG", self.kubeconfig())
            .env("RKUBE_PROFILE", &self.profile)
            .env("RKUBE_SUBNET", self.range.cidr())
            .env("RKUBE_DRIVER", driver());
        if driver() == "qemu" {
            // Small machines, because tests run several of them in parallel.
            for (name, value) in [("RKUBE_MEMORY", "768m"), ("RKUBE_CPUS", "1")] {
                if std::env::var_os(name).is_none() {
                    command.env(name, value);
                }
            }
        }
        command.env_remove("RKUBE_NODES").stdin(Stdio::null());
    }

    /// Returns a command that runs `rkube` with this profile.
    pub fn rkube_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args);
        self.prepare(&mut command);
        command
    }

    /// Runs `rkube` with this profile.
    pub fn rkube(&self, args: &[&str]) -> Done {
        Done::new(self.rkube_command(args).output().expect("rkube runs"))
    }

    /// Returns a command that runs `kubectl` with this profile's kubeconfig.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(kubectl_binary());
        // Keeps the discovery cache separate from those of other tests' clusters.
        command
            .args(args)
            .env("KUBECACHEDIR", self.path("cache"))
            .env("HOME", self.dir.path());
        self.prepare(&mut command);
        command
    }

    /// Runs `kubectl` with this profile's kubeconfig.
    pub fn kubectl(&self, args: &[&str]) -> Done {
        Done::new(self.kubectl_command(args).output().expect("kubectl runs"))
    }

    /// Applies `manifest` by `kubectl apply -f -` and returns the output.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.kubectl_stdin(&["apply", "-f", "-"], manifest).ok()
    }

    /// Runs `kubectl` with `input` on standard input.
    pub fn kubectl_stdin(&self, args: &[&str], input: &str) -> Done {
        use std::io::Write;
        let mut command = self.kubectl_command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        child
            .stdin
            .take()
            .expect("stdin")
            .write_all(input.as_bytes())
            .expect("kubectl reads");
        Done::new(child.wait_with_output().expect("kubectl ends"))
    }

    /// Waits until `kubectl` succeeds with an output that `good` accepts, and returns it.
    #[track_caller]
    pub fn wait_for(&self, args: &[&str], good: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + limit();
        loop {
            let done = self.kubectl(args);
            if done.code == 0 && good(&done.stdout) {
                return done.stdout;
            }
            if Instant::now() > deadline {
                let pods = self.kubectl(&["get", "pods,events", "-A", "-o", "wide"]);
                panic!(
                    "kubectl {args:?} never printed it; last: {done:?}\n{}",
                    pods.stdout
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Creates the deployment `kubia` of the demo image and waits until it is ready.
    pub fn deploy_kubia(&self, replicas: u32) {
        let replicas = format!("--replicas={replicas}");
        self.kubectl(&[
            "create",
            "deployment",
            "kubia",
            "--image=rkube/kubia",
            &replicas,
        ])
        .ok();
        self.kubectl(&["rollout", "status", "deployment/kubia", &timeout()])
            .ok();
    }

    /// Returns the names of the pods with the label `app=APP`.
    pub fn pods(&self, app: &str) -> Vec<String> {
        let selector = format!("app={app}");
        let text = self
            .kubectl(&[
                "get",
                "pods",
                "-l",
                &selector,
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}{\"\\n\"}{end}",
            ])
            .ok();
        text.lines().map(str::to_owned).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.rkube(&["logs", "--length", "40"]);
            eprintln!("{}", logs.stdout);
            if std::env::var_os("RKUBE_TEST_KEEP").is_some() {
                eprintln!(
                    "kept: RKUBE_HOME={} -p {}",
                    self.home().display(),
                    self.profile
                );
                std::mem::forget(std::mem::replace(
                    &mut self.dir,
                    tempfile::tempdir().expect("a folder"),
                ));
                return;
            }
        }
        let done = self.rkube(&["delete"]);
        // Code 85: the cluster does not exist.
        if !std::thread::panicking() {
            assert!(done.code == 0 || done.code == 85, "delete failed: {done:?}");
            self.assert_nothing_left();
        }
    }
}

/// A process that is killed on drop.
pub struct Running(pub Child);

impl Running {
    /// Sends SIGINT, as Ctrl-C does, waits for the process and returns its exit code, or -1
    /// after a signal.
    pub fn interrupt(mut self) -> i32 {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("signal");
        self.0.wait().expect("ends").code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls `attempt` until it returns a value, and returns that. Panics after [`limit`].
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Requests `http://ADDRESS/` and returns the body, or `None` if there is no response.
pub fn http_get(address: &str) -> Option<String> {
    use std::io::{Read, Write};
    let target: std::net::SocketAddr = address.parse().ok()?;
    let mut stream = std::net::TcpStream::connect_timeout(&target, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.split_once("\r\n\r\n")?.1.to_owned())
}

/// Returns whether a program is in `PATH`.
pub fn has(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|d| d.join(program).exists())
}
