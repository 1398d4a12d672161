//! `rkube image`

use std::path::PathBuf;
use std::process::ExitCode;

use futures::future::join_all;
use rkube_cluster::{Home, Node, Profile, Progress};
use rkube_config::OMITTED_LAYERS;
use rkube_drivers::docker::Export;
use rkube_failure::Failure;
use rkube_failure::{Kind, Source};
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

pub(super) mod build;
pub(super) mod credentials;
pub(super) mod push;
mod screen;
pub(super) mod source;
pub(super) mod transfer;

use super::{Global, Output};

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
    /// Push an image of a node to a registry
    #[command(after_help = push::HELP)]
    Push(push::Args),
}

/// What `rkube image build --help` says in addition to the flags.
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
        Command::Push(args) => push::run(home, global, args, output)
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
            use super::output::Format;
            let node = profile.node(node.as_deref())?;
            let wanted = format.unwrap_or(global.output);
            let format = match wanted {
                Format::Json | Format::Name => "json",
                Format::Yaml => "yaml",
                Format::Text => "text",
            };
            let (code, text, error) = on_node(
                home,
                &profile,
                node,
                &format!("rkube ctl images -o {format}"),
                None,
            )
            .await?;
            if code != 0 {
                return Err(remote_failure(node, code, &error));
            }
            match wanted {
                Format::Name => super::output::print_out(&names(&node.name, &text)?),
                _ => super::output::print_out(&text),
            }
            Ok(())
        }
        Command::Rm { images } => {
            for image in images {
                output.step(
                    "remove",
                    &format!("Removing {image} from {}", nodes(&profile)),
                );
                everywhere(home, &profile, &format!("rkube ctl rmi {}", word(&image)?)).await?;
                output.say(&format!("The image {image} was removed from all nodes."));
            }
            Ok(())
        }
        Command::Pull { images } => {
            for image in images {
                output.step("pull", &format!("Pulling {image} on {}", nodes(&profile)));
                pull(home, &profile, &image).await?;
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
            let command = format!("rkube ctl tag {} {}", word(&image)?, word(&name)?);
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
        Command::Build(_) | Command::Push(_) => Ok(()),
    }
}

/// Describes an image of the control-plane node.
pub(super) async fn inspect(
    home: &Home,
    profile: &Profile,
    image: &str,
) -> Result<serde_json::Value, Failure> {
    let node = profile.node(None)?;
    let command = format!("rkube ctl inspect {}", word(image)?);
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

/// Returns the number of nodes in words.
pub(super) fn nodes(profile: &Profile) -> String {
    match profile.nodes.len() {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    }
}

/// Checks that an image name is one word of a shell command line.
pub(super) fn word(image: &str) -> Result<&str, Failure> {
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

/// The number of layers that were sent to a node, and the number the image has.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    sent: usize,
    of: usize,
}

/// The source of an image.
pub(super) enum Origin {
    /// A file and its size in bytes.
    Archive(PathBuf, u64),
    /// A copy of the standard input, because every node reads it.
    Copy(tempfile::NamedTempFile, u64),
    /// An image of the container engine.
    Engine(Box<Export>),
}

impl Origin {
    /// Finds a file of that name, else an image of the container engine.
    async fn find(source: &str) -> Result<Self, Failure> {
        if source == "-" {
            let copied = tokio::task::spawn_blocking(|| {
                let mut file = tempfile::NamedTempFile::new()?;
                let size = std::io::copy(&mut std::io::stdin().lock(), &mut file)?;
                Ok::<_, std::io::Error>((file, size))
            });
            let copied = copied.await.map_err(std::io::Error::other).flatten();
            let (file, size) = copied.map_err(|e| {
                Failure::new(
                    Source::Host,
                    Kind::Error,
                    format!("cannot copy the standard input: {e}"),
                )
            })?;
            refuse_text(file.path(), "the standard input")?;
            return Ok(Self::Copy(file, size));
        }
        let path = PathBuf::from(source);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {
                refuse_text(&path, source)?;
                return Ok(Self::Archive(path, meta.len()));
            }
            Ok(_) => return Err(unreadable(&path, "not a file")),
            // Not a valid image name, so it was meant as a path.
            Err(e) if path.is_absolute() || source.starts_with('.') || source.ends_with(".tar") => {
                return Err(unreadable(&path, &e.to_string()));
            }
            Err(_) => {}
        }
        word(source)?;
        Export::find(source)
            .await
            .map(|e| Self::Engine(Box::new(e)))
    }

    /// Opens the archive, without the layers that are `present` on the node if the source
    /// supports that. Also returns the number of layers sent.
    async fn open(&self, present: &[String]) -> Result<(Input, Option<Sent>), Failure> {
        let path = match self {
            Self::Archive(path, _) => Some(path.as_path()),
            Self::Copy(file, _) => Some(file.path()),
            Self::Engine(_) => None,
        };
        match self {
            Self::Archive(..) | Self::Copy(..) => {
                let path = path.unwrap_or(std::path::Path::new("-"));
                let file = tokio::fs::File::open(path)
                    .await
                    .map_err(|e| unreadable(path, &e.to_string()))?;
                Ok((Box::new(file), None))
            }
            Self::Engine(export) => {
                let (archive, sent) = export.open(present, OMITTED_LAYERS).await?;
                let of = export.layers().len();
                Ok((
                    Box::new(StreamReader::new(archive)),
                    Some(Sent { sent, of }),
                ))
            }
        }
    }
}

