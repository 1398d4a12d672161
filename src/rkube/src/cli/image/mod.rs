//! `rkube image`

use std::process::ExitCode;

use futures::future::join_all;
use rkube_cluster::{Home, Node, Profile, Progress};
use rkube_failure::Failure;
use rkube_failure::{Kind, Source};
use tokio::io::{AsyncBufReadExt as _, AsyncRead};

pub(super) mod build;
pub(super) mod bundle;
#[cfg(target_os = "linux")]
pub(super) mod cache;
pub(super) mod catch_up;
pub(super) mod credentials;
mod load;
pub(super) mod push;
pub(super) mod screen;
pub(super) mod source;
pub(super) mod transfer;

use super::{Global, Output};
pub(super) use load::load;
#[cfg(unix)]
pub(super) use load::{Origin, load_everywhere, refuse_text};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Command::Ls { .. })
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// Load images into all nodes, from a tar archive or from the local container engine
    Load {
        /// Paths of `docker save` or OCI archives (optionally gzip or zstd compressed), names of
        /// images in Docker, Podman or Colima, or - for an archive on standard input
        #[arg(required = true, value_name = "SOURCE")]
        sources: Vec<String>,
    },
    /// List the images of a node
    #[command(alias = "list")]
    Ls {
        /// Name of the node [default: the control-plane node]
        #[arg(short, long, value_name = "NODE")]
        node: Option<String>,
        /// Output format, as with --output [default: text]
        #[arg(long, value_name = "FORMAT")]
        format: Option<super::output::Format>,
    },
    /// Remove images from all nodes
    #[command(aliases = ["remove", "unload"])]
    Rm {
        /// Names of the images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Remove them from the nodes that do not use them, although others do
        #[arg(short, long)]
        force: bool,
    },
    /// Pull images on all nodes
    Pull {
        /// Names of the images
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Build an image from a Dockerfile, for all nodes
    #[command(after_help = BUILD_HELP)]
    Build(Box<build::Args>),
    /// Save images of the nodes to an archive
    Save {
        /// Names of the images, then the path of the archive, or - for standard output
        #[arg(required = true, num_args = 1.., value_name = "IMAGE... FILE")]
        words: Vec<String>,
    },
    /// Save or load many images at once, for machines without a network
    Bundle {
        #[command(subcommand)]
        command: bundle::Command,
    },
    /// Give an image another name, on all nodes
    Tag {
        /// Name or ID of the image
        image: String,
        /// New name; an image that has it now loses it
        name: String,
    },
    /// Describe an image: its configuration and layers
    Inspect {
        /// Name or ID of the image
        image: String,
    },
    /// Show how an image was made
    History {
        /// Name or ID of the image
        image: String,
    },
    /// Remove the build cache and images without a name, on all nodes
    Prune,
    /// Look at the cache that nodes pull through with `start --image-cache`
    #[cfg(target_os = "linux")]
    Cache {
        #[command(subcommand)]
        command: cache::Command,
    },
    /// Push an image of a node to a registry
    #[command(after_help = push::HELP)]
    Push(push::Args),
}

/// The text of `rkube image build --help` after the flags.
const BUILD_HELP: &str = "\
The steps run in a node, with its network, the capabilities that Docker gives and no privileges. \
Results of steps are kept on the node; 'rkube image prune' removes them. The exit code is 1 if the \
Dockerfile or one of its steps is to blame for a failure.";

/// Exit code of `docker build` if the Dockerfile or a step is to blame.
const BUILD_FAILED: u8 = 1;

pub async fn run(
    home: &Home,
    global: &Global,
    args: Args,
    output: &Output,
) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Build(args) => Ok(match build::run(home, global, *args, output).await? {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(BUILD_FAILED),
        }),
        Command::Bundle { command } => bundle::run(home, global, command, output)
            .await
            .map(|()| ExitCode::SUCCESS),
        Command::Push(args) => push::run(home, global, args, output)
            .await
            .map(|()| ExitCode::SUCCESS),
        #[cfg(target_os = "linux")]
        Command::Cache { command } => cache::run(home, command, output)
            .await
            .map(|()| ExitCode::SUCCESS),
        other => change(home, global, other, output)
            .await
            .map(|()| ExitCode::SUCCESS),
    }
}

