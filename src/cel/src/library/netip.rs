//! Messages for malformed addresses, as Go's `netip.ParseAddr` words them.

use crate::number::go_quote;

/// Returns why `netip.ParseAddr` rejects a text that is not an address.
pub(super) fn parse_error(raw: &str) -> String {
    match raw.find(['.', ':', '%']).map(|at| raw.as_bytes()[at]) {
        Some(b'.') => ipv4_error(raw).unwrap_or_default(),
        Some(b':') => ipv6_error(raw).unwrap_or_default(),
        Some(_) => "missing IPv6 address".into(),
        None => "unable to parse IP".into(),
    }
}

fn error_at(message: &str, rest: &str) -> Option<String> {
    Some(format!("{message} (at {})", go_quote(rest)))
}

/// Returns the first error of a dotted address, `None` if it is valid.
fn ipv4_error(text: &str) -> Option<String> {
    let (mut value, mut digits, mut dots) = (0u32, 0, 0);
    let mut previous = '.';
    for (i, c) in text.char_indices() {
        match c {
            '0'..='9' => {
                if digits == 1 && value == 0 {
                    return Some("IPv4 field has octet with leading zero".into());
                }
                value = value * 10 + c.to_digit(10).unwrap_or_default();
                digits += 1;
                if value > 255 {
                    return Some("IPv4 field has value >255".into());
                }
            }
            '.' => {
                if previous == '.' || i + 1 == text.len() {
                    return error_at("IPv4 field must have at least one digit", &text[i..]);
                }
                if dots == 3 {
                    return Some("IPv4 address too long".into());
                }
                dots += 1;
                (value, digits) = (0, 0);
            }
            _ => return error_at("unexpected character", &text[i..]),
        }
        previous = c;
    }
    (dots < 3).then(|| "IPv4 address too short".into())
}

/// Returns the first error of an IPv6 address, `None` if it is valid.
fn ipv6_error(text: &str) -> Option<String> {
    let mut rest = match text.split_once('%') {
        Some((_, "")) => return Some("zone must be a non-empty string".into()),
        Some((address, _)) => address,
        None => text,
    };
    let mut ellipsis = rest.starts_with("::");
    if ellipsis {
        rest = &rest[2..];
    }
    let mut octets = 0;
    while octets < 16 && !(ellipsis && rest.is_empty()) {
        let end = rest.find(|c: char| !c.is_ascii_hexdigit());
        let end = end.unwrap_or(rest.len());
        if end > 4 {
            return error_at("each group must have 4 or less digits", rest);
        }
        if end == 0 {
            return error_at(
                "each colon-separated field must have at least one digit",
                rest,
            );
        }
        if rest[end..].starts_with('.') {
            if !ellipsis && octets != 12 {
                let message =
                    "embedded IPv4 address must replace the final 2 fields of the address";
                return error_at(message, rest);
            }
            if octets + 4 > 16 {
                let message =
                    "too many hex fields to fit an embedded IPv4 at the end of the address";
                return error_at(message, rest);
            }
            if let Some(error) = ipv4_error(rest) {
                return Some(error);
            }
            rest = "";
            octets += 4;
            break;
        }
        octets += 2;
        rest = &rest[end..];
        if rest.is_empty() {
            break;
        }
        if !rest.starts_with(':') {
            return error_at("unexpected character, want colon", rest);
        }
        if rest.len() == 1 {
            return error_at("colon must be followed by more characters", rest);
        }
        rest = &rest[1..];
        if rest.starts_with(':') {
            if ellipsis {
                return error_at("multiple :: in address", rest);
            }
            ellipsis = true;
            rest = &rest[1..];
        }
    }
    if !rest.is_empty() {
        return error_at("trailing garbage after address", rest);
    }
    match (octets < 16, ellipsis) {
        (true, false) => Some("address string too short".into()),
        (false, true) => Some("the :: must expand to at least one field of zeros".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse_error;

    #[test]
    fn messages_are_those_of_go() {
        for (text, message) in [
            ("", "unable to parse IP"),
            ("localhost", "unable to parse IP"),
            ("%eth0", "missing IPv6 address"),
            ("1.2.3", "IPv4 address too short"),
            ("1.2.3.4.5", "IPv4 address too long"),
            ("1.2.3.256", "IPv4 field has value >255"),
            ("1.2.3.04", "IPv4 field has octet with leading zero"),
            (
                "1..2.3",
                "IPv4 field must have at least one digit (at \".2.3\")",
            ),
            (
                "1.2.3.",
                "IPv4 field must have at least one digit (at \".\")",
            ),
            ("1.2.3.x", "unexpected character (at \"x\")"),
            ("::1%", "zone must be a non-empty string"),
            (
                ":::",
                "each colon-separated field must have at least one digit (at \":\")",
            ),
            (
                "12345::",
                "each group must have 4 or less digits (at \"12345::\")",
            ),
            ("1:2", "address string too short"),
            ("1:", "colon must be followed by more characters (at \":\")"),
            ("::1::", "multiple :: in address (at \":\")"),
            (
                "fe80::g",
                "each colon-separated field must have at least one digit (at \"g\")",
            ),
            (
                "1:2:3:4:5:6:7:8:9",
                "trailing garbage after address (at \"9\")",
            ),
            (
                "1::2:3:4:5:6:7:8",
                "the :: must expand to at least one field of zeros",
            ),
            ("::1.2.3", "IPv4 address too short"),
            ("::ffff:1x", "unexpected character, want colon (at \"x\")"),
        ] {
            assert_eq!(parse_error(text), message, "{text}");
        }
    }
}
