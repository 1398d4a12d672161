//! `rkube image`

use std::path::PathBuf;

use futures::future::join_all;
use rkube_cluster::{Home, Node, Profile, Progress};
use rkube_config::Failure;
use rkube_config::failure::{Kind, Source};
use rkube_drivers::docker::Export;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Put the images of a tar archive, or an image of the container engine, on every node
    Load {
        /// A docker-archive or an OCI image layout, plain or compressed by gzip or zstd;
        /// else the name of an image that Docker, Podman or Colima has
        source: String,
    },
    /// List the images on a node
    #[command(alias = "list")]
    Ls {
        /// The node; the control plane's when not given
        #[arg(short, long, value_name = "NODE")]
        node: Option<String>,
    },
    /// Remove an image from every node
    Rm {
        /// The image
        image: String,
    },
    /// Pull an image on every node
    Pull {
        /// The image
        image: String,
    },
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    match args.command {
        Command::Load { source } => load(home, &profile, &source, output).await,
        Command::Ls { node } => {
            let node = profile.node(node.as_deref())?;
            let format = if output.json() { "json" } else { "text" };
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
            print!("{text}");
            Ok(())
        }
        Command::Rm { image } => {
            output.step(
                "remove",
                &format!("Removing {image} from {} nodes", profile.nodes.len()),
            );
            everywhere(home, &profile, &format!("rkube ctl rmi {}", word(&image)?)).await?;
            output.say(&format!("{image} is removed."));
            Ok(())
        }
        Command::Pull { image } => {
            output.step(
                "pull",
                &format!("Pulling {image} on {} nodes", profile.nodes.len()),
            );
            everywhere(home, &profile, &format!("rkube ctl pull {}", word(&image)?)).await?;
            output.say(&format!("{image} is on every node."));
            Ok(())
        }
    }
}

/// An image name as one word of a shell's line.
fn word(image: &str) -> Result<&str, Failure> {
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
        format!("'{image}' is not an image name"),
    ))
}

/// Where an image comes from.
enum Origin {
    /// A file, and its size.
    Archive(PathBuf, u64),
    /// The container engine.
    Engine(Export),
}

impl Origin {
    /// A file of that name, else an image of the engine.
    async fn find(source: &str) -> Result<Self, Failure> {
        let path = PathBuf::from(source);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => return Ok(Self::Archive(path, meta.len())),
            Ok(_) => return Err(unreadable(&path, "not a file")),
            // What cannot be an image's name was meant to be a path.
            Err(e) if path.is_absolute() || source.starts_with('.') || source.ends_with(".tar") => {
                return Err(unreadable(&path, &e.to_string()));
            }
            Err(_) => {}
        }
        word(source)?;
        Export::find(source).await.map(Self::Engine)
    }

    async fn open(&self) -> Result<Box<dyn AsyncRead + Send + Unpin>, Failure> {
        match self {
            Self::Archive(path, _) => {
                let file = tokio::fs::File::open(path)
                    .await
                    .map_err(|e| unreadable(path, &e.to_string()))?;
                Ok(Box::new(file))
            }
            Self::Engine(export) => Ok(Box::new(StreamReader::new(export.open()))),
        }
    }
}

fn unreadable(path: &std::path::Path, why: &str) -> Failure {
    Failure::new(
        Source::Program,
        Kind::NotFound,
        format!("cannot read {}: {why}", path.display()),
    )
    .advise(
        "give the path of a tar archive (docker save NAME -o app.tar), or the name of an image of the container engine",
    )
}

async fn load(
    home: &Home,
    profile: &Profile,
    source: &str,
    output: &Output,
) -> Result<(), Failure> {
    let origin = Origin::find(source).await?;
    let what = match &origin {
        Origin::Archive(path, size) => {
            let mib = *size as f64 / f64::from(1 << 20);
            format!("{} ({mib:.1} MiB)", path.display())
        }
        Origin::Engine(_) => format!("{source} of the container engine"),
    };
    let count = profile.nodes.len();
    output.step("load", &format!("Loading {what} on {count} nodes"));
    // The first node unpacks; the others find the layers, where nodes share them.
    let (first, rest) = (&profile.nodes[..1], &profile.nodes[1..]);
    let mut loaded = Vec::new();
    for nodes in [first, rest] {
        let results = join_all(nodes.iter().map(|n| load_on(home, profile, n, &origin))).await;
        for names in results {
            loaded = names?;
        }
    }
    output.say(&format!("Loaded on every node: {}", loaded.join(", ")));
    Ok(())
}

async fn load_on(
    home: &Home,
    profile: &Profile,
    node: &Node,
    origin: &Origin,
) -> Result<Vec<String>, Failure> {
    let input = origin.open().await?;
    let (code, text, error) = on_node(home, profile, node, "rkube ctl load", Some(input)).await?;
    if code != 0 {
        return Err(remote_failure(node, code, &error));
    }
    Ok(text.lines().map(str::to_owned).collect())
}

async fn everywhere(home: &Home, profile: &Profile, command: &str) -> Result<(), Failure> {
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

/// What `rkube ctl` on a node ended with, as this rkube's own failure.
fn remote_failure(node: &Node, code: i32, error: &str) -> Failure {
    let runtime = Source::Runtime as i32;
    let kind = if (runtime..runtime + 10).contains(&code) {
        Kind::of_exit_code(code)
    } else {
        Kind::Error
    };
    Failure::new(Source::Runtime, kind, format!("{}: {error}", node.name))
}

/// Runs a command on a node: its exit code, output and error, trimmed.
async fn on_node(
    home: &Home,
    profile: &Profile,
    node: &Node,
    command: &str,
    input: Option<Box<dyn AsyncRead + Send + Unpin>>,
) -> Result<(i32, String, String), Failure> {
    let session = rkube_cluster::ssh(home, profile, node).await?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let code = session
        .exec(command, input, &mut stdout, &mut stderr)
        .await
        .map_err(|e| {
            Failure::new(
                Source::Guest,
                Kind::Error,
                format!("the connection to {} broke: {e}", node.name),
            )
        })?;
    let error = String::from_utf8_lossy(&stderr)
        .trim()
        .trim_start_matches("error: ")
        .to_owned();
    Ok((code, String::from_utf8_lossy(&stdout).into_owned(), error))
}
