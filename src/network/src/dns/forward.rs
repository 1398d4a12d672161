//! Forwarding of queries outside the cluster's zone, with a cache.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::corefile::{Cache, CacheLimits, Forward, Policy};
use super::shares::Shares;
use super::types::DnsConfig;

/// Timeout of one attempt at one server.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of all attempts together, just below the resolver default of five seconds.
const QUERY_TIMEOUT: Duration = Duration::from_millis(4500);
/// Maximum number of concurrent queries. It also bounds forwarding loops.
const MAX_CONCURRENT_QUERIES: usize = 256;
/// Maximum number of concurrent queries of one client, so that no pod takes all of them.
const MAX_QUERIES_PER_CLIENT: usize = 64;
/// Maximum size of a UDP response, in bytes.
const MAX_UDP_PAYLOAD: u16 = 1232;
/// Minimum time between checks of `resolv.conf`.
const RESOLV_CONF_CHECK_PERIOD: Duration = Duration::from_secs(5);

/// A caching client of recursive name servers.
pub(super) struct Forwarder {
    /// Address of this server, to which queries are never forwarded.
    own: Vec<SocketAddr>,
    /// Configured servers.
    given: Vec<SocketAddr>,
    /// File with more servers, if any.
    resolv_conf: Option<PathBuf>,
    policy: Policy,
    /// Number of queries so far, for [`Policy::RoundRobin`].
    turn: AtomicUsize,
    force_tcp: bool,
    cache: Option<Cache>,
    found: Mutex<Resolvers>,
    /// The cached answers with records.
    positive: Memory,
    /// The cached negative answers.
    negative: Memory,
    /// Permits for concurrent queries.
    under_way: Shares,
}

/// Cached answers of one kind.
type Memory = Mutex<HashMap<Question, CachedAnswer>>;

/// The servers of `resolv.conf`, as of the last check.
#[derive(Default)]
struct Resolvers {
    servers: Vec<SocketAddr>,
    /// Time of the last check.
    looked: Option<Instant>,
    /// Modification time of the file at the last check.
    changed: Option<SystemTime>,
}

/// The key of a cached response. The name is in lower case.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Question {
    name: Name,
    kind: RecordType,
    dnssec: bool,
}

/// A cached response.
struct CachedAnswer {
    answer: Answer,
    since: Instant,
    /// Lifetime in seconds.
    ttl: u32,
}

/// The response of another name server.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) code: ResponseCode,
    pub(super) answers: Vec<Record>,
    pub(super) authorities: Vec<Record>,
}

impl Forwarder {
    /// Returns a forwarder as the Corefile describes it. The node's own configuration takes the place
    /// of `resolv.conf`, if it names servers.
    pub(super) fn new(config: &DnsConfig, forward: &Forward, cache: Option<Cache>) -> Self {
        let mut given = forward.to.clone();
        let mut resolv_conf = None;
        if forward.resolv_conf {
            given.extend(config.upstreams.iter().map(|ip| SocketAddr::new(*ip, 53)));
            resolv_conf = Some(&config.resolv_conf).filter(|_| config.upstreams.is_empty());
        }
        Self {
            own: config.listen.clone(),
            given,
            resolv_conf: resolv_conf.cloned(),
            policy: forward.policy,
            turn: AtomicUsize::new(0),
            force_tcp: forward.force_tcp,
            cache,
            found: Mutex::default(),
            positive: Memory::default(),
            negative: Memory::default(),
            under_way: Shares::new(
                forward.concurrent.unwrap_or(MAX_CONCURRENT_QUERIES),
                MAX_QUERIES_PER_CLIENT,
            ),
        }
    }

    /// Returns the servers to query, without this server itself. Reads `resolv.conf` again if it
    /// changed, at most once per [`RESOLV_CONF_CHECK_PERIOD`].
    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        let given = self.given.iter().copied();
        let given = given.filter(|server| !self.own.contains(server));
        let Some(resolv_conf) = &self.resolv_conf else {
            return given.collect();
        };
        let mut found = self.found.lock();
        if found
            .looked
            .is_none_or(|looked| looked.elapsed() >= RESOLV_CONF_CHECK_PERIOD)
        {
            found.looked = Some(Instant::now());
            let changed = std::fs::metadata(resolv_conf)
                .and_then(|meta| meta.modified())
                .ok();
            if changed.is_none() || changed != found.changed {
                found.changed = changed;
                // Without the file there is no server, as in a C library without a local one.
                let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
                found.servers = name_servers(&text)
                    .map(|ip| SocketAddr::new(ip, 53))
                    .filter(|server| !self.own.contains(server))
                    .collect();
            }
        }
        given.chain(found.servers.iter().copied()).collect()
    }

    /// Returns the servers in the order in which they are asked this time.
    fn in_order(&self) -> Vec<SocketAddr> {
        let mut servers = self.servers();
        let count = servers.len().max(1);
        let first = match self.policy {
            Policy::Sequential => 0,
            Policy::Random => rand::random_range(0..count),
            Policy::RoundRobin => self.turn.fetch_add(1, Ordering::Relaxed) % count,
        };
        servers.rotate_left(first);
        servers
    }

    /// Resolves a name from the cache or from a server. Returns `None` if no server responds in
    /// time or too many queries, of all clients or of this one, are in flight.
    pub(super) async fn ask(
        &self,
        client: IpAddr,
        name: &Name,
        kind: RecordType,
        dnssec: bool,
    ) -> Option<Answer> {
        let question = Question {
            name: name.to_lowercase(),
            kind,
            dnssec,
        };
        if let Some(answer) = self.remembered(&question) {
            return Some(answer);
        }
        let servers = self.in_order();
        let _permit = self.under_way.take(client)?;
        let answer = timeout(QUERY_TIMEOUT, try_all(&servers, &question, self.force_tcp))
            .await
            .ok()??;
        self.remember(question, &answer);
        Some(answer)
    }

    /// Returns a cached response with its TTLs decremented by its age.
    fn remembered(&self, question: &Question) -> Option<Answer> {
        let find = |memory: &Memory| {
            let memory = memory.lock();
            let found = memory.get(question)?;
            let age = u32::try_from(found.since.elapsed().as_secs()).ok()?;
            (age < found.ttl).then(|| (age, found.answer.clone()))
        };
        let (age, mut answer) = find(&self.positive).or_else(|| find(&self.negative))?;
        for record in answer.answers.iter_mut().chain(&mut answer.authorities) {
            record.decrement_ttl(age);
        }
        Some(answer)
    }

    /// Caches a response if it is cacheable, evicting expired entries, or all, if full.
    fn remember(&self, question: Question, answer: &Answer) {
        let Some(cache) = &self.cache else { return };
        let (memory, limits) = match answer.answers.is_empty() {
            true => (&self.negative, &cache.denial),
            false => (&self.positive, &cache.success),
        };
        let Some(ttl) = lifetime(answer, limits) else {
            return;
        };
        if !limits.keeps(&question.name) {
            return;
        }
        let mut memory = memory.lock();
        if memory.len() >= limits.capacity {
            memory.retain(|_, entry| entry.since.elapsed().as_secs() < u64::from(entry.ttl));
            if memory.len() >= limits.capacity {
                memory.clear();
            }
        }
        memory.insert(
            question,
            CachedAnswer {
                answer: answer.clone(),
                since: Instant::now(),
                ttl,
            },
        );
    }
}

