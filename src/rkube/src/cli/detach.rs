//! Processes that outlive the command that starts them, and its terminal.

use std::io;
use std::process::{Child, Command, Stdio};

use rkube_cluster::Home;

/// Starts rkube with `words` in the background, without input and output.
pub fn spawn(home: &Home, words: &[&str]) -> io::Result<Child> {
    command(home, words)?.spawn()
}

/// Starts rkube like [`spawn`], as the user whose directory `home` is: the process belongs to no
/// cluster, so it has no need of root, which may have started a cluster for that user.
pub fn spawn_as_owner(home: &Home, words: &[&str]) -> io::Result<Child> {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;

    let mut command = command(home, words)?;
    let (owner, own) = (home.root().metadata()?, effective_user());
    if own == 0 && owner.uid() != 0 {
        command.uid(owner.uid()).gid(owner.gid());
        command.env("RKUBE_HOME", home.root());
    }
    command.spawn()
}

/// Returns the user of this process.
fn effective_user() -> u32 {
    #[cfg(target_os = "linux")]
    return nix::unistd::geteuid().as_raw();
    // rkube does not act for other users elsewhere.
    #[cfg(not(target_os = "linux"))]
    return u32::MAX;
}

fn command(home: &Home, words: &[&str]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(words)
        // It keeps no directory busy, so paths must not depend on this one.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if std::env::var_os("RKUBE_HOME").is_some_and(|home| !home.is_empty()) {
        command.env("RKUBE_HOME", home.root());
    }
    // Elsewhere it becomes the leader of a session, which leaves the terminal altogether.
    #[cfg(not(target_os = "linux"))]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    Ok(command)
}

/// Leaves the terminal, in the process that [`spawn`] has started.
pub fn leave_terminal() {
    // Fails only for the leader of a group, which a shell has started; that may stay.
    #[cfg(target_os = "linux")]
    let _ = nix::unistd::setsid();
}
