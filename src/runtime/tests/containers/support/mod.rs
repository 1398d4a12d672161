//! A runtime in a temporary directory, with a busybox image.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rkube_runtime::{
    ContainerSpec, ContainerState, ContainerStatus, ExecOutput, Runtime, RuntimeConfig, SandboxSpec,
};

pub const BUSYBOX: &str = "/bin/busybox";
pub const IMAGE: &str = "test/busybox:1";

/// Returns the reason why containers cannot run on this machine, if any.
pub fn unable() -> Option<String> {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        return Some("not root".into());
    }
    if !Path::new(BUSYBOX).exists() {
        return Some(format!("{BUSYBOX} is not there (Debian: busybox-static)"));
    }
    if !Path::new("/sys/fs/cgroup").exists() {
        return Some("no cgroups".into());
    }
    None
}

/// Returns the tar of a layer with busybox and a user.
fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let dir = |tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        tar.append_data(&mut header, path, std::io::empty())
            .unwrap();
    };
    for path in ["bin", "etc", "proc", "sys", "dev", "root", "home"] {
        dir(&mut tar, path, 0o755);
    }
    dir(&mut tar, "tmp", 0o1777);
    let file = |tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    };
    file(
        &mut tar,
        "bin/busybox",
        0o755,
        &std::fs::read(BUSYBOX).unwrap(),
    );
    file(
        &mut tar,
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/home/web:/bin/sh\n",
    );
    file(
        &mut tar,
        "etc/group",
        0o644,
        b"root:x:0:\nadm:x:4:web\nweb:x:33:\n",
    );
    file(&mut tar, "etc/notes", 0o600, b"secret");
    for applet in [
        "sh", "cat", "echo", "id", "sleep", "ls", "hostname", "mount", "grep", "head", "dd",
        "mkdir", "touch", "ps", "kill", "stty", "tail", "true", "false", "chmod", "nc", "ip",
        "unshare", "readlink", "wc", "stat", "printf", "tr", "test", "env", "pwd", "mknod", "tty",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")
            .unwrap();
    }
    tar.into_inner().unwrap()
}

/// Returns a Docker archive with the layer.
pub fn docker_archive(architecture: &str) -> Vec<u8> {
    let layer = layer();
    let digest = ring::digest::digest(&ring::digest::SHA256, &layer);
    let hex: String = digest.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let config = serde_json::json!({
        "architecture": architecture, "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin", "FROM=image"], "WorkingDir": "/srv/dir"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{hex}")]},
    })
    .to_string();
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}
    ])
    .to_string();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("layer.tar", &layer[..]),
        ("config.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

pub fn host_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}

/// The runtime of one test.
pub struct Bench {
    pub runtime: Runtime,
    pub dir: PathBuf,
    pub cgroup: String,
}

impl Bench {
    pub fn config(dir: &Path, cgroup: &str) -> RuntimeConfig {
        let mut config = RuntimeConfig::new(
            dir.join("root"),
            dir.join("images"),
            dir.join("run"),
            std::env::current_exe().unwrap(),
        );
        config.cgroup_parent = cgroup.to_string();
        config
    }

    /// Creates a sandbox for the test's containers.
    pub async fn sandbox(&self) -> String {
        self.sandbox_with(SandboxSpec {
            hostname: "pod-1".into(),
            name: "pod-1".into(),
            ..SandboxSpec::default()
        })
        .await
    }

    pub async fn sandbox_with(&self, spec: SandboxSpec) -> String {
        self.runtime.run_sandbox(spec).await.unwrap().id
    }

