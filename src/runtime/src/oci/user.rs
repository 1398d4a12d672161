//! Resolution of users and groups with the image's `/etc/passwd` and `/etc/group`.

use std::path::Path;

use crate::beneath::read_in_root;
use crate::error::{Context, Result, RuntimeError};
use crate::spec::Security;
use crate::status::ContainerUser;

/// Maximum size of a user database that is read, in bytes. The rest is ignored.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A resolved user and its home directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// User, group and supplementary groups.
    pub user: ContainerUser,
    /// Home directory; `/` for users that the image does not define.
    pub home: String,
}

/// The user databases of an image.
#[derive(Default)]
struct Databases {
    passwd: String,
    group: String,
}

/// An entry of `/etc/passwd`.
struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// Resolves the user of a container's process in the root file system at `rootfs`. The security
/// settings take precedence over `image_user` (`user[:group]`). Fails if a name does not exist.
pub fn resolve(rootfs: &Path, security: &Security, image_user: &str) -> Result<Resolved> {
    let read = |path: &str| -> Result<String> {
        let bytes = read_in_root(rootfs, Path::new(path), MAX_FILE_BYTES)
            .context(|| format!("cannot read the image's /{path}"))?;
        Ok(bytes
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default())
    };
    let databases = Databases {
        passwd: read("etc/passwd")?,
        group: read("etc/group")?,
    };
    let wanted = match (security.run_as_user, &security.run_as_user_name) {
        (Some(uid), _) => uid.to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => image_user.to_string(),
    };
    databases.resolve(&wanted, security)
}

impl Databases {
    fn users(&self) -> impl Iterator<Item = PasswdEntry<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or("");
            Some(PasswdEntry {
                name,
                uid,
                gid,
                home,
            })
        })
    }

    /// Returns name, number and members of each group.
    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or("")))
        })
    }

    /// Resolves `user[:group]` with the security settings.
    fn resolve(&self, wanted: &str, security: &Security) -> Result<Resolved> {
        let (user, group) = match wanted.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|g| !g.is_empty())),
            None => (wanted, None),
        };
        let user = if user.is_empty() { "0" } else { user };
        let entry = match user.parse::<u32>() {
            Ok(uid) => self.users().find(|e| e.uid == uid),
            Err(_) => Some(self.users().find(|e| e.name == user).ok_or_else(|| {
                RuntimeError::User(format!(
                    "unable to find user {user}: no matching entries in passwd file"
                ))
            })?),
        };
        let uid = match &entry {
            Some(entry) => entry.uid,
            None => user.parse().unwrap_or(0),
        };
        let own_group = entry.as_ref().map_or(0, |e| e.gid);
        let gid = match (security.run_as_group, group) {
            (Some(gid), _) => gid,
            (None, Some(group)) => match group.parse::<u32>() {
                Ok(gid) => gid,
                Err(_) => self
                    .groups()
                    .find(|(name, ..)| *name == group)
                    .map(|(_, gid, _)| gid)
                    .ok_or_else(|| {
                        RuntimeError::User(format!(
                            "unable to find group {group}: no matching entries in group file"
                        ))
                    })?,
            },
            (None, None) => own_group,
        };
        let mut groups = vec![gid];
        if let Some(entry) = &entry
            && !security.strict_supplemental_groups
        {
            groups.extend(
                self.groups()
                    .filter(|(.., members)| members.split(',').any(|member| member == entry.name))
                    .map(|(_, gid, _)| gid),
            );
        }
        groups.extend(&security.supplemental_groups);
        let mut unique = Vec::with_capacity(groups.len());
        for gid in groups {
            if !unique.contains(&gid) {
                unique.push(gid);
            }
        }
        let home = match &entry {
            Some(entry) if !entry.home.is_empty() => entry.home.to_string(),
            _ if uid == 0 => "/root".to_string(),
            _ => "/".to_string(),
        };
        Ok(Resolved {
            user: ContainerUser {
                uid,
                gid,
                groups: unique,
            },
            home,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn databases() -> Databases {
        Databases {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:33:web:/var/www:/bin/false\n"
                .into(),
            group: "root:x:0:\nadm:x:4:web,other\nweb:x:33:\n".into(),
        }
    }

    fn numbers(wanted: &str, security: &Security) -> (u32, u32, Vec<u32>, String) {
        let r = databases().resolve(wanted, security).unwrap();
        (r.user.uid, r.user.gid, r.user.groups, r.home)
    }

    #[test]
    fn names_and_numbers() {
        let none = Security::default();
        assert_eq!(numbers("", &none), (0, 0, vec![0], "/root".into()));
        assert_eq!(
            numbers("web", &none),
            (33, 33, vec![33, 4], "/var/www".into())
        );
        assert_eq!(
            numbers("33", &none),
            (33, 33, vec![33, 4], "/var/www".into())
        );
        assert_eq!(
            numbers("web:adm", &none),
            (33, 4, vec![4], "/var/www".into())
        );
        assert_eq!(numbers("1000:7", &none), (1000, 7, vec![7], "/".into()));
        assert_eq!(numbers("1000", &none), (1000, 0, vec![0], "/".into()));
        assert!(databases().resolve("nobody-here", &none).is_err());
        assert!(databases().resolve("web:nogroup", &none).is_err());
    }

    #[test]
    fn settings_win() {
        let security = Security {
            run_as_group: Some(2000),
            supplemental_groups: vec![7, 4, 7],
            ..Security::default()
        };
        assert_eq!(
            numbers("web", &security),
            (33, 2000, vec![2000, 4, 7], "/var/www".into())
        );
        let strict = Security {
            strict_supplemental_groups: true,
            ..security
        };
        assert_eq!(numbers("web", &strict).2, vec![2000, 7, 4]);
    }
}
