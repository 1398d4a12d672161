//! The user on whose behalf a root process runs when it was started with sudo.
//!
//! `sudo rkube start` creates a cluster for the user who entered it: `~/.rkube` and
//! `~/.kube/config` are that user's, so that `rkube status` and kubectl work without
//! sudo. What drivers create as root inside a profile (the nodes' file systems, images)
//! stays root's.
//!
//! Files are not created as root and given away afterwards: the user could replace a
//! directory by a symbolic link in between. Instead [`act_for_owner_of`] changes the
//! thread's file-system identity (setfsuid(2)). The kernel then checks every path with
//! the user's permissions, and the user owns new files.

use std::path::Path;

use rkube_failure::{Failure, Kind, Source};

#[cfg(target_os = "linux")]
pub(crate) use linux::{act_for_owner_of, owner_of, sudo_user};
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{act_for_owner_of, owner_of, sudo_user};

/// Fails if `path` is a symbolic link. Missing files are fine.
pub(crate) fn refuse_link(path: &Path) -> Result<(), Failure> {
    if !path.is_symlink() {
        return Ok(());
    }
    Err(Failure::new(
        Source::Host,
        Kind::Permission,
        format!(
            "{} is a symbolic link, which root does not follow in another user's home",
            path.display()
        ),
    )
    .advise("replace it by a directory, or set RKUBE_HOME to the directory to use"))
}

#[cfg(target_os = "linux")]
mod linux {
    use std::marker::PhantomData;
    use std::path::{Path, PathBuf};
    use std::sync::OnceLock;

    use nix::libc;
    use nix::unistd::{Gid, Uid, geteuid, getgroups, setfsgid, setfsuid};

