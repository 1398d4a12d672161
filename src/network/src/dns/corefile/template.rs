//! The plugin `template`: answers made from patterns of names.

use std::net::{Ipv4Addr, Ipv6Addr};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use regex::Regex;

use super::build::zones_or_all;
use super::lex::{Directive, Line};
use super::types::Problem;

/// A piece of a record's text.
#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Name,
    Class,
    Type,
    Zone,
    /// A group of the pattern, by number.
    Group(usize),
    /// A group of the pattern, by name.
    Named(String),
}

/// A template.
#[derive(Clone, Debug)]
pub(in super::super) struct Template {
    /// The type that it answers; `None` for all.
    kind: Option<RecordType>,
    zones: Vec<Name>,
    patterns: Vec<Regex>,
    answers: Vec<Vec<Piece>>,
    additionals: Vec<Vec<Piece>>,
    authorities: Vec<Vec<Piece>>,
    code: ResponseCode,
    fallthrough: Vec<Name>,
}

/// The result of a template.
#[derive(Clone, Debug)]
pub(in super::super) struct Filled {
    pub code: ResponseCode,
    pub answers: Vec<Record>,
    pub additionals: Vec<Record>,
    pub authorities: Vec<Record>,
}

/// Reads the plugin.
pub(super) fn read(directive: &Directive) -> Result<Template, Problem> {
    let line = &directive.line;
    let (_, [class, kind, zones @ ..]) = line.split() else {
        return Err(line.count());
    };
    if !class.eq_ignore_ascii_case("IN") && !class.eq_ignore_ascii_case("ANY") {
        return Err(line.problem(format!("invalid query class {class}")));
    }
    let kind = match kind.to_uppercase().as_str() {
        "ANY" => None,
        other => Some(
            other
                .parse()
                .map_err(|_| line.problem(format!("invalid RR class {kind}")))?,
        ),
    };
    let mut template = Template {
        kind,
        zones: zones_or_all(line, zones)?,
        patterns: Vec::new(),
        answers: Vec::new(),
        additionals: Vec::new(),
        authorities: Vec::new(),
        code: ResponseCode::NoError,
        fallthrough: Vec::new(),
    };
    for inner in &directive.body {
        property(&mut template, inner)?;
    }
    if template.patterns.is_empty() {
        template.patterns.extend(Regex::new(".*"));
    }
    Ok(template)
}

fn property(template: &mut Template, line: &Line) -> Result<(), Problem> {
    let (name, rest) = line.split();
    if rest.is_empty() && name != "fallthrough" {
        return Err(line.count());
    }
    match name {
        "match" => {
            for text in rest {
                let pattern = Regex::new(text);
                let pattern =
                    pattern.map_err(|_| line.problem(format!("could not parse regex: {text}")))?;
                template.patterns.push(pattern);
            }
        }
        "answer" | "additional" | "authority" => {
            let list = match name {
                "answer" => &mut template.answers,
                "additional" => &mut template.additionals,
                _ => &mut template.authorities,
            };
            for text in rest {
                list.push(pieces(line, text)?);
            }
        }
        "rcode" => {
            let [code] = rest else {
                return Err(line.count());
            };
            template.code = match code.to_uppercase().as_str() {
                "NOERROR" => ResponseCode::NoError,
                "FORMERR" => ResponseCode::FormErr,
                "SERVFAIL" => ResponseCode::ServFail,
                "NXDOMAIN" => ResponseCode::NXDomain,
                "NOTIMP" => ResponseCode::NotImp,
                "REFUSED" => ResponseCode::Refused,
                _ => return Err(line.problem(format!("unknown rcode {code}"))),
            };
        }
        "fallthrough" => template.fallthrough = zones_or_all(line, rest)?,
        _ => return Err(line.problem(format!("unknown property '{name}'"))),
    }
    Ok(())
}

/// Takes the text of a record apart.
fn pieces(line: &Line, text: &str) -> Result<Vec<Piece>, Problem> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((action, behind)) = after.split_once("}}") else {
            return Err(line.problem(format!("could not compile template: {text}")));
        };
        found.push(Piece::Text(before.to_owned()));
        let words: Vec<&str> = action.trim_matches('-').split_whitespace().collect();
        found.push(match words.as_slice() {
            [".Name"] => Piece::Name,
            [".Class"] => Piece::Class,
            [".Type"] => Piece::Type,
            [".Zone"] => Piece::Zone,
            ["index", ".Match", number] => Piece::Group(number.parse().map_err(|_| {
                line.problem(format!("could not compile template: {text}"))
            })?),
            [field] if field.starts_with(".Group.") => {
                Piece::Named(field.trim_start_matches(".Group.").to_owned())
            }
            _ => {
                return Err(line.problem(format!(
                    "the action {{{{{action}}}}} is not supported, only .Name, .Class, .Type, .Zone, .Group.NAME and index .Match N"
                )));
            }
        });
        rest = behind;
    }
    found.push(Piece::Text(rest.to_owned()));
    Ok(found)
}

