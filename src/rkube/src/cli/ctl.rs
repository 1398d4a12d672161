//! `rkube ctl`, for use on a node: reads containers and images from the container
//! runtime and does not need the API server.

use std::path::{Path, PathBuf};

use rkube_config::{NodeConfig, paths};
use rkube_failure::Failure;
use rkube_failure::{Kind, Source};
use rkube_init::state::{SnapshotPart, State};
use rkube_runtime::{ContainerStatus, ImageError, Runtime, RuntimeConfig};

#[path = "ctl_build.rs"]
mod ctl_build;
#[path = "ctl_bundle.rs"]
mod ctl_bundle;
#[path = "ctl_file.rs"]
mod ctl_file;
#[path = "ctl_images.rs"]
mod ctl_images;
#[path = "ctl_pause.rs"]
mod ctl_pause;
#[path = "ctl_push.rs"]
mod ctl_push;
#[path = "ctl_rmi.rs"]
mod ctl_rmi;
#[path = "ctl_sync.rs"]
mod ctl_sync;

use super::output::table;
use super::{Global, Output, ctl_store};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Returns whether the command undoes its work when it is interrupted.
    pub fn handles_interrupt(&self) -> bool {
        matches!(self.command, Command::Build)
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// List containers
    Ps {
        /// Include containers that have exited
        #[arg(short, long)]
        all: bool,
    },
    /// List images
    Images {
        /// Include times and labels
        #[arg(long, hide = true)]
        full: bool,
    },
    /// Print a container's log
    Logs {
        /// ID of the container or a prefix of it
        container: String,
    },
    /// Load images from an archive
    Load {
        /// Path of the archive [default: standard input]
        archive: Option<PathBuf>,
        /// The archive comes from another node of the cluster
        #[arg(long, hide = true, conflicts_with = "archive")]
        repacked: bool,
    },
    /// Write images to standard output as an archive
    #[command(hide = true)]
    Save {
        /// Names or IDs
        #[arg(required = true)]
        images: Vec<String>,
        /// Chain ID of a layer to leave out; can be repeated
        #[arg(long)]
        omit: Vec<String>,
        /// Write the archive for another node of the cluster
        #[arg(long)]
        keep_ids: bool,
    },
    /// Build the image that standard input describes
    #[command(hide = true)]
    Build,
    /// Push the image that standard input asks for
    #[command(hide = true)]
    Push,
    /// Write an archive of the images that standard input asks for
    #[command(hide = true)]
    Bundle,
    /// Write the files on standard input into a running container
    #[command(hide = true)]
    Sync {
        /// ID of the container
        container: String,
    },
    /// Remove the build cache and images without a name
    Prune,
    /// Print the configuration of an image as JSON
    Inspect {
        /// Name or ID of the image
        image: String,
    },
    /// Freeze the containers of these namespaces, and let all others go on
    #[command(hide = true)]
    Pause {
        /// Names of namespaces
        namespaces: Vec<String>,
    },
    /// Give an image another name
    Tag {
        /// Name or ID of the image
        image: String,
        /// The new name
        name: String,
    },
    /// Print which of the given layers the node has
    #[command(hide = true)]
    Layers {
        /// Chain IDs
        layers: Vec<String>,
    },
    /// Print the images that commands gave the node, as JSON
    #[command(hide = true)]
    Given,
    /// Pull an image from its registry
    Pull {
        /// Read credentials from standard input, as JSON
        #[arg(long, hide = true)]
        credentials: bool,
        /// Name of the image
        image: String,
    },
    /// Remove a name of an image, and the image with its last name
    #[command(hide = true)]
    Untag {
        /// The name
        name: String,
    },
    /// Remove an image
    Rmi {
        /// Only say whether it could be removed
        #[arg(long, hide = true)]
        check: bool,
        /// Name of the image
        image: String,
    },
    /// Check or repair the store of the API objects
    Store {
        #[command(subcommand)]
        command: ctl_store::Command,
    },
    /// Read or write a file of the node
    #[command(hide = true)]
    File {
        #[command(subcommand)]
        command: ctl_file::Command,
    },
    /// Save or restore the state of the node
    #[command(hide = true)]
    State {
        #[command(subcommand)]
        command: StateCommand,
    },
}

