//! The meaning of a Corefile's lines.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::rr::Name;

use super::hosts::Hosts;
use super::lex::{self, Directive, Line};
use super::types::{Block, Cache, CacheLimits, Corefile, Forward, Kubernetes, Policy, Problem};
use super::{rewrite, template};

/// The port of the name server.
const PORT: u16 = 53;
/// Maximum time to live, in seconds, of the plugin `kubernetes`.
const MAX_TTL: u32 = 3600;
/// Default time to live of the plugin `kubernetes`, in seconds.
const DEFAULT_TTL: u32 = 5;
/// Default limits of the plugin `cache`.
const CACHE: Cache = Cache {
    success: CacheLimits {
        ttl: 3600,
        capacity: CAPACITY,
        disabled: Vec::new(),
    },
    denial: CacheLimits {
        ttl: 1800,
        capacity: CAPACITY,
        disabled: Vec::new(),
    },
};
/// Default number of answers of each kind that are kept.
const CAPACITY: usize = 9984;
/// CoreDNS' plugins that the name server does not have, to tell them from mistyped names.
const OTHERS: &[&str] = &[
    "acl",
    "any",
    "auto",
    "autopath",
    "azure",
    "bind",
    "bufsize",
    "cancel",
    "chaos",
    "clouddns",
    "debug",
    "dns64",
    "dnssec",
    "dnstap",
    "erratic",
    "etcd",
    "file",
    "geoip",
    "grpc",
    "grpc_server",
    "header",
    "https",
    "https3",
    "k8s_external",
    "local",
    "metadata",
    "minimal",
    "multisocket",
    "nomad",
    "nsid",
    "pprof",
    "quic",
    "root",
    "route53",
    "secondary",
    "sign",
    "timeouts",
    "tls",
    "trace",
    "transfer",
    "tsig",
    "view",
    "whoami",
];

type Result<T> = std::result::Result<T, Problem>;

impl Line {
    /// Returns a problem of this line.
    pub(super) fn problem(&self, what: impl Into<String>) -> Problem {
        Problem::at(self.number, what)
    }

    /// Returns the problem that there are too many or too few words.
    pub(super) fn count(&self) -> Problem {
        let last = self.words.last().map(String::as_str).unwrap_or_default();
        self.problem(format!(
            "Wrong argument count or unexpected line ending after '{last}'"
        ))
    }

    /// Returns the first word and the others.
    pub(super) fn split(&self) -> (&str, &[String]) {
        match self.words.split_first() {
            Some((first, rest)) => (first, rest),
            None => ("", &[]),
        }
    }

    /// Fails unless the line consists of its first word.
    fn alone(&self) -> Result<()> {
        match self.words.len() {
            1 => Ok(()),
            _ => Err(self.count()),
        }
    }

    /// Returns the only argument, a number.
    fn number<T: std::str::FromStr>(&self) -> Result<T> {
        match self.split() {
            (_, [text]) => text
                .parse()
                .map_err(|_| self.problem(format!("'{text}' is not a number"))),
            _ => Err(self.count()),
        }
    }

    fn unknown(&self) -> Problem {
        self.problem(format!("unknown property '{}'", self.split().0))
    }
}

