//! k3d's command line (5.8): its commands, and its flags of `start`.
//!
//! Commands are translated before they are parsed: `cluster create demo -a 2` is `start -p demo
//! --agents=2`. Flags that rkube has no use for are in the table of `minikube/flags.rs`.

#[cfg(test)]
mod tests;
mod words;

use rkube_cluster::{NodeSpec, labels};
use rkube_drivers::{HostMount, PortMapping};
use rkube_failure::Failure;

use super::start_values::{Limit, parse_count};
use super::usage_failure;

pub use words::translate;

/// Flags of `k3d cluster create` that describe nodes.
#[derive(clap::Args, Debug, Default)]
pub struct Flags {
    /// Number of workers, as k3d has it
    #[arg(long, hide = true, value_name = "N", value_parser = parse_count)]
    agents: Option<u32>,
    /// Number of control-plane nodes, as k3d has it; 1
    #[arg(long, hide = true, value_name = "N", value_parser = parse_count)]
    servers: Option<u32>,
    /// Port to publish, as k3d has it: [HOST_IP:]HOST_PORT:NODE_PORT[/udp][@NODES]
    #[arg(long, hide = true, value_name = "PORT", value_parser = Filtered::<PortMapping>::parse)]
    port: Vec<Filtered<PortMapping>>,
    /// Directory of this machine, as k3d has it: HOST:NODE[@NODES]
    #[arg(long, hide = true, value_name = "MOUNT", value_parser = Filtered::<HostMount>::parse)]
    volume: Vec<Filtered<HostMount>>,
    /// Label of nodes, as k3d has it: KEY=VALUE[@NODES]
    #[arg(long, hide = true, value_name = "LABEL", value_parser = Filtered::<Label>::parse)]
    k3s_node_label: Vec<Filtered<Label>>,
    /// Memory limit of the workers, as k3d has it
    #[arg(long, hide = true, value_name = "SIZE", value_parser = Limit::memory)]
    agents_memory: Option<Limit>,
    /// Memory limit of the control-plane node, as k3d has it
    #[arg(long, hide = true, value_name = "SIZE", value_parser = Limit::memory)]
    servers_memory: Option<Limit>,
}

/// A value and the nodes that it is for; all nodes if there are no filters.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Filtered<T> {
    value: T,
    filters: Vec<Filter>,
}

/// Nodes by their role.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Filter {
    /// Every node.
    All,
    /// The node that stands for k3d's load balancer: the first one.
    LoadBalancer,
    /// Servers, of which there is one.
    Servers(Vec<usize>),
    /// Workers with these numbers, or all of them.
    Agents(Vec<usize>),
}

/// A label of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Label(String, String);

impl std::str::FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        labels::check(key, value)?;
        Ok(Self(key.to_owned(), value.to_owned()))
    }
}

impl<T: std::str::FromStr<Err = String>> Filtered<T> {
    fn parse(text: &str) -> Result<Self, String> {
        let (value, filters) = text.rsplit_once('@').unwrap_or((text, ""));
        let filters = filters.split(';').filter(|filter| !filter.is_empty());
        Ok(Self {
            value: value.parse()?,
            filters: filters.map(Filter::parse).collect::<Result<_, _>>()?,
        })
    }
}

impl Filter {
    /// Parses `server:0`, `agent:0,1`, `agents:*`, `loadbalancer` or `all`, and the form of k3d 4,
    /// `agent[0]`. How the port is reached (`:direct`, `:proxy`) makes no difference here.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("'{text}' does not name nodes such as server:0, agent:0,1, loadbalancer or all")
        };
        let plain = text
            .trim_start_matches('@')
            .replace('[', ":")
            .replace(']', "");
        let plain = plain.strip_suffix(":direct").unwrap_or(&plain);
        let plain = plain.strip_suffix(":proxy").unwrap_or(plain);
        let (role, numbers) = plain.split_once(':').unwrap_or((plain, "*"));
        let numbers: Vec<usize> = match numbers {
            "*" | "" => Vec::new(),
            numbers => {
                let all = numbers.split(',').map(|n| n.parse().map_err(|_| wrong()));
                all.collect::<Result<_, _>>()?
            }
        };
        match role {
            "all" | "*" => Ok(Self::All),
            "loadbalancer" => Ok(Self::LoadBalancer),
            "server" | "servers" => Ok(Self::Servers(numbers)),
            "agent" | "agents" => Ok(Self::Agents(numbers)),
            _ => Err(wrong()),
        }
    }

    /// Returns the positions of its nodes in a cluster with `count` nodes.
    fn nodes(&self, count: usize) -> Result<Vec<usize>, Failure> {
        let numbered = |what: &str, numbers: &[usize], first: usize, end: usize| {
            if numbers.is_empty() {
                return Ok((first..end).collect());
            }
            let at = numbers.iter().map(|number| {
                let at = number + first;
                (at < end).then_some(at).ok_or_else(|| {
                    usage_failure(format!("there is no node {what}:{number}"))
                        .advise("nodes are counted from 0; --agents sets the number of workers")
                })
            });
            at.collect()
        };
        match self {
            Self::All => Ok((0..count).collect()),
            Self::LoadBalancer => Ok(vec![0]),
            Self::Servers(numbers) => numbered("server", numbers, 0, 1),
            Self::Agents(numbers) => numbered("agent", numbers, 1, count),
        }
    }
}

