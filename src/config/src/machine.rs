//! The interface between the driver of virtual machines and PID 1 of such a machine.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The firmware configuration file with the node's `/etc/rkube`, a tar archive.
pub const IDENTITY: &str = "opt/rkube/etc";
/// The firmware configuration file with the machine's network settings, [`MachineFacts`].
pub const FACTS: &str = "opt/rkube/machine";
/// Directory of the initramfs that holds the kernel modules and [`MODULES_ORDER`].
pub const MODULES: &str = "/lib/modules/rkube";
/// The file in [`MODULES`] that lists the modules in load order.
pub const MODULES_ORDER: &str = "order";
/// Mount tag of the host's `/usr`, where the driver shares it.
pub const TOOL_BOX_TAG: &str = "usr";
/// Directory of the initramfs with programs for the node, used if `/usr` is not shared.
pub const TOOLS: &str = "/tools";

/// Prefix of the names of the serial ports that services' logs are written to; the
/// service's name follows.
pub const LOG_PORT: &str = "rkube.log.";

/// The network settings of a virtual machine, written by the driver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// Hardware address of the network interface to the other nodes.
    pub node_mac: [u8; 6],
    /// Hardware address of the network interface to the host and external networks.
    pub outside_mac: [u8; 6],
    /// The machine's address on the external interface, with the prefix length.
    pub outside_ip: Ipv4Net,
    /// The host's address on the external interface, the machine's default gateway.
    pub outside_gateway: Ipv4Addr,
}
