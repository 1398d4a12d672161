//! Links: bridges, veth pairs, dummies.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::message::{Attributes, Writer, ne32, text};
use super::{Netlink, NetlinkError};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_STATE: u16 = 1;
/// `BR_STATE_FORWARDING`.
const STATE_FORWARDING: u8 = 3;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
/// `ifi_flags`.
const IFF_UP: u32 = libc::IFF_UP as u32;
const IFF_LOOPBACK: u32 = libc::IFF_LOOPBACK as u32;
/// Longest name of a link, without the terminating zero.
const NAME_MAX: usize = libc::IFNAMSIZ - 1;

/// A link, by index or by name.
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

/// A network namespace to put a link into.
#[derive(Clone, Copy, Debug)]
pub enum Netns<'a> {
    /// An open namespace file.
    Fd(BorrowedFd<'a>),
    /// The namespace of a process.
    Pid(i32),
}

impl Netns<'_> {
    fn write(self, w: &mut Writer) {
        match self {
            Self::Fd(fd) => w.u32(IFLA_NET_NS_FD, fd.as_raw_fd() as u32),
            Self::Pid(pid) => w.u32(IFLA_NET_NS_PID, pid as u32),
        }
    }
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `bridge`, `veth`, `dummy` …; none for hardware and loopback.
    pub kind: Option<String>,
    /// Hardware address, when it has six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it is the loopback link.
    pub loopback: bool,
    /// Index of the bridge that it is a port of.
    pub master: Option<u32>,
    /// Whether it is a bridge's port that passes frames. That follows some time (mostly
    /// less than a millisecond) after both ends of a veth have come up.
    pub forwarding: bool,
    /// For a veth, the other end's index in the other end's namespace.
    pub peer: Option<u32>,
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Veth<'a> {
    /// Name of the end in this namespace.
    pub name: &'a str,
    /// Its hardware address; random when absent.
    pub mac: Option<[u8; 6]>,
    /// Bridge that it becomes a port of.
    pub master: Option<u32>,
    /// Largest packet of both ends, in bytes; 1500 when absent.
    pub mtu: Option<u32>,
    /// Whether this end comes up at once.
    pub up: bool,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Its hardware address; random when absent.
    pub peer_mac: Option<[u8; 6]>,
    /// Namespace of the other end; this one when absent.
    pub peer_netns: Option<Netns<'a>>,
}

/// The fixed part of link messages, `struct ifinfomsg`.
fn ifinfo(w: &mut Writer, family: u8, index: u32, flags: u32, change: u32) {
    w.raw(&[family, 0, 0, 0]);
    w.raw(&index.to_ne_bytes());
    w.raw(&flags.to_ne_bytes());
    w.raw(&change.to_ne_bytes());
}

fn check_name(action: &str, name: &str) -> Result<(), NetlinkError> {
    let bad = name.is_empty()
        || name.len() > NAME_MAX
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
                "a link's name has 1 to {NAME_MAX} characters, no space, '/' or ':'"
            )),
        });
    }
    Ok(())
}

impl Netlink {
    /// Makes a bridge, down; answers its index.
    pub fn create_bridge(&self, name: &str) -> Result<u32, NetlinkError> {
        self.create("bridge", name)
    }

    /// Makes a dummy link, down; answers its index. Kernels may lack the driver
    /// (`Operation not supported`).
    pub fn create_dummy(&self, name: &str) -> Result<u32, NetlinkError> {
        self.create("dummy", name)
    }

