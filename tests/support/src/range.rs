//! Address ranges for the nodes of tests that run at the same time.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The second octets of the ranges: 10.150.0.0/24 to 10.229.255.0/24, which are neither the
/// default ranges of pods and services nor those that rkube chooses.
const SECOND: std::ops::Range<u32> = 150..230;

/// A range that no other test on this machine uses, also while its cluster is stopped.
///
/// It is claimed by an abstract socket, which is gone with the test's process.
pub struct Range {
    second: u32,
    third: u32,
    _claim: UnixDatagram,
}

impl Range {
    /// Claims a range.
    ///
    /// # Panics
    /// If all ranges are claimed.
    pub fn claim() -> Self {
        let count = (SECOND.end - SECOND.start) * 256;
        // Ranges of failed tests, whose clusters may still exist, are used again late.
        let first = std::process::id();
        (0..count)
            .find_map(|i| {
                let at = first.wrapping_add(i) % count;
                let (second, third) = (SECOND.start + at / 256, at % 256);
                let name = format!("rkube-test-range-{second}-{third}");
                let address = SocketAddr::from_abstract_name(name).expect("a socket name");
                let claim = UnixDatagram::bind_addr(&address).ok()?;
                Some(Self {
                    second,
                    third,
                    _claim: claim,
                })
            })
            .expect("an unclaimed address range")
    }

    /// Returns the range in CIDR notation.
    pub fn cidr(&self) -> String {
        format!("10.{}.{}.0/24", self.second, self.third)
    }

    /// Returns the beginning of every address in the range.
    pub fn prefix(&self) -> String {
        format!("10.{}.{}.", self.second, self.third)
    }
}