/// The nodes that k3d's flags describe.
#[derive(Debug, PartialEq, Eq)]
pub struct Nodes {
    /// One for each node, the control-plane node first; empty if the flags say nothing about nodes.
    pub specs: Vec<NodeSpec>,
    /// Directories that all nodes see.
    pub mounts: Vec<HostMount>,
}

impl Flags {
    /// Returns the nodes that the flags describe. `nodes` is the value of `--nodes`, `base` has the
    /// limits of all nodes, and `most` returns the machine's memory.
    ///
    /// # Errors
    /// Fails if there is more than one server, or if a filter names a node that there is not.
    pub fn nodes(
        self,
        nodes: Option<u32>,
        base: &NodeSpec,
        most: fn() -> Option<u64>,
    ) -> Result<Nodes, Failure> {
        if self.servers.is_some_and(|servers| servers != 1) {
            return Err(super::unsupported::unsupported(
                "a cluster has one control-plane node (--servers=1)",
                "add workers with --agents",
            ));
        }
        if nodes.is_some() && self.agents.is_some() {
            return Err(usage_failure("--nodes and --agents cannot be combined")
                .advise("--nodes counts the control-plane node, too"));
        }
        let everywhere = |volume: &Filtered<HostMount>| volume.filters.is_empty();
        let (all, some): (Vec<_>, Vec<_>) = self.volume.into_iter().partition(everywhere);
        let mounts = all.into_iter().map(|volume| volume.value).collect();
        let quiet = self.agents.is_none()
            && self.port.is_empty()
            && some.is_empty()
            && self.k3s_node_label.is_empty()
            && self.agents_memory.is_none()
            && self.servers_memory.is_none();
        if quiet {
            let specs = Vec::new();
            return Ok(Nodes { specs, mounts });
        }
        let count = self.agents.map(|agents| agents.saturating_add(1)).or(nodes);
        let count = count.unwrap_or(1) as usize;
        // The number is checked with the other options; here it must only not fill the memory.
        let mut specs = vec![base.clone(); count.min(1000)];
        for (at, spec) in specs.iter_mut().enumerate() {
            let limit = if at == 0 {
                self.servers_memory
            } else {
                self.agents_memory
            };
            if let Some(limit) = limit {
                spec.memory_bytes = limit.amount(most);
            }
        }
        let count = specs.len();
        for port in &self.port {
            let at = match port.filters.as_slice() {
                [] => vec![0],
                filters => positions(filters, count)?,
            };
            if at.len() > 1 {
                return Err(usage_failure(format!(
                    "the port {} of this machine cannot lead to several nodes",
                    port.value.host_port
                )));
            }
            for at in at {
                specs[at].ports.push(port.value);
            }
        }
        for volume in some {
            for at in positions(&volume.filters, count)? {
                specs[at].mounts.push(volume.value.clone());
            }
        }
        for label in &self.k3s_node_label {
            let filters: &[Filter] = match label.filters.as_slice() {
                [] => &[Filter::All],
                filters => filters,
            };
            for at in positions(filters, count)? {
                let Label(key, value) = label.value.clone();
                specs[at].labels.insert(key, value);
            }
        }
        Ok(Nodes { specs, mounts })
    }
}

/// Returns the positions of the nodes of all filters, each once.
fn positions(filters: &[Filter], count: usize) -> Result<Vec<usize>, Failure> {
    let mut all = Vec::new();
    for filter in filters {
        all.extend(filter.nodes(count)?);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
