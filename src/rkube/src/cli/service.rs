//! `rkube service`

use std::io::IsTerminal as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};
use rkube_cluster::{Forward, Home, Profile, Progress};
use rkube_failure::{Failure, Kind, Source, command};
use serde::Serialize;

use super::output::table;
use super::template::Template;
use super::{Global, Output, usage_failure};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Names of services [default: print all services with external ports]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Namespace of the services
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// Print only the URLs, one per line, and open no browser
    #[arg(long)]
    url: bool,
    /// Use https in the URLs
    #[arg(long)]
    https: bool,
    /// Template for URLs [default: http://{{.IP}}:{{.Port}}]
    ///
    /// Fields: IP, Port, Name.
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Seconds to wait for a pod behind the service
    #[arg(long, default_value_t = 2, value_name = "SECONDS")]
    wait: u64,
    /// Seconds between two checks while waiting
    #[arg(long, default_value_t = 1, value_name = "SECONDS")]
    interval: u64,
    /// All services of the namespace
    #[arg(long)]
    all: bool,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Some(Command::List { .. }))
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// List all services with their URLs
    List {
        /// Namespace of the services [default: all namespaces]
        #[arg(short, long, value_name = "NAME")]
        namespace: Option<String>,
    },
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
    /// The address in the URL.
    #[serde(skip)]
    address: SocketAddr,
    /// The address to forward connections to if this machine has no route to the nodes;
    /// `None` if a tunnel forwards them already.
    #[serde(skip)]
    target: Option<SocketAddr>,
}

/// The fields of `--format`.
const FIELDS: &[&str] = &["IP", "Port", "Name"];

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let template = args.format.as_deref().map(|t| Template::parse(t, FIELDS));
    let template = template.transpose().map_err(usage_failure)?;
    if args.all && !args.names.is_empty() {
        return Err(usage_failure(
            "--all and names of services exclude each other",
        ));
    }
    let client = rkube_cluster::client(home, &profile).await?;
    let cluster = Services { client, profile };
    if let Some(Command::List { namespace }) = &args.command {
        let routable = rkube_cluster::endpoints(home, &cluster.profile)?.routable;
        return list(&cluster, namespace.as_deref(), routable, output).await;
    }
    let services = match (args.names.as_slice(), args.all) {
        ([], false) => cluster.all(None).await?,
        ([], true) => cluster.all(Some(&args.namespace)).await?,
        (names, _) => cluster.named(&args.namespace, names).await?,
    };
    let nodes = cluster.profile.node_ips(cluster.profile.control_plane());
    let mut endpoints: Vec<Endpoint> = Vec::new();
    let routable = rkube_cluster::endpoints(home, &cluster.profile)?.routable;
    for service in &services {
        let mut found = service_endpoints(service, &nodes);
        // An address of the cluster's network; a tunnel would have made it one of this machine.
        for endpoint in found.iter_mut().filter(|_| !routable) {
            let ip = endpoint.address.ip();
            let inside = is_of_nodes(&cluster.profile, ip);
            endpoint.target = inside.then_some(endpoint.address);
        }
        if found.is_empty() && !args.names.is_empty() {
            return Err(not_reachable(service, &args.namespace));
        }
        endpoints.extend(found);
    }
    if !args.names.is_empty() {
        for service in &services {
            cluster.wait(service, args.wait, args.interval).await?;
        }
    }
    let forwards = if routable {
        Vec::new()
    } else {
        forward(&mut endpoints)?
    };
    for endpoint in &mut endpoints {
        endpoint.write_url(args.https, template.as_ref());
    }
    output.result(&endpoints, || match args.url {
        true => endpoints.iter().map(|w| format!("{}\n", w.url)).collect(),
        false => text(&endpoints),
    });
    if !args.names.is_empty() && !args.url && output.text() && std::io::stdout().is_terminal() {
        for endpoint in &endpoints {
            if super::dashboard::open(&endpoint.url) {
                output.say(&format!("Opened {} in the browser.", endpoint.url));
            }
        }
    }
    if forwards.is_empty() {
        return Ok(());
    }
    output.warn("these URLs work while this command runs; stop it with Ctrl-C");
    let carried = forwards.into_iter().map(|f| {
        f.run(home.clone(), cluster.profile.clone(), |what| {
            output.warn(&what)
        })
    });
    futures::future::join_all(carried).await;
    Ok(())
}

