//! kind's command line: `rkube kind …`, or this program called as `kind`.
//!
//! Tools that drive kind work with rkube's clusters in this way. What they parse is as kind prints
//! it: results on standard output, everything else on standard error. Clusters that were created
//! under rkube's own name do not exist here, so that `kind delete clusters --all` keeps them.

mod config;
mod create;
mod kubeadm;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use rkube_cluster::{Home, Kubeconfig, Profile, default_kubeconfig, io_failure};
use rkube_failure::{Failure, Kind, Source};

use super::output::{Destination, Format};
use super::settings::Settings;
use super::unsupported::unsupported;
use super::values::parse_duration;
use super::{Output, args, export, minikube, usage};

/// The version of kind whose commands and flags these are.
const VERSION: &str = "0.33.0";
/// The name of a cluster that is given none.
const DEFAULT_NAME: &str = "kind";
/// The time that a new cluster may take to be ready if `--wait` is not given.
const READY_TIMEOUT: Duration = Duration::from_secs(360);

/// Creates and manages local Kubernetes clusters, with kind's commands
#[derive(Parser)]
#[command(name = "kind", version = VERSION, disable_version_flag = true, max_term_width = 100)]
struct Cli {
    /// Print nothing but results and errors
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Level of detail of messages; has no effect, as rkube has one level
    #[arg(
        short,
        long,
        global = true,
        default_value_t = 0,
        hide_default_value = true,
        value_name = "LEVEL"
    )]
    verbosity: i32,
    /// Print the version
    #[arg(long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Create a cluster
    Create {
        #[command(subcommand)]
        what: Create,
    },
    /// Delete clusters
    Delete {
        #[command(subcommand)]
        what: Delete,
    },
    /// Print clusters, nodes or a kubeconfig
    Get {
        #[command(subcommand)]
        what: Get,
    },
    /// Write a kubeconfig or logs to files
    Export {
        #[command(subcommand)]
        what: Export,
    },
    /// Load images into the nodes
    Load {
        #[command(subcommand)]
        what: Load,
    },
    /// Not supported: nodes are not made from an image
    Build {
        #[command(subcommand)]
        what: Build,
    },
    /// Print the version
    Version,
    /// Print a shell completion script
    Completion {
        /// Name of the shell
        shell: clap_complete::Shell,
    },
}

/// The name of a cluster.
#[derive(clap::Args)]
struct Name {
    /// Name of the cluster [default: $KIND_CLUSTER_NAME or kind]
    #[arg(short, long, value_name = "NAME")]
    name: Option<String>,
}

/// The kubeconfig file to change.
#[derive(clap::Args)]
struct File {
    /// Path of the kubeconfig file [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Create {
    /// Create a cluster
    Cluster(Box<CreateArgs>),
}

#[derive(clap::Args)]
struct CreateArgs {
    #[command(flatten)]
    name: Name,
    /// Path of a configuration, kind.x-k8s.io/v1alpha4; - for standard input
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Node image; must be of Kubernetes' version that rkube implements
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Keep the nodes if the creation fails
    #[arg(long)]
    retain: bool,
    /// Time to wait for the nodes to be ready [default: 6m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    wait: Option<Duration>,
    #[command(flatten)]
    file: File,
}

#[derive(Subcommand)]
enum Delete {
    /// Delete a cluster
    Cluster {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        file: File,
    },
    /// Delete several clusters
    Clusters {
        /// Names of the clusters
        names: Vec<String>,
        /// Delete all clusters
        #[arg(short = 'A', long)]
        all: bool,
        #[command(flatten)]
        file: File,
    },
}

#[derive(Subcommand)]
enum Get {
    /// Print the names of all clusters
    Clusters,
    /// Print the names of the nodes of a cluster
    Nodes {
        #[command(flatten)]
        name: Name,
        /// Print the nodes of all clusters
        #[arg(short = 'A', long)]
        all_clusters: bool,
    },
    /// Print a kubeconfig for a cluster
    Kubeconfig {
        #[command(flatten)]
        name: Name,
        /// Use the address for containers in the cluster's network
        #[arg(long)]
        internal: bool,
    },
}

#[derive(Subcommand)]
enum Export {
    /// Add a cluster to the kubeconfig file
    Kubeconfig {
        #[command(flatten)]
        name: Name,
        #[command(flatten)]
        file: File,
        /// Use the address for containers in the cluster's network
        #[arg(long)]
        internal: bool,
    },
    /// Write logs to a directory
    Logs {
        /// Path of the directory [default: a new temporary one]
        dir: Option<PathBuf>,
        #[command(flatten)]
        name: Name,
    },
}

#[derive(Subcommand)]
enum Load {
    /// Load images from the container engine
    DockerImage(LoadArgs),
    /// Load images from archives
    ImageArchive(LoadArgs),
}

