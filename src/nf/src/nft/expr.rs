//! Expressions, the instructions of rules.

use std::net::IpAddr;
use std::time::Duration;

use super::table::{Name, Set};

/// A register: 32 bits, or the first of several that hold a longer value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reg(pub(super) u32);

impl Reg {
    /// Returns the `n`th 32-bit register, 0 to 15. A longer value also occupies the following
    /// registers: an interface name takes four. Panics if `n` is 16 or more.
    pub const fn word(n: u32) -> Self {
        assert!(n < 16);
        Self(libc::NFT_REG32_00 as u32 + n)
    }
}

/// Maximum length of a value, in bytes.
pub(super) const MAX_DATA: usize = 36;

/// A value of up to 36 bytes, the length of an interface's name, an address and a port. Its length must equal that of the field it is used for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Data {
    length: u8,
    bytes: [u8; MAX_DATA],
}

impl Data {
    /// Returns `value` unchanged. Panics if it has more than 36 bytes.
    pub fn bytes(value: &[u8]) -> Self {
        let mut bytes = [0; MAX_DATA];
        bytes[..value.len()].copy_from_slice(value);
        Self {
            length: value.len() as u8,
            bytes,
        }
    }

    /// Returns an address, of 4 or 16 bytes.
    pub fn ip(ip: impl Into<IpAddr>) -> Self {
        match ip.into() {
            IpAddr::V4(ip) => Self::bytes(&ip.octets()),
            IpAddr::V6(ip) => Self::bytes(&ip.octets()),
        }
    }

    /// Returns as many zero bytes as the address has, which flip no bit of it.
    pub fn zeros(like: IpAddr) -> Self {
        match like {
            IpAddr::V4(_) => Self::bytes(&[0; 4]),
            IpAddr::V6(_) => Self::bytes(&[0; 16]),
        }
    }

    /// Returns a port, in network byte order.
    pub fn port(port: u16) -> Self {
        Self::bytes(&port.to_be_bytes())
    }

    /// Returns a byte, such as a protocol number.
    pub fn byte(value: u8) -> Self {
        Self::bytes(&[value])
    }

    /// Returns a number in native byte order, such as a mark or a connection state.
    pub fn host(value: u32) -> Self {
        Self::bytes(&value.to_ne_bytes())
    }

    /// Returns the name of an interface, zero-padded to 16 bytes for an exact comparison.
    pub fn link(name: &str) -> Self {
        let mut bytes = [0; 16];
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        Self::bytes(&bytes)
    }

    /// Returns the bytes.
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

/// The decision about a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Accepts the packet in this hook. Later hooks still process it.
    Accept,
    /// Drops the packet without a response.
    Drop,
    /// Returns to the calling chain.
    Return,
    /// Continues in another chain and returns after its end.
    Jump(Name),
    /// Continues in another chain without returning.
    Goto(Name),
}

/// A comparison operator.
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

/// Metadata of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The packet's mark, a 32-bit number.
    Mark,
    /// Index of the input interface.
    InLink,
    /// Index of the output interface.
    OutLink,
    /// Name of the input interface, 16 bytes.
    InName,
    /// Name of the output interface, 16 bytes.
    OutName,
    /// Transport protocol, one byte.
    L4Proto,
    /// Address family, one byte.
    NfProto,
}

/// The header that a field's offset is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadBase {
    /// The link-layer header.
    Link,
    /// The network header.
    Network,
    /// The transport header.
    Transport,
}

/// Connection tracking data of a packet.
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
    /// The connection's transport protocol, one byte. Unlike [`Meta::L4Proto`], also for an ICMP
    /// error about the connection.
    Protocol,
    /// Address that the connection was opened from, before its source is translated. Of the
    /// table's family, as [`Self::ServerIp`].
    ClientIp,
    /// Address that answers, after the destination is translated.
    ServerIp,
    /// Port that answers, after the destination is translated, in network byte order.
    ServerPort,
}

/// Values of [`Ct::State`]; exactly one bit is set. All other data of connection tracking is absent
/// from packets without a connection, and a rule that loads it does not match them.
pub mod ct_state {
    /// Belongs to no connection.
    pub const INVALID: u32 = 1;
    /// Belongs to a connection with packets in both directions.
    pub const ESTABLISHED: u32 = 2;
    /// Starts a connection related to another one, such as an ICMP error.
    pub const RELATED: u32 = 4;
    /// Starts a connection.
    pub const NEW: u32 = 8;
    /// Excluded from connection tracking.
    pub const UNTRACKED: u32 = 64;
}

/// Bits of [`Ct::Status`].
pub mod ct_status {
    /// The source was translated.
    pub const SNAT: u32 = 1 << 4;
    /// The destination was translated.
    pub const DNAT: u32 = 1 << 5;
}

/// The address that a translation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatKind {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// The response to a rejected packet.
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

/// A reference to the set or map of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetRef {
    /// A set of the table, by name.
    Named(Name),
    /// A set that belongs to the rule and is deleted with it.
    Anonymous(Box<Set>),
}

