//! The way of a query through the plugins of a Corefile.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::corefile::{Block, Corefile, Filled, Hosts, Renamed, fill, rename};
use super::forward::{Answer, Forwarder};
use super::respond::{Outcome, Zone, address_record, answer, begin, reverse};
use super::types::DnsConfig;

/// Time to live of the names of the host, in seconds.
const HOST_TTL: u32 = 30;
/// Maximum number of times that the target of an alias is looked up from the start.
const MAX_TARGETS: usize = 8;

/// A Corefile in use.
pub(super) struct Chain {
    corefile: Corefile,
    /// The forwarders of each block.
    forwarders: Vec<Vec<Forwarder>>,
}

/// A query that has to be forwarded.
pub(super) struct Pending {
    chain: Arc<Chain>,
    /// The block that forwards.
    block: usize,
    response: Message,
    name: Name,
    asked: Asked,
}

/// What a client asked, before it was rewritten.
struct Asked {
    query: Query,
    /// What was rewritten, with the number of answers before it, which it does not concern.
    renamed: Vec<(usize, Renamed)>,
    errors: bool,
    log: bool,
}

/// What is to be done about a query.
pub(super) enum Step {
    /// Nothing is sent.
    Silence,
    /// The answer.
    Answer(Message),
    /// The answer is to be completed.
    Ask(Box<Pending>),
}

impl Chain {
    pub(super) fn new(corefile: Corefile, config: &DnsConfig) -> Self {
        let forwarders = corefile.blocks.iter().map(|block| {
            let forwards = block.forwards.iter();
            forwards
                .map(|forward| Forwarder::new(config, forward, block.cache.clone()))
                .collect()
        });
        Self {
            forwarders: forwarders.collect(),
            corefile,
        }
    }

    /// Answers a query as far as possible without forwarding.
    pub(super) fn respond(
        self: &Arc<Self>,
        bytes: &[u8],
        zone: &Zone<'_>,
        config: &DnsConfig,
    ) -> Step {
        let (mut response, query) = match begin(bytes).map_err(|outcome| *outcome) {
            Ok(begun) => begun,
            Err(Outcome::Answer(message) | Outcome::Elsewhere(message, _)) => {
                return Step::Answer(message);
            }
            Err(Outcome::Silence) => return Step::Silence,
        };
        let Some(mut index) = self.corefile.block_of(&query.name().to_lowercase()) else {
            response.metadata.response_code = ResponseCode::Refused;
            return Step::Answer(response);
        };
        let block = &self.corefile.blocks[index];
        let mut asked = Asked {
            query: query.clone(),
            renamed: Vec::new(),
            errors: block.errors,
            log: block.log,
        };
        let mut query = query;
        for _ in 0..=MAX_TARGETS {
            // A query stays in its block, whatever name the block gives it.
            let block = &self.corefile.blocks[index];
            if let Some((name, renamed)) = rename(&block.rewrites, query.name()) {
                query.set_name(name);
                asked.renamed.push((response.answers.len(), renamed));
            }
            let outcome = match locally(block, &mut response, &query, config) {
                true => Outcome::Answer(response),
                false => in_cluster(block, response, &query, zone),
            };
            match outcome {
                Outcome::Silence => return Step::Silence,
                Outcome::Answer(message) => return Step::Answer(asked.finish(message)),
                // The target of an alias is looked up as if a client had asked for it.
                Outcome::Elsewhere(begun, target) if target != *query.name() => {
                    response = begun;
                    match self.corefile.block_of(&target.to_lowercase()) {
                        Some(next) => index = next,
                        None => break,
                    }
                    query.set_name(target);
                }
                Outcome::Elsewhere(response, name) => {
                    return Step::Ask(Box::new(Pending {
                        chain: self.clone(),
                        block: index,
                        response,
                        name,
                        asked,
                    }));
                }
            }
        }
        // No block serves the target, or the chain of targets is too long.
        response.metadata.response_code = ResponseCode::ServFail;
        Step::Answer(asked.finish(response))
    }

    /// Returns the forwarder for a name.
    fn forwarder(&self, block: usize, name: &Name) -> Option<&Forwarder> {
        let name = name.to_lowercase();
        let forwards = self.corefile.blocks[block].forwards.iter();
        let mut pairs = forwards.zip(&self.forwarders[block]);
        let found = pairs.find(|(forward, _)| forward.takes(&name));
        found.map(|(_, forwarder)| forwarder)
    }
}

/// Answers from templates, from the names of the block, or with the host's address. Returns whether
/// the response is complete.
fn locally(block: &Block, response: &mut Message, query: &Query, config: &DnsConfig) -> bool {
    let name = query.name().to_lowercase();
    if let Some(filled) = fill(&block.templates, &name, query.query_type()) {
        let Filled {
            code,
            answers,
            additionals,
            authorities,
        } = filled;
        response.metadata.authoritative = true;
        response.metadata.response_code = code;
        response.answers.extend(answers);
        response.additionals.extend(additionals);
        response.authorities.extend(authorities);
        return true;
    }
    if let Some(hosts) = &block.hosts
        && let Some(code) = from_hosts(hosts, &name, query.query_type(), response)
    {
        response.metadata.authoritative = true;
        response.metadata.response_code = code;
        return true;
    }
    let Some(host) = config.host.filter(|_| is_host(config, &name)) else {
        return false;
    };
    response.metadata.authoritative = true;
    if matches!(query.query_type(), RecordType::A | RecordType::ANY) {
        let record = Record::from_rdata(query.name().clone(), HOST_TTL, RData::A(A(host)));
        response.add_answer(record);
    }
    true
}

