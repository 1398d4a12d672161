//! `rkube service`

use std::net::{Ipv4Addr, SocketAddr};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, ResourceExt};
use rkube_cluster::{Forward, Home, Profile, Progress};
use rkube_failure::{Failure, Kind, Source};
use serde::Serialize;

use super::output::table;
use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Name of the service [default: all services with external ports]
    name: Option<String>,
    /// Namespace of the service
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// Print only the URLs, one per line
    #[arg(long)]
    url: bool,
}

/// A URL of a service port.
#[derive(Serialize)]
struct Endpoint {
    namespace: String,
    name: String,
    port: String,
    url: String,
    #[serde(skip)]
    scheme: &'static str,
    /// The address to forward connections to if this machine has no route to the nodes;
    /// `None` if a tunnel forwards them already.
    #[serde(skip)]
    target: Option<SocketAddr>,
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let client = rkube_cluster::client(home, &profile).await?;
    let failed = |e: kube::Error| match e {
        kube::Error::Api(status) if status.code == 404 => {
            Failure::new(Source::Service, Kind::NotFound, status.message.clone()).advise(format!(
                "list the services of that namespace with: kubectl get services -n {}",
                args.namespace
            ))
        }
        e => Failure::new(
            Source::ControlPlane,
            Kind::Unavailable,
            format!("cannot list services: {e}"),
        )
        .advise(format!(
            "check the status of the cluster: rkube status -p {}",
            profile.name
        )),
    };
    let services = match &args.name {
        Some(name) => {
            let api: Api<Service> = Api::namespaced(client, &args.namespace);
            vec![api.get(name).await.map_err(failed)?]
        }
        None => {
            Api::<Service>::all(client)
                .list(&Default::default())
                .await
                .map_err(failed)?
                .items
        }
    };
    let node = profile.control_plane().ip;
    let mut endpoints: Vec<Endpoint> = services
        .iter()
        .flat_map(|s| service_endpoints(s, node))
        .collect();
    if let Some(name) = &args.name
        && endpoints.is_empty()
    {
        return Err(Failure::new(
            Source::Service,
            Kind::Unavailable,
            format!("the service '{name}' has neither a node port nor a load balancer address"),
        )
        .advise(format!(
            "forward a port with: kubectl port-forward -n {} service/{name} PORT",
            args.namespace
        )));
    }
    let routable = rkube_cluster::endpoints(home, &profile)?.routable;
    let forwards = if routable {
        Vec::new()
    } else {
        forward(&mut endpoints)?
    };
    output.result(&endpoints, || {
        if args.url {
            return endpoints.iter().map(|w| format!("{}\n", w.url)).collect();
        }
        let mut rows = vec![
            ["NAMESPACE", "NAME", "PORT", "URL"]
                .map(str::to_owned)
                .to_vec(),
        ];
        rows.extend(endpoints.iter().map(|w| {
            vec![
                w.namespace.clone(),
                w.name.clone(),
                w.port.clone(),
                w.url.clone(),
            ]
        }));
        table(&rows)
    });
    if forwards.is_empty() {
        return Ok(());
    }
    output.warn("these URLs work while this command runs; stop it with Ctrl-C");
    let carried = forwards
        .into_iter()
        .map(|f| f.run(home.clone(), profile.clone(), |what| output.warn(&what)));
    futures::future::join_all(carried).await;
    Ok(())
}

/// Binds a loopback port for each endpoint that this machine has no route to, and
/// updates the endpoint's URL. The returned forwards must be run.
fn forward(endpoints: &mut [Endpoint]) -> Result<Vec<Forward>, Failure> {
    let mut forwards = Vec::new();
    for endpoint in endpoints {
        let Some(target) = endpoint.target else {
            continue;
        };
        let forward = Forward::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target)?;
        endpoint.url = format!("{}://{}", endpoint.scheme, forward.address());
        forwards.push(forward);
    }
    Ok(forwards)
}

fn service_endpoints(service: &Service, node: Ipv4Addr) -> Vec<Endpoint> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let balancer = service.status.as_ref().and_then(|s| {
        s.load_balancer
            .as_ref()?
            .ingress
            .as_ref()?
            .first()?
            .ip
            .clone()
    });
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let (address, target) = match (&balancer, port.node_port) {
                (Some(ip), _) => (format!("{ip}:{}", port.port), None),
                (None, Some(node_port)) => {
                    let address = SocketAddr::from((node, u16::try_from(node_port).ok()?));
                    (address.to_string(), Some(address))
                }
                (None, None) => return None,
            };
            let scheme = if port.port == 443 || port.name.as_deref() == Some("https") {
                "https"
            } else {
                "http"
            };
            Some(Endpoint {
                namespace: service.namespace().unwrap_or_default(),
                name: service.name_any(),
                port: port.name.clone().unwrap_or_else(|| port.port.to_string()),
                url: format!("{scheme}://{address}"),
                scheme,
                target,
            })
        })
        .collect()
}
