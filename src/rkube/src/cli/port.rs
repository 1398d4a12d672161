//! `rkube port`

use rkube_cluster::{Home, PortForward, PortState, Profile, Progress};
use rkube_failure::{Failure, command};

use super::output::table;
use super::{Global, Output, usage_failure};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Open ports of this machine that lead to nodes and services
    ///
    /// PORTS is [IP:]HOST[-HOST][:PORT[-PORT]][/udp][@TARGET]. TARGET is a node or
    /// svc/[NAMESPACE/]NAME; the first node by default. The default address is 127.0.0.1.
    Add {
        /// Ports, such as 8080:80@svc/web
        #[arg(required = true, value_name = "PORTS")]
        ports: Vec<String>,
    },
    /// Close ports of this machine
    #[command(alias = "rm")]
    Remove {
        /// Ports as they were added, or only their numbers on this machine
        #[arg(required_unless_present = "all", value_name = "PORTS")]
        ports: Vec<String>,
        /// All ports that were added
        #[arg(long, conflicts_with = "ports")]
        all: bool,
    },
    /// List the ports that lead to nodes and services
    #[command(alias = "ls")]
    List,
    /// Serve the ports. Run by add and start in a separate process
    #[command(hide = true)]
    Serve,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Command::List)
    }
}

/// A row of the list.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    address: String,
    protocol: &'static str,
    target: String,
    state: String,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let name = &global.profile;
    match args.command {
        Command::Add { ports } => add(home, name, &ports, output).await,
        Command::Remove { ports, all } => remove(home, name, ports, all, output).await,
        Command::List => list(home, name, output),
        Command::Serve => serve(home, name).await,
    }
}

async fn add(home: &Home, name: &str, texts: &[String], output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, name)?;
    let first = profile.control_plane().name.clone();
    let mut ports: Vec<PortForward> = Vec::new();
    for text in texts {
        ports.extend(rkube_cluster::parse_ports(text, &first).map_err(usage_failure)?);
    }
    let running = rkube_cluster::ports_can_open(home, &profile).await?;
    let profile = rkube_cluster::add_ports(home, name, &ports)?;
    if !running {
        output.say(&format!(
            "The ports are opened with the cluster: {}",
            command("start", name)
        ));
        return Ok(());
    }
    begin(home, &profile).await?;
    for state in settle(home, &profile, &ports).await {
        match state.problem {
            None => output.say(&format!(
                "{}:{} leads to port {} of {}. It stays after a restart; close it with: {}",
                state.port.host_ip,
                state.port.host_port,
                state.port.port,
                state.port.to,
                command(&format!("port remove {}", state.port.host_port), name)
            )),
            Some(why) => output.warn(&format!(
                "{} is not open yet, and is tried again: {why}",
                state.port
            )),
        }
    }
    Ok(())
}

/// Returns what has become of ports, once that is known of all, or after a while.
async fn settle(home: &Home, profile: &Profile, ports: &[PortForward]) -> Vec<PortState> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
    loop {
        let mut states = rkube_cluster::port_states(home, profile);
        states.retain(|state| ports.contains(&state.port));
        if states.len() >= ports.len() || std::time::Instant::now() > deadline {
            return states;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

async fn remove(
    home: &Home,
    name: &str,
    mut texts: Vec<String>,
    all: bool,
    output: &Output,
) -> Result<(), Failure> {
    let profile = Profile::load(home, name)?;
    if all {
        texts = profile.forwards.iter().map(ToString::to_string).collect();
    }
    let removed = rkube_cluster::remove_ports(home, name, &texts)?;
    if removed.is_empty() {
        output.say(&format!("No ports lead to '{name}'."));
    }
    // Until then, nothing else can listen there.
    let closed = wait_closed(home, &profile, &removed).await;
    for port in removed {
        if closed {
            output.say(&format!("{port} was closed."));
        } else {
            output.warn(&format!(
                "{port} was removed, but the process that serves the ports has not closed it yet"
            ));
        }
    }
    Ok(())
}

/// Waits until ports are closed. Returns `false` if that takes too long.
async fn wait_closed(home: &Home, profile: &Profile, ports: &[PortForward]) -> bool {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(15);
    loop {
        let states = rkube_cluster::port_states(home, profile);
        if !states.iter().any(|state| ports.contains(&state.port)) {
            return true;
        }
        if std::time::Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

fn list(home: &Home, name: &str, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, name)?;
    let states = rkube_cluster::port_states(home, &profile);
    let rows: Vec<Row> = profile
        .forwards
        .iter()
        .map(|port| Row {
            name: port.to_string(),
            address: format!("{}:{}", port.host_ip, port.host_port),
            protocol: if port.udp { "udp" } else { "tcp" },
            target: format!("{}:{}", port.to, port.port),
            state: match states.iter().find(|state| state.port == *port) {
                None => "closed".to_owned(),
                Some(PortState { problem: None, .. }) => "open".to_owned(),
                Some(PortState {
                    problem: Some(why), ..
                }) => why.clone(),
            },
        })
        .collect();
    output.result(&rows, || {
        if rows.is_empty() {
            return format!("No ports lead to '{name}'.\n");
        }
        let head = ["ADDRESS", "PROTOCOL", "TARGET", "STATE"].map(str::to_owned);
        let lines = rows.iter().map(|row| {
            vec![
                row.address.clone(),
                row.protocol.to_owned(),
                row.target.clone(),
                row.state.clone(),
            ]
        });
        let all: Vec<Vec<String>> = std::iter::once(head.to_vec()).chain(lines).collect();
        table(&all)
    });
    Ok(())
}

async fn serve(home: &Home, name: &str) -> Result<(), Failure> {
    #[cfg(unix)]
    super::detach::leave_terminal();
    rkube_cluster::serve_ports(home, name, super::interrupted()).await
}

/// Starts the process that serves the ports of a profile, if it has any and none does.
#[cfg(unix)]
pub async fn begin(home: &Home, profile: &Profile) -> Result<(), Failure> {
    use rkube_failure::{Kind, Source};

    /// The time that the process may take to begin.
    const BEGIN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);

    if profile.forwards.is_empty() {
        return Ok(());
    }
    let failed = |why: String| {
        let message = format!("cannot start the process that serves the ports: {why}");
        Failure::new(Source::Host, Kind::Error, message)
    };
    let words = ["port", "serve", "--skip-audit", "-p", &profile.name];
    let deadline = std::time::Instant::now() + BEGIN_TIMEOUT;
    let mut child: Option<std::process::Child> = None;
    while !rkube_cluster::ports_are_served(home, profile) {
        let ended = match &mut child {
            Some(child) => child
                .try_wait()
                .map_err(|e| failed(e.to_string()))?
                .is_some(),
            None => true,
        };
        // Again if it took one that was about to end for its predecessor.
        if ended {
            let new = super::detach::spawn(home, &words).map_err(|e| failed(e.to_string()))?;
            child = Some(new);
        }
        if std::time::Instant::now() > deadline {
            return Err(failed("it does not begin".to_owned()));
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Is refused: without a terminal, nothing could end the process.
#[cfg(not(unix))]
pub async fn begin(_home: &Home, profile: &Profile) -> Result<(), Failure> {
    if profile.forwards.is_empty() {
        return Ok(());
    }
    Err(super::unsupported::unsupported(
        "ports of a running cluster are not served in the background on Windows",
        format!(
            "run in a window of its own: {}",
            command("port serve", &profile.name)
        ),
    ))
}