    /// Returns the specification of a container that runs a shell script.
    pub fn script(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            name: "c".into(),
            image: IMAGE.into(),
            command: Some(vec!["sh".into(), "-c".into(), script.into()]),
            log_path: Some(
                self.dir
                    .join(format!("logs/{:08x}.log", rand::random::<u32>())),
            ),
            ..ContainerSpec::default()
        }
    }

    /// Creates and starts a container. Returns its ID.
    pub async fn start(&self, sandbox: &str, spec: ContainerSpec) -> String {
        let id = self.runtime.create_container(sandbox, spec).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// Runs a container to its exit. Returns its status, and its log without times.
    pub async fn run(&self, sandbox: &str, spec: ContainerSpec) -> (ContainerStatus, String) {
        let log = spec.log_path.clone().unwrap();
        let id = self.start(sandbox, spec).await;
        let status = self.end(&id).await;
        (status, text(&log))
    }

    pub async fn end(&self, id: &str) -> ContainerStatus {
        tokio::time::timeout(Duration::from_secs(30), self.runtime.wait_container(id))
            .await
            .unwrap()
            .unwrap()
    }

    pub async fn sh(&self, id: &str, script: &str) -> ExecOutput {
        let command = ["sh".to_string(), "-c".into(), script.into()];
        self.runtime
            .exec_sync(id, &command, Duration::from_secs(20))
            .await
            .unwrap()
    }

    pub async fn out(&self, id: &str, script: &str) -> String {
        String::from_utf8(self.sh(id, script).await.stdout)
            .unwrap()
            .trim()
            .to_string()
    }
}

/// Returns a log's text without times and tags.
pub fn text(log: &Path) -> String {
    std::fs::read_to_string(log)
        .unwrap_or_default()
        .lines()
        .map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap_or("")))
        .collect()
}

/// Runs a test with a separate runtime, and removes everything afterwards.
pub fn with_bench<F>(test: impl FnOnce(std::sync::Arc<Bench>) -> F)
where
    F: Future<Output = ()>,
{
    let base =
        std::env::var_os("RKUBE_TEST_DIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let temporary = tempfile::Builder::new()
        .prefix("rkube-runtime-")
        .tempdir_in(base)
        .unwrap();
    let dir = temporary.path().to_path_buf();
    let cgroup = format!("/rkube-test-{:08x}", rand::random::<u32>());
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let result = tokio.block_on(async {
        let runtime = Runtime::open(Bench::config(&dir, &cgroup)).await.unwrap();
        let archive = dir.join("busybox.tar");
        std::fs::write(&archive, docker_archive(host_architecture())).unwrap();
        let names = runtime.load_image(&archive).await.unwrap();
        assert_eq!(names, ["docker.io/test/busybox:1"]);
        let bench = std::sync::Arc::new(Bench {
            runtime: runtime.clone(),
            dir: dir.clone(),
            cgroup: cgroup.clone(),
        });
        let result =
            futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(test(bench))).await;
        for sandbox in runtime.list_sandboxes() {
            runtime.remove_sandbox(&sandbox.id).await.unwrap();
        }
        result
    });
    drop(tokio);
    // They stay as long as the node.
    for kind in ["proc", "sysfs"] {
        let _ = nix::mount::umount(&dir.join("run/kernel").join(kind));
    }
    remove_cgroups(&cgroup);
    assert_clean(&dir, &cgroup);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn remove_cgroups(cgroup: &str) {
    let name = cgroup.trim_start_matches('/');
    for root in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = std::fs::remove_dir(root.path().join(name));
    }
    let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(name));
}

/// Asserts that no mount, cgroup or process of the test is left.
fn assert_clean(dir: &Path, cgroup: &str) {
    let dir = dir.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let left: Vec<&str> = mounts.lines().filter(|line| line.contains(dir)).collect();
    assert!(left.is_empty(), "mounts left: {left:#?}");
    for root in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let path = root.path().join(cgroup.trim_start_matches('/'));
        assert!(!path.exists(), "cgroup left: {}", path.display());
    }
    // A shim exits shortly after its container.
    let begun = std::time::Instant::now();
    loop {
        let left: Vec<String> = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(dir))
            .collect();
        if left.is_empty() {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "processes left: {left:#?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn is_running(status: &ContainerStatus) -> bool {
    status.state == ContainerState::Running
}
