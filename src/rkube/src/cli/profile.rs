//! `rkube profile`

use rkube_cluster::{ClusterStatus, Home, Kubeconfig, Profile, default_kubeconfig};
use rkube_failure::{DEFAULT_PROFILE, Failure, command};
use serde_json::{Value, json};

use super::output::table;
use super::settings::Settings;
use super::{Global, Output, status};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Name of the profile that commands without -p use from now on; 'default' means 'rkube'
    /// [default: print the current one]
    name: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Some(Command::List { .. }))
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// List all clusters
    List {
        /// Do not ask for the status of the clusters
        #[arg(short, long)]
        light: bool,
        /// Also print the runtime and the port of the API server
        #[arg(short, long)]
        detailed: bool,
        /// Print JSON as one row per profile, for the dashboard
        #[arg(long, hide = true)]
        rows: bool,
    },
}

/// A profile in the list.
struct Entry {
    name: String,
    /// Its description, or why it cannot be read.
    profile: Result<Profile, Failure>,
    /// Its status in one word, with a reason if it is unknown.
    status: String,
    /// Whether commands without `-p` act on it.
    active: bool,
    /// Whether kubectl's current context is the cluster's.
    context: bool,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    match (args.command, args.name) {
        (
            Some(Command::List {
                light,
                detailed,
                rows,
            }),
            _,
        ) => {
            let entries = entries(home, light).await?;
            let value = match rows {
                true => entries.iter().map(row).collect(),
                false => document(home, &entries),
            };
            output.result(&value, || text(home, &entries, detailed));
            Ok(())
        }
        (None, Some(name)) => select(home, &name, output),
        (None, None) => {
            output.result(&global.profile, || global.profile.clone());
            Ok(())
        }
    }
}

/// Makes a profile the current one, and its context kubectl's.
fn select(home: &Home, name: &str, output: &Output) -> Result<(), Failure> {
    let name = if name == "default" {
        DEFAULT_PROFILE
    } else {
        name
    };
    // The default one need not exist.
    let exists = rkube_cluster::exists(home, name)?;
    let profile = match exists || name != DEFAULT_PROFILE {
        true => Some(Profile::load(home, name)?),
        false => None,
    };
    let mut settings = Settings::load(home)?;
    settings.select(name);
    settings.save(home)?;
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    let switched = match &profile {
        Some(profile) => kubeconfig.use_context(&profile.context())?,
        None => false,
    };
    let context = if switched {
        "; kubectl's current context is its own"
    } else {
        ""
    };
    output.say(&format!(
        "Commands without -p now act on the profile '{name}'{context}."
    ));
    if std::env::var_os("RKUBE_PROFILE").is_some_and(|v| !v.is_empty()) {
        rkube_cluster::Progress::warn(
            output,
            "the environment variable RKUBE_PROFILE is set, and takes precedence",
        );
    }
    Ok(())
}

async fn entries(home: &Home, light: bool) -> Result<Vec<Entry>, Failure> {
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    let context = kubeconfig.current_context();
    let current = Settings::load(home)?.current_profile();
    let mut entries = Vec::new();
    for name in home.profile_names()? {
        let profile = Profile::load(home, &name);
        let status = match &profile {
            Ok(_) if light => "Skipped".to_owned(),
            Ok(profile) => match rkube_cluster::status(home, profile, &kubeconfig).await {
                Ok(status) => state_name(&status).to_owned(),
                // Such as a container engine that is not running.
                Err(e) => format!("Unknown: {}", e.message),
            },
            Err(e) => format!("Damaged: {}", e.message),
        };
        entries.push(Entry {
            active: name == current,
            context: match &profile {
                Ok(profile) => context.as_deref() == Some(profile.context().as_str()),
                Err(_) => context.as_deref() == Some(name.as_str()),
            },
            name,
            profile,
            status,
        });
    }
    Ok(entries)
}

/// Returns the state of a cluster in one word.
fn state_name(status: &ClusterStatus) -> &'static str {
    match status.nodes.iter().filter(|n| n.host == "Running").count() {
        0 => "Stopped",
        _ if status.is_paused() => "Paused",
        _ if status.is_healthy() => "Running",
        _ => "Degraded",
    }
}