/// An expression. A rule evaluates its expressions in order until a comparison fails or one of them
/// issues a verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a constant.
    Immediate(Reg, Data),
    /// Issues a verdict.
    Verdict(Verdict),
    /// Continues if the comparison of the register holds.
    Cmp(Reg, CmpOp, Data),
    /// Computes `register = (register & mask) ^ xor`. Both operands are as long as the value.
    Bitwise {
        /// The register, read and written.
        reg: Reg,
        /// Mask of the bits that are kept.
        mask: Data,
        /// Bits that are flipped after masking.
        xor: Data,
    },
    /// Loads metadata of the packet.
    Meta(Meta, Reg),
    /// Sets metadata (only the mark can be set).
    SetMeta(Meta, Reg),
    /// Loads bytes of the packet.
    Payload {
        /// The header that `offset` is relative to.
        base: PayloadBase,
        /// Offset of the first byte.
        offset: u32,
        /// Number of bytes.
        length: u32,
        /// The destination register.
        reg: Reg,
    },
    /// Loads the source address, as long as the addresses of the table's family.
    SourceIp(Reg),
    /// Loads the destination address, as long as the addresses of the table's family.
    DestinationIp(Reg),
    /// Loads connection tracking data.
    Ct(Ct, Reg),
    /// Looks up the register in a set and continues if it is found.
    Lookup {
        /// The set.
        set: SetRef,
        /// The key.
        reg: Reg,
        /// Whether to continue if the key is not found instead.
        invert: bool,
    },
    /// Looks up the register in a map and issues the verdict found. Ends the rule if the key is not
    /// found.
    LookupVerdict {
        /// The map.
        map: SetRef,
        /// The key.
        reg: Reg,
    },
    /// Looks up the register in a map and loads the value found. Ends the rule if the key is not
    /// found.
    LookupValue {
        /// The map.
        map: SetRef,
        /// The key.
        reg: Reg,
        /// The destination register.
        to: Reg,
    },
    /// Translates an address of the connection, and its port if requested.
    Nat {
        /// The address that is translated.
        kind: NatKind,
        /// Register with the new address.
        address: Reg,
        /// Register with the new port; unchanged if absent.
        port: Option<Reg>,
    },
    /// Sets the source to the address of the output interface.
    Masquerade {
        /// Whether source ports are chosen at random, which avoids collisions between concurrent
        /// connections.
        fully_random: bool,
    },
    /// Sets the destination to the local machine, with the port in the register if given.
    Redirect(Option<Reg>),
    /// Loads the type of the destination address (`RTN_LOCAL` is 2), a 32-bit number.
    FibDestinationType(Reg),
    /// Loads the type of the source address, a 32-bit number.
    FibSourceType(Reg),
    /// Loads a random number below `modulus`.
    Random {
        /// The destination register.
        reg: Reg,
        /// Exclusive upper bound.
        modulus: u32,
    },
    /// Loads a counter that runs from 0 to `modulus - 1` and wraps around.
    Incremental {
        /// The destination register.
        reg: Reg,
        /// Exclusive upper bound.
        modulus: u32,
    },
    /// Counts packets and bytes.
    Counter,
    /// Continues for a limited number of packets per second.
    Limit {
        /// Packets per second.
        per_second: u64,
        /// Number of packets in excess of the rate that may arrive in a burst.
        burst: u32,
    },
    /// Rejects the packet with a response.
    Reject(Reject),
    /// Excludes the packet from connection tracking.
    NoTrack,
    /// Adds the register to a set of the table, or restarts the timeout of the existing element.
    Update {
        /// The set.
        set: Name,
        /// The key.
        reg: Reg,
        /// Timeout of the element; the set's default if absent.
        timeout: Option<Duration>,
    },
}

/// Constructors of common expressions.
impl Expr {
    /// Loads the source address.
    pub fn source_ip(reg: Reg) -> Self {
        Self::SourceIp(reg)
    }

    /// Loads the destination address.
    pub fn destination_ip(reg: Reg) -> Self {
        Self::DestinationIp(reg)
    }

    /// Loads the destination port of a TCP, UDP or SCTP packet.
    pub fn destination_port(reg: Reg) -> Self {
        Self::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            length: 2,
            reg,
        }
    }

    /// Continues if the register equals `data`.
    pub fn eq(reg: Reg, data: Data) -> Self {
        Self::Cmp(reg, CmpOp::Eq, data)
    }

    /// Continues if the register does not equal `data`.
    pub fn ne(reg: Reg, data: Data) -> Self {
        Self::Cmp(reg, CmpOp::Ne, data)
    }

    /// Jumps to a chain.
    pub fn jump(chain: &Name) -> Self {
        Self::Verdict(Verdict::Jump(chain.clone()))
    }

    /// Continues in a chain without returning.
    pub fn goto(chain: &Name) -> Self {
        Self::Verdict(Verdict::Goto(chain.clone()))
    }
}