/// Runs the commands that need the cluster and have no exit codes of their own.
async fn change(
    home: &Home,
    global: &Global,
    command: Command,
    output: &Output,
) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    match command {
        Command::Load { sources } => {
            for source in sources {
                load(home, &profile, &source, output).await?;
            }
            Ok(())
        }
        Command::Ls { node, format } => {
            let format = format.unwrap_or(global.output);
            list(home, &profile, node.as_deref(), format).await
        }
        Command::Rm { images, force } => {
            for image in images {
                remove(home, &profile, &image, force, output).await?;
            }
            Ok(())
        }
        Command::Pull { images } => {
            for image in images {
                output.step("pull", &format!("Pulling {image} on {}", nodes(&profile)));
                pull(home, &profile, &image, |text| output.warn(text)).await?;
                output.say(&format!("The image {image} was pulled on all nodes."));
            }
            Ok(())
        }
        Command::Save { mut words } => {
            let Some(file) = words.pop().filter(|_| !words.is_empty()) else {
                return Err(Failure::new(
                    Source::Program,
                    Kind::Usage,
                    "'image save' needs the path of the archive after the images",
                )
                .advise("write the archive to a file, or with - to standard output: rkube image save IMAGE FILE"));
            };
            transfer::save(home, &profile, &words, &file, output).await
        }
        Command::Tag { image, name } => {
            let command = format!(
                "rkube ctl tag {} {}",
                check_name(&image)?,
                check_name(&name)?
            );
            everywhere(home, &profile, &command).await?;
            output.say(&format!(
                "The image {image} is also called {name} on all nodes."
            ));
            Ok(())
        }
        Command::Inspect { image } => {
            let described = inspect(home, &profile, &image).await?;
            output.result(&described, || format!("{described:#}"));
            Ok(())
        }
        Command::History { image } => {
            let described = inspect(home, &profile, &image).await?;
            output.result(&described["History"], || history(&described));
            Ok(())
        }
        Command::Prune => {
            output.step(
                "prune",
                &format!("Removing what is not used on {}", nodes(&profile)),
            );
            everywhere(home, &profile, "rkube ctl prune").await?;
            output.say("The steps of earlier builds and the images without a name were removed from all nodes.");
            Ok(())
        }
        // Handled by the caller.
        Command::Build(_) | Command::Push(_) | Command::Bundle { .. } => Ok(()),
        #[cfg(target_os = "linux")]
        Command::Cache { .. } => Ok(()),
    }
}