    fn create(&self, kind: &str, name: &str) -> Result<u32, NetlinkError> {
        let action = format!("cannot create {kind}");
        check_name(&action, name)?;
        self.socket
            .request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |w| {
                ifinfo(w, 0, 0, 0, 0);
                w.string(IFLA_IFNAME, name);
                w.nest(IFLA_LINKINFO, |w| w.attr(IFLA_INFO_KIND, kind.as_bytes()));
            })
            .map_err(|refusal| refusal.because(format!("{action} {name}")))?;
        self.index_of(name)
    }

    /// Makes a veth pair, the other end directly in another namespace; answers
    /// this end's index.
    pub fn create_veth(&self, veth: &Veth<'_>) -> Result<u32, NetlinkError> {
        check_name("cannot create veth", veth.name)?;
        check_name("cannot create veth", veth.peer_name)?;
        let flags = if veth.up { IFF_UP } else { 0 };
        self.socket
            .request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, |w| {
                ifinfo(w, 0, 0, flags, flags);
                w.string(IFLA_IFNAME, veth.name);
                if let Some(mac) = veth.mac {
                    w.attr(IFLA_ADDRESS, &mac);
                }
                if let Some(mtu) = veth.mtu {
                    w.u32(IFLA_MTU, mtu);
                }
                if let Some(master) = veth.master {
                    w.u32(IFLA_MASTER, master);
                }
                w.nest(IFLA_LINKINFO, |w| {
                    w.attr(IFLA_INFO_KIND, b"veth");
                    w.nest(IFLA_INFO_DATA, |w| {
                        w.nest(VETH_INFO_PEER, |w| {
                            ifinfo(w, 0, 0, 0, 0);
                            w.string(IFLA_IFNAME, veth.peer_name);
                            if let Some(mac) = veth.peer_mac {
                                w.attr(IFLA_ADDRESS, &mac);
                            }
                            if let Some(mtu) = veth.mtu {
                                w.u32(IFLA_MTU, mtu);
                            }
                            if let Some(netns) = veth.peer_netns {
                                netns.write(w);
                            }
                        });
                    });
                });
            })
            .map_err(|refusal| {
                refusal.because(format!(
                    "cannot create veth {} with peer {}",
                    veth.name, veth.peer_name
                ))
            })?;
        self.index_of(veth.name)
    }

    /// Every link of the namespace.
    pub fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        self.socket
            .dump(
                RTM_GETLINK,
                |w| ifinfo(w, 0, 0, 0, 0),
                |kind, payload| (kind == RTM_NEWLINK).then(|| parse_link(payload)).flatten(),
            )
            .map_err(|refusal| refusal.because("cannot list links"))
    }

    /// The link, or none when there is none of that name or index.
    pub fn link<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<Option<Link>, NetlinkError> {
        let link = link.into();
        let result = self.socket.query(
            RTM_GETLINK,
            0,
            |w| match link {
                LinkRef::Index(index) => ifinfo(w, 0, index, 0, 0),
                LinkRef::Name(name) => {
                    ifinfo(w, 0, 0, 0, 0);
                    w.string(IFLA_IFNAME, name);
                }
            },
            |kind, payload| (kind == RTM_NEWLINK).then(|| parse_link(payload)).flatten(),
        );
        match result {
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            other => other.map_err(|refusal| refusal.because(format!("cannot find link {link}"))),
        }
    }

    /// The index of a link that must exist.
    pub fn index_of<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<u32, NetlinkError> {
        let link = link.into();
        match link {
            LinkRef::Index(index) => Ok(index),
            LinkRef::Name(name) => self.link(link)?.map(|found| found.index).ok_or_else(|| {
                NetlinkError::new(format!("cannot find link {name}"), Errno::ENODEV)
            }),
        }
    }

    /// Brings a link up.
    pub fn set_up<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<(), NetlinkError> {
        self.set(link.into(), "bring up", IFF_UP, IFF_UP, |_| {})
    }

    /// Brings a link down.
    pub fn set_down<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<(), NetlinkError> {
        self.set(link.into(), "bring down", 0, IFF_UP, |_| {})
    }

    /// Makes a link a port of a bridge, or of none.
    pub fn set_master<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        master: Option<LinkRef<'_>>,
    ) -> Result<(), NetlinkError> {
        let master = master.map_or(Ok(0), |master| self.index_of(master))?;
        self.set(link.into(), "set the bridge of", 0, 0, |w| {
            w.u32(IFLA_MASTER, master)
        })
    }

    /// Sets the largest packet, in bytes.
    pub fn set_mtu<'a>(&self, link: impl Into<LinkRef<'a>>, mtu: u32) -> Result<(), NetlinkError> {
        self.set(link.into(), "set the MTU of", 0, 0, |w| {
            w.u32(IFLA_MTU, mtu)
        })
    }

    /// Sets the hardware address.
    pub fn set_mac<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        self.set(link.into(), "set the hardware address of", 0, 0, |w| {
            w.attr(IFLA_ADDRESS, &mac)
        })
    }

    /// Renames a link; older kernels want it down for that.
    pub fn rename<'a>(&self, link: impl Into<LinkRef<'a>>, name: &str) -> Result<(), NetlinkError> {
        check_name("cannot rename a link to", name)?;
        let link = link.into();
        let index = self.index_of(link)?;
        self.socket
            .request(RTM_SETLINK, 0, |w| {
                ifinfo(w, 0, index, 0, 0);
                w.string(IFLA_IFNAME, name);
            })
            .map_err(|refusal| refusal.because(format!("cannot rename link {link} to {name}")))
    }

    /// Moves a link to another namespace, where it is down and has no address.
    pub fn move_to<'a>(
        &self,
        link: impl Into<LinkRef<'a>>,
        netns: Netns<'_>,
    ) -> Result<(), NetlinkError> {
        self.set(link.into(), "move", 0, 0, |w| netns.write(w))
    }

    /// Lets a bridge send a packet back out of the port that it came from, which a
    /// pod needs that reaches itself through a service.
    pub fn set_hairpin<'a>(
        &self,
        port: impl Into<LinkRef<'a>>,
        on: bool,
    ) -> Result<(), NetlinkError> {
        let port = port.into();
        let index = self.index_of(port)?;
        self.socket
            .request(RTM_SETLINK, 0, |w| {
                ifinfo(w, libc::AF_BRIDGE as u8, index, 0, 0);
                w.nest(IFLA_PROTINFO, |w| w.attr(IFLA_BRPORT_MODE, &[u8::from(on)]));
            })
            .map_err(|refusal| refusal.because(format!("cannot set hairpin mode of link {port}")))
    }

    /// Deletes a link (of a veth, both ends). Answers whether there was one.
    pub fn delete_link<'a>(&self, link: impl Into<LinkRef<'a>>) -> Result<bool, NetlinkError> {
        let link = link.into();
        let result = self.socket.request(RTM_DELLINK, 0, |w| match link {
            LinkRef::Index(index) => ifinfo(w, 0, index, 0, 0),
            LinkRef::Name(name) => {
                ifinfo(w, 0, 0, 0, 0);
                w.string(IFLA_IFNAME, name);
            }
        });
        match result {
            Ok(()) => Ok(true),
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(false),
            Err(refusal) => Err(refusal.because(format!("cannot delete link {link}"))),
        }
    }

    fn set(
        &self,
        link: LinkRef<'_>,
        action: &str,
        flags: u32,
        change: u32,
        body: impl FnOnce(&mut Writer),
    ) -> Result<(), NetlinkError> {
        self.socket
            .request(RTM_NEWLINK, 0, |w| {
                match link {
                    LinkRef::Index(index) => ifinfo(w, 0, index, flags, change),
                    LinkRef::Name(name) => {
                        ifinfo(w, 0, 0, flags, change);
                        w.string(IFLA_IFNAME, name);
                    }
                }
                body(w);
            })
            .map_err(|refusal| refusal.because(format!("cannot {action} link {link}")))
    }
}

fn parse_link(payload: &[u8]) -> Option<Link> {
    let flags = ne32(payload.get(8..)?);
    let mut link = Link {
        index: ne32(payload.get(4..)?),
        name: String::new(),
        kind: None,
        mac: None,
        mtu: 0,
        up: flags & IFF_UP != 0,
        loopback: flags & IFF_LOOPBACK != 0,
        master: None,
        forwarding: false,
        peer: None,
    };
    for (kind, value) in Attributes(payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = ne32(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_MASTER => link.master = Some(ne32(value)),
            IFLA_LINK => link.peer = Some(ne32(value)),
            IFLA_LINKINFO => {
                for (kind, value) in Attributes(value) {
                    match kind {
                        IFLA_INFO_KIND => link.kind = Some(text(value)),
                        IFLA_INFO_SLAVE_DATA => {
                            link.forwarding = Attributes(value).any(|(kind, v)| {
                                kind == IFLA_BRPORT_STATE && v == [STATE_FORWARDING]
                            });
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}
