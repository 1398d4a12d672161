//! The plugin `rewrite`, for names.

use hickory_proto::rr::rdata::{CNAME, MX, NS, PTR, SRV};
use hickory_proto::rr::{Name, RData, Record};
use regex::Regex;

use super::lex::{Directive, Line};
use super::types::Problem;

/// How a name is matched and replaced. All texts are in lower case and end with a dot where the
/// name does.
#[derive(Clone, Debug)]
enum Match {
    Exact(String, String),
    Prefix(String, String),
    Suffix(String, String),
    Substring(String, String),
    Pattern(Regex, String),
}

/// A rule.
#[derive(Clone, Debug)]
pub(in super::super) struct Rule {
    matches: Match,
    /// Whether the rules after it are applied to its result.
    continues: bool,
    /// Whether the new name in the answer becomes the old one.
    auto: bool,
    /// Replacements of owners of records in the answer.
    names: Vec<(Regex, String)>,
    /// Replacements of names in the data of records.
    values: Vec<(Regex, String)>,
}

/// A name that was rewritten, and how its answer is written back.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Renamed {
    /// Pairs of a new name and the name in its place.
    auto: Vec<(Name, Name)>,
    names: Vec<(Regex, String)>,
    values: Vec<(Regex, String)>,
}

/// Reads the plugin: one rule, or the parts of one in braces.
pub(super) fn read(directive: &Directive) -> Result<Vec<Rule>, Problem> {
    let line = &directive.line;
    let mut words: Vec<String> = line.words[1..].to_vec();
    // A rule in braces has its parts on several lines.
    words.extend(directive.body.iter().flat_map(|line| line.words.clone()));
    let mut words = words.into_iter().peekable();
    let continues = match words.peek().map(String::as_str) {
        Some("continue") => true,
        Some("stop") => false,
        Some(_) => return rule(line, words, false).map(|rule| vec![rule]),
        None => return Err(line.count()),
    };
    words.next();
    rule(line, words, continues).map(|rule| vec![rule])
}

fn dotted(text: &str) -> String {
    let text = text.to_lowercase();
    if text.ends_with('.') {
        text
    } else {
        format!("{text}.")
    }
}

fn pattern(line: &Line, text: &str) -> Result<Regex, Problem> {
    Regex::new(text)
        .map_err(|_| line.problem(format!("invalid regex pattern in a name rule: {text}")))
}

fn rule(
    line: &Line,
    mut words: impl Iterator<Item = String>,
    continues: bool,
) -> Result<Rule, Problem> {
    let mut next = || words.next().ok_or_else(|| line.count());
    let field = next()?;
    if field != "name" {
        return Err(line.problem(match field.as_str() {
            "type" | "class" | "edns0" | "ttl" | "rcode" | "cname" => {
                format!("rewrite {field} is not supported, only rewrite name")
            }
            _ => format!("invalid rule type \"{field}\""),
        }));
    }
    let kind = next()?;
    let kinds = ["exact", "prefix", "suffix", "substring", "regex"];
    let (kind, from) = match kinds.contains(&kind.as_str()) {
        true => (kind, next()?),
        false => ("exact".to_owned(), kind),
    };
    let to = next()?;
    let matches = match kind.as_str() {
        "exact" => Match::Exact(dotted(&from), dotted(&to)),
        "prefix" => Match::Prefix(from.to_lowercase(), to.to_lowercase()),
        "suffix" => Match::Suffix(dotted(&from), dotted(&to)),
        "substring" => Match::Substring(from.to_lowercase(), to.to_lowercase()),
        _ => Match::Pattern(pattern(line, &from)?, dotted(&to)),
    };
    let mut rule = Rule {
        auto: kind == "exact",
        matches,
        continues,
        names: Vec::new(),
        values: Vec::new(),
    };
    while let Some(word) = words.next() {
        if word != "answer" {
            return Err(line.problem(format!("unexpected '{word}' in a name rule, not answer")));
        }
        let mut next = || words.next().ok_or_else(|| line.count());
        match next()?.as_str() {
            "auto" => rule.auto = true,
            kind @ ("name" | "value") => {
                let pair = (pattern(line, &next()?)?, next()?.to_lowercase());
                match kind {
                    "name" => rule.names.push(pair),
                    _ => rule.values.push(pair),
                }
            }
            other => {
                return Err(line.problem(format!(
                    "answer {other} is not supported, only auto, name and value"
                )));
            }
        }
    }
    Ok(rule)
}

