//! Implementations of the functions that `functions` declares.

mod authz;
mod convert;
pub(crate) mod format;
mod lists;
mod named;
mod net;
mod netip;
mod quantity;
mod regex;
mod semver;
mod signature;
mod standard;
mod strings;
mod url;

use std::collections::HashMap;
use std::sync::LazyLock;

pub(crate) use signature::Run;

/// All functions by name.
static FUNCTIONS: LazyLock<HashMap<&'static str, Run>> = LazyLock::new(|| {
    [
        standard::FUNCTIONS,
        convert::FUNCTIONS,
        strings::FUNCTIONS,
        lists::FUNCTIONS,
        regex::FUNCTIONS,
        net::FUNCTIONS,
        quantity::FUNCTIONS,
        semver::FUNCTIONS,
        url::FUNCTIONS,
        named::FUNCTIONS,
        authz::FUNCTIONS,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect()
});

/// Returns the implementation of the function with the given name.
pub(crate) fn implementation(name: &str) -> Option<Run> {
    FUNCTIONS.get(name).copied()
}