/// Returns a zone, in lower case and fully qualified.
pub(super) fn zone(line: &Line, text: &str) -> Result<Name> {
    let wrong = |_| line.problem(format!("'{text}' is not a domain"));
    let mut name = Name::from_ascii(text).map_err(wrong)?;
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

pub(super) fn zones(line: &Line, texts: &[String]) -> Result<Vec<Name>> {
    texts.iter().map(|text| zone(line, text)).collect()
}

/// Returns the zones, or all if there are none.
pub(super) fn zones_or_all(line: &Line, texts: &[String]) -> Result<Vec<Name>> {
    match texts {
        [] => Ok(vec![Name::root()]),
        texts => zones(line, texts),
    }
}

/// Returns a duration as Go writes it; only the units that make sense here.
fn duration(line: &Line, text: &str) -> Result<Duration> {
    let wrong = || line.problem(format!("'{text}' is not a duration"));
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(wrong)
}

impl Corefile {
    /// Reads a Corefile for a cluster with this DNS domain.
    ///
    /// # Errors
    /// Fails with the first line that is wrong, or that asks for what the name server does not have.
    pub fn parse(text: &str, domain: &str) -> Result<Self> {
        let mut blocks: Vec<Block> = Vec::new();
        for server in lex::read(text)? {
            let mut block = Block {
                zones: keys(&server.keys)?,
                ..Block::default()
            };
            for zone in &block.zones {
                if blocks.iter().any(|other| other.zones.contains(zone)) {
                    let what = format!("cannot serve dns://{zone}:53 - it is already defined");
                    return Err(server.keys.problem(what));
                }
            }
            for directive in &server.directives {
                add(&mut block, directive, domain)?;
            }
            blocks.push(block);
        }
        match blocks.is_empty() {
            true => Err(Problem::at(1, "there is no server block")),
            false => Ok(Self { blocks }),
        }
    }
}

/// Returns the zones of a server block.
fn keys(line: &Line) -> Result<Vec<Name>> {
    let mut found = Vec::new();
    let keys = line.words.iter().flat_map(|word| word.split(','));
    for key in keys.filter(|key| !key.is_empty()) {
        if key.starts_with('(') || key == "import" {
            return Err(line.problem(format!("snippets and imports are not supported: '{key}'")));
        }
        let rest = match key.split_once("://") {
            Some(("dns", rest)) => rest,
            Some((scheme, _)) => {
                return Err(line.problem(format!("{scheme}:// is not supported, only dns://")));
            }
            None => key,
        };
        let name = match rest.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>() == Ok(PORT) => name,
            Some((_, port)) => {
                return Err(line.problem(format!("the port {port} is not served, only {PORT}")));
            }
            None => rest,
        };
        let name = if name.is_empty() { "." } else { name };
        let zone = match name.parse::<ipnet::IpNet>() {
            Ok(_) => {
                return Err(line.problem(format!(
                    "write the zone of {name} below in-addr.arpa or ip6.arpa"
                )));
            }
            Err(_) => zone(line, name)?,
        };
        if found.contains(&zone) {
            let what = format!("cannot serve dns://{zone}:53 - it is already defined");
            return Err(line.problem(what));
        }
        found.push(zone);
    }
    match found.is_empty() {
        true => Err(line.problem("the server block has no zone")),
        false => Ok(found),
    }
}

/// Adds a plugin to a block.
fn add(block: &mut Block, directive: &Directive, domain: &str) -> Result<()> {
    let (line, body) = (&directive.line, &directive.body);
    let (name, arguments) = line.split();
    let once = |there: bool| match there {
        true => Err(line.problem(format!(
            "plugin/{name}: this plugin can only be used once per Server Block"
        ))),
        false => Ok(()),
    };
    let no_body = || match body.first() {
        Some(first) => Err(first.unknown()),
        None => Ok(()),
    };
    match name {
        "errors" => {
            no_body()?;
            line.alone()?;
            block.errors = true;
        }
        "log" => {
            no_body()?;
            match arguments {
                [] => {}
                [all] if all == "." => {}
                _ => {
                    return Err(line.problem(
                        "log logs all queries of the block; names and formats are not supported",
                    ));
                }
            }
            block.log = true;
        }
        "cache" => {
            once(block.cache.is_some())?;
            block.cache = Some(cache(directive)?);
        }
        "rewrite" => block.rewrites.extend(rewrite::read(directive)?),
        "template" => block.templates.push(template::read(directive)?),
        "hosts" => {
            once(block.hosts.is_some())?;
            block.hosts = Some(Hosts::read(directive)?);
        }
        "kubernetes" => {
            once(block.kubernetes.is_some())?;
            block.kubernetes = Some(kubernetes(directive, domain, &block.zones)?);
        }
        "forward" => block.forwards.push(forward(directive)?),
        "health" | "ready" | "prometheus" | "loop" | "reload" | "loadbalance" => {
            check(directive)?;
        }
        name if OTHERS.contains(&name) => {
            return Err(line.problem(format!("the plugin '{name}' is not supported")));
        }
        name => return Err(line.problem(format!("Unknown directive '{name}'"))),
    }
    Ok(())
}

