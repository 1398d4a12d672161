//! Network interfaces ("links" in rtnetlink): bridges, veth pairs and dummies.

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{RTM_DELLINK, RTM_GETLINK, RTM_NEWLINK, RTM_SETLINK};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable, ParseableParametrized};
use netlink_packet_route::link::{
    BridgeBooleanOptionFlags, BridgeBooleanOptions, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoPortData, InfoPortKind, InfoVeth, LinkAttribute, LinkFlags, LinkHeader, LinkInfo,
    LinkMessage, LinkMessageBuffer,
};
use nix::errno::Errno;

use super::message::{Attributes, text};
use super::{Netlink, NetlinkError};

/// Maximum length of an interface name, without the terminating zero.
const MAX_NAME_LENGTH: usize = libc::IFNAMSIZ - 1;

/// The attributes of an interface that are read, besides its kind.
const LINK_ATTRIBUTES: [u16; 5] = [
    libc::IFLA_ADDRESS,
    libc::IFLA_IFNAME,
    libc::IFLA_MTU,
    libc::IFLA_LINK,
    libc::IFLA_MASTER,
];
/// The attribute of a bridge's port with its state (`IFLA_BRPORT_STATE`), and the state in which it
/// forwards frames (`BR_STATE_FORWARDING`).
const PORT_STATE: u16 = 1;
const PORT_FORWARDING: u8 = 3;

/// A network interface, by index or by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRef<'a> {
    /// Its index in the namespace.
    Index(u32),
    /// Its name.
    Name(&'a str),
}

impl From<u32> for LinkRef<'_> {
    fn from(index: u32) -> Self {
        Self::Index(index)
    }
}

impl<'a> From<&'a str> for LinkRef<'a> {
    fn from(name: &'a str) -> Self {
        Self::Name(name)
    }
}

impl<'a> From<&'a String> for LinkRef<'a> {
    fn from(name: &'a String) -> Self {
        Self::Name(name)
    }
}

impl std::fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Index(index) => write!(f, "#{index}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The network namespace that an interface is created in or moved to.
#[derive(Clone, Copy, Debug)]
pub enum Netns<'a> {
    /// An open file of the namespace.
    Fd(BorrowedFd<'a>),
    /// The namespace of a process.
    Pid(i32),
}

impl Netns<'_> {
    fn attribute(self) -> LinkAttribute {
        match self {
            Self::Fd(fd) => LinkAttribute::NetNsFd(fd.as_raw_fd()),
            Self::Pid(pid) => LinkAttribute::NetNsPid(pid.cast_unsigned()),
        }
    }
}

/// A network interface and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `bridge`, `veth`, `dummy` …; `None` for hardware and loopback interfaces.
    pub kind: Option<String>,
    /// Hardware address, if it has six bytes.
    pub mac: Option<[u8; 6]>,
    /// Maximum packet size in bytes.
    pub mtu: u32,
    /// Whether the interface is administratively up.
    pub up: bool,
    /// Whether this is the loopback interface.
    pub loopback: bool,
    /// Index of the bridge that the interface is a port of.
    pub master: Option<u32>,
    /// Whether the interface is a bridge port in the forwarding state. A veth reaches that state
    /// shortly (usually within a millisecond) after both ends have come up.
    pub forwarding: bool,
    /// For a veth, the index of the other end in that end's namespace.
    pub peer: Option<u32>,
}

/// A veth pair to create.
#[derive(Clone, Copy, Debug, Default)]
pub struct Veth<'a> {
    /// Name of the end in the current namespace.
    pub name: &'a str,
    /// Hardware address of this end; random if absent.
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge that this end becomes a port of.
    pub master: Option<u32>,
    /// Maximum packet size of both ends, in bytes; 1500 if absent.
    pub mtu: Option<u32>,
    /// Whether this end is brought up immediately.
    pub up: bool,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Hardware address of the other end; random if absent.
    pub peer_mac: Option<[u8; 6]>,
    /// Namespace of the other end; the current one if absent.
    pub peer_netns: Option<Netns<'a>>,
}

/// Returns a message about an interface. Its only attribute is the name, if `link` is a name.
fn link_message(link: LinkRef<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    match link {
        LinkRef::Index(index) => message.header.index = index,
        LinkRef::Name(name) => message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned())),
    }
    message
}