    /// A user who started this process with sudo.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct SudoUser {
        /// The user's ID, never 0.
        pub(crate) uid: u32,
        /// The user's primary group.
        pub(crate) gid: u32,
        /// The user's home directory.
        pub(crate) home: PathBuf,
    }

    /// Returns the user who started this process with sudo; `None` if the process does
    /// not run as root, or root itself started it.
    pub(crate) fn sudo_user() -> Option<&'static SudoUser> {
        static USER: OnceLock<Option<SudoUser>> = OnceLock::new();
        USER.get_or_init(|| {
            if !geteuid().is_root() {
                return None;
            }
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            find(|name| std::env::var(name).ok(), &passwd)
        })
        .as_ref()
    }

    /// Reads sudo's variables (sudo(8), ENVIRONMENT). The home directory is the one in
    /// `passwd`; `SUDO_HOME` serves users of a directory service, who are not in it.
    pub(super) fn find(var: impl Fn(&str) -> Option<String>, passwd: &str) -> Option<SudoUser> {
        let uid: u32 = var("SUDO_UID")?.parse().ok().filter(|uid| *uid != 0)?;
        let gid: u32 = var("SUDO_GID")?.parse().ok()?;
        let user = var("SUDO_USER").unwrap_or_default();
        let home = home_in(passwd, &user, uid).or_else(|| var("SUDO_HOME"))?;
        let home = PathBuf::from(home);
        home.is_absolute().then_some(SudoUser { uid, gid, home })
    }

    /// Returns a user's home directory from the text of `/etc/passwd` (passwd(5)).
    /// Several names may share an ID; `user` decides among them.
    fn home_in(passwd: &str, user: &str, uid: u32) -> Option<String> {
        let entries = passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            match fields[..] {
                [name, _, id, _, _, home, ..] if id.parse() == Ok(uid) => Some((name, home)),
                _ => None,
            }
        });
        let entries: Vec<(&str, &str)> = entries.collect();
        let named = entries.iter().find(|(name, _)| *name == user);
        named
            .or(entries.first())
            .map(|(_, home)| (*home).to_owned())
    }

    /// The directories in which files belong to the user, given whether the variables
    /// that choose other directories are set.
    pub(super) fn owned_dirs(user: &SudoUser, is_set: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        [("RKUBE_HOME", ".rkube"), ("KUBECONFIG", ".kube")]
            .into_iter()
            .filter(|(variable, _)| !is_set(variable))
            .map(|(_, dir)| user.home.join(dir))
            .collect()
    }

    /// Returns the user who started this process with sudo and whom new files at `path`
    /// belong to.
    pub(crate) fn owner_of(path: &Path) -> Option<&'static SudoUser> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        sudo_user().filter(|user| {
            let dirs = owned_dirs(user, is_set);
            dirs.iter().any(|dir| path.starts_with(dir))
        })
    }

    /// The file-system identity that a thread had before; restored on drop.
    pub(crate) struct Identity {
        saved: Option<(Uid, Gid, Vec<Gid>)>,
        // The identity belongs to the thread.
        _not_send: PhantomData<*const ()>,
    }

    /// Makes this thread act with the permissions of the user whom `path` belongs to,
    /// until the result is dropped. Does nothing if the process was not started with
    /// sudo, or `path` is not in the user's `~/.rkube` or `~/.kube`.
    ///
    /// Must not be held across an await point: the identity is that of one thread.
    pub(crate) fn act_for_owner_of(path: &Path) -> Identity {
        Identity::of(owner_of(path))
    }

    impl Identity {
        /// Makes this thread act with the permissions of `user`, if there is one.
        pub(super) fn of(user: Option<&SudoUser>) -> Self {
            let saved = user.map(|user| {
                let groups = getgroups().unwrap_or_default();
                set_groups(&[Gid::from_raw(user.gid)]);
                let gid = setfsgid(Gid::from_raw(user.gid));
                // Last: from here on the kernel checks file access with the user's permissions.
                let uid = setfsuid(Uid::from_raw(user.uid));
                (uid, gid, groups)
            });
            Self {
                saved,
                _not_send: PhantomData,
            }
        }
    }

    impl Drop for Identity {
        fn drop(&mut self) {
            if let Some((uid, gid, groups)) = &self.saved {
                setfsuid(*uid);
                setfsgid(*gid);
                set_groups(groups);
            }
        }
    }

    /// Sets the supplementary groups of this thread only. libc's setgroups(3) would set
    /// those of all threads.
    fn set_groups(groups: &[Gid]) {
        let groups: Vec<libc::gid_t> = groups.iter().map(|gid| gid.as_raw()).collect();
        // Fails only without CAP_SETGID. Then root's groups remain, and the owner of new files is
        // still correct.
        // SAFETY: the kernel reads as many group IDs as the vector has.
        let _ = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::path::Path;

    /// A user who started this process with sudo.
    #[allow(dead_code, reason = "sudo is not looked at on this system")]
    pub(crate) struct SudoUser {
        /// The user's ID.
        pub(crate) uid: u32,
        /// The user's home directory.
        pub(crate) home: std::path::PathBuf,
    }

    /// Returns `None`: drivers on this system do not need root.
    pub(crate) fn sudo_user() -> Option<&'static SudoUser> {
        None
    }

    /// Returns `None`, as [`sudo_user`] does.
    pub(crate) fn owner_of(_path: &Path) -> Option<&'static SudoUser> {
        None
    }

    /// An unchanged identity.
    pub(crate) struct Identity;

    /// Does nothing, as [`sudo_user`] returns `None`.
    pub(crate) fn act_for_owner_of(_path: &Path) -> Identity {
        Identity
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::path::PathBuf;

    use super::linux::{Identity, SudoUser, find, owned_dirs};
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\n\
                          ann:x:1000:1000:Ann:/home/ann:/bin/bash\n\
                          anns-alias:x:1000:1000::/srv/ann:/bin/sh\n\
                          broken\n";

    fn user(vars: &[(&str, &str)]) -> Option<SudoUser> {
        let var = |name: &str| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        find(var, PASSWD)
    }

    fn ann(home: &str) -> SudoUser {
        SudoUser {
            uid: 1000,
            gid: 1000,
            home: home.into(),
        }
    }

    #[test]
    fn sudo_names_the_user() {
        let sudo = [("SUDO_UID", "1000"), ("SUDO_GID", "1000")];
        assert_eq!(user(&sudo), Some(ann("/home/ann")));
        let alias = [sudo[0], sudo[1], ("SUDO_USER", "anns-alias")];
        assert_eq!(user(&alias), Some(ann("/srv/ann")));
    }

    #[test]
    fn a_user_of_a_directory_service_has_the_home_that_sudo_gives() {
        let sudo = [("SUDO_UID", "7000"), ("SUDO_GID", "70")];
        assert_eq!(user(&sudo), None);
        let with_home = [sudo[0], sudo[1], ("SUDO_HOME", "/net/bob")];
        let bob = SudoUser {
            uid: 7000,
            gid: 70,
            home: "/net/bob".into(),
        };
        assert_eq!(user(&with_home), Some(bob));
        let relative = [sudo[0], sudo[1], ("SUDO_HOME", "bob")];
        assert_eq!(user(&relative), None);
    }

    #[test]
    fn without_sudo_there_is_no_user() {
        assert_eq!(user(&[]), None);
        // root itself used sudo.
        assert_eq!(user(&[("SUDO_UID", "0"), ("SUDO_GID", "0")]), None);
        assert_eq!(user(&[("SUDO_UID", "-1"), ("SUDO_GID", "1")]), None);
        assert_eq!(user(&[("SUDO_UID", "1000")]), None);
    }

    #[test]
    fn directories_that_variables_choose_stay_roots() {
        let dirs = |set: &str| owned_dirs(&ann("/home/ann"), |name| name == set);
        let (rkube, kube) = ("/home/ann/.rkube", "/home/ann/.kube");
        assert_eq!(dirs(""), [PathBuf::from(rkube), PathBuf::from(kube)]);
        assert_eq!(dirs("RKUBE_HOME"), [PathBuf::from(kube)]);
        assert_eq!(dirs("KUBECONFIG"), [PathBuf::from(rkube)]);
    }

    #[test]
    fn files_are_created_with_the_users_permissions() {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
        if !nix::unistd::geteuid().is_root() {
            rkube_testing::skip!("only root can act for another user");
        }
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let home = dir.path().join("home");
        std::fs::create_dir(&home).unwrap();
        chown(&home, Some(1000), Some(1000)).unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(dir.path(), open).unwrap();
        // A trap: root would follow the link and write the file.
        let of_root = dir.path().join("of-root");
        std::fs::write(&of_root, "kept").unwrap();
        std::os::unix::fs::symlink(&of_root, home.join("trap")).unwrap();

        let user = ann("/unused");
        let identity = Identity::of(Some(&user));
        std::fs::write(home.join("file"), "").unwrap();
        std::fs::write(home.join("trap"), "lost").unwrap_err();
        std::fs::write(dir.path().join("file"), "").unwrap_err();
        drop(identity);

        let meta = home.join("file").metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1000, 1000));
        assert_eq!(std::fs::read_to_string(&of_root).unwrap(), "kept");
        // The process has root's permissions again.
        std::fs::write(dir.path().join("file"), "").unwrap();
    }

    #[test]
    fn links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        refuse_link(&link).unwrap();
        refuse_link(dir.path()).unwrap();
        std::os::unix::fs::symlink("/etc", &link).unwrap();
        assert_eq!(refuse_link(&link).unwrap_err().kind, Kind::Permission);
    }
}