/// Checks a plugin that has nothing to do here.
fn check(directive: &Directive) -> Result<()> {
    let line = &directive.line;
    let (name, arguments) = line.split();
    for inner in &directive.body {
        match (name, inner.split()) {
            ("health", ("lameduck", [time])) => drop(duration(inner, time)?),
            ("health", ("lameduck", _)) => return Err(inner.count()),
            _ => return Err(inner.unknown()),
        }
    }
    match (name, arguments) {
        (_, []) => Ok(()),
        ("health" | "ready" | "prometheus", [address]) => {
            let port = address.rsplit_once(':').map(|(_, port)| port);
            match port.is_some_and(|port| port.parse::<u16>().is_ok()) {
                true => Ok(()),
                false => Err(line.problem(format!("'{address}' is not an address with a port"))),
            }
        }
        ("reload", times) if times.len() <= 2 => times
            .iter()
            .try_for_each(|time| duration(line, time).map(drop)),
        ("loadbalance", [policy]) if policy == "round_robin" => Ok(()),
        ("loadbalance", [policy]) => {
            Err(line.problem(format!("the policy '{policy}' is not supported")))
        }
        _ => Err(line.count()),
    }
}

fn cache(directive: &Directive) -> Result<Cache> {
    let line = &directive.line;
    let mut cache = CACHE;
    match line.split().1 {
        [] => {}
        // Zones after the time limit the cache to them.
        [time] => {
            let ttl: u32 = time.parse().ok().filter(|ttl| *ttl > 0).ok_or_else(|| {
                line.problem(format!("cache TTL can not be zero or negative: {time}"))
            })?;
            (cache.success.ttl, cache.denial.ttl) = (ttl, ttl);
        }
        _ => {
            return Err(
                line.problem("zones of the cache are not supported: it caches what is forwarded")
            );
        }
    }
    for inner in &directive.body {
        let (property, arguments) = inner.split();
        match (property, arguments) {
            ("success" | "denial", [capacity, rest @ ..]) if rest.len() <= 1 => {
                let number = |text: &String| {
                    text.parse::<u32>()
                        .ok()
                        .filter(|number| *number > 0)
                        .ok_or_else(|| inner.problem(format!("'{text}' is not a positive number")))
                };
                let limits = match property {
                    "success" => &mut cache.success,
                    _ => &mut cache.denial,
                };
                limits.capacity = usize::try_from(number(capacity)?).unwrap_or(usize::MAX);
                if let [ttl] = rest {
                    limits.ttl = number(ttl)?;
                }
            }
            ("disable", [what, names @ ..]) => {
                let limits = match what.as_str() {
                    "success" => &mut cache.success,
                    "denial" => &mut cache.denial,
                    _ => {
                        let what = format!("'{what}' is neither success nor denial");
                        return Err(inner.problem(what));
                    }
                };
                limits.disabled.extend(zones_or_all(inner, names)?);
            }
            ("success" | "denial" | "disable", _) => return Err(inner.count()),
            _ => return Err(inner.unknown()),
        }
    }
    Ok(cache)
}

