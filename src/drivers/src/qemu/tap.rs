//! The host's TAP interface to the nodes, created if rkube runs as root.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::Context;
use ipnet::Ipv4Net;
use rkube_network::netlink::Netlink;
use rkube_network::{host, sysctl};

use crate::types::ClusterPlan;

const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

/// Returns the name of the host's interface to a cluster's machines.
pub fn name(plan: &ClusterPlan) -> String {
    crate::native::link_name(plan)
}

/// Whether the host's interface to the nodes exists.
pub fn exists(plan: &ClusterPlan) -> bool {
    Netlink::open()
        .and_then(|n| n.link(name(plan).as_str()))
        .is_ok_and(|link| link.is_some())
}

/// Removes the interface's firewall rules, which outlive the process that created it.
pub fn forget(plan: &ClusterPlan) -> anyhow::Result<()> {
    if nix::unistd::geteuid().is_root() {
        host::release(&plan.name)?;
    }
    Ok(())
}

/// Creates the interface with the gateway's address; returns `None` if not root. The interface
/// exists as long as the file is open. The host does not forward between it and other interfaces:
/// machines reach other networks through QEMU's user network.
pub fn open(plan: &ClusterPlan) -> anyhow::Result<Option<File>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    // SAFETY: plain syscall; the result is a new descriptor owned here. It is non-blocking: a frame
    // that cannot be written is dropped.
    let fd = unsafe {
        libc::open(
            c"/dev/net/tun".as_ptr(),
            libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK,
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("cannot open /dev/net/tun");
    }
    // SAFETY: the descriptor is open and has no other owner.
    let file = unsafe { File::from_raw_fd(fd) };
    let name = name(plan);
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is complete and outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw const request) } < 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("cannot create the link {name}"));
    }
    // Isolated before it has an address.
    host::isolate(&plan.name, &name)?;
    let netlink = Netlink::open()?;
    netlink.add_address(
        name.as_str(),
        Ipv4Net::new(plan.gateway(), plan.node_cidr.prefix_len())?,
    )?;
    netlink.set_up(name.as_str())?;
    sysctl::write_if_present(&format!("net/ipv4/conf/{name}/rp_filter"), "2")?;
    sysctl::write_if_present(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")?;
    Ok(Some(file))
}