/// Answers a query from the first template that knows it. Returns `None` if that is left to the next
/// plugins.
pub(in super::super) fn fill(
    templates: &[Template],
    name: &Name,
    kind: RecordType,
) -> Option<Filled> {
    let text = name.to_ascii().to_lowercase();
    for template in templates {
        let zones = template.zones.iter().filter(|zone| zone.zone_of(name));
        let Some(zone) = zones.max_by_key(|zone| zone.num_labels()) else {
            continue;
        };
        if kind != RecordType::ANY && template.kind.is_some_and(|own| own != kind) {
            continue;
        }
        let mut found = template
            .patterns
            .iter()
            .map(|pattern| pattern.captures(&text));
        let Some(groups) = found.find_map(|groups| groups) else {
            if template.fallthrough.iter().any(|zone| zone.zone_of(name)) {
                continue;
            }
            return Some(Filled::empty(ResponseCode::NXDomain));
        };
        let write = |pieces: &[Piece]| write(pieces, &text, kind, zone, &groups);
        let all = |list: &[Vec<Piece>]| -> Option<Vec<Record>> {
            list.iter().map(|pieces| record(&write(pieces))).collect()
        };
        // A record that the name makes unreadable is a failure of the server, as in CoreDNS.
        let made = (|| {
            Some(Filled {
                code: template.code,
                answers: all(&template.answers)?,
                additionals: all(&template.additionals)?,
                authorities: all(&template.authorities)?,
            })
        })();
        return Some(made.unwrap_or_else(|| Filled::empty(ResponseCode::ServFail)));
    }
    None
}

impl Filled {
    fn empty(code: ResponseCode) -> Self {
        Self {
            code,
            answers: Vec::new(),
            additionals: Vec::new(),
            authorities: Vec::new(),
        }
    }
}

fn write(
    pieces: &[Piece],
    name: &str,
    kind: RecordType,
    zone: &Name,
    groups: &regex::Captures<'_>,
) -> String {
    let mut text = String::new();
    for piece in pieces {
        let group =
            |found: Option<regex::Match<'_>>| found.map_or("", |found| found.as_str()).to_owned();
        text.push_str(&match piece {
            Piece::Text(text) => text.clone(),
            Piece::Name => name.to_owned(),
            Piece::Class => "IN".to_owned(),
            Piece::Type => kind.to_string(),
            Piece::Zone => zone.to_ascii(),
            Piece::Group(number) => group(groups.get(*number)),
            Piece::Named(name) => group(groups.name(name)),
        });
    }
    text
}

fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Reads a record in the format of zone files: name, time to live, class, type, data.
fn record(text: &str) -> Option<Record> {
    let (head, quoted) = match text.split_once('"') {
        Some((head, rest)) => (head, Some(rest.strip_suffix('"')?)),
        None => (text, None),
    };
    let mut words = head.split_whitespace().peekable();
    let name = absolute(words.next()?)?;
    let ttl = match words.peek()?.parse() {
        Ok(ttl) => {
            words.next();
            ttl
        }
        Err(_) => 3600,
    };
    words.next_if(|word| word.eq_ignore_ascii_case("IN"));
    let kind = words.next()?.to_uppercase();
    let rest: Vec<&str> = words.collect();
    let data = match (kind.as_str(), rest.as_slice()) {
        ("A", [ip]) => RData::A(A(ip.parse::<Ipv4Addr>().ok()?)),
        ("AAAA", [ip]) => RData::AAAA(AAAA(ip.parse::<Ipv6Addr>().ok()?)),
        ("CNAME", [to]) => RData::CNAME(CNAME(absolute(to)?)),
        ("NS", [to]) => RData::NS(NS(absolute(to)?)),
        ("PTR", [to]) => RData::PTR(PTR(absolute(to)?)),
        ("MX", [preference, to]) => RData::MX(MX::new(preference.parse().ok()?, absolute(to)?)),
        ("SRV", [priority, weight, port, to]) => RData::SRV(SRV::new(
            priority.parse().ok()?,
            weight.parse().ok()?,
            port.parse().ok()?,
            absolute(to)?,
        )),
        ("TXT", []) => RData::TXT(TXT::new(vec![quoted?.to_owned()])),
        ("TXT", words) => RData::TXT(TXT::new(words.iter().map(|w| (*w).to_owned()).collect())),
        ("SOA", [main, mail, serial, refresh, retry, expire, minimum]) => RData::SOA(SOA::new(
            absolute(main)?,
            absolute(mail)?,
            serial.parse().ok()?,
            refresh.parse().ok()?,
            retry.parse().ok()?,
            expire.parse().ok()?,
            minimum.parse().ok()?,
        )),
        _ => return None,
    };
    let mut record = Record::from_rdata(name, ttl, data);
    record.dns_class = DNSClass::IN;
    Some(record)
}