fn kubernetes(directive: &Directive, domain: &str, served: &[Name]) -> Result<Kubernetes> {
    let line = &directive.line;
    let own = zone(line, domain)?;
    let mut found = Kubernetes {
        ttl: DEFAULT_TTL,
        pods: false,
        reverse: false,
        fallthrough: Vec::new(),
    };
    let texts = line.split().1;
    let named = match texts {
        [] => served.to_vec(),
        texts => zones(line, texts)?,
    };
    let arpa = ["in-addr.arpa.", "ip6.arpa."].map(Name::from_ascii);
    let is_reverse = |zone: &Name| arpa.iter().flatten().any(|arpa| arpa.zone_of(zone));
    for zone in &named {
        if is_reverse(zone) {
            found.reverse = true;
        } else if *zone != own {
            return Err(line.problem(format!(
                "the zone {zone} is not the cluster's, which is {own}"
            )));
        }
    }
    if !named.contains(&own) {
        return Err(line.problem(format!("the zone of the cluster, {own}, is missing")));
    }
    for inner in &directive.body {
        match inner.split() {
            ("pods", [mode]) => match mode.as_str() {
                "insecure" => found.pods = true,
                "disabled" => found.pods = false,
                _ => {
                    return Err(inner.problem(format!(
                        "pods {mode} is not supported, only disabled and insecure"
                    )));
                }
            },
            ("ttl", _) => {
                found.ttl = inner.number()?;
                if found.ttl > MAX_TTL {
                    return Err(inner.problem(format!(
                        "ttl must be in range [0, {MAX_TTL}]: {}",
                        found.ttl
                    )));
                }
            }
            ("fallthrough", names) => found.fallthrough = zones_or_all(inner, names)?,
            ("pods", _) => return Err(inner.count()),
            _ => return Err(inner.unknown()),
        }
    }
    Ok(found)
}

fn forward(directive: &Directive) -> Result<Forward> {
    let line = &directive.line;
    let (_, [from, to @ ..]) = line.split() else {
        return Err(line.count());
    };
    if to.is_empty() {
        return Err(line.count());
    }
    let mut found = Forward {
        from: zone(line, from)?,
        except: Vec::new(),
        to: Vec::new(),
        resolv_conf: false,
        policy: Policy::Random,
        force_tcp: false,
        concurrent: None,
    };
    for text in to {
        match server(line, text)? {
            Some(address) => found.to.push(address),
            None => found.resolv_conf = true,
        }
    }
    for inner in &directive.body {
        match inner.split() {
            ("except", names) if !names.is_empty() => found.except.extend(zones(inner, names)?),
            ("policy", [policy]) => {
                found.policy = match policy.as_str() {
                    "random" => Policy::Random,
                    "round_robin" => Policy::RoundRobin,
                    "sequential" => Policy::Sequential,
                    _ => return Err(inner.problem(format!("unknown policy '{policy}'"))),
                };
            }
            ("force_tcp", []) => found.force_tcp = true,
            // The default.
            ("prefer_udp", []) => {}
            ("max_concurrent", _) => {
                let number: usize = inner.number()?;
                if number == 0 {
                    return Err(
                        inner.problem("max_concurrent 0 is not supported: there is always a limit")
                    );
                }
                found.concurrent = Some(number);
            }
            ("except" | "policy" | "force_tcp" | "prefer_udp", _) => return Err(inner.count()),
            ("tls" | "tls_servername", _) => {
                return Err(inner.problem("forwarding over TLS is not supported"));
            }
            _ => return Err(inner.unknown()),
        }
    }
    Ok(found)
}

/// Returns the address of a server, or `None` for the node's `resolv.conf`.
fn server(line: &Line, text: &str) -> Result<Option<SocketAddr>> {
    if text == "/etc/resolv.conf" {
        return Ok(None);
    }
    let rest = match text.split_once("://") {
        Some(("dns", rest)) => rest,
        Some(("tls", _)) => return Err(line.problem("forwarding over TLS is not supported")),
        Some((scheme, _)) => return Err(line.problem(format!("{scheme}:// is not supported"))),
        None => text,
    };
    let bare = rest.trim_start_matches('[').trim_end_matches(']');
    let address = match bare.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, PORT)),
        Err(_) => rest.parse().ok(),
    };
    address
        .map(Some)
        .ok_or_else(|| line.problem(format!("not an IP address or file: \"{text}\"")))
}