#[derive(clap::Args)]
struct LoadArgs {
    /// Names of images, or paths of archives
    #[arg(required = true, value_name = "IMAGE")]
    sources: Vec<String>,
    #[command(flatten)]
    name: Name,
    /// Names of the nodes [default: all nodes]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    nodes: Vec<String>,
}

#[derive(Subcommand)]
enum Build {
    /// Not supported: nodes are not made from an image
    NodeImage {
        #[command(flatten)]
        rest: minikube::Rest,
    },
}

/// Returns the words of kind's command line, if this is one: the program is called as `kind`, or
/// its first argument is `kind`.
pub fn words(all: &[OsString]) -> Option<Vec<OsString>> {
    let program = all.first()?;
    let called = Path::new(program).file_stem() == Some(OsStr::new("kind"));
    let rest = match called {
        true => &all[1..],
        false if all.get(1).is_some_and(|word| word == "kind") => &all[2..],
        false => return None,
    };
    let name = std::iter::once(OsString::from("kind"));
    Some(name.chain(rest.iter().cloned()).collect())
}

fn parse(words: Vec<OsString>) -> Result<Cli, clap::Error> {
    let mut parser = args::with_values(Cli::command());
    let matches = match parser.try_get_matches_from_mut(words.clone()) {
        Ok(matches) => matches,
        // Help is that of the plain parser, in which switches have no values.
        Err(e) => {
            let plain = Cli::command().try_get_matches_from(words);
            return Err(plain
                .err()
                .filter(|plain| plain.kind() == e.kind())
                .unwrap_or(e));
        }
    };
    Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut parser))
}

/// Runs kind's command line.
pub fn main(words: Vec<OsString>, settings: &Settings) -> ExitCode {
    let cli = match parse(words) {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let place = if cli.quiet {
        Destination::Nowhere
    } else {
        Destination::Stderr
    };
    let output = Output::at(Format::Text, place);
    if cli.version {
        println!("kind version {VERSION}");
        return ExitCode::SUCCESS;
    }
    let Some(command) = cli.command else {
        // As kind does.
        let _ = Cli::command().print_help();
        return ExitCode::SUCCESS;
    };
    let handles_interrupt = matches!(command, Command::Create { .. });
    super::execute(&output, handles_interrupt, async {
        let home = Home::find()?;
        let quiet = cli.quiet;
        run(&home, settings, command, quiet, &output)
            .await
            .map(|()| ExitCode::SUCCESS)
    })
}

async fn run(
    home: &Home,
    settings: &Settings,
    command: Command,
    quiet: bool,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        Command::Create {
            what: Create::Cluster(args),
        } => create::run(home, settings, *args, output).await,
        Command::Delete { what } => delete(home, what, output).await,
        Command::Get { what } => get(home, what, output),
        Command::Export { what } => export_to(home, what, output).await,
        Command::Load {
            what: Load::DockerImage(args) | Load::ImageArchive(args),
        } => load(home, args, output).await,
        Command::Build {
            what: Build::NodeImage { rest: _ },
        } => Err(unsupported(
            "node images are not needed, and cannot be built: nodes run no image",
            format!(
                "leave the step and --image out; rkube implements Kubernetes {} itself",
                rkube_config::KUBERNETES_VERSION
            ),
        )),
        Command::Version if quiet => {
            println!("{VERSION}");
            Ok(())
        }
        Command::Version => {
            let system = std::env::consts::OS;
            // The names of Go.
            let machine = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            let own = env!("CARGO_PKG_VERSION");
            println!("kind v{VERSION} rkube-v{own} {system}/{machine}");
            Ok(())
        }
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "kind", &mut std::io::stdout());
            Ok(())
        }
    }
}

impl Name {
    /// Returns the name that was given: by the flag, else by the environment.
    fn given(self) -> Option<String> {
        self.name.or_else(|| {
            let set = std::env::var("KIND_CLUSTER_NAME").ok();
            set.filter(|name| !name.is_empty())
        })
    }

    fn get(self) -> String {
        self.given().unwrap_or_else(|| DEFAULT_NAME.to_owned())
    }
}

impl File {
    fn get(self) -> Result<Kubeconfig, Failure> {
        Ok(Kubeconfig::at(match self.kubeconfig {
            Some(path) => path,
            None => default_kubeconfig()?,
        }))
    }
}

/// Returns the clusters that were created under kind's name.
fn clusters(home: &Home) -> Result<Vec<Profile>, Failure> {
    let names = home.profile_names()?;
    // The name under which a damaged one was created is not known.
    let all = names
        .iter()
        .filter_map(|name| Profile::load(home, name).ok());
    Ok(all.filter(|profile| profile.kind).collect())
}

