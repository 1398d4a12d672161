//! `sudo rkube`: the cluster belongs to the user who ran sudo.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rkube_testing::{Cluster, binary, require_machine};

/// A user ID that is not in any machine's /etc/passwd.
const USER: u32 = 61_234;

/// The home directory of a user, and programs that the user may execute.
struct User {
    profile: String,
    dir: tempfile::TempDir,
}

impl User {
    fn new(profile: &str) -> Self {
        let dir = tempfile::tempdir_in("/tmp").expect("a directory");
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("mode");
        let user = Self {
            profile: profile.to_owned(),
            dir,
        };
        std::fs::create_dir(user.home()).expect("a home");
        chown(user.home(), Some(USER), Some(USER)).expect("an owner");
        std::fs::copy(binary(), user.binary()).expect("a copy");
        std::fs::set_permissions(user.binary(), Permissions::from_mode(0o755)).expect("mode");
        user
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn binary(&self) -> PathBuf {
        self.dir.path().join("rkube")
    }

    fn environment(&self, command: &mut Command) {
        for name in ["RKUBE_HOME", "KUBECONFIG", "XDG_RUNTIME_DIR", "RKUBE_NODES"] {
            command.env_remove(name);
        }
        command
            .env("RKUBE_PROFILE", &self.profile)
            .env("RKUBE_DRIVER", "native");
    }

    /// Runs rkube as root with the variables that sudo sets.
    fn sudo(&self, args: &[&str]) -> Output {
        let mut command = Command::new(self.binary());
        self.environment(&mut command);
        command
            .args(args)
            .env("HOME", self.dir.path().join("root"))
            .env("SUDO_UID", USER.to_string())
            .env("SUDO_GID", USER.to_string())
            .env("SUDO_USER", "rkube-test")
            .env("SUDO_HOME", self.home());
        command.output().expect("rkube runs")
    }

    /// Runs a program as the user.
    fn run(&self, program: &Path, args: &[&str]) -> Output {
        let mut command = Command::new("setpriv");
        self.environment(&mut command);
        command
            .arg(format!("--reuid={USER}"))
            .arg(format!("--regid={USER}"))
            .arg("--clear-groups")
            .arg(program)
            .args(args)
            .env("HOME", self.home());
        command.output().expect("setpriv runs")
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // If the test reached its own `delete`, nothing is left to delete.
        let _ = self.sudo(&["delete"]);
    }
}

#[track_caller]
fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_cluster_started_with_sudo_is_the_users() {
    require_machine!();
    if !rkube_testing::has("setpriv") || !rkube_testing::is_native("starting with sudo") {
        return;
    }
    let cluster = Cluster::plan("sudo");
    let user = User::new(&cluster.profile);
    ok(&user.sudo(&["start"]));

    let text = ok(&user.run(&user.binary(), &["status", "-o", "json"]));
    let status: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(status["Host"], "Running", "{status}");
    assert_eq!(status["Kubeconfig"], "Configured", "{status}");
    let kubectl = PathBuf::from(cluster.kubectl_command(&[]).get_program());
    let copy = user.dir.path().join("kubectl");
    let kubectl = match std::fs::copy(&kubectl, &copy) {
        Ok(_) => copy,
        // A program name without a path is found in PATH.
        Err(_) => kubectl,
    };
    let nodes = ok(&user.run(&kubectl, &["get", "nodes"]));
    assert!(nodes.contains(&cluster.profile), "{nodes}");

    let kubeconfig = user.home().join(".kube/config");
    let profile = user.home().join(".rkube/profiles").join(&cluster.profile);
    for path in [
        kubeconfig,
        profile.join("profile.yaml"),
        profile.join("pki/admin.key"),
        profile.join("ssh/id_ed25519"),
    ] {
        let meta = path.symlink_metadata().expect("a file");
        assert_eq!((meta.uid(), meta.gid()), (USER, USER), "{path:?}");
        assert_eq!(meta.mode() & 0o777, 0o600, "{path:?}");
    }

    let refused = user.run(&user.binary(), &["stop"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(37), "{said}");
    assert!(said.contains("sudo rkube stop"), "{said}");

    ok(&user.sudo(&["delete"]));
    assert!(!user.home().join(".rkube").exists());
    assert!(!Path::new("/run/rkube").join(&cluster.profile).exists());
}
