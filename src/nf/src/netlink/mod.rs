//! A small synchronous rtnetlink client, and the socket shared with the other netlink protocols.
//!
//! ```no_run
//! # use rkube_nf::netlink::{Netlink, Netns, Veth};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let nl = Netlink::open()?;
//! nl.create_bridge("rk0")?;
//! nl.create_veth(&Veth {
//!     name: "rkpod1",
//!     peer_name: "eth0",
//!     peer_netns: Some(Netns::Pid(4711)),
//!     ..Veth::default()
//! })?;
//! nl.set_master("rkpod1", Some("rk0".into()))?;
//! nl.set_up("rkpod1")?;
//! # Ok(()) }
//! ```

mod address;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod link;
mod message;
mod netns;
mod route;
mod socket;
#[cfg(test)]
mod tests;

pub use address::Address;
pub use link::{Link, LinkRef, Netns, Veth};
pub use message::{Attributes, Writer};
pub use netns::{current_netns, in_netns, new_netns, open_netns, pid_netns};
pub use route::{Route, RouteScope};
pub use socket::{Netlink, NetlinkError, Refusal, Socket};
