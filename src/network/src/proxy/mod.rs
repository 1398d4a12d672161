//! The service proxy, an equivalent of kube-proxy's nftables mode.
//!
//! [`ServiceState`] is derived from API objects, and [`compile`] converts it to a [`Ruleset`]
//! without I/O. [`ServiceProxy::sync`] makes the kernel's table equal to it in one transaction,
//! which writes only differences.

mod compile;
mod conntrack;
mod endpoints;
mod health;
mod http;
mod service_proxy;
mod state;
mod status;
#[cfg(test)]
mod tests;
mod types;

pub use compile::{HealthCheck, Ruleset, TABLE, UdpBackends, UdpEndpoints, compile};
pub use endpoints::{Categories, categorize};
pub use service_proxy::ServiceProxy;
pub(crate) use state::SERVICE_NAME_LABEL;
pub use state::{Endpoint, ServicePort, ServiceState};
pub use types::{ProxyConfig, SyncReport};
