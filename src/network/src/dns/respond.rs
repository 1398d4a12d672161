//! Responses to queries.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use rand::seq::SliceRandom as _;

use super::zone::{Data, DnsState, Kinds, Lookup};

/// Maximum size of a UDP response in bytes, which avoids fragmentation on common paths.
const MAX_UDP_RESPONSE: u16 = 1232;
/// Maximum size of a UDP response to a client without EDNS, in bytes (RFC 1035).
const MAX_UDP_RESPONSE_WITHOUT_EDNS: usize = 512;
/// Maximum number of CNAME records that are followed.
const MAX_ALIASES: usize = 8;

/// The result of processing a query.
pub(super) enum Outcome {
    /// The response.
    Answer(Message),
    /// A partial response, to be completed by forwarding a query for the name.
    Elsewhere(Message, Name),
    /// No response is sent.
    Silence,
}

/// The zone, as of one query.
#[derive(Clone, Copy)]
pub(super) struct Zone<'a> {
    /// Suffix of all its names.
    pub(super) domain: &'a Name,
    /// Records of the zone; `None` before the first update.
    pub(super) state: Option<&'a DnsState>,
    /// The server's own address.
    pub(super) server: IpAddr,
    /// Serial number of the zone.
    pub(super) serial: u32,
    /// Whether queries for other names can be forwarded.
    pub(super) can_forward: bool,
    /// Time to live of the records and of negative responses, in seconds.
    pub(super) ttl: u32,
    /// Whether names of pods' addresses are answered.
    pub(super) pods: bool,
    /// Whether the names of addresses are answered.
    pub(super) reverse: bool,
}

/// Parses a query. Returns the start of its response, and the question.
///
/// # Errors
/// Fails with what becomes of a message that is not a valid query.
pub(super) fn begin(bytes: &[u8]) -> Result<(Message, Query), Box<Outcome>> {
    let request = match Message::from_vec(bytes) {
        Ok(request) => request,
        // A complete header is enough to respond with FORMERR.
        Err(_) if bytes.len() >= 12 && bytes[2] & 0x80 == 0 => {
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            let message = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return Err(Box::new(Outcome::Answer(message)));
        }
        Err(_) => return Err(Box::new(Outcome::Silence)),
    };
    // Responding to responses would create loops.
    if request.metadata.message_type != MessageType::Query {
        return Err(Box::new(Outcome::Silence));
    }
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.metadata.recursion_available = true;
    if let Some(edns) = &request.edns {
        let mut ours = Edns::new();
        ours.set_max_payload(MAX_UDP_RESPONSE);
        ours.set_dnssec_ok(edns.flags().dnssec_ok);
        response.set_edns(ours);
        if edns.version() > 0 {
            return Err(Box::new(refuse(response, ResponseCode::BADVERS)));
        }
    }
    if request.metadata.op_code != OpCode::Query {
        return Err(Box::new(refuse(response, ResponseCode::NotImp)));
    }
    let [query] = &request.queries[..] else {
        return Err(Box::new(refuse(response, ResponseCode::FormErr)));
    };
    response.add_query(query.clone());
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return Err(Box::new(refuse(response, ResponseCode::Refused)));
    }
    Ok((response, query.clone()))
}

/// Parses a query and answers it from the zone, without I/O.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn respond(bytes: &[u8], zone: &Zone<'_>) -> Outcome {
    match begin(bytes) {
        Ok((response, query)) => answer(response, &query, zone),
        Err(outcome) => *outcome,
    }
}

/// Completes a response with an error code.
fn refuse(mut response: Message, code: ResponseCode) -> Outcome {
    response.metadata.response_code = code;
    Outcome::Answer(response)
}