fn text(endpoints: &[Endpoint]) -> String {
    let head = ["NAMESPACE", "NAME", "PORT", "URL"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(endpoints.iter().map(|w| {
        vec![
            w.namespace.clone(),
            w.name.clone(),
            w.port.clone(),
            w.url.clone(),
        ]
    }));
    table(&rows)
}

/// The services of a cluster.
struct Services {
    client: Client,
    profile: Profile,
}

impl Services {
    fn failed(&self, e: kube::Error, namespace: &str) -> Failure {
        match e {
            kube::Error::Api(status) if status.code == 404 => {
                Failure::new(Source::Service, Kind::NotFound, status.message.clone()).advise(
                    format!(
                        "list all services with: {}, or those of that namespace with: kubectl get services -n {namespace}",
                        command("service list", &self.profile.name)
                    ),
                )
            }
            e => Failure::new(
                Source::ControlPlane,
                Kind::Unavailable,
                format!("cannot list services: {e}"),
            )
            .advise(format!(
                "check the status of the cluster: {}",
                command("status", &self.profile.name)
            )),
        }
    }

    /// Returns the services of a namespace, or of all.
    async fn all(&self, namespace: Option<&str>) -> Result<Vec<Service>, Failure> {
        let api: Api<Service> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let listed = api.list(&ListParams::default()).await;
        let listed = listed.map_err(|e| self.failed(e, namespace.unwrap_or("default")))?;
        Ok(listed.items)
    }

    /// Returns services by name.
    async fn named(&self, namespace: &str, names: &[String]) -> Result<Vec<Service>, Failure> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
        let got = names.iter().map(|name| api.get(name));
        let got = futures::future::try_join_all(got).await;
        got.map_err(|e| self.failed(e, namespace))
    }

    /// Waits until a pod is behind the service.
    async fn wait(&self, service: &Service, seconds: u64, interval: u64) -> Result<(), Failure> {
        let selects = service
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref())
            .is_some_and(|selector| !selector.is_empty());
        if !selects {
            return Ok(());
        }
        let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &namespace);
        let of_service =
            ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            let slices = api.list(&of_service).await;
            let slices = slices.map_err(|e| self.failed(e, &namespace))?;
            let mut endpoints = slices
                .items
                .iter()
                .flat_map(|slice| slice.endpoints.iter().flatten());
            if endpoints.any(|endpoint| {
                let ready = endpoint.conditions.as_ref().and_then(|c| c.ready);
                ready != Some(false)
            }) {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Failure::new(
                    Source::Service,
                    Kind::Unavailable,
                    format!("no ready pod is behind the service '{name}'"),
                )
                .advise(format!(
                    "look at its pods with: kubectl get pods -n {namespace}; wait longer with --wait SECONDS"
                )));
            }
            tokio::time::sleep(
                Duration::from_secs(interval.max(1)).min(deadline - tokio::time::Instant::now()),
            )
            .await;
        }
    }
}

fn not_reachable(service: &Service, namespace: &str) -> Failure {
    let name = service.name_any();
    Failure::new(
        Source::Service,
        Kind::Unavailable,
        format!("the service '{name}' has neither a node port nor a load balancer address"),
    )
    .advise(format!(
        "forward a port with: kubectl port-forward -n {namespace} service/{name} PORT"
    ))
}

/// A service in minikube's list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    namespace: String,
    name: String,
    #[serde(rename = "URLs")]
    urls: Vec<String>,
    port_names: Vec<String>,
}

