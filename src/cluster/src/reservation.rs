//! Reservations of address ranges during a start.
//!
//! A driver sees which ranges the host uses, but not which ranges other starts have chosen
//! and not yet used. A reservation lasts until the cluster's network exists.

use ipnet::Ipv4Net;
use rkube_drivers::Driver;
use rkube_failure::{Failure, Kind, Source};

/// A range that no other start on this host chooses while the value exists.
#[derive(Debug)]
pub(crate) struct Reservation {
    /// The reserved range.
    pub(crate) range: Ipv4Net,
    // Held for its name only.
    _name: name::Name,
}

impl Reservation {
    /// Reserves `range`. Returns `None` if another start has reserved it.
    fn try_new(range: Ipv4Net) -> Result<Option<Self>, Failure> {
        let taken = name::take(&format!("rkube-range-{range}"));
        let name = taken.map_err(|e| {
            Failure::new(
                Source::LocalNetwork,
                Kind::Error,
                format!("cannot reserve the address range {range}: {e}"),
            )
        })?;
        Ok(name.map(|name| Self { range, _name: name }))
    }

    /// Reserves `range`.
    ///
    /// # Errors
    /// `Conflict` if another start has reserved it.
    pub(crate) fn of(range: Ipv4Net) -> Result<Self, Failure> {
        Self::try_new(range)?.ok_or_else(|| {
            Failure::new(
                Source::LocalNetwork,
                Kind::Conflict,
                format!("another cluster that is starting now uses the address range {range}"),
            )
            .advise("try again, or choose another range for a new cluster with --subnet")
        })
    }

    /// Reserves the first range that `driver` considers free and that is not in `taken`.
    pub(crate) async fn choose(driver: &dyn Driver, taken: &[Ipv4Net]) -> Result<Self, Failure> {
        let mut taken = taken.to_vec();
        loop {
            let range = driver.free_range(&taken).await?;
            if let Some(reservation) = Self::try_new(range)?
                // The start that had reserved it may have made its network meanwhile.
                && driver.free_range(&taken).await? == range
            {
                return Ok(reservation);
            }
            taken.push(range);
        }
    }
}

/// Names that one process at a time can hold.
///
/// They are abstract sockets, which are gone with the process that holds them. All users and homes
/// of a network namespace, which share its address ranges, see them.
#[cfg(target_os = "linux")]
mod name {
    use std::io;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    /// A held name.
    pub(super) type Name = UnixDatagram;

    /// Takes `name`, or returns `None` if it is held.
    pub(super) fn take(name: &str) -> io::Result<Option<Name>> {
        match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?) {
            Ok(socket) => Ok(Some(socket)),
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(e) => Err(e),
        }
    }
}

/// On this platform the nodes' networks exist only inside a virtual machine, where the
/// container engine refuses overlapping ones.
#[cfg(not(target_os = "linux"))]
mod name {
    use std::io;

    /// A held name.
    #[derive(Debug)]
    pub(super) struct Name;

    /// Takes any name.
    #[expect(clippy::unnecessary_wraps, reason = "the signature is that of Linux")]
    pub(super) fn take(_name: &str) -> io::Result<Option<Name>> {
        Ok(Some(Name))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_reserved_once() {
        let range = "192.0.2.0/24".parse().unwrap();
        let held = Reservation::of(range).unwrap();
        assert!(Reservation::try_new(range).unwrap().is_none());
        let said = Reservation::of(range).unwrap_err();
        assert_eq!(said.kind, Kind::Conflict);
        drop(held);
        Reservation::of(range).unwrap();
    }

    #[tokio::test]
    async fn reserved_ranges_are_not_chosen() {
        let driver = rkube_drivers::by_name("native").unwrap();
        let one = Reservation::choose(driver.as_ref(), &[]).await.unwrap();
        let two = Reservation::choose(driver.as_ref(), &[]).await.unwrap();
        assert_ne!(one.range, two.range);
        let three = Reservation::choose(driver.as_ref(), &[]).await.unwrap();
        assert!(three.range != one.range && three.range != two.range);
    }
}