/// Answers a valid query from the zone, following CNAME records within it.
pub(super) fn answer(mut response: Message, query: &Query, zone: &Zone<'_>) -> Outcome {
    let kinds = kinds(query.query_type());
    let mut name = query.name().clone();
    for _ in 0..MAX_ALIASES {
        if !zone.domain.zone_of(&name) {
            return outside(response, query, name, zone);
        }
        response.metadata.authoritative = true;
        let Some(state) = zone.state else {
            response.metadata.authoritative = false;
            return refuse(response, ResponseCode::ServFail);
        };
        let labels: Option<Vec<String>> = name
            .iter()
            .take(usize::from(name.num_labels() - zone.domain.num_labels()))
            .map(|label| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase))
            .collect();
        let found = match &labels {
            Some(labels) => {
                let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
                match labels.as_slice() {
                    [_, _, "pod"] if !zone.pods => Lookup::Nothing,
                    labels => state.find(labels, kinds, zone.server),
                }
            }
            None => Lookup::Nothing,
        };
        match found {
            Lookup::Records(data) => {
                if data.is_empty() {
                    response.add_authority(soa(zone));
                }
                add(&mut response, &name, data, zone);
                return Outcome::Answer(response);
            }
            Lookup::Nothing => {
                response.metadata.response_code = ResponseCode::NXDomain;
                response.add_authority(soa(zone));
                return Outcome::Answer(response);
            }
            Lookup::Alias(target) => {
                let Ok(mut target) = Name::from_ascii(&target) else {
                    return refuse(response, ResponseCode::ServFail);
                };
                target.set_fqdn(true);
                let alias = RData::CNAME(CNAME(target.clone()));
                response.add_answer(Record::from_rdata(name, zone.ttl, alias));
                if matches!(kinds, Kinds::Cname | Kinds::Any) {
                    return Outcome::Answer(response);
                }
                name = target;
            }
        }
    }
    // A CNAME loop, or too long a chain.
    refuse(response, ResponseCode::ServFail)
}

/// Answers a query for a name outside the zone: a PTR query of a cluster address from the zone;
/// anything else is to be forwarded.
fn outside(mut response: Message, query: &Query, name: Name, zone: &Zone<'_>) -> Outcome {
    if zone.reverse
        && let Some(address) = reverse(&name)
        && let Some(state) = zone.state
    {
        let names = state.names_of(address);
        if !names.is_empty() {
            response.metadata.authoritative = true;
            if matches!(query.query_type(), RecordType::PTR | RecordType::ANY) {
                let targets = names
                    .iter()
                    .filter_map(|below| below_domain(&format!("{below}.svc"), zone));
                for target in targets {
                    let data = RData::PTR(PTR(target));
                    response.add_answer(Record::from_rdata(name.clone(), zone.ttl, data));
                }
            } else {
                response.add_authority(soa(zone));
            }
            return Outcome::Answer(response);
        }
        if !zone.can_forward {
            response.metadata.response_code = ResponseCode::NXDomain;
            return Outcome::Answer(response);
        }
    }
    if !zone.can_forward {
        return refuse(response, ResponseCode::ServFail);
    }
    Outcome::Elsewhere(response, name)
}

fn kinds(kind: RecordType) -> Kinds {
    match kind {
        RecordType::A => Kinds::A,
        RecordType::AAAA => Kinds::Aaaa,
        RecordType::SRV => Kinds::Srv,
        RecordType::TXT => Kinds::Txt,
        RecordType::CNAME => Kinds::Cname,
        RecordType::NS => Kinds::Ns,
        RecordType::SOA => Kinds::Soa,
        RecordType::ANY => Kinds::Any,
        _ => Kinds::Other,
    }
}

/// Returns the address of a name below `in-addr.arpa` or `ip6.arpa`; `None` for a network.
pub(super) fn reverse(name: &Name) -> Option<IpAddr> {
    let labels = name.num_labels();
    if !(labels == 6 || labels == 34) {
        return None;
    }
    let net = name.to_lowercase().parse_arpa_name().ok()?;
    let whole = net.prefix_len() == net.max_prefix_len();
    whole.then(|| net.addr())
}

