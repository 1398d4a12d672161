//! The instructions that rules are made of.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::table::{Name, Set};

/// A register: 32 bits, or the first of several that hold a longer value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reg(pub(super) u32);

impl Reg {
    /// The `n`th 32-bit register, 0 to 15. Longer values take those that follow:
    /// a link name takes four.
    pub const fn word(n: u32) -> Self {
        assert!(n < 16);
        Self(8 + n) // NFT_REG32_00
    }
}

/// A value of up to 20 bytes, as long as its field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Data {
    length: u8,
    bytes: [u8; 20],
}

impl Data {
    /// Bytes as they stand.
    pub fn bytes(value: &[u8]) -> Self {
        let mut bytes = [0; 20];
        bytes[..value.len()].copy_from_slice(value);
        Self {
            length: value.len() as u8,
            bytes,
        }
    }

    /// An address.
    pub fn ip(ip: Ipv4Addr) -> Self {
        Self::bytes(&ip.octets())
    }

    /// A port, in network byte order.
    pub fn port(port: u16) -> Self {
        Self::bytes(&port.to_be_bytes())
    }

    /// A byte: a protocol number.
    pub fn byte(value: u8) -> Self {
        Self::bytes(&[value])
    }

    /// A number that the kernel computes: a mark, a state, a random number.
    pub fn host(value: u32) -> Self {
        Self::bytes(&value.to_ne_bytes())
    }

    /// The name of a link, for whole comparison.
    pub fn link(name: &str) -> Self {
        let mut bytes = [0; 16];
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self::bytes(&bytes)
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("0x")?;
        self.as_bytes()
            .iter()
            .try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Let through by this chain; later hooks still see it.
    Accept,
    /// Dropped silently.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On in another chain, coming back after it.
    Jump(Name),
    /// On in another chain, without coming back.
    Goto(Name),
}

/// How to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CmpOp {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// What is known about a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The packet's mark, a 32-bit number.
    Mark,
    /// Index of the link it came in by.
    InLink,
    /// Index of the link it goes out by.
    OutLink,
    /// Name of the link it came in by, 16 bytes.
    InName,
    /// Name of the link it goes out by, 16 bytes.
    OutName,
    /// Transport protocol, one byte.
    L4Proto,
    /// Family, one byte.
    NfProto,
}

/// Where a field of a packet is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// The network header.
    Network,
    /// The transport header.
    Transport,
}

/// What connection tracking knows about a packet's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ct {
    /// A bit of [`ct_state`].
    State,
    /// Bits of [`ct_status`].
    Status,
    /// The connection's mark.
    Mark,
    /// 0 for the direction of its first packet, 1 for replies; one byte.
    Direction,
}

/// Values of [`Ct::State`]: one bit is set.
pub mod ct_state {
    /// Not attributable to a connection.
    pub const INVALID: u32 = 1;
    /// Of a connection that has seen packets both ways.
    pub const ESTABLISHED: u32 = 2;
    /// Begins a connection that belongs to another (an ICMP error).
    pub const RELATED: u32 = 4;
    /// Begins a connection.
    pub const NEW: u32 = 8;
}

/// Bits of [`Ct::Status`].
pub mod ct_status {
    /// The source was translated.
    pub const SNAT: u32 = 1 << 4;
    /// The destination was translated.
    pub const DNAT: u32 = 1 << 5;
}

/// Which address is translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// How a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// A TCP reset.
    TcpReset,
    /// ICMP port unreachable.
    PortUnreachable,
    /// ICMP host unreachable.
    HostUnreachable,
    /// ICMP communication administratively prohibited.
    AdminProhibited,
}

/// The set or map of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetRef {
    /// One of the table's, by name.
    Named(Name),
    /// One that belongs to this rule alone.
    Anonymous(Box<Set>),
}