/// Returns a cluster by its name.
fn cluster(home: &Home, name: &str) -> Result<Profile, Failure> {
    match clusters(home)?.into_iter().find(|c| c.name == name) {
        Some(profile) => Ok(profile),
        None => Err(Failure::new(
            Source::Guest,
            Kind::NotFound,
            format!("no nodes found for cluster \"{name}\""),
        )
        .advise("list the clusters with: kind get clusters; those of rkube's own name with: rkube profile list")),
    }
}

async fn delete(home: &Home, what: Delete, output: &Output) -> Result<(), Failure> {
    let (names, file) = match what {
        Delete::Cluster { name, file } => {
            let name = name.get();
            output.say(&format!("Deleting cluster \"{name}\" ..."));
            let names = vec![name];
            return delete_all(home, &names, &file.get()?, output).await;
        }
        Delete::Clusters {
            names,
            all: false,
            file,
        } => (names, file),
        Delete::Clusters {
            all: true, file, ..
        } => {
            let names = clusters(home)?.into_iter().map(|c| c.name).collect();
            (names, file)
        }
    };
    delete_all(home, &names, &file.get()?, output).await?;
    output.say(&format!("Deleted clusters: {names:?}"));
    Ok(())
}

/// Deletes clusters. One that does not exist is no error.
async fn delete_all(
    home: &Home,
    names: &[String],
    kubeconfig: &Kubeconfig,
    output: &Output,
) -> Result<(), Failure> {
    for name in names {
        if !rkube_cluster::exists(home, name)? {
            continue;
        }
        // A damaged one cannot tell.
        if Profile::load(home, name).is_ok_and(|profile| !profile.kind) {
            return Err(Failure::new(
                Source::Program,
                Kind::Conflict,
                format!("the cluster '{name}' was not created with kind's commands"),
            )
            .advise(format!(
                "delete it with: {}",
                rkube_failure::command("delete", name)
            )));
        }
        rkube_cluster::delete(home, name, Some(kubeconfig), output).await?;
    }
    Ok(())
}

fn get(home: &Home, what: Get, output: &Output) -> Result<(), Failure> {
    match what {
        Get::Clusters => {
            let all = clusters(home)?;
            if all.is_empty() {
                output.say("No kind clusters found.");
            }
            all.iter().for_each(|cluster| println!("{}", cluster.name));
            Ok(())
        }
        Get::Nodes { name, all_clusters } => {
            let mut all = clusters(home)?;
            let none = if all_clusters {
                "No kind nodes for any cluster.".to_owned()
            } else {
                let name = name.get();
                all.retain(|cluster| cluster.name == name);
                format!("No kind nodes found for cluster \"{name}\".")
            };
            if all.is_empty() {
                output.say(&none);
            }
            for node in all.iter().flat_map(|cluster| &cluster.nodes) {
                println!("{}", node.name);
            }
            Ok(())
        }
        Get::Kubeconfig { name, internal } => {
            let profile = cluster(home, &name.get())?;
            print!("{}", rkube_cluster::kubeconfig(home, &profile, internal)?);
            Ok(())
        }
    }
}

async fn export_to(home: &Home, what: Export, output: &Output) -> Result<(), Failure> {
    match what {
        Export::Kubeconfig {
            name,
            file,
            internal,
        } => {
            let profile = cluster(home, &name.get())?;
            rkube_cluster::write_context(home, &profile, &file.get()?, internal)?;
            output.say(&format!("Set kubectl context to \"{}\"", profile.context()));
            Ok(())
        }
        Export::Logs { dir, name } => {
            let profile = cluster(home, &name.get())?;
            let dir = match dir {
                Some(dir) => dir,
                None => temporary()?,
            };
            export::write(home, &profile, &dir, output).await?;
            output.say(&format!(
                "Exporting logs for cluster \"{}\" to:",
                profile.name
            ));
            println!("{}", dir.display());
            Ok(())
        }
    }
}

/// Creates a directory that is kept.
fn temporary() -> Result<PathBuf, Failure> {
    let dir = tempfile::Builder::new().prefix("kind-logs-").tempdir();
    match dir {
        Ok(dir) => Ok(dir.keep()),
        Err(e) => Err(io_failure("create", &std::env::temp_dir(), &e)),
    }
}

async fn load(home: &Home, args: LoadArgs, output: &Output) -> Result<(), Failure> {
    let profile = cluster(home, &args.name.get())?;
    for name in &args.nodes {
        profile.node(Some(name))?;
    }
    let all = profile
        .nodes
        .iter()
        .all(|node| args.nodes.contains(&node.name));
    if !args.nodes.is_empty() && !all {
        return Err(unsupported(
            "--nodes is not supported for some of the nodes: images are loaded into all of them",
            "leave the flag out",
        ));
    }
    super::load::run(home, &profile.name, args.sources, output).await
}
