//! Named formats.

use rkube_api::names;

use super::url::Url;
use crate::time;

/// A format that strings can be validated against.
#[derive(Debug)]
pub struct NamedFormat {
    /// Name, by which formats are compared.
    pub name: &'static str,
    check: fn(&str) -> Vec<String>,
    /// Length of the pattern that costs are computed from.
    pub pattern_size: u64,
}

impl NamedFormat {
    /// Returns the format that expressions refer to by the name.
    pub(crate) fn find(name: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|(n, _)| *n == name).map(|(_, f)| f)
    }

    /// Returns the errors of a text; empty if it conforms.
    pub(crate) fn check(&self, text: &str) -> Vec<String> {
        (self.check)(text)
    }
}

/// Validates the prefix of a generated name.
fn prefix(check: fn(&str) -> Vec<String>, name: &str) -> Vec<String> {
    // A suffix follows, so the prefix may end in a dash.
    match name.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => check(&format!("{stem}a")),
        _ => check(name),
    }
}

fn is_uuid(s: &str) -> bool {
    let mut rest = s;
    for (at, digits) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if at > 0 {
            // Each dash may be left out.
            rest = rest.strip_prefix('-').unwrap_or(rest);
        }
        match rest.split_at_checked(digits) {
            Some((group, after)) if group.bytes().all(|b| b.is_ascii_hexdigit()) => rest = after,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// Returns whether a text has the form of base64. Unused bits of the last character may be
/// set.
fn is_base64(s: &str) -> bool {
    let digits = s
        .strip_suffix("==")
        .or_else(|| s.strip_suffix('='))
        .unwrap_or(s);
    let is_digit = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    !s.is_empty() && s.len().is_multiple_of(4) && digits.bytes().all(is_digit)
}

fn unless(fine: bool, problem: &str) -> Vec<String> {
    if fine {
        Vec::new()
    } else {
        vec![problem.to_owned()]
    }
}

/// All formats by the name that expressions use.
static FORMATS: [(&str, NamedFormat); 13] = [
    format("dns1123Label", "DNS1123Label", names::dns1123_label, 30),
    format(
        "dns1123Subdomain",
        "DNS1123Subdomain",
        names::dns1123_subdomain,
        60,
    ),
    format("dns1035Label", "DNS1035Label", names::dns1035_label, 30),
    format("qualifiedName", "QualifiedName", names::qualified_name, 60),
    format(
        "dns1123LabelPrefix",
        "DNS1123LabelPrefix",
        |s| prefix(names::dns1123_label, s),
        30,
    ),
    format(
        "dns1123SubdomainPrefix",
        "DNS1123SubdomainPrefix",
        |s| prefix(names::dns1123_subdomain, s),
        60,
    ),
    format(
        "dns1035LabelPrefix",
        "DNS1035LabelPrefix",
        |s| prefix(names::dns1035_label, s),
        30,
    ),
    format("labelValue", "LabelValue", names::label_value, 40),
    format(
        "uri",
        "URI",
        |s| Url::parse(s).err().into_iter().collect(),
        1103,
    ),
    format(
        "uuid",
        "uuid",
        |s| unless(is_uuid(s), "does not match the UUID format"),
        69,
    ),
    format(
        "byte",
        "byte",
        |s| unless(is_base64(s), "invalid base64"),
        84,
    ),
    format(
        "date",
        "date",
        |s| unless(time::parse_date(s).is_ok(), "invalid date"),
        70,
    ),
    format(
        "datetime",
        "datetime",
        |s| unless(time::is_date_time(s), "invalid datetime"),
        70,
    ),
];

const fn format(
    key: &'static str,
    name: &'static str,
    check: fn(&str) -> Vec<String>,
    pattern_size: u64,
) -> (&'static str, NamedFormat) {
    (
        key,
        NamedFormat {
            name,
            check,
            pattern_size,
        },
    )
}
