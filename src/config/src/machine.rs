//! What the driver of virtual machines and the first process of such a machine
//! agree on.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// The node's `/etc/rkube` as a tar archive, given by the hypervisor.
pub const IDENTITY: &str = "opt/rkube/etc";
/// What the hypervisor says of the machine itself, [`MachineFacts`].
pub const FACTS: &str = "opt/rkube/machine";
/// Where the driver puts modules and their order into the initramfs.
pub const MODULES: &str = "/lib/modules/rkube";
/// The file in [`MODULES`] that names them in the order of loading.
pub const MODULES_ORDER: &str = "order";
/// Mount tag of the host's `/usr`, where the driver shares it.
pub const TOOL_BOX_TAG: &str = "usr";
/// Programs for the node from the initramfs, where `/usr` is not shared.
pub const TOOLS: &str = "/tools";

/// How the ports begin that the services' logs are written to; the service's name
/// follows.
pub const LOG_PORT: &str = "rkube.log.";

/// What the driver tells a machine about its links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineFacts {
    /// The link to the other nodes, by its hardware address.
    pub node_mac: [u8; 6],
    /// The link to the world, by its hardware address.
    pub outside_mac: [u8; 6],
    /// This machine's address on the link to the world.
    pub outside_ip: Ipv4Net,
    /// The host's address on the link to the world.
    pub outside_gateway: Ipv4Addr,
}
