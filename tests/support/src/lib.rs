//! What whole-cluster tests share: a cluster of their own, stock kubectl, a
//! look at what is left behind.
//!
//! `RKUBE_TEST_DRIVER` chooses the driver (native otherwise),
//! `RKUBE_TEST_BINARY` names the rkube under test (the debug build otherwise),
//! `RKUBE_TEST_KUBECTL` the kubectl (the one in `PATH` otherwise).

pub mod browser;
pub mod engine;
pub mod image;
pub mod leftovers;
mod skip;

pub use skip::{not_applicable, skipped, strict};

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before a test gives up; generous, because a
/// debug build on two busy cores is slow.
pub const LIMIT: Duration = Duration::from_secs(120);

/// [`LIMIT`], longer where nodes may be emulated.
pub fn limit() -> Duration {
    if driver() == "qemu" { LIMIT * 4 } else { LIMIT }
}

/// [`limit`] as kubectl takes it.
pub fn timeout() -> String {
    format!("--timeout={}s", limit().as_secs())
}

/// How many nodes a test that wants `count` gets: two where they may be emulated.
pub fn nodes(count: usize) -> usize {
    if driver() == "qemu" {
        count.min(2)
    } else {
        count
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(binary) = std::env::var_os("RKUBE_TEST_BINARY") {
        return PathBuf::from(binary);
    }
    // A test program is `target/…/PROFILE/deps/NAME`.
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

/// The driver under test.
pub fn driver() -> String {
    std::env::var("RKUBE_TEST_DRIVER").unwrap_or_else(|_| "native".into())
}

/// Whether the native driver is under test; if not, reports which part of the test
/// does not apply.
pub fn is_native(what: &str) -> bool {
    let native = driver() == "native";
    if !native {
        not_applicable(&format!("{what} is the native driver's"));
    }
    native
}

/// Why this machine cannot run whole-cluster tests, if so. Tests skip, saying it.
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

/// Why this machine cannot run virtual machines, if so. `RKUBE_KERNEL` names
/// their kernel where none is installed.
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

/// Skips a test with its reason where the machine lacks something.
#[macro_export]
macro_rules! require_machine {
    () => {
        if let Some(reason) = $crate::missing() {
            $crate::skip!("{reason}");
        }
    };
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
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

    /// Its standard output, having succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "stdout: {}\nstderr: {}",
            self.stdout, self.stderr
        );
        self.stdout
    }

    /// Its standard error, having failed with `code`.
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

/// A folder and a profile name of a test's own; deleted with everything at the end.
pub struct Cluster {
    pub profile: String,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// A profile that has not been started.
    pub fn plan(name: &str) -> Self {
        // The process id keeps test runs apart; names must stay short.
        let profile = format!("t{}-{name}", std::process::id() % 100_000);
        Self {
            profile,
            dir: tempfile::tempdir().expect("a folder"),
        }
    }

    /// A running cluster of [`nodes`].
    pub fn start(name: &str, count: usize) -> Self {
        let cluster = Self::plan(name);
        let nodes = nodes(count);
        cluster
            .rkube(&["start", "--nodes", &nodes.to_string()])
            .ok();
        cluster
    }

    /// A file of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// A name of the cluster's nodes, counted from 1.
    pub fn node(&self, i: usize) -> String {
        if i == 1 {
            self.profile.clone()
        } else {
            format!("{}-m{i:02}", self.profile)
        }
    }

    fn prepare(&self, command: &mut Command) {
        command
            .env("RKUBE_HOME", self.home())
            .env("KUBECONFIG", self.kubeconfig())
            .env("RKUBE_PROFILE", &self.profile)
            .env("RKUBE_DRIVER", driver());
        if driver() == "qemu" {
            // Small machines: tests run some of them at once.
            for (name, value) in [("RKUBE_MEMORY", "768m"), ("RKUBE_CPUS", "1")] {
                if std::env::var_os(name).is_none() {
                    command.env(name, value);
                }
            }
        }
        command.env_remove("RKUBE_NODES").stdin(Stdio::null());
    }

    pub fn rkube_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(args);
        self.prepare(&mut command);
        command
    }

    /// Runs `rkube` for this profile.
    pub fn rkube(&self, args: &[&str]) -> Done {
        Done::new(self.rkube_command(args).output().expect("rkube runs"))
    }

    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(kubectl_binary());
        // Its discovery cache must not come from another test's cluster.
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

    /// `kubectl apply -f -` of `manifest`.
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

    /// Waits until `kubectl` prints what `good` accepts, and gives that.
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

    /// Makes a deployment of the demo image, ready, with `replicas`.
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

    /// Names of the pods with the label `app=…`.
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
        // 85: there is nothing to delete.
        if !std::thread::panicking() {
            assert!(done.code == 0 || done.code == 85, "delete failed: {done:?}");
            leftovers::assert_none(&self.profile, &self.home());
        }
    }
}

/// A process that is ended at the end of its scope.
pub struct Running(pub Child);

impl Running {
    /// Sends SIGINT, as Ctrl-C does, and waits for the end.
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

/// Waits until `attempt` gives something.
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

/// The body of `http://address/`, by a plain HTTP/1.1 request.
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

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|d| d.join(program).exists())
}

/// A file of the machine, or the reason to skip.
pub fn file(path: &str) -> Option<&Path> {
    Path::new(path).exists().then_some(Path::new(path))
}