/// Whether the name, in lower case, is one of the machine that the nodes run on.
fn is_host(config: &DnsConfig, name: &Name) -> bool {
    let text = name.to_ascii();
    let text = text.trim_end_matches('.');
    config.host_names.iter().any(|own| own == text)
}

/// Answers from the plugin `hosts`. Returns `None` if the query is left to the next plugins.
fn from_hosts(
    hosts: &Hosts,
    name: &Name,
    kind: RecordType,
    response: &mut Message,
) -> Option<ResponseCode> {
    let address = reverse(name);
    let names = address.and_then(|address| hosts.by_address.get(&address));
    // The names of other addresses are always left to them.
    if kind == RecordType::PTR && names.is_none() {
        return None;
    }
    let addresses = hosts.by_name.get(name);
    if names.is_none() && addresses.is_none() {
        // Without an SOA record, CoreDNS has no other way to say that a name does not exist.
        return (!hosts.falls_through(name)).then_some(ResponseCode::ServFail);
    }
    if let (Some(names), RecordType::PTR | RecordType::ANY) = (names, kind) {
        for target in names {
            let data = RData::PTR(PTR(target.clone()));
            response.add_answer(Record::from_rdata(name.clone(), hosts.ttl, data));
        }
    }
    for address in addresses.into_iter().flatten() {
        let wanted = match address {
            IpAddr::V4(_) => RecordType::A,
            IpAddr::V6(_) => RecordType::AAAA,
        };
        if kind == wanted || kind == RecordType::ANY {
            response.add_answer(address_record(name, *address, hosts.ttl));
        }
    }
    Some(ResponseCode::NoError)
}

/// Answers from the cluster's records, if the block serves them.
fn in_cluster(block: &Block, response: Message, query: &Query, zone: &Zone<'_>) -> Outcome {
    let Some(kubernetes) = &block.kubernetes else {
        return Outcome::Elsewhere(response, query.name().clone());
    };
    let zone = Zone {
        ttl: kubernetes.ttl,
        pods: kubernetes.pods,
        reverse: kubernetes.reverse,
        ..*zone
    };
    let falls = |name: &Name| {
        let name = name.to_lowercase();
        kubernetes
            .fallthrough
            .iter()
            .any(|zone| zone.zone_of(&name))
    };
    match answer(response, query, &zone) {
        Outcome::Answer(mut message)
            if message.metadata.response_code == ResponseCode::NXDomain && falls(query.name()) =>
        {
            message.metadata.response_code = ResponseCode::NoError;
            message.metadata.authoritative = false;
            message.authorities.clear();
            Outcome::Elsewhere(message, query.name().clone())
        }
        Outcome::Elsewhere(mut message, name)
            if kubernetes.reverse && is_reverse(&name) && !falls(&name) =>
        {
            message.metadata.response_code = ResponseCode::NXDomain;
            Outcome::Answer(message)
        }
        other => other,
    }
}

fn is_reverse(name: &Name) -> bool {
    let arpa = ["in-addr.arpa.", "ip6.arpa."].map(Name::from_ascii);
    arpa.iter().flatten().any(|arpa| arpa.zone_of(name))
}

impl Asked {
    /// Gives the answer the names that the client asked for, and logs it.
    fn finish(&self, mut message: Message) -> Message {
        for (before, renamed) in self.renamed.iter().rev() {
            let answers = message.answers.iter_mut().skip(*before);
            let others = message
                .authorities
                .iter_mut()
                .chain(&mut message.additionals);
            answers
                .chain(others)
                .for_each(|record| renamed.write_back(record));
        }
        let (name, kind) = (self.query.name(), self.query.query_type());
        let code = message.metadata.response_code;
        if self.log {
            tracing::info!(%name, %kind, %code, answers = message.answers.len(), "name query");
        }
        if self.errors && code == ResponseCode::ServFail {
            tracing::warn!(%name, %kind, "a name query failed");
        }
        message
    }
}

impl Pending {
    /// Completes the answer.
    pub(super) async fn complete(self, client: IpAddr) -> Message {
        let Self {
            chain,
            block,
            mut response,
            name,
            asked,
        } = self;
        let kind = asked.query.query_type();
        let edns = response.edns.as_ref();
        let dnssec = edns.is_some_and(|edns| edns.flags().dnssec_ok);
        let forwarder = chain.forwarder(block, &name);
        let answer = match forwarder {
            Some(forwarder) => forwarder.ask(client, &name, kind, dnssec).await,
            None => None,
        };
        match answer {
            Some(Answer {
                code,
                answers,
                authorities,
            }) => {
                response.metadata.response_code = code;
                response.answers.extend(answers);
                response.authorities.extend(authorities);
            }
            // Without a server, the names of addresses do not exist.
            None if reverse(&name).is_some()
                && forwarder.is_none_or(|forwarder| forwarder.servers().is_empty()) =>
            {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            None => response.metadata.response_code = ResponseCode::ServFail,
        }
        asked.finish(response)
    }
}
