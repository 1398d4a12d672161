//! `rkube image bundle`: archives of all images that some manifests need, for machines without a
//! network.

use std::path::PathBuf;

use rkube_cluster::{Home, Profile};
use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};

mod images;
mod save;

use super::credentials::Credential;
use super::load;
use crate::cli::{Global, Output};

/// The text of `rkube image bundle save --help` after the flags.
const SAVE_HELP: &str = "\
The archive is an OCI image layout, which containerd, Docker, Podman and skopeo read as well. Images that \
the control-plane node has are taken from it. Those that it lacks, and those that are named by their \
digest, are fetched from their registries and are in the archive as they are there, for the platform of \
the node.";

#[derive(clap::Subcommand)]
pub enum Command {
    /// Save all images of manifests, charts, addons or a list to one archive
    #[command(after_help = SAVE_HELP)]
    Save(Args),
    /// Load all images of an archive into all nodes
    Load {
        /// Path of the archive, or - for standard input
        file: String,
    },
}

#[derive(clap::Args)]
pub struct Args {
    /// Path of the archive, or - for standard output
    file: String,
    /// Names of images
    #[arg(value_name = "IMAGE")]
    images: Vec<String>,
    /// Manifest or directory of manifests whose images are saved, or - for standard input; can be
    /// repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    filenames: Vec<PathBuf>,
    /// Directory with a kustomization whose images are saved, rendered by kubectl; can be repeated
    #[arg(short, long, value_name = "DIRECTORY")]
    kustomize: Vec<PathBuf>,
    /// Directory or archive of a Helm chart whose images are saved, rendered by helm; can be repeated
    #[arg(long = "chart", value_name = "CHART")]
    charts: Vec<PathBuf>,
    /// File with values of the charts; can be repeated
    #[arg(long, value_name = "FILE", requires = "charts")]
    values: Vec<PathBuf>,
    /// Addon whose images are saved; can be repeated
    #[arg(long = "addon", value_name = "NAME")]
    addons: Vec<String>,
}

/// The request of the command line to a node. A JSON document on standard input, because of the
/// credentials.
#[derive(Serialize, Deserialize)]
pub struct Request {
    pub images: Vec<Wanted>,
}

/// An image of a request.
#[derive(Serialize, Deserialize)]
pub struct Wanted {
    pub name: String,
    pub credentials: Vec<Credential>,
}

/// The messages of a node while it writes a bundle: a JSON document per line, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    Fetching {
        name: String,
        done: u64,
        total: u64,
    },
    Waiting {
        text: String,
    },
    /// The image is part of every node, and left out.
    Builtin {
        name: String,
    },
    Writing,
    Written(Vec<Image>),
}

/// An image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// The name, with registry and tag or digest.
    pub name: String,
    /// ID of the image in the bundle.
    pub id: String,
    /// Digest of the manifest or index in the bundle.
    pub digest: String,
    /// Size of the configuration and layers in bytes.
    pub size: u64,
    /// Whether it is as the registry has it, and not from the node.
    pub fetched: bool,
    /// Whether it has the ID that it has on the node.
    pub same: bool,
}

/// Runs the command.
pub async fn run(
    home: &Home,
    global: &Global,
    command: Command,
    output: &Output,
) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    match command {
        Command::Save(args) => {
            if args.file == "-" && !output.text() {
                return Err(Failure::new(
                    Source::Program,
                    Kind::Usage,
                    "the archive and the result cannot both be standard output",
                )
                .advise("name a file for the archive, or leave out --output"));
            }
            let names = images::collect(home, &args, output).await?;
            save::run(home, &profile, names, &args.file, output).await
        }
        Command::Load { file } => {
            let (images, nodes) = load::archive(home, &profile, &file, output).await?;
            let result = serde_json::json!({ "images": images, "nodes": nodes });
            output.result(&result, || {
                format!("Loaded into {}: {}", nodes.join(", "), images.join(", "))
            });
            Ok(())
        }
    }
}
