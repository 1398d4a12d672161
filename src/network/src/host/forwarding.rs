//! Forwarding of packets, which all clusters of a host share.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{NetworkError, Result};
use crate::netlink::Netlink;
use crate::nft::Family;
use crate::sysctl;

/// The profiles that need forwarding of a family, and its original value, as files in a directory.
pub(super) struct Forwarding {
    dir: PathBuf,
    sysctl: &'static str,
}

impl Forwarding {
    pub(super) fn new(state_dir: &Path, family: Family) -> Self {
        let (dir, sysctl) = match family {
            Family::Ip6 => ("ip6-forward", IPV6_FORWARDING),
            Family::Ip | Family::Inet | Family::Bridge => ("ip-forward", "net/ipv4/ip_forward"),
        };
        Self {
            dir: state_dir.join(dir),
            sysctl,
        }
    }

    /// Returns the directory with one file per profile that needs forwarding.
    fn users(&self) -> PathBuf {
        self.dir.join("users")
    }

    /// Returns whether a profile is registered.
    pub(super) fn has(&self, profile: &str) -> bool {
        self.users().join(profile).exists()
    }

    /// Returns the marker file, which exists if forwarding was off originally.
    fn was_off(&self) -> PathBuf {
        self.dir.join("was-off")
    }

    fn lock(&self) -> Result<Flock<fs::File>> {
        fs::create_dir_all(self.users()).map_err(file_error("create", &self.users()))?;
        let path = self.dir.join("lock");
        let file = fs::File::create(&path).map_err(file_error("create", &path))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| file_error("lock", &path)(errno.into()))
    }

    /// Returns the file with the names of the interfaces whose settings were changed.
    fn accepting(&self) -> PathBuf {
        self.dir.join("accept-ra")
    }

    /// Lets the interfaces that take their addresses and routes from IPv6 routers go on with it: one
    /// that forwards would not any more (`accept_ra` 1 instead of 2).
    fn keep_advertised_routes(&self) -> Result<()> {
        if self.sysctl != IPV6_FORWARDING {
            return Ok(());
        }
        let links = Netlink::open()?.links()?;
        let names: Vec<String> = links
            .into_iter()
            .map(|link| link.name)
            .filter(|name| sysctl::read(&accept_ra(name)).is_ok_and(|value| value == "1"))
            .collect();
        let path = self.accepting();
        // Interfaces that were changed before stay in the list, whatever turned forwarding off since.
        let mut all: BTreeSet<String> = fs::read_to_string(&path)
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect();
        all.extend(names.iter().cloned());
        let text = all.into_iter().collect::<Vec<_>>().join("\n");
        fs::write(&path, text).map_err(file_error("write", &path))?;
        for name in names {
            sysctl::write_if_present(&accept_ra(&name), "2")?;
        }
        Ok(())
    }

    /// Undoes [`Self::keep_advertised_routes`].
    fn accept_as_before(&self) -> Result<()> {
        let path = self.accepting();
        if !path.exists() {
            return Ok(());
        }
        let names = fs::read_to_string(&path).map_err(file_error("read", &path))?;
        for name in names.lines() {
            sysctl::write_if_present(&accept_ra(name), "1")?;
        }
        Ok(())
    }

    /// Registers a profile and enables forwarding if it is off.
    pub(super) fn acquire(&self, profile: &str) -> Result<()> {
        let _lock = self.lock()?;
        let user = self.users().join(profile);
        fs::write(&user, "").map_err(file_error("write", &user))?;
        if sysctl::read(self.sysctl)? == "0" {
            // Recorded first: after a crash in between, restoring the value is harmless.
            fs::write(self.was_off(), "").map_err(file_error("write", &self.was_off()))?;
            self.keep_advertised_routes()?;
            sysctl::write(self.sysctl, "1")?;
        }
        Ok(())
    }

    /// Unregisters a profile. The last one restores the original value.
    pub(super) fn release(&self, profile: &str) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let user = self.users().join(profile);
        match fs::remove_file(&user) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(file_error("remove", &user)(error));
            }
            _ => {}
        }
        let mut others = fs::read_dir(self.users()).map_err(file_error("read", &self.users()))?;
        if others.next().is_some() {
            return Ok(());
        }
        if self.was_off().exists() {
            sysctl::write(self.sysctl, "0")?;
            self.accept_as_before()?;
        }
        // Leave nothing behind after the last profile.
        fs::remove_dir_all(&self.dir).map_err(file_error("remove", &self.dir))
    }
}

/// The kernel's parameter of forwarding of IPv6.
const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";

/// Returns the kernel's parameter of router advertisements that an interface receives.
fn accept_ra(link: &str) -> String {
    format!("net/ipv6/conf/{link}/accept_ra")
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> NetworkError {
    let path = path.display().to_string();
    move |source| NetworkError::File {
        action,
        path,
        source,
    }
}
