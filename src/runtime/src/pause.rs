//! `rkube pause`: the first process of a PID namespace that containers share.
//!
//! It only adopts and reaps orphans. Its `/proc/1/root` is visible to every container of the pod,
//! so it has no privileges, no open files and an empty root directory.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::beneath::check;

/// The unprivileged user and group of the process, as in upstream's pause image.
const NOBODY: u32 = 65535;

/// Name of the file in the sandbox's run directory that holds the PID.
pub const PID_FILE: &str = "pause.pid";

/// Runs `rkube pause <sandbox run directory>`. Prints the PID of the new namespace's first process,
/// which keeps running. Returns the exit code.
pub fn main(args: &[OsString]) -> i32 {
    let [dir] = args else {
        eprintln!("usage: rkube pause DIRECTORY");
        return 2;
    };
    match start(Path::new(dir)) {
        Ok(()) => 0,
        Err(e) => {
            println!("error {e}");
            1
        }
    }
}

/// Joins the sandbox's namespaces, and forks the first process of a new PID namespace.
fn start(dir: &Path) -> io::Result<()> {
    // A member of the user namespace could not write it any more.
    let mut record = File::create(dir.join(PID_FILE))?;
    // The user namespace is last, because with it the rights over the node's are lost.
    for (name, kind) in [
        ("net", libc::CLONE_NEWNET),
        ("ipc", libc::CLONE_NEWIPC),
        ("uts", libc::CLONE_NEWUTS),
        ("user", libc::CLONE_NEWUSER),
    ] {
        match File::open(dir.join(name)) {
            // SAFETY: the descriptor is open.
            Ok(file) => drop(check(unsafe { libc::setns(file.as_raw_fd(), kind) })?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        }
        if kind == libc::CLONE_NEWUSER {
            // SAFETY: no memory is involved.
            unsafe {
                check(libc::setresgid(0, 0, 0))?;
                check(libc::setresuid(0, 0, 0))?;
            }
        }
    }
    // SAFETY: this process has a single thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS) })?;
    let (reader, writer) = crate::shim::sys::pipe()?;
    let (gate, opener) = crate::shim::sys::pipe()?;
    // SAFETY: as above.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        drop((reader, opener));
        let result = wait_for_record(gate).and_then(|()| isolate(dir));
        let mut writer = File::from(writer);
        if let Err(e) = result {
            let _ = writer.write_all(e.to_string().as_bytes());
            // SAFETY: ends the process.
            unsafe { libc::_exit(1) };
        }
        drop(writer);
        reap();
    }
    drop((writer, gate));
    record.write_all(pid.to_string().as_bytes())?;
    File::from(opener).write_all(b"g")?;
    let mut reason = String::new();
    io::Read::read_to_string(&mut File::from(reader), &mut reason)?;
    if !reason.is_empty() {
        return Err(io::Error::other(reason));
    }
    println!("{pid}");
    io::stdout().flush()
}

/// Takes the name by which the process is recognized, and waits until its PID is recorded. Fails if
/// that does not happen, so that no process outlives a sandbox that does not know of it.
fn wait_for_record(gate: OwnedFd) -> io::Result<()> {
    // SAFETY: the only memory involved is the constant name.
    unsafe { libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr()) };
    io::Read::read_exact(&mut File::from(gate), &mut [0])
}

/// Drops all resources and privileges: mounts, open files, user and capabilities.
fn isolate(dir: &Path) -> io::Result<()> {
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    // SAFETY: no memory is involved.
    check(unsafe { libc::setsid() })?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some("pause"),
        dir,
        Some("tmpfs"),
        flags,
        Some("size=4k,mode=555"),
    )?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    std::env::set_current_dir(dir)?;
    // SAFETY: both strings are constants; the new root is stacked on the old one.
    if unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")?;
    for fd in 0..3 {
        // SAFETY: no memory is involved.
        check(unsafe { libc::dup2(null.as_raw_fd(), fd) })?;
    }
    // SAFETY: no memory is involved. Leaving user 0 clears the capabilities.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(NOBODY, NOBODY, NOBODY))?;
        check(libc::setresuid(NOBODY, NOBODY, NOBODY))?;
    }
    Ok(())
}

/// Reaps orphans forever. Only SIGKILL from outside ends the namespace.
fn reap() -> ! {
    // SAFETY: the set is initialized before use, and all pointers are valid.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            libc::sigwaitinfo(&raw const set, std::ptr::null_mut());
        }
    }
}