/// Returns the part of a message that describes one end of a new veth pair.
fn veth_end(name: &str, mac: Option<[u8; 6]>, mtu: Option<u32>) -> LinkMessage {
    let mut message = link_message(name.into());
    let attributes = &mut message.attributes;
    attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    attributes.extend(mtu.map(LinkAttribute::Mtu));
    message
}

/// Checks an interface name against the kernel's rules, for a readable error.
fn check_name(action: &str, name: &str) -> Result<(), NetlinkError> {
    let bad = name.is_empty()
        || name.len() > MAX_NAME_LENGTH
        || name == "."
        || name == ".."
        || name
            .bytes()
            .any(|b| b == b'/' || b == b':' || b == 0 || b.is_ascii_whitespace());
    if bad {
        return Err(NetlinkError {
            action: format!("{action} {name:?}"),
            errno: Errno::EINVAL,
            detail: Some(format!(
                "a link's name has 1 to {MAX_NAME_LENGTH} characters, no space, '/' or ':'"
            )),
        });
    }
    Ok(())
}

impl Netlink {
    /// Creates a bridge in the down state. Returns its index.
    pub fn create_bridge(&self, name: &str) -> Result<u32, NetlinkError> {
        self.create(InfoKind::Bridge, name)
    }

    /// Creates a dummy interface in the down state. Returns its index. Fails with `EOPNOTSUPP` on
    /// kernels without the driver.
    pub fn create_dummy(&self, name: &str) -> Result<u32, NetlinkError> {
        self.create(InfoKind::Dummy, name)
    }