/// Puts groups of a match in the place of `{1}`, `{2}` …
fn expand(found: &regex::Captures<'_>, to: &str) -> String {
    let mut text = to.to_owned();
    for (number, group) in found.iter().enumerate() {
        let group = group.map(|group| group.as_str()).unwrap_or_default();
        text = text.replace(&format!("{{{number}}}"), group);
    }
    text
}

impl Match {
    fn apply(&self, name: &str) -> Option<String> {
        match self {
            Self::Exact(from, to) => (name == from).then(|| to.clone()),
            Self::Prefix(from, to) => name
                .strip_prefix(from.as_str())
                .map(|rest| format!("{to}{rest}")),
            Self::Suffix(from, to) => name
                .strip_suffix(from.as_str())
                .map(|rest| format!("{rest}{to}")),
            Self::Substring(from, to) => name
                .contains(from.as_str())
                .then(|| name.replace(from.as_str(), to)),
            Self::Pattern(from, to) => from.captures(name).map(|found| expand(&found, to)),
        }
    }
}

fn named(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// Applies the rules to a queried name. Returns the new name if one matches.
///
/// A result that is no name leaves the name as it is.
pub(in super::super) fn rename(rules: &[Rule], asked: &Name) -> Option<(Name, Renamed)> {
    let mut now = asked.clone();
    let mut renamed = Renamed::default();
    let mut matched = false;
    for rule in rules {
        let text = now.to_ascii().to_lowercase();
        let Some(new) = rule.matches.apply(&text).and_then(|new| named(&new)) else {
            continue;
        };
        if rule.auto {
            renamed.auto.push((new.to_lowercase(), now.clone()));
        }
        renamed.names.extend(rule.names.iter().cloned());
        renamed.values.extend(rule.values.iter().cloned());
        (now, matched) = (new, true);
        if !rule.continues {
            break;
        }
    }
    matched.then_some((now, renamed))
}

impl Renamed {
    fn back(&self, name: &Name, patterns: &[(Regex, String)]) -> Option<Name> {
        let mut now = name.clone();
        for (new, old) in self.auto.iter().rev() {
            if now.to_lowercase() == *new {
                now = old.clone();
            }
        }
        for (pattern, to) in patterns {
            let text = now.to_ascii().to_lowercase();
            if let Some(found) = pattern.captures(&text) {
                now = named(&expand(&found, to)).unwrap_or(now);
            }
        }
        (now != *name).then_some(now)
    }

    /// Writes the names of an answer back.
    pub fn write_back(&self, record: &mut Record) {
        if let Some(name) = self.back(&record.name, &self.names) {
            record.name = name;
        }
        let value = |name: &Name| self.back(name, &self.values);
        let new = match &record.data {
            RData::CNAME(CNAME(name)) => value(name).map(|name| RData::CNAME(CNAME(name))),
            RData::PTR(PTR(name)) => value(name).map(|name| RData::PTR(PTR(name))),
            RData::NS(NS(name)) => value(name).map(|name| RData::NS(NS(name))),
            RData::MX(mx) => {
                value(&mx.exchange).map(|name| RData::MX(MX::new(mx.preference, name)))
            }
            RData::SRV(srv) => value(&srv.target)
                .map(|name| RData::SRV(SRV::new(srv.priority, srv.weight, srv.port, name))),
            _ => None,
        };
        if let Some(data) = new {
            record.data = data;
        }
    }
}
