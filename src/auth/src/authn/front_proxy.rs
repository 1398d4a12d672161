//! Users that an authenticating proxy asserts with headers.

use std::collections::BTreeMap;

use http::HeaderMap;
use percent_encoding::percent_decode_str;

use crate::UserInfo;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Returns the user in the headers, if any.
pub(super) fn asserted_user(headers: &HeaderMap) -> Option<UserInfo> {
    let all = |name: &str| -> Vec<String> {
        let values = headers
            .get_all(name)
            .iter()
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        values.filter(|v| !v.is_empty()).collect()
    };
    let name = all(USER).into_iter().next()?;
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let Some(key) = header.as_str().strip_prefix(EXTRA) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            extra.entry(percent_decoded(key)).or_default().push(value);
        }
    }
    Some(UserInfo {
        name,
        uid: all(UID).into_iter().next().unwrap_or_default(),
        groups: all(GROUP),
        extra,
    })
}

/// Returns whether only a front proxy may send a header.
pub(super) fn is_proxy_header(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), USER | UID | GROUP) || name.starts_with(EXTRA)
}

/// Decodes `%XX` sequences. Returns the text unchanged if it is malformed or not UTF-8.
pub(crate) fn percent_decoded(text: &str) -> String {
    let is_escape = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_escape) {
        return text.to_owned();
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => decoded.into_owned(),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn decodes_what_is_encoded() {
        for (text, expected) in [
            ("", ""),
            ("plain", "plain"),
            ("acme.com%2fproject", "acme.com/project"),
            ("%C3%A9", "é"),
            ("%", "%"),
            ("a%2", "a%2"),
            ("%zz", "%zz"),
            ("%ff", "%ff"),
        ] {
            assert_eq!(percent_decoded(text), expected);
        }
    }
}