/// An instruction. A rule runs them in order until a comparison fails or a verdict falls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a constant.
    Immediate(Reg, Data),
    /// Gives a verdict.
    Verdict(Verdict),
    /// Goes on when the register compares so.
    Cmp(Reg, CmpOp, Data),
    /// `register = (register & mask) ^ xor`; both are as long as the value.
    Bitwise {
        /// The register, read and written.
        reg: Reg,
        /// Bits kept.
        mask: Data,
        /// Bits flipped after that.
        xor: Data,
    },
    /// Loads what is known about the packet.
    Meta(Meta, Reg),
    /// Sets it (only the mark can be).
    SetMeta(Meta, Reg),
    /// Loads bytes of the packet.
    Payload {
        /// Counted from here.
        base: PayloadBase,
        /// First byte.
        offset: u32,
        /// How many.
        length: u32,
        /// Where to.
        reg: Reg,
    },
    /// Loads what is known about the connection.
    Ct(Ct, Reg),
    /// Looks the register up; goes on when it is there.
    Lookup {
        /// Where.
        set: SetRef,
        /// The key.
        reg: Reg,
        /// Goes on when it is not there instead.
        invert: bool,
    },
    /// Looks the register up in a map; gives the verdict found or goes on behind the rule.
    LookupVerdict {
        /// The map.
        map: SetRef,
        /// The key.
        reg: Reg,
    },
    /// Looks the register up in a map and loads the value found.
    LookupValue {
        /// The map.
        map: SetRef,
        /// The key.
        reg: Reg,
        /// Where to.
        to: Reg,
    },
    /// Translates addresses of the connection.
    Nat {
        /// Which end.
        kind: NatKind,
        /// Holds the new address.
        address: Reg,
        /// Holds the new port; unchanged when absent.
        port: Option<Reg>,
    },
    /// Makes the source the address of the link that the packet leaves by.
    Masquerade {
        /// Whether source ports are picked at random, which avoids clashes of
        /// concurrent connections.
        fully_random: bool,
    },
    /// Makes the destination this machine, with the port in the register if given.
    Redirect(Option<Reg>),
    /// Loads the kind of the destination address (`RTN_LOCAL` is 2), a 32-bit number.
    FibDestinationType(Reg),
    /// Loads the kind of the source address.
    FibSourceType(Reg),
    /// Loads a random number below `modulus`.
    Random {
        /// Where to.
        reg: Reg,
        /// One more than the largest.
        modulus: u32,
    },
    /// Loads 0, 1 … `modulus - 1`, 0 … in turn.
    Incremental {
        /// Where to.
        reg: Reg,
        /// One more than the largest.
        modulus: u32,
    },
    /// Counts packets and bytes.
    Counter,
    /// Goes on for so many packets each second.
    Limit {
        /// Packets.
        per_second: u64,
        /// Packets beyond that at once.
        burst: u32,
    },
    /// Refuses the packet, telling its sender.
    Reject(Reject),
    /// Leaves the packet out of connection tracking.
    NoTrack,
    /// Puts the register into a set of the table, or starts its time anew.
    Update {
        /// The set.
        set: Name,
        /// The key.
        reg: Reg,
        /// How long it stays; the set's own time when absent.
        timeout: Option<Duration>,
    },
}

/// Common instructions, spelled short.
impl Expr {
    /// Loads the IPv4 source address.
    pub fn source_ip(reg: Reg) -> Self {
        Self::Payload {
            base: PayloadBase::Network,
            offset: 12,
            length: 4,
            reg,
        }
    }

    /// Loads the IPv4 destination address.
    pub fn destination_ip(reg: Reg) -> Self {
        Self::Payload {
            base: PayloadBase::Network,
            offset: 16,
            length: 4,
            reg,
        }
    }

    /// Loads the destination port (of TCP, UDP or SCTP alike).
    pub fn destination_port(reg: Reg) -> Self {
        Self::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            length: 2,
            reg,
        }
    }

    /// Goes on when the register equals.
    pub fn eq(reg: Reg, data: Data) -> Self {
        Self::Cmp(reg, CmpOp::Eq, data)
    }

    /// Goes on when the register does not equal.
    pub fn ne(reg: Reg, data: Data) -> Self {
        Self::Cmp(reg, CmpOp::Ne, data)
    }

    /// A jump.
    pub fn jump(chain: &Name) -> Self {
        Self::Verdict(Verdict::Jump(chain.clone()))
    }

    /// A goto.
    pub fn goto(chain: &Name) -> Self {
        Self::Verdict(Verdict::Goto(chain.clone()))
    }
}