/// Returns the fully qualified name of `below` (labels separated by dots) in the domain.
fn below_domain(below: &str, zone: &Zone<'_>) -> Option<Name> {
    let labels = below
        .split('.')
        .map(str::as_bytes)
        .chain(zone.domain.iter());
    let mut name = Name::from_labels(labels).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Returns the SOA record of the zone.
fn soa(zone: &Zone<'_>) -> Record {
    Record::from_rdata(zone.domain.clone(), zone.ttl, soa_data(zone))
}

fn soa_data(zone: &Zone<'_>) -> RData {
    let below = |labels: &str| below_domain(labels, zone).unwrap_or_else(|| zone.domain.clone());
    RData::SOA(SOA::new(
        below("ns.dns"),
        below("hostmaster"),
        zone.serial,
        7200,
        1800,
        86400,
        zone.ttl,
    ))
}

pub(super) fn address_record(owner: &Name, address: IpAddr, ttl: u32) -> Record {
    let data = match address {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(owner.clone(), ttl, data)
}

/// Adds records to the answer section, in random order, and the addresses of SRV targets to the
/// additional section.
fn add(response: &mut Message, owner: &Name, mut data: Vec<Data>, zone: &Zone<'_>) {
    // Clients use the first address; shuffling spreads the load.
    data.shuffle(&mut rand::rng());
    for one in data {
        match one {
            Data::Address(address) => {
                response.add_answer(address_record(owner, address, zone.ttl));
            }
            Data::Srv {
                port,
                target,
                addresses,
            } => {
                let Some(target) = below_domain(&target, zone) else {
                    continue;
                };
                for address in addresses {
                    let record = address_record(&target, address, zone.ttl);
                    if !response.additionals.contains(&record) {
                        response.add_additional(record);
                    }
                }
                let srv = RData::SRV(SRV::new(0, 100, port, target));
                response.add_answer(Record::from_rdata(owner.clone(), zone.ttl, srv));
            }
            Data::Txt(text) => {
                let text = RData::TXT(TXT::new(vec![text.to_owned()]));
                response.add_answer(Record::from_rdata(owner.clone(), zone.ttl, text));
            }
            Data::Soa => {
                response.add_answer(Record::from_rdata(owner.clone(), zone.ttl, soa_data(zone)));
            }
            Data::Ns => {
                if let Some(name) = below_domain("ns.dns", zone) {
                    response.add_answer(Record::from_rdata(
                        owner.clone(),
                        zone.ttl,
                        RData::NS(NS(name.clone())),
                    ));
                    response.add_additional(address_record(&name, zone.server, zone.ttl));
                }
            }
        }
    }
}

/// Returns the maximum size of a UDP response to a query, from its EDNS payload size.
pub(super) fn udp_limit(bytes: &[u8]) -> usize {
    Message::from_vec(bytes)
        .ok()
        .and_then(|request| request.edns)
        .map_or(MAX_UDP_RESPONSE_WITHOUT_EDNS, |edns| {
            usize::from(
                edns.max_payload()
                    .clamp(MAX_UDP_RESPONSE_WITHOUT_EDNS as u16, MAX_UDP_RESPONSE),
            )
        })
}

/// Encodes a message in at most `limit` bytes. Drops the additional section first. If answers have
/// to be dropped too, sets the TC bit, so that the client retries over TCP. Returns `None` if even
/// an empty message is too long or encoding fails.
pub(super) fn encode(mut message: Message, limit: usize) -> Option<Vec<u8>> {
    loop {
        let bytes = message.to_vec().ok()?;
        if bytes.len() <= limit {
            return Some(bytes);
        }
        if !message.additionals.is_empty() {
            message.additionals.clear();
            continue;
        }
        message.metadata.truncation = true;
        if message.answers.is_empty() {
            if message.authorities.is_empty() {
                return None;
            }
            message.authorities.clear();
            continue;
        }
        // The number of records that would fit if all had the same size, but at least one less.
        let now = message.answers.len();
        message
            .answers
            .truncate((now * limit / bytes.len()).min(now - 1));
    }
}