    fn create(&self, kind: InfoKind, name: &str) -> Result<u32, NetlinkError> {
        let action = format!("cannot create {kind}");
        check_name(&action, name)?;
        let mut message = link_message(name.into());
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]));
        self.socket
            .request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |w| w.emit(&message))
            .map_err(|refusal| refusal.because(format!("{action} {name}")))?;
        self.index_of(name)
    }

    /// Creates a veth pair, with the other end directly in another namespace if requested. Returns
    /// this end's index.
    pub fn create_veth(&self, veth: &Veth<'_>) -> Result<u32, NetlinkError> {
        check_name("cannot create veth", veth.name)?;
        check_name("cannot create veth", veth.peer_name)?;
        let mut peer = veth_end(veth.peer_name, veth.peer_mac, veth.mtu);
        peer.attributes
            .extend(veth.peer_netns.map(Netns::attribute));
        let mut message = veth_end(veth.name, veth.mac, veth.mtu);
        if veth.up {
            message.header.flags = LinkFlags::Up;
            message.header.change_mask = LinkFlags::Up;
        }
        message
            .attributes
            .extend(veth.master.map(LinkAttribute::Controller));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.socket
            .request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |w| w.emit(&message))
            .map_err(|refusal| {
                refusal.because(format!(
                    "cannot create veth {} with peer {}",
                    veth.name, veth.peer_name
                ))
            })?;
        self.index_of(veth.name)
    }

    /// Lists all interfaces of the namespace.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        self.socket
            .dump(
                RTM_GETLINK,
                |w| w.emit(&LinkMessage::default()),
                |kind, payload| (kind == RTM_NEWLINK).then(|| parse_link(payload)).flatten(),
            )
            .map_err(|refusal| refusal.because("cannot list links"))
    }

    /// Returns the interface, or `None` if it does not exist.
    pub fn link<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<Option<Link>, NetlinkError> {
        let link = link.into();
        let result = self.socket.query(
            RTM_GETLINK,
            0,
            |w| w.emit(&link_message(link)),
            |kind, payload| (kind == RTM_NEWLINK).then(|| parse_link(payload)).flatten(),
        );
        match result {
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            other => other.map_err(|refusal| refusal.because(format!("cannot find link {link}"))),
        }
    }

    /// Returns the index of an interface. Fails with `ENODEV` if no interface has the name; an
    /// index is returned unchecked.
    pub fn index_of<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<u32, NetlinkError> {
        let link = link.into();
        match link {
            LinkRef::Index(index) => Ok(index),
            LinkRef::Name(name) => self.link(link)?.map(|found| found.index).ok_or_else(|| {
                NetlinkError::new(format!("cannot find link {name}"), Errno::ENODEV)
            }),
        }
    }

    /// Brings an interface up.
    pub fn set_up<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<(), NetlinkError> {
        self.set(link.into(), "bring up", LinkFlags::Up, LinkFlags::Up, None)
    }

    /// Brings an interface down.
    pub fn set_down<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<(), NetlinkError> {
        self.set(
            link.into(),
            "bring down",
            LinkFlags::empty(),
            LinkFlags::Up,
            None,
        )
    }

    /// Makes an interface a port of a bridge, or detaches it from its bridge.
    pub fn set_master<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        master: Option<LinkRef<'_>>,
    ) -> Result<(), NetlinkError> {
        let master = master.map_or(Ok(0), |master| self.index_of(master))?;
        let master = LinkAttribute::Controller(master);
        self.set_attribute(link.into(), "set the bridge of", master)
    }

    /// Sets the maximum packet size, in bytes.
    pub fn set_mtu<'a>(&self, link: impl Into<LinkRef<'a>>, mtu: u32) -> Result<(), NetlinkError> {
        self.set_attribute(link.into(), "set the MTU of", LinkAttribute::Mtu(mtu))
    }

    /// Sets the hardware address.
    pub fn set_mac<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let address = LinkAttribute::Address(mac.to_vec());
        self.set_attribute(link.into(), "set the hardware address of", address)
    }

    /// Renames an interface. Older kernels require it to be down.
    pub fn rename<'a>(&self, link: impl Into<LinkRef<'a>>, name: &str) -> Result<(), NetlinkError> {
        check_name("cannot rename a link to", name)?;
        let link = link.into();
        let mut message = link_message(self.index_of(link)?.into());
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        self.socket
            .request(RTM_SETLINK, 0, |w| w.emit(&message))
            .map_err(|refusal| refusal.because(format!("cannot rename link {link} to {name}")))
    }

    /// Moves an interface to another namespace. There it is down and has no address.
    pub fn move_to<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        netns: Netns<'_>,
    ) -> Result<(), NetlinkError> {
        self.set_attribute(link.into(), "move", netns.attribute())
    }

    /// Sets hairpin mode: whether the bridge may send a packet back out of the port that received
    /// it. A pod that reaches itself through a service needs it.
    pub fn set_hairpin<'a>(
        &self,
        port: impl Into<LinkRef<'a>>,
        on: bool,
    ) -> Result<(), NetlinkError> {
        self.set_port(
            port.into(),
            "set hairpin mode of",
            InfoBridgePort::HairpinMode(on),
        )
    }

    /// Sets whether a bridge port is isolated. Isolated ports exchange no frames with each other,
    /// only with the bridge itself and with ports that are not isolated.
    pub fn set_isolated<'a>(
        &self,
        port: impl Into<LinkRef<'a>>,
        on: bool,
    ) -> Result<(), NetlinkError> {
        self.set_port(port.into(), "isolate", InfoBridgePort::Isolated(on))
    }

    /// Makes a bridge learn no addresses from link-local frames, such as those of LLDP. The packet
    /// filter does not see these. Fails with `EOPNOTSUPP` or `EINVAL` on kernels before 5.0.
    pub fn learn_no_link_local<'a>(
        &self,
        bridge: impl Into<LinkRef<'a>>,
    ) -> Result<(), NetlinkError> {
        let bridge = bridge.into();
        let flag = BridgeBooleanOptionFlags::NoLinkLocalLearn;
        let option = InfoBridge::MultiBoolOpt(BridgeBooleanOptions {
            value: flag,
            mask: flag,
        });
        let mut message = link_message(self.index_of(bridge)?.into());
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![option])),
        ]));
        self.socket
            .request(RTM_NEWLINK, 0, |w| w.emit(&message))
            .map_err(|refusal| refusal.because(format!("cannot limit what bridge {bridge} learns")))
    }

    fn set_port(
        &self,
        port: LinkRef<'_>,
        action: &str,
        attribute: InfoBridgePort,
    ) -> Result<(), NetlinkError> {
        let mut message = link_message(self.index_of(port)?.into());
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![attribute])),
        ]));
        self.socket
            .request(RTM_NEWLINK, 0, |w| w.emit(&message))
            .map_err(|refusal| refusal.because(format!("cannot {action} link {port}")))
    }

    /// Deletes an interface; for a veth, both ends. Returns whether it existed.
    pub fn delete_link<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<bool, NetlinkError> {
        let link = link.into();
        let message = link_message(link);
        let result = self.socket.request(RTM_DELLINK, 0, |w| w.emit(&message));
        match result {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(false),
            Err(refusal) => Err(refusal.because(format!("cannot delete link {link}"))),
        }
    }

    fn set_attribute(
        &self,
        link: LinkRef<'_>,
        action: &str,
        attribute: LinkAttribute,
    ) -> Result<(), NetlinkError> {
        let none = LinkFlags::empty();
        self.set(link, action, none, none, Some(attribute))
    }

    fn set(
        &self,
        link: LinkRef<'_>,
        action: &str,
        flags: LinkFlags,
        change_mask: LinkFlags,
        attribute: Option<LinkAttribute>,
    ) -> Result<(), NetlinkError> {
        let mut message = link_message(link);
        message.header.flags = flags;
        message.header.change_mask = change_mask;
        message.attributes.extend(attribute);
        self.socket
            .request(RTM_NEWLINK, 0, |w| w.emit(&message))
            .map_err(|refusal| refusal.because(format!("cannot {action} link {link}")))
    }
}

