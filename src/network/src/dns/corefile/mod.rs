//! The Corefile: CoreDNS' configuration, as far as the node's name server has its plugins.
//!
//! [`Corefile::parse`] reads the text; [`super::chain`] answers queries by it. A plugin, property or
//! argument that the name server does not have is refused with its line, so that nothing is accepted
//! and ignored. These have nothing to do here, and are only checked: `health`, `ready`,
//! `prometheus` (they describe CoreDNS' own process), `loop` (queries are never sent to the server
//! itself), `reload` (every change is read at once) and `loadbalance` (answers are always shuffled).

mod build;
mod hosts;
mod lex;
mod rewrite;
mod template;
mod types;

pub(super) use hosts::Hosts;
pub(super) use rewrite::{Renamed, rename};
pub(super) use template::{Filled, fill};
pub(super) use types::{Block, Cache, CacheLimits, Forward, Policy};
pub use types::{Corefile, Problem};

#[cfg(test)]
mod tests;

/// Returns the Corefile that kubeadm gives to a new cluster with this DNS domain.
pub fn default_text(domain: &str) -> String {
    format!(
        ".:53 {{
    errors
    health {{
       lameduck 5s
    }}
    ready
    kubernetes {domain} in-addr.arpa ip6.arpa {{
       pods insecure
       fallthrough in-addr.arpa ip6.arpa
       ttl 30
    }}
    prometheus :9153
    forward . /etc/resolv.conf {{
       max_concurrent 1000
    }}
    cache 30 {{
       disable success {domain}
       disable denial {domain}
    }}
    loop
    reload
    loadbalance
}}
"
    )
}