/// Removes an image from all nodes that have it. Nothing is removed if a container on any node uses
/// it; with `force`, only these nodes keep it.
async fn remove(
    home: &Home,
    profile: &Profile,
    image: &str,
    force: bool,
    output: &Output,
) -> Result<(), Failure> {
    output.step(
        "remove",
        &format!("Removing {image} from {}", nodes(profile)),
    );
    let name = check_name(image)?;
    let command = format!("rkube ctl rmi --check {name}");
    let command = command.as_str();
    let checks = running(profile)
        .map(|node| async move { (node, on_node(home, profile, node, command, None).await) });
    let (mut free, mut absent, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (node, checked) in join_all(checks).await {
        match checked? {
            (0, text, _) if text.trim() == ABSENT => absent.push(node),
            (0, ..) => free.push(node),
            (code, _, error) => match remote_failure(node, code, &error) {
                failure if failure.kind == Kind::Conflict => kept.push(failure.message),
                failure => return Err(failure),
            },
        }
    }
    if !kept.is_empty() && (!force || free.is_empty()) {
        let failure = Failure::new(Source::Runtime, Kind::Conflict, kept.join("; "));
        return Err(match force {
            true => failure.advise("delete the pods first"),
            false => failure.advise("delete the pods first; --force removes the image from the nodes that do not use it"),
        });
    }
    if free.is_empty() {
        // The error is that of a node.
        free = absent;
    }
    let command = format!("rkube ctl rmi {name}");
    let command = command.as_str();
    let removals = free.into_iter().map(|node| async move {
        match on_node(home, profile, node, command, None).await? {
            (0, ..) => Ok(()),
            (code, _, error) => Err(remote_failure(node, code, &error)),
        }
    });
    join_all(removals)
        .await
        .into_iter()
        .collect::<Result<(), Failure>>()?;
    for reason in &kept {
        output.warn(&format!("kept: {reason}"));
    }
    output.say(&match kept.is_empty() {
        true => format!("The image {image} was removed from all nodes."),
        false => format!("The image {image} was removed from the nodes that do not use it."),
    });
    Ok(())
}

/// What a node answers to `ctl rmi --check` that lacks an image.
pub(super) const ABSENT: &str = "absent";

/// Prints the images of a node.
async fn list(
    home: &Home,
    profile: &Profile,
    node: Option<&str>,
    wanted: super::output::Format,
) -> Result<(), Failure> {
    use super::output::Format;
    let node = profile.node(node)?;
    let format = match wanted {
        Format::Json | Format::Name => "json",
        Format::Yaml => "yaml",
        Format::Text => "text",
    };
    let command = format!("rkube ctl images -o {format}");
    let (code, text, error) = on_node(home, profile, node, &command, None).await?;
    if code != 0 {
        return Err(remote_failure(node, code, &error));
    }
    match wanted {
        Format::Name => super::output::print_out(&names(&node.name, &text)?),
        _ => super::output::print_out(&text),
    }
    Ok(())
}

/// Describes an image of the control-plane node.
pub(super) async fn inspect(
    home: &Home,
    profile: &Profile,
    image: &str,
) -> Result<serde_json::Value, Failure> {
    let node = profile.node(None)?;
    let command = format!("rkube ctl inspect {}", check_name(image)?);
    let (code, text, error) = on_node(home, profile, node, &command, None).await?;
    if code != 0 {
        return Err(remote_failure(node, code, &error));
    }
    serde_json::from_str(&text).map_err(|e| {
        let message = format!(
            "{}: the description of {image} is malformed: {e}",
            node.name
        );
        Failure::new(Source::Runtime, Kind::Error, message)
    })
}

/// Returns the history of an image as a table, the last step first.
fn history(described: &serde_json::Value) -> String {
    let mut sizes = described["LayerSizes"].as_array().into_iter().flatten();
    let mut rows = Vec::new();
    for step in described["History"].as_array().into_iter().flatten() {
        let size = match step["empty_layer"].as_bool() {
            Some(true) => 0,
            _ => sizes
                .next()
                .and_then(serde_json::Value::as_u64)
                .unwrap_or(0),
        };
        let text = |key: &str| step[key].as_str().unwrap_or_default();
        let created = text("created").split('.').next().unwrap_or_default();
        let by = text("created_by").split_whitespace().collect::<Vec<_>>();
        rows.push(vec![
            created.replace('T', " ").trim_end_matches('Z').to_owned(),
            format!("{:.1} MB", size as f64 / 1e6),
            by.join(" "),
        ]);
    }
    rows.push(
        ["CREATED", "SIZE", "CREATED BY"]
            .map(str::to_owned)
            .to_vec(),
    );
    rows.reverse();
    super::output::table(&rows)
}

/// Returns the names of a node's images, one a line, from their list. Images without a name have
/// their ID.
fn names(node: &str, list: &str) -> Result<String, Failure> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Image {
        id: String,
        repo_tags: Vec<String>,
    }
    let images: Vec<Image> = serde_json::from_str(list).map_err(|e| {
        let message = format!("{node}: the list of images is malformed: {e}");
        Failure::new(Source::Runtime, Kind::Error, message)
    })?;
    let names = images.into_iter().flat_map(|image| match image.repo_tags {
        tags if tags.is_empty() => vec![image.id],
        tags => tags,
    });
    Ok(names.map(|name| name + "\n").collect())
}

/// Returns the number of nodes that are not stopped, in words.
pub(super) fn nodes(profile: &Profile) -> String {
    match running(profile).count() {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    }
}

/// Checks that an image name is one word of a shell command line.
pub(super) fn check_name(image: &str) -> Result<&str, Failure> {
    if !image.is_empty()
        && image
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c))
    {
        return Ok(image);
    }
    Err(Failure::new(
        Source::Program,
        Kind::Usage,
        format!("'{image}' is not a valid image name"),
    ))
}

/// The standard input of a command on a node.
pub(super) type Input = Box<dyn AsyncRead + Send + Unpin>;

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What begins a line by which a node says that its pull waits for the registry.
pub(super) const WAITING: &str = "waiting: ";

/// Size of the buffer between the connection and what reads it.
const LINES_BYTES: usize = 16 << 10;

/// Pulls an image on all nodes, with the credentials of this machine for its registry. `wait` is told
/// when the registry makes a node wait.
async fn pull(
    home: &Home,
    profile: &Profile,
    image: &str,
    wait: impl Fn(&str),
) -> Result<(), Failure> {
    let registry = push::registry(check_name(image)?);
    let found = credentials::find(&registry).await?;
    pull_with(home, profile, image, &found, wait).await
}

/// Pulls an image on all nodes that are not stopped.
pub(super) async fn pull_with(
    home: &Home,
    profile: &Profile,
    image: &str,
    credentials: &[credentials::Credential],
    wait: impl Fn(&str),
) -> Result<(), Failure> {
    let pulls =
        running(profile).map(|node| pull_on(home, profile, node, image, credentials, &wait));
    join_all(pulls).await.into_iter().collect()
}