/// Parses an `RTM_NEWLINK` message. Skips attributes that it cannot decode, so that attributes of
/// newer kernels do not hide the interface.
pub(super) fn parse_link(payload: &[u8]) -> Option<Link> {
    let buffer = LinkMessageBuffer::new_checked(&payload).ok()?;
    let header = LinkHeader::parse(&buffer).ok()?;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        loopback: header.flags.contains(LinkFlags::Loopback),
        master: None,
        forwarding: false,
        peer: None,
    };
    for attribute in buffer.attributes().map_while(Result::ok) {
        match attribute.kind() {
            libc::IFLA_LINKINFO => {
                read_info(attribute.value(), &mut link);
                continue;
            }
            // The parser of others may panic if they are malformed.
            kind if !LINK_ATTRIBUTES.contains(&kind) => continue,
            _ => {}
        }
        let Ok(attribute) = LinkAttribute::parse_with_param(&attribute, header.interface_family)
        else {
            continue;
        };
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(address) => link.mac = address.try_into().ok(),
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            _ => {}
        }
    }
    Some(link)
}

/// Reads what kind of interface it is, and whether it is a port of a bridge that forwards frames.
fn read_info(info: &[u8], link: &mut Link) {
    let find = |kind| Attributes(info).find(|(k, _)| *k == kind).map(|(_, v)| v);
    link.kind = find(libc::IFLA_INFO_KIND).map(text);
    let port = find(libc::IFLA_INFO_SLAVE_KIND).map(text);
    let data = find(libc::IFLA_INFO_SLAVE_DATA).unwrap_or_default();
    let state = Attributes(data).find(|(kind, _)| *kind == PORT_STATE);
    let forwards = state.is_some_and(|(_, value)| value.first() == Some(&PORT_FORWARDING));
    link.forwarding = forwards && port.as_deref() == Some("bridge");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parsing_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = super::parse_link(&bytes);
        }
    }

    /// A fixed part, one attribute, and the interface's name.
    fn with(attribute: u16, value: &[u8]) -> Option<super::Link> {
        let mut w = super::super::Writer::new();
        w.raw(&[0; 16]);
        w.attr(attribute, value);
        w.string(libc::IFLA_IFNAME, "eth0");
        super::parse_link(w.as_bytes())
    }

    #[test]
    fn malformed_attributes_do_not_hide_an_interface() {
        for attribute in 0..70 {
            for length in 0..12 {
                let link = with(attribute, &vec![1; length]).unwrap();
                assert_eq!(link.name, "eth0", "{attribute} with {length} bytes");
            }
        }
    }

    #[test]
    fn ports_of_bridges_forward_or_not() {
        for (kind, state, expected) in [
            ("bridge", 3, true),
            ("bridge", 2, false),
            ("bond", 3, false),
        ] {
            let mut w = super::super::Writer::new();
            w.string(libc::IFLA_INFO_KIND, "veth");
            w.string(libc::IFLA_INFO_SLAVE_KIND, kind);
            w.nest(libc::IFLA_INFO_SLAVE_DATA, |w| {
                w.attr(super::PORT_STATE, &[state])
            });
            let link = with(libc::IFLA_LINKINFO, w.as_bytes()).unwrap();
            assert_eq!(link.forwarding, expected, "{kind} {state}");
            assert_eq!(link.kind.as_deref(), Some("veth"));
        }
    }
}
