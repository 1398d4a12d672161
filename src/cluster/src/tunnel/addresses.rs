//! The addresses of services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rkube_failure::{Failure, Kind, Source};

use crate::files::{Home, io_failure, write_private};
use crate::profile::Profile;

/// Why a service gets no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    /// The requested address is not in the range.
    #[error("{0} is not in {1}")]
    OutOfRange(Ipv4Addr, Ipv4Net),
    /// Another service has the requested address.
    #[error("{0} is taken")]
    Taken(Ipv4Addr),
    /// Every address of the range is taken.
    #[error("{0} has no address left")]
    Exhausted(Ipv4Net),
    /// The assignment could not be stored.
    #[error("{}", .0.message)]
    NotSaved(Failure),
}

/// The addresses of services, stored in the profile so that they survive restarts.
pub(super) struct AddressAssignments {
    path: std::path::PathBuf,
    range: Ipv4Net,
    entries: BTreeMap<String, Ipv4Addr>,
}

impl AddressAssignments {
    /// Reads the addresses of a profile, without those outside of `range`.
    pub fn load(home: &Home, profile: &Profile, range: Ipv4Net) -> Result<Self, Failure> {
        let path = home.profile_dir(&profile.name).join("load-balancers.yaml");
        let mut entries: BTreeMap<String, Ipv4Addr> = match std::fs::read_to_string(&path) {
            Ok(text) => serde_yaml::from_str(&text).map_err(|e| {
                Failure::new(
                    Source::Program,
                    Kind::Config,
                    format!("{} is damaged: {e}", path.display()),
                )
                .advise("remove that file; services may get other addresses then")
            })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(e) => return Err(io_failure("read", &path, &e)),
        };
        // The kind of route may have changed since the last run.
        entries.retain(|_, address| range.contains(&*address));
        Ok(Self {
            path,
            range,
            entries,
        })
    }

    /// Returns the service's address: its previous one, the requested one if it is free and in
    /// range, or the next free one.
    pub fn address(
        &mut self,
        key: &str,
        wished: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, AddressError> {
        // A range of one address is shared by all services, which differ by their ports.
        let shared = self.range.prefix_len() == 32;
        let free = |ip: &Ipv4Addr, entries: &BTreeMap<String, Ipv4Addr>| {
            shared || entries.values().all(|taken| taken != ip)
        };
        if let Some(address) = self.entries.get(key)
            && wished.is_none_or(|w| w == *address)
        {
            return Ok(*address);
        }
        let address = match wished {
            Some(ip) if !self.range.contains(&ip) => {
                return Err(AddressError::OutOfRange(ip, self.range));
            }
            Some(ip) if !free(&ip, &self.entries) => return Err(AddressError::Taken(ip)),
            Some(ip) => ip,
            None => self
                .range
                .hosts()
                .find(|ip| free(ip, &self.entries))
                .ok_or(AddressError::Exhausted(self.range))?,
        };
        self.entries.insert(key.to_owned(), address);
        self.save().map_err(AddressError::NotSaved)?;
        Ok(address)
    }

    /// Gives the service's address back.
    pub fn forget(&mut self, key: &str) -> Result<(), Failure> {
        if self.entries.remove(key).is_some() {
            self.save()?;
        }
        Ok(())
    }

    /// Gives the addresses of all but these services back.
    pub fn keep(&mut self, services: &BTreeSet<String>) -> Result<(), Failure> {
        let before = self.entries.len();
        self.entries.retain(|key, _| services.contains(key));
        match self.entries.len() == before {
            true => Ok(()),
            false => self.save(),
        }
    }

    fn save(&self) -> Result<(), Failure> {
        let text = serde_yaml::to_string(&self.entries)
            .map_err(|e| Failure::new(Source::Program, Kind::Error, e.to_string()))?;
        write_private(&self.path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_kept_wished_for_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("book.yaml");
        let mut assignments = AddressAssignments {
            path,
            range: "192.168.58.128/25".parse().unwrap(),
            entries: BTreeMap::new(),
        };
        let first = assignments.address("a/x", None).unwrap();
        assert_eq!(first, Ipv4Addr::new(192, 168, 58, 129));
        assert_eq!(assignments.address("a/x", None).unwrap(), first);
        assert!(assignments.address("a/y", Some(first)).is_err());
        assert!(
            assignments
                .address("a/y", Some(Ipv4Addr::new(10, 0, 0, 1)))
                .is_err_and(|e| e.to_string() == "10.0.0.1 is not in 192.168.58.128/25")
        );
        let wish = Ipv4Addr::new(192, 168, 58, 200);
        assert_eq!(assignments.address("a/y", Some(wish)).unwrap(), wish);
        assignments.forget("a/x").unwrap();
        assert_eq!(assignments.address("a/z", None).unwrap(), first);
        assignments.keep(&BTreeSet::from(["a/z".into()])).unwrap();
        assert_eq!(assignments.address("a/w", Some(wish)).unwrap(), wish);
    }

    #[test]
    fn services_share_the_only_address_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut assignments = AddressAssignments {
            path: dir.path().join("book.yaml"),
            range: Ipv4Net::from(Ipv4Addr::LOCALHOST),
            entries: BTreeMap::new(),
        };
        for service in ["a/x", "a/y"] {
            assert_eq!(
                assignments.address(service, None).unwrap(),
                Ipv4Addr::LOCALHOST
            );
        }
    }
}