/// Pulls an image on a node.
pub(super) async fn pull_on(
    home: &Home,
    profile: &Profile,
    node: &Node,
    image: &str,
    credentials: &[credentials::Credential],
    wait: &impl Fn(&str),
) -> Result<(), Failure> {
    let command = format!("rkube ctl pull --credentials {}", check_name(image)?);
    let input = serde_json::to_vec(credentials)
        .map_err(|e| Failure::new(Source::Program, Kind::Error, e.to_string()))?;
    let (printed, lines) = tokio::io::duplex(LINES_BYTES);
    let pulled = async {
        let printed = printed;
        let input = Some(std::io::Cursor::new(input));
        rkube_cluster::on_node(home, profile, node, &command, input, printed).await
    };
    let told = async {
        let mut lines = tokio::io::BufReader::new(lines).lines();
        // The failure of the connection is that of the command.
        while let Ok(Some(line)) = lines.next_line().await {
            if let Some(text) = line.strip_prefix(WAITING) {
                wait(&format!("{}: {text}", node.name));
            }
        }
    };
    match tokio::join!(pulled, told).0? {
        (0, _) => Ok(()),
        (code, error) => Err(remote_failure(node, code, &error)),
    }
}

/// Returns the nodes that are not stopped. If all are, returns all, so that the command fails.
pub(super) fn running(profile: &Profile) -> impl Iterator<Item = &Node> {
    let none = profile.nodes.iter().all(|node| node.stopped);
    let nodes = profile.nodes.iter();
    nodes.filter(move |node| none || !node.stopped)
}

/// Runs a command on all nodes that are not stopped.
pub(super) async fn everywhere(
    home: &Home,
    profile: &Profile,
    command: &str,
) -> Result<(), Failure> {
    let results = join_all(running(profile).map(|n| async move {
        let (code, _, error) = on_node(home, profile, n, command, None).await?;
        if code == 0 {
            return Ok(());
        }
        Err(remote_failure(n, code, &error))
    }))
    .await;
    results.into_iter().collect()
}

/// Converts the result of a failed `rkube ctl` on a node.
pub(super) fn remote_failure(node: &Node, code: i32, error: &str) -> Failure {
    let runtime = Source::Runtime as i32;
    let kind = if (runtime..runtime + 10).contains(&code) {
        Kind::of_exit_code(code)
    } else {
        Kind::Error
    };
    let failure = Failure::new(Source::Runtime, kind, format!("{}: {error}", node.name));
    let lower = error.to_ascii_lowercase();
    if lower.contains("tls") || lower.contains("certificate") {
        return failure.advise(
            "if the registry speaks plain HTTP, name it with --insecure-registry HOST:PORT when the cluster is started",
        );
    }
    failure
}

/// Runs a command on a node. Returns its exit code, output and error message.
pub(super) async fn on_node(
    home: &Home,
    profile: &Profile,
    node: &Node,
    command: &str,
    input: Option<Input>,
) -> Result<(i32, String, String), Failure> {
    let mut stdout = Vec::new();
    let (code, error) =
        rkube_cluster::on_node(home, profile, node, command, input, &mut stdout).await?;
    Ok((code, String::from_utf8_lossy(&stdout).into_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stopped_nodes_are_left_out() {
        let node = |name: &str, stopped| {
            serde_json::json!({
                "name": name, "ip": "192.168.58.2", "podCidr": "10.244.0.0/24",
                "controlPlane": false, "stopped": stopped,
            })
        };
        let names = |stopped: [bool; 2]| {
            let profile: Profile = serde_json::from_value(serde_json::json!({
                "format": 1, "name": "c", "driver": "native", "created": "",
                "nodeCidr": "192.168.58.0/24", "podCidr": "10.244.0.0/16",
                "serviceCidr": "10.96.0.0/12", "dnsDomain": "cluster.local",
                "nodes": [node("a", stopped[0]), node("b", stopped[1])],
            }))
            .unwrap();
            let names = running(&profile).map(|node| node.name.clone());
            (names.collect::<Vec<_>>().concat(), nodes(&profile))
        };
        assert_eq!(names([false, true]), ("a".into(), "1 node".into()));
        assert_eq!(names([false, false]), ("ab".into(), "2 nodes".into()));
        assert_eq!(names([true, true]).0, "ab");
    }

    #[test]
    fn images_have_names_or_ids() {
        let list = r#"[{"id": "i1", "repoTags": ["a:1", "a:2"], "size": "1"}, {"id": "i2", "repoTags": []}]"#;
        assert_eq!(names("n", list).unwrap(), "a:1\na:2\ni2\n");
        assert!(names("n", "{}").unwrap_err().message.starts_with("n: "));
    }
}
