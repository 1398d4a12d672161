//! Where the requests for a service go.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::ServicePort;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::resolve;
use crate::table::{Protocol, Target};

/// Returns the protocol that a port's `appProtocol` names.
pub fn protocol(name: Option<&str>) -> Protocol {
    match name.map(str::to_ascii_lowercase).as_deref() {
        Some("kubernetes.io/h2c" | "h2c" | "grpc") => Protocol::Grpc,
        Some("https" | "kubernetes.io/wss") => Protocol::Https,
        _ => Protocol::Http,
    }
}

/// Returns where a service of type ExternalName leads.
///
/// # Errors
///
/// Says why the name is not followed.
pub fn external_target(name: &str, port: i32) -> Result<Target, String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let port = u16::try_from(port).map_err(|_| format!("{port} is no port"))?;
    let address = name.parse::<std::net::IpAddr>();
    // The proxy's own host has ports that are open to the node only.
    if name.is_empty()
        || name == "localhost"
        || name.ends_with(".localhost")
        || address.is_ok_and(resolve::is_special)
    {
        return Err(format!("the external name \"{name}\" is not followed"));
    }
    // An address, too, is checked against the node's own when it is connected to.
    Ok(Target::Name(name.into(), port))
}

/// Returns the endpoints of a service's port that take requests: the ready ones. If there are none,
/// those that still serve while they terminate.
pub fn endpoints(slices: &[&EndpointSlice], port: &ServicePort) -> Vec<Target> {
    let wanted = port.name.as_deref().unwrap_or_default();
    let (mut ready, mut leaving) = (Vec::new(), Vec::new());
    for slice in slices.iter().filter(|s| s.address_type != "FQDN") {
        let ports = slice.ports.iter().flatten();
        let number = ports
            .filter(|p| p.name.as_deref().unwrap_or_default() == wanted)
            .find_map(|p| u16::try_from(p.port?).ok());
        let Some(number) = number else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let list = match (conditions.ready, conditions.serving, conditions.terminating) {
                (None | Some(true), _, _) => &mut ready,
                (_, Some(true), Some(true)) => &mut leaving,
                _ => continue,
            };
            // The addresses of one endpoint are the same endpoint.
            let address = endpoint.addresses.first().and_then(|a| a.parse().ok());
            list.extend(address.map(|ip: std::net::IpAddr| Target::Address((ip, number).into())));
        }
    }
    let mut seen = HashSet::new();
    let mut chosen = if ready.is_empty() { leaving } else { ready };
    chosen.retain(|target| seen.insert(target.clone()));
    chosen
}