fn text(home: &Home, entries: &[Entry], detailed: bool) -> String {
    if entries.is_empty() {
        let start = command("start", DEFAULT_PROFILE);
        let none = format!("There are no clusters; create one with: {start}");
        return super::messages::text(&none).into_owned();
    }
    let mark = |yes: bool| if yes { "*" } else { "" }.to_owned();
    let mut head = vec!["PROFILE", "DRIVER", "NODES", "ADDRESS"];
    if detailed {
        head.extend(["RUNTIME", "PORT", "VERSION"]);
    }
    head.extend(["ACTIVE", "CONTEXT", "STATUS"]);
    let mut rows = vec![head.into_iter().map(str::to_owned).collect()];
    rows.extend(entries.iter().map(|e| {
        let mut row = vec![e.name.clone()];
        match &e.profile {
            Ok(profile) => {
                row.push(profile.driver.clone());
                row.push(profile.nodes.len().to_string());
                row.push(profile.control_plane().ip.to_string());
                if detailed {
                    let port = api(home, profile).map(|api| api.port().to_string());
                    row.push("rkube".to_owned());
                    row.push(port.unwrap_or_else(|| "-".to_owned()));
                    row.push(rkube_config::KUBERNETES_VERSION.to_owned());
                }
            }
            Err(_) => {
                let unknown = if detailed { 6 } else { 3 };
                row.extend(vec!["-".to_owned(); unknown]);
            }
        }
        row.extend([mark(e.active), mark(e.context), e.status.clone()]);
        row
    }));
    table(&rows)
}

/// Returns the address of a cluster's API server for this machine.
fn api(home: &Home, profile: &Profile) -> Option<std::net::SocketAddr> {
    Some(rkube_cluster::endpoints(home, profile).ok()?.api)
}

/// Returns a profile as one row.
fn row(entry: &Entry) -> Value {
    let profile = entry.profile.as_ref().ok();
    json!({
        "Name": entry.name,
        "Status": entry.status,
        "Driver": profile.map_or("-", |p| p.driver.as_str()),
        "Nodes": profile.map_or(0, |p| p.nodes.len()),
        "Address": profile.map_or("-".to_owned(), |p| p.control_plane().ip.to_string()),
    })
}

/// Returns the list in minikube's form.
fn document(home: &Home, entries: &[Entry]) -> Value {
    let (mut valid, mut invalid) = (Vec::new(), Vec::new());
    for entry in entries {
        match &entry.profile {
            Ok(profile) => valid.push(json!({
                "Name": entry.name,
                "Status": match entry.status.split(':').next() {
                    Some("Skipped") => "Skipped",
                    state => status::code(state.unwrap_or_default()).1,
                },
                "Config": config(home, profile),
                "Active": entry.active,
                "ActiveKubeContext": entry.context,
            })),
            Err(e) => invalid.push(json!({
                "Name": entry.name,
                "Status": "",
                "Config": null,
                "Active": entry.active,
                "ActiveKubeContext": entry.context,
                "Error": e.message,
            })),
        }
    }
    json!({ "valid": valid, "invalid": invalid })
}

/// Returns a profile with the names of minikube's configuration. Programs compare the address and
/// the port of the first node with the server of the kubeconfig.
fn config(home: &Home, profile: &Profile) -> Value {
    let api = api(home, profile);
    let version = rkube_config::KUBERNETES_VERSION;
    let nodes = profile.nodes.iter().map(|node| {
        let here = api.filter(|_| node.control_plane);
        json!({
            "Name": if node.control_plane { "" } else { node.name.as_str() },
            "IP": here.map_or(std::net::IpAddr::V4(node.ip), |api| api.ip()),
            "Port": here.map_or(0, |api| api.port()),
            "KubernetesVersion": version,
            "ContainerRuntime": "rkube",
            "ControlPlane": node.control_plane,
            "Worker": true,
        })
    });
    let first = profile.control_plane();
    json!({
        "Name": profile.name,
        "Driver": profile.driver,
        // Whole numbers as minikube has them; 0 without a limit.
        "CPUs": first.cpu_millis.map_or(0, |millis| millis.div_ceil(1000)),
        "Memory": first.memory_bytes.map_or(0, |bytes| bytes >> 20),
        "InsecureRegistry": profile.insecure_registries,
        "APIServerPort": api.map_or(0, |api| api.port()),
        "Subnet": profile.node_cidr,
        "MultiNodeRequested": profile.nodes.len() > 1,
        "KubernetesConfig": {
            "KubernetesVersion": version,
            "ClusterName": profile.name,
            "DNSDomain": profile.dns_domain,
            "ContainerRuntime": "rkube",
            "ServiceCIDR": profile.service_cidr,
        },
        "Nodes": nodes.collect::<Vec<_>>(),
    })
}
