//! Entry points of the fuzz target `netlink` (`tests/fuzz`) to the private parsers.

use super::address::parse_address;
use super::link::parse_link;
use super::message::Attributes;
use super::route::parse_route;
use super::socket::each_message;

/// Reads a datagram as if the kernel had sent it: as interfaces, addresses, routes, attributes and
/// refusals. Returns how many messages it has.
pub fn datagram(bytes: &[u8]) -> usize {
    let mut count = 0;
    // Every refusal ends one datagram, but not this function.
    let _ = each_message(bytes, |message| {
        count += 1;
        let (kind, payload) = (message.kind, message.payload);
        let _ = parse_link(payload);
        let _ = parse_route(payload);
        let _ = parse_address(payload);
        let nested = Attributes(payload).flat_map(|(_, value)| Attributes(value));
        assert!(nested.count() <= payload.len() / 4);
        match kind {
            0..8 => message.acknowledgement(),
            _ => Ok(()),
        }
    });
    count
}