/// Returns how long a response may be cached, in seconds; `None` if it must not be.
fn lifetime(answer: &Answer, limits: &CacheLimits) -> Option<u32> {
    let ttl = match (answer.code, answer.answers.is_empty()) {
        (ResponseCode::NoError, false) => answer.answers.iter().map(|record| record.ttl).min()?,
        // Negative responses are cached for the SOA's minimum (RFC 2308).
        (ResponseCode::NoError | ResponseCode::NXDomain, _) => {
            answer
                .authorities
                .iter()
                .find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(soa.minimum.min(record.ttl)),
                    _ => None,
                })?
        }
        _ => return None,
    };
    let ttl = ttl.min(limits.ttl);
    (ttl > 0).then_some(ttl)
}

/// Returns the addresses of the `nameserver` lines of a `resolv.conf`.
fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> + '_ {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        let address = words.next()?;
        // Strip a zone (`fe80::1%eth0`), which names an interface of the host.
        address.split('%').next()?.parse().ok()
    })
}

/// Queries each server in turn, twice, until one returns `NOERROR` or `NXDOMAIN`. Otherwise returns
/// the last response, if any.
async fn try_all(servers: &[SocketAddr], question: &Question, tcp: bool) -> Option<Answer> {
    let mut last = None;
    for server in servers.iter().chain(servers) {
        match timeout(ATTEMPT_TIMEOUT, exchange(*server, question, tcp)).await {
            Ok(Ok(answer)) => match answer.code {
                ResponseCode::NoError | ResponseCode::NXDomain => return Some(answer),
                _ => last = Some(answer),
            },
            Ok(Err(error)) => tracing::debug!(%server, %error, "a name server does not answer"),
            Err(_) => tracing::debug!(%server, "a name server takes too long"),
        }
    }
    last
}

/// Sends a query over UDP, and over TCP if the response is truncated or `tcp` is set.
async fn exchange(server: SocketAddr, question: &Question, tcp: bool) -> io::Result<Answer> {
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(question.name.clone(), question.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(MAX_UDP_PAYLOAD);
    edns.set_dnssec_ok(question.dnssec);
    query.set_edns(edns);
    let bytes = query
        .to_vec()
        .map_err(|error| io::Error::other(error.to_string()))?;
    if tcp {
        return by_tcp(server, &bytes, &query).await;
    }

    let own: IpAddr = if server.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    // An ephemeral port per query, which a spoofed response has to guess.
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; usize::from(MAX_UDP_PAYLOAD) * 4];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let Some(message) = matching(&buffer[..length], &query) else {
            continue;
        };
        if message.metadata.truncation {
            return by_tcp(server, &bytes, &query).await;
        }
        return Ok(into_answer(message));
    }
}

/// Sends a query over TCP.
async fn by_tcp(server: SocketAddr, bytes: &[u8], query: &Message) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), bytes].concat())
        .await?;
    let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut buffer).await?;
    matching(&buffer, query)
        .map(into_answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer to another question"))
}

/// Parses a response. Returns `None` if it does not match the query.
fn matching(bytes: &[u8], query: &Message) -> Option<Message> {
    let message = Message::from_vec(bytes).ok()?;
    let same = message.metadata.id == query.metadata.id
        && message.metadata.message_type == MessageType::Response
        && message.queries == query.queries;
    same.then_some(message)
}

fn into_answer(message: Message) -> Answer {
    Answer {
        code: message.metadata.response_code,
        answers: message.answers,
        authorities: message.authorities,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read() {
        let text = "# nameserver 1.1.1.1\nsearch x\nnameserver 10.0.0.1\nnameserver fe80::1%eth0 # x\nnameserver nonsense\n nameserver\t10.0.0.2\nnameserver";
        let found: Vec<String> = name_servers(text).map(|ip| ip.to_string()).collect();
        assert_eq!(found, ["10.0.0.1", "fe80::1", "10.0.0.2"]);
    }
}