#[derive(clap::Subcommand)]
enum StateCommand {
    /// Write the volumes to standard output as a compressed archive
    Save,
    /// Store standard input for the next boot
    Stage {
        /// ID of the snapshot
        id: String,
        /// Part of the snapshot
        part: StatePart,
    },
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum StatePart {
    Objects,
    Volumes,
}

pub async fn run(global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    if !Path::new(paths::NODE_CONFIG).exists() {
        return Err(Failure::new(
            Source::Program,
            Kind::Unsupported,
            "'rkube ctl' must be run on a node",
        )
        .advise(format!(
            "run it through SSH: {}",
            rkube_failure::command("ssh -- rkube ctl ps", &global.profile)
        )));
    }
    match args.command {
        Command::State { command } => state(command),
        Command::File { command } => ctl_file::run(command),
        Command::Store { command } => ctl_store::run(command, output),
        command => containers(command, output).await,
    }
}

/// Runs a command on the container runtime.
async fn containers(command: Command, output: &Output) -> Result<(), Failure> {
    let config = NodeConfig::read(paths::NODE_CONFIG)
        .map_err(|e| Failure::new(Source::Program, Kind::Config, e.to_string()))?;
    let settings = RuntimeConfig::new(
        paths::RUNTIME,
        paths::IMAGES,
        format!("{}/runtime", paths::RUN),
        paths::BINARY,
    )
    .with_registries_of(&config);
    let runtime = Runtime::observe(settings).await.map_err(failure)?;
    match command {
        Command::Ps { all } => ps(&runtime, all, output),
        Command::Images { full } => ctl_images::list(&runtime, full, output),
        Command::Logs { container } => return logs(&runtime, &container),
        Command::Load { archive, repacked } => {
            let names = match archive {
                Some(path) => runtime.load_image(&path).await,
                None => {
                    runtime
                        .load_repacked_from(tokio::io::stdin(), repacked)
                        .await
                }
            }
            .map_err(image_failure)?;
            for name in names {
                println!("{name}");
            }
        }
        Command::Save {
            images,
            omit,
            keep_ids,
        } => return save(runtime, images, omit, keep_ids).await,
        Command::Build => return ctl_build::run(&runtime, &config).await,
        Command::Push => return ctl_push::run(&runtime).await,
        Command::Bundle => return ctl_bundle::run(&runtime).await,
        Command::Sync { container } => return ctl_sync::run(&runtime, &container),
        Command::Prune => {
            ctl_build::prune(&runtime).await?;
            for image in runtime.list_images() {
                if !image.repo_tags.is_empty() || !image.repo_digests.is_empty() {
                    continue;
                }
                match runtime.remove_image(&image.id).await {
                    Ok(()) => println!("{}", image.id),
                    // It is left to its containers.
                    Err(ImageError::InUse { .. }) => {}
                    Err(e) => return Err(image_failure(e)),
                }
            }
        }
        Command::Pause { namespaces } => return ctl_pause::run(&runtime, &namespaces).await,
        Command::Inspect { image } => println!("{}", ctl_images::inspect(&runtime, &image)?),
        Command::Tag { image, name } => {
            runtime
                .tag_image(&image, &name)
                .await
                .map_err(image_failure)?;
        }
        Command::Layers { layers } => {
            for layer in runtime.present_layers(&layers) {
                println!("{layer}");
            }
        }
        Command::Given => println!("{}", ctl_images::given(&runtime)?),
        Command::Untag { name } => {
            let untagged = runtime.untag_image(&name).await;
            untagged.map_err(|e| ctl_rmi::in_use(&runtime, e))?;
        }
        Command::Pull { image, credentials } => {
            return ctl_images::pull(&runtime, &image, credentials).await;
        }
        Command::Rmi { image, check } => return ctl_rmi::run(&runtime, image, check).await,
        // Handled above.
        Command::State { .. } | Command::File { .. } | Command::Store { .. } => {}
    }
    Ok(())
}

/// Writes images to standard output. Tells on standard error which ones got another ID.
async fn save(
    runtime: Runtime,
    images: Vec<String>,
    omit: Vec<String>,
    keep_ids: bool,
) -> Result<(), Failure> {
    let names = images.clone();
    let written = tokio::task::spawn_blocking(move || {
        runtime.export_image(&images, &omit, keep_ids, std::io::stdout().lock())
    });
    let exported = written.await.map_err(failure)?.map_err(image_failure)?;
    for (name, image) in names.iter().zip(exported) {
        if !image.same && !keep_ids {
            eprintln!(
                "{name} has the ID {} in the archive, because its layers are no longer known as they were distributed",
                image.id
            );
        }
    }
    Ok(())
}

fn state(command: StateCommand) -> Result<(), Failure> {
    let state = State::of_node();
    match command {
        StateCommand::Save => state.save(std::io::stdout().lock()),
        StateCommand::Stage { id, part } => {
            let part = match part {
                StatePart::Objects => SnapshotPart::Objects,
                StatePart::Volumes => SnapshotPart::Volumes,
            };
            state.stage(&id, part, std::io::stdin().lock())
        }
    }
    .map_err(|e| Failure::new(Source::Guest, Kind::Error, format!("{e:#}")))
}

pub(super) fn failure(e: impl std::fmt::Display) -> Failure {
    Failure::new(Source::Runtime, Kind::Error, e.to_string())
}

/// Converts an image error; each kind has its own exit code.
fn image_failure(e: ImageError) -> Failure {
    let kind = match &e {
        ImageError::InvalidReference { .. } => Kind::Usage,
        ImageError::NotPresent(_) | ImageError::NotFound(_) | ImageError::NoRepository { .. } => {
            Kind::NotFound
        }
        ImageError::Registry { .. } => Kind::Unavailable,
        ImageError::Denied { .. } => Kind::Permission,
        ImageError::Platform { .. } => Kind::Unsupported,
        ImageError::Malformed(_)
        | ImageError::Unpack { .. }
        | ImageError::DigestMismatch { .. } => Kind::Config,
        ImageError::InUse { .. } => Kind::Conflict,
        _ => Kind::Error,
    };
    Failure::new(Source::Runtime, kind, e.to_string())
}

/// Returns a container label that the kubelet sets (`io.kubernetes.*`).
fn label<'a>(container: &'a ContainerStatus, key: &str) -> &'a str {
    container
        .spec
        .labels
        .get(&format!("io.kubernetes.{key}"))
        .map_or("", String::as_str)
}

fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(13).collect()
}

/// Returns a name of the container's image, or the requested name if it has none.
fn image_name(runtime: &Runtime, container: &ContainerStatus) -> String {
    let image = runtime.image_status(&container.image_id);
    let name = image.and_then(|i| i.repo_tags.first().cloned());
    name.unwrap_or_else(|| container.spec.image.clone())
}

fn ps(runtime: &Runtime, all: bool, output: &Output) {
    let mut containers = runtime.list_containers();
    containers.retain(|c| all || c.state == rkube_runtime::ContainerState::Running);
    containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    let value: Vec<serde_json::Value> = containers
        .iter()
        .map(|c| {
            serde_json::json!({
                "id": c.id,
                "image": image_name(runtime, c),
                "created": c.created_at.to_string(),
                "state": c.state.as_str(),
                "pid": c.pid,
                "exitCode": c.exit_code,
                "name": label(c, "container.name"),
                "pod": label(c, "pod.name"),
                "namespace": label(c, "pod.namespace"),
            })
        })
        .collect();
    output.result(&value, || {
        let head = [
            "CONTAINER",
            "IMAGE",
            "CREATED",
            "STATE",
            "NAME",
            "POD",
            "NAMESPACE",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(containers.iter().map(|c| {
            vec![
                short(&c.id),
                image_name(runtime, c),
                c.created_at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
                c.state.as_str().to_owned(),
                label(c, "container.name").to_owned(),
                label(c, "pod.name").to_owned(),
                label(c, "pod.namespace").to_owned(),
            ]
        }));
        table(&rows)
    });
}

fn logs(runtime: &Runtime, wanted: &str) -> Result<(), Failure> {
    let found: Vec<ContainerStatus> = runtime
        .list_containers()
        .into_iter()
        .filter(|c| c.id.starts_with(wanted))
        .collect();
    let not_found = |what: String| {
        Failure::new(Source::Runtime, Kind::NotFound, what)
            .advise("list containers with: rkube ctl ps -a")
    };
    let container = match found.as_slice() {
        [one] => one,
        [] => return Err(not_found(format!("there is no container '{wanted}'"))),
        _ => {
            return Err(not_found(format!(
                "the ID prefix '{wanted}' matches more than one container"
            )));
        }
    };
    let Some(path) = &container.spec.log_path else {
        return Err(not_found(format!("the container '{wanted}' has no log")));
    };
    let text = std::fs::read_to_string(path).map_err(|e| {
        Failure::new(
            Source::Runtime,
            Kind::Error,
            format!("cannot read {}: {e}", path.display()),
        )
    })?;
    for line in text.lines() {
        // CRI log format: time, stream, tag, message.
        let Some(message) = line.splitn(4, ' ').nth(3) else {
            continue;
        };
        let end = if line.split(' ').nth(2) == Some("P") {
            ""
        } else {
            "\n"
        };
        print!("{message}{end}");
    }
    Ok(())
}
