//! Bootstrap tokens: secrets in kube-system that authenticate nodes before they have a
//! certificate.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rkube_api::Object;
use rkube_api::meta;

use crate::{ObjectReader, UserInfo, tree};

const TYPE: &str = "bootstrap.kubernetes.io/token";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// Returns the user `system:bootstrap:ID` for a token `ID.SECRET`. Its secret must exist, not
/// be expired and be enabled for authentication.
pub(super) fn authenticate(
    reader: &dyn ObjectReader,
    token: &str,
    now: Timestamp,
) -> Option<UserInfo> {
    let (id, secret) = token.split_once('.')?;
    let is_plain = |text: &str| {
        text.bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_lowercase())
    };
    if id.len() != ID_LENGTH || secret.len() != SECRET_LENGTH || !is_plain(id) || !is_plain(secret)
    {
        return None;
    }
    let name = format!("bootstrap-token-{id}");
    let object = reader.get("", "secrets", "kube-system", &name)?;
    let refuse = |why: &str| {
        tracing::info!(secret = %name, "a bootstrap token is not accepted: {why}");
        None
    };
    if tree::is_terminating(&object) {
        return refuse("it is being deleted");
    }
    if tree::text(&object, &["type"]) != TYPE {
        return refuse("its type is another");
    }
    if !secrets_match(data(&object, "token-secret").as_bytes(), secret.as_bytes()) {
        return refuse("the secret part is another");
    }
    if data(&object, "token-id") != id {
        return refuse("the id in it is another");
    }
    let expiration = data(&object, "expiration");
    if !expiration.is_empty() && meta::parse_time(&expiration).is_none_or(|at| at <= now) {
        return refuse("it has expired");
    }
    if data(&object, "usage-bootstrap-authentication") != "true" {
        return refuse("it is not for authentication");
    }
    let mut groups = BTreeSet::from(["system:bootstrappers".to_owned()]);
    let extra = data(&object, "auth-extra-groups");
    for group in extra.split(',').filter(|_| !extra.is_empty()) {
        if !is_bootstrap_group(group) {
            return refuse("one of its groups is no bootstrap group");
        }
        groups.insert(group.to_owned());
    }
    let name = format!("system:bootstrap:{id}");
    Some(UserInfo {
        name,
        groups: groups.into_iter().collect(),
        ..UserInfo::default()
    })
}

/// Returns a decoded value of a secret; empty if it is absent or not valid UTF-8.
fn data(secret: &Object, key: &str) -> String {
    let encoded = tree::map_text(secret, &["data"], key).unwrap_or_default();
    STANDARD
        .decode(encoded)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_default()
}

/// Compares two secrets in constant time, except for their length.
fn secrets_match(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differ, (x, y)| differ | (x ^ y)) == 0
}

/// Returns whether a group is `system:bootstrappers:` followed by at most 256 lower-case
/// letters, digits, `:` and `-`, with a letter or digit at the end.
fn is_bootstrap_group(group: &str) -> bool {
    let plain = |b: u8| b.is_ascii_digit() || b.is_ascii_lowercase();
    group
        .strip_prefix("system:bootstrappers:")
        .is_some_and(|rest| {
            (1..=256).contains(&rest.len())
                && rest.bytes().all(|b| plain(b) || b == b':' || b == b'-')
                && rest.bytes().next_back().is_some_and(plain)
        })
}