/// Lists all services, with the URLs of those that have external ports. `routable` is whether this
/// machine reaches the nodes' addresses.
async fn list(
    cluster: &Services,
    namespace: Option<&str>,
    routable: bool,
    output: &Output,
) -> Result<(), Failure> {
    let nodes = cluster.profile.node_ips(cluster.profile.control_plane());
    let services = cluster.all(namespace).await?;
    let listed: Vec<Listed> = services
        .iter()
        .map(|service| {
            let endpoints = service_endpoints(service, &nodes);
            let mut ports: Vec<String> = endpoints.iter().map(|e| e.port.clone()).collect();
            if ports.is_empty() {
                ports.push("No node port".to_owned());
            }
            Listed {
                namespace: service.namespace().unwrap_or_default(),
                name: service.name_any(),
                urls: endpoints.into_iter().map(|e| e.url).collect(),
                port_names: ports,
            }
        })
        .collect();
    let own = cluster.profile.node_cidr;
    let unreachable = |service: &Service| {
        let endpoints = service_endpoints(service, &nodes);
        let mut ips = endpoints.iter().map(|endpoint| endpoint.address.ip());
        ips.any(|ip| is_of_nodes(&cluster.profile, ip))
    };
    if !routable && services.iter().any(unreachable) {
        output.warn(&format!(
            "this machine has no route to {own}; get URLs that it reaches with: {}",
            command("service NAME", &cluster.profile.name)
        ));
    }
    output.result(&listed, || {
        let head = ["NAMESPACE", "NAME", "PORT", "URL"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        for service in &listed {
            for (i, port) in service.port_names.iter().enumerate() {
                let first = |text: &str| if i == 0 { text } else { "" }.to_owned();
                rows.push(vec![
                    first(&service.namespace),
                    first(&service.name),
                    port.clone(),
                    service.urls.get(i).cloned().unwrap_or_default(),
                ]);
            }
        }
        table(&rows)
    });
    Ok(())
}

impl Endpoint {
    /// Writes the URL for an address that is final.
    fn write_url(&mut self, https: bool, template: Option<&Template>) {
        if https {
            self.scheme = "https";
        }
        self.url = match template {
            Some(template) => template.render(|field| match field {
                "IP" => self.address.ip().to_string(),
                "Port" => self.address.port().to_string(),
                _ => self.name.clone(),
            }),
            None => format!("{}://{}", self.scheme, self.address),
        };
        if https && let Some(rest) = self.url.strip_prefix("http://") {
            self.url = format!("https://{rest}");
        }
    }
}

/// Binds a loopback port for each endpoint that this machine has no route to, and
/// updates the endpoint's address. The returned forwards must be run.
fn forward(endpoints: &mut [Endpoint]) -> Result<Vec<Forward>, Failure> {
    let mut forwards = Vec::new();
    for endpoint in endpoints {
        let Some(target) = endpoint.target else {
            continue;
        };
        let forward = Forward::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), target)?;
        endpoint.address = forward.address();
        forwards.push(forward);
    }
    Ok(forwards)
}

/// Returns whether an address is of the nodes' network.
fn is_of_nodes(profile: &Profile, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => profile.node_cidr.contains(&ip),
        IpAddr::V6(ip) => profile
            .ipv6
            .is_some_and(|ipv6| ipv6.node_cidr.contains(&ip)),
    }
}

/// Returns where the ports of a service are open outside of the cluster. `nodes` are the addresses of
/// the node whose node ports are taken: that of the service's first family.
fn service_endpoints(service: &Service, nodes: &[IpAddr]) -> Vec<Endpoint> {
    let Some(spec) = &service.spec else {
        return Vec::new();
    };
    let family = spec.ip_families.iter().flatten().next();
    let fits = |ip: &&IpAddr| family.is_none_or(|family| ip.is_ipv6() == (family == "IPv6"));
    let Some(node) = nodes.iter().find(fits).copied() else {
        return Vec::new();
    };
    let balancer = service.status.as_ref().and_then(|s| {
        s.load_balancer
            .as_ref()?
            .ingress
            .as_ref()?
            .first()?
            .ip
            .as_ref()?
            .parse::<std::net::IpAddr>()
            .ok()
    });
    spec.ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let (address, target) = match (balancer, port.node_port) {
                (Some(ip), _) => (SocketAddr::new(ip, u16::try_from(port.port).ok()?), None),
                (None, Some(node_port)) => {
                    let address = SocketAddr::new(node, u16::try_from(node_port).ok()?);
                    (address, Some(address))
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
                address,
                target,
            })
        })
        .collect()
}
