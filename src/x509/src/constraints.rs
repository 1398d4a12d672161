//! Names for which a CA may sign.

use std::net::IpAddr;

use x509_parser::extensions::{GeneralName, GeneralSubtree, NameConstraints};

use crate::Error;
use crate::certificate::{Names, address};

/// Maximum number of comparisons of a name with a constraint.
const MAX_COMPARISONS: usize = 250_000;

/// The permitted and the excluded names of a CA.
#[derive(Clone, Debug, Default)]
pub(crate) struct Constraints {
    permitted: Subtrees,
    excluded: Subtrees,
}

#[derive(Clone, Debug, Default)]
struct Subtrees {
    dns: Vec<String>,
    addresses: Vec<(IpAddr, u8)>,
    mail: Vec<String>,
    hosts: Vec<String>,
}

impl Constraints {
    /// Reads an extension. Returns also whether all kinds of names in it are understood.
    pub(crate) fn of(parsed: &NameConstraints<'_>) -> Result<(Self, bool), Error> {
        let (permitted, left) = Subtrees::of(parsed.permitted_subtrees.as_deref())?;
        let (excluded, right) = Subtrees::of(parsed.excluded_subtrees.as_deref())?;
        let found = Self {
            permitted,
            excluded,
        };
        Ok((found, left && right))
    }

    /// Returns how many comparisons the names need at most.
    fn comparisons(&self, names: &Names) -> usize {
        let (yes, no) = (&self.permitted, &self.excluded);
        names.dns.len() * (yes.dns.len() + no.dns.len())
            + names.addresses.len() * (yes.addresses.len() + no.addresses.len())
            + names.mail.len() * (yes.mail.len() + no.mail.len())
            + names.uris.len() * (yes.hosts.len() + no.hosts.len())
    }

    /// Checks the names of a certificate below the CA.
    pub(crate) fn check(&self, names: &Names) -> Result<(), Error> {
        let refused = |kind: &str, name: &str, why: &str| {
            Err(Error::NameNotPermitted(format!("{kind} {name:?} {why}")))
        };
        let excluded = "is excluded by a constraint";
        let permitted = "is not permitted by any constraint";
        let (yes, no) = (&self.permitted, &self.excluded);
        // Go's bound. The chain leads nowhere yet, so anybody may have made both.
        if self.comparisons(names) > MAX_COMPARISONS {
            return Err(Error::NameNotPermitted("too many constraints".into()));
        }
        for name in &names.dns {
            if no.dns.iter().any(|c| below(name, c) || widens(name, c)) {
                return refused("DNS name", name, excluded);
            }
            if !yes.dns.is_empty() && !yes.dns.iter().any(|c| below(name, c)) {
                return refused("DNS name", name, permitted);
            }
        }
        for address in &names.addresses {
            let text = address.to_string();
            if no.addresses.iter().any(|c| contains(*c, *address)) {
                return refused("IP address", &text, excluded);
            }
            let allowed = yes.addresses.iter().any(|c| contains(*c, *address));
            if !yes.addresses.is_empty() && !allowed {
                return refused("IP address", &text, permitted);
            }
        }
        for mail in &names.mail {
            if no.mail.iter().any(|c| is_mail_below(mail, c)) {
                return refused("email address", mail, excluded);
            }
            if !yes.mail.is_empty() && !yes.mail.iter().any(|c| is_mail_below(mail, c)) {
                return refused("email address", mail, permitted);
            }
        }
        for uri in &names.uris {
            if no.hosts.is_empty() && yes.hosts.is_empty() {
                break;
            }
            // Constraints are about host names; a URI without one cannot be judged.
            let Some(host) = host_of(uri) else {
                return refused("URI", uri, "has no host name to be matched");
            };
            if no.hosts.iter().any(|c| below(host, c)) {
                return refused("URI", uri, excluded);
            }
            if !yes.hosts.is_empty() && !yes.hosts.iter().any(|c| below(host, c)) {
                return refused("URI", uri, permitted);
            }
        }
        Ok(())
    }
}

impl Subtrees {
    fn of(subtrees: Option<&[GeneralSubtree<'_>]>) -> Result<(Self, bool), Error> {
        let malformed = |what: &dyn std::fmt::Debug| {
            Error::Malformed(format!("failed to parse name constraint {what:?}"))
        };
        let (mut found, mut understood) = (Self::default(), true);
        for subtree in subtrees.unwrap_or_default() {
            match &subtree.base {
                GeneralName::DNSName(name) => found.dns.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => found.mail.push((*name).to_owned()),
                GeneralName::URI(host) if host.parse::<IpAddr>().is_err() => {
                    found.hosts.push((*host).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    let range = network(bytes).ok_or_else(|| malformed(bytes))?;
                    found.addresses.push(range);
                }
                GeneralName::Invalid(..) | GeneralName::URI(_) => {
                    return Err(malformed(&subtree.base));
                }
                _ => understood = false,
            }
        }
        Ok((found, understood))
    }
}

/// Reads an address and a mask of the same length.
fn network(bytes: &[u8]) -> Option<(IpAddr, u8)> {
    let (start, mask) = bytes.split_at_checked(bytes.len() / 2)?;
    let ones: u32 = mask.iter().map(|byte| byte.leading_ones()).sum();
    let set: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
    let contiguous = mask
        .iter()
        .skip_while(|byte| **byte == 255)
        .skip(1)
        .all(|byte| *byte == 0);
    if mask.len() != start.len() || ones != set || !contiguous {
        return None;
    }
    let start = match start.len() {
        16 => IpAddr::from(<[u8; 16]>::try_from(start).ok()?),
        _ => address(start)?,
    };
    Some((start, u8::try_from(ones).ok()?))
}

fn contains((start, bits): (IpAddr, u8), address: IpAddr) -> bool {
    match (start, address) {
        (IpAddr::V4(start), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            start.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(start), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            start.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// Returns whether a name is a constraint's or below it. A constraint with a leading dot is for
/// the names below only, an empty one for all.
fn below(name: &str, constraint: &str) -> bool {
    let (name, constraint) = (name.to_ascii_lowercase(), constraint.to_ascii_lowercase());
    if constraint.is_empty() {
        return true;
    }
    match constraint.strip_prefix('.') {
        Some(_) => name.ends_with(&constraint) && name.len() > constraint.len(),
        None => {
            name == constraint
                || name
                    .strip_suffix(&constraint)
                    .is_some_and(|rest| rest.ends_with('.'))
        }
    }
}

/// Returns whether a name with a wildcard covers an excluded name.
fn widens(name: &str, constraint: &str) -> bool {
    name.strip_prefix("*.").is_some_and(|parent| {
        let rest = constraint.split_once('.').map(|(_, rest)| rest);
        rest.is_some_and(|rest| rest.eq_ignore_ascii_case(parent))
    })
}

/// Returns whether an address is a constraint's mailbox or host, or is below its domain.
fn is_mail_below(mail: &str, constraint: &str) -> bool {
    let Some((local, host)) = mail.rsplit_once('@') else {
        return false;
    };
    match constraint.rsplit_once('@') {
        Some((mailbox, domain)) => mailbox == local && domain.eq_ignore_ascii_case(host),
        None => below(host, constraint),
    }
}

/// Returns the host name of a URI, `None` if it has none or has an address.
fn host_of(uri: &str) -> Option<&str> {
    let (_, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = host.split_once(':').map_or(host, |(host, _)| host);
    let is_name = !host.is_empty() && !host.starts_with('[') && host.parse::<IpAddr>().is_err();
    is_name.then_some(host)
}