/// Fails if a file is text, such as a manifest, and not an archive. `name` is the user's for it.
pub(super) fn refuse_text(path: &std::path::Path, name: &str) -> Result<(), Failure> {
    use std::io::Read as _;
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(512).read_to_end(&mut head));
    read.map_err(|e| unreadable(path, &e.to_string()))?;
    // The header of a tar file is padded with zeros, and compressed files are no UTF-8.
    if head.contains(&0) || std::str::from_utf8(&head).is_err_and(|e| e.error_len().is_some()) {
        return Ok(());
    }
    Err(Failure::new(
        Source::Runtime,
        Kind::Config,
        format!("{name} is no image archive, but text"),
    )
    .advise("archives are written by 'docker save' or as OCI layouts; manifests are for kubectl apply -f"))
}

fn unreadable(path: &std::path::Path, why: &str) -> Failure {
    Failure::new(
        Source::Program,
        Kind::NotFound,
        format!("cannot read {}: {why}", path.display()),
    )
    .advise(
        "specify the path of a tar archive (docker save NAME -o app.tar), or the name of an image in the container engine",
    )
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub(super) async fn load(
    home: &Home,
    profile: &Profile,
    source: &str,
    output: &Output,
) -> Result<(), Failure> {
    let origin = Origin::find(source).await?;
    let what = match &origin {
        Origin::Archive(path, size) => format!("{} ({:.1} MiB)", path.display(), mib(*size)),
        Origin::Copy(_, size) => format!("the standard input ({:.1} MiB)", mib(*size)),
        Origin::Engine(_) => format!("{source} from the container engine"),
    };
    output.step("load", &format!("Loading {what} into {}", nodes(profile)));
    let (loaded, most) = load_everywhere(home, profile, &origin).await?;
    let loaded = loaded.join(", ");
    match most {
        Some(Sent { sent, of }) if sent < of => output.say(&format!(
            "Loaded into all nodes: {loaded} (at most {sent} of its {of} layers sent to a node)"
        )),
        _ => output.say(&format!("Loaded into all nodes: {loaded}")),
    }
    Ok(())
}

/// Loads an image into all nodes. Returns the image's names, and the layers sent to the node that
/// lacked most.
pub(super) async fn load_everywhere(
    home: &Home,
    profile: &Profile,
    origin: &Origin,
) -> Result<(Vec<String>, Option<Sent>), Failure> {
    // The first node unpacks the layers; with drivers that share them, the others reuse them.
    let (first, rest) = (&profile.nodes[..1], &profile.nodes[1..]);
    let mut loaded = Vec::new();
    let mut most: Option<Sent> = None;
    for nodes in [first, rest] {
        let results = join_all(nodes.iter().map(|n| load_on(home, profile, n, origin))).await;
        for result in results {
            let sent;
            (loaded, sent) = result?;
            most = most.into_iter().chain(sent).max_by_key(|s| s.sent);
        }
    }
    Ok((loaded, most))
}

/// Loads an image into a node. Returns the image's names and the layers sent.
async fn load_on(
    home: &Home,
    profile: &Profile,
    node: &Node,
    origin: &Origin,
) -> Result<(Vec<String>, Option<Sent>), Failure> {
    let mut present = Vec::new();
    if let Origin::Engine(export) = origin {
        let of = export.layers().len();
        if has(home, profile, node, export).await {
            return Ok((vec![export.name().to_owned()], Some(Sent { sent: 0, of })));
        }
        present = layers(home, profile, node, export).await;
    }
    loop {
        let (input, sent) = origin.open(&present).await?;
        let (code, text, error) =
            on_node(home, profile, node, "rkube ctl load", Some(input)).await?;
        if code == 0 {
            return Ok((text.lines().map(str::to_owned).collect(), sent));
        }
        if present.is_empty() {
            return Err(remote_failure(node, code, &error));
        }
        // A layer may have been removed in the meantime: send all of them.
        present.clear();
    }
}

/// Returns the layers of an image that a node has; none if the node does not respond.
async fn layers(home: &Home, profile: &Profile, node: &Node, export: &Export) -> Vec<String> {
    let wanted = export.layers();
    if wanted.is_empty() {
        return Vec::new();
    }
    let command = format!("rkube ctl layers {}", wanted.join(" "));
    match on_node(home, profile, node, &command, None).await {
        Ok((0, text, _)) => text.lines().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// Returns whether a node has exactly this image under this name, so that nothing needs
/// to be sent; false if the node does not respond.
async fn has(home: &Home, profile: &Profile, node: &Node, export: &Export) -> bool {
    let command = "rkube ctl images -o json";
    let Ok((0, text, _)) = on_node(home, profile, node, command, None).await else {
        return false;
    };
    let Ok(images) = serde_json::from_str::<Vec<serde_json::Value>>(&text) else {
        return false;
    };
    let name = push::full_name(export.name());
    images.iter().any(|image| {
        let tags = image["repoTags"].as_array().into_iter().flatten();
        image["id"] == export.id.as_str() && tags.into_iter().any(|t| *t == name.as_str())
    })
}

/// Pulls an image on all nodes, with the credentials of this machine for its registry.
async fn pull(home: &Home, profile: &Profile, image: &str) -> Result<(), Failure> {
    let registry = push::registry(word(image)?);
    let found = credentials::find(&registry).await?;
    pull_with(home, profile, image, &found).await
}

/// Pulls an image on all nodes.
pub(super) async fn pull_with(
    home: &Home,
    profile: &Profile,
    image: &str,
    credentials: &[credentials::Credential],
) -> Result<(), Failure> {
    let command = format!("rkube ctl pull --credentials {}", word(image)?);
    let input = serde_json::to_vec(credentials)
        .map_err(|e| Failure::new(Source::Program, Kind::Error, e.to_string()))?;
    let pulls = profile.nodes.iter().map(|node| {
        let input: Input = Box::new(std::io::Cursor::new(input.clone()));
        let command = command.as_str();
        async move {
            match on_node(home, profile, node, command, Some(input)).await? {
                (0, ..) => Ok(()),
                (code, _, error) => Err(remote_failure(node, code, &error)),
            }
        }
    });
    join_all(pulls).await.into_iter().collect()
}

/// Runs a command on all nodes.
pub(super) async fn everywhere(
    home: &Home,
    profile: &Profile,
    command: &str,
) -> Result<(), Failure> {
    let results = join_all(profile.nodes.iter().map(|n| async move {
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
    fn images_have_names_or_ids() {
        let list = r#"[{"id": "i1", "repoTags": ["a:1", "a:2"], "size": "1"}, {"id": "i2", "repoTags": []}]"#;
        assert_eq!(names("n", list).unwrap(), "a:1\na:2\ni2\n");
        assert!(names("n", "{}").unwrap_err().message.starts_with("n: "));
    }

    #[test]
    fn text_is_told_from_archives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let refused = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            refuse_text(&path, "file").is_err()
        };
        assert!(refused(b"apiVersion: v1\nkind: Pod\n"));
        assert!(refused(b""));
        assert!(!refused(&[b'a', 0, 0]));
        assert!(!refused(&[0x1f, 0x8b, 8, 1, b'a']));
        assert!(!refused(&[0x28, 0xb5, 0x2f, 0xfd]));
    }
}
