//! `rkube image build`

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use futures::future::BoxFuture;
use rkube_build::pattern::Matcher;
use rkube_build::protocol::{Built, Event, Request};
use rkube_build::{BuildError, context};
use rkube_cluster::{Home, Node, Profile};
use rkube_failure::{Failure, Kind, Source};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio_util::io::SyncIoBridge;

use super::screen::Screen;
use super::source::{self, Context};
use super::transfer;
use crate::cli::unsupported::unsupported;
use crate::cli::{Global, Output};

/// Size of the buffers between the connection and what feeds or reads it.
const PIPE_BYTES: usize = 256 << 10;

#[derive(clap::Args)]
pub struct Args {
    /// Directory with the Dockerfile and the files that it copies, URL of a tar archive or a Git
    /// repository, or - for a Dockerfile or a tar archive on standard input
    #[arg(value_name = "PATH | URL | -")]
    context: String,
    /// Name of the image, as name:tag; can be repeated
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Path of the Dockerfile, or - for standard input [default: Dockerfile in the context]
    #[arg(short, long, value_name = "PATH")]
    file: Option<String>,
    /// Value of an ARG; without =VALUE, that of the environment variable; can be repeated
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Label of the image; can be repeated
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Secret for RUN --mount=type=secret, as id=ID,src=FILE or id=ID,env=NAME; can be repeated
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Host name that the steps know, as NAME:ADDRESS; can be repeated
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    hosts: Vec<String>,
    /// Platform of the image, which must be that of the nodes
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Run every step, also those whose result is cached
    #[arg(long)]
    no_cache: bool,
    /// Pull base images also if the node has them
    #[arg(long)]
    pull: bool,
    /// Write the image's ID to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write a description of the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Print nothing but the image's ID
    #[arg(short, long)]
    quiet: bool,
    /// Display of progress
    #[arg(long, default_value = "auto", value_name = "FORM")]
    progress: Form,
    /// Node that runs the steps [default: the control-plane node]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
    /// Has no effect: the image is always put on all nodes
    #[arg(long, hide = true)]
    all: bool,
    /// Options of docker build without dashes, as minikube takes them; can be repeated
    #[arg(long = "build-opt", value_name = "OPTION", hide = true)]
    options: Vec<String>,
    /// Environment variables of minikube's builder
    #[arg(long = "build-env", value_name = "NAME=VALUE", hide = true)]
    environment: Vec<String>,
    /// Push the image to the registries of its names
    #[arg(long)]
    push: bool,
    /// Not supported
    #[arg(long, hide = true, value_name = "CACHE")]
    cache_from: Vec<String>,
    /// Not supported
    #[arg(long, hide = true, value_name = "CACHE")]
    cache_to: Vec<String>,
    /// Not supported
    #[arg(long, hide = true, value_name = "AGENT")]
    ssh: Vec<String>,
}

/// The display of a build's progress.
pub(in crate::cli) trait Viewer {
    /// Shows a line that belongs to no step.
    fn note(&mut self, text: &str);
    /// Shows an event.
    fn show(&mut self, event: &Event);
    /// Waits until there is room for another line. The build waits meanwhile.
    fn room(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The form in which progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// As lines
    #[value(alias = "tty")]
    Auto,
    /// As lines
    Plain,
    /// Not at all
    #[value(alias = "none")]
    Quiet,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Source::Program, Kind::Usage, message)
}

impl Args {
    /// Takes over minikube's `--build-opt` and `--build-env`.
    fn translate(&mut self) -> Result<(), Failure> {
        for option in std::mem::take(&mut self.options) {
            let (name, value) = option
                .trim_start_matches('-')
                .split_once('=')
                .map_or((option.as_str(), None), |(n, v)| (n, Some(v.to_owned())));
            let needs = || {
                value
                    .clone()
                    .ok_or_else(|| usage(format!("--build-opt={option} needs a value")))
            };
            match name.trim_start_matches('-') {
                "build-arg" => self.build_args.push(needs()?),
                "label" => self.labels.push(needs()?),
                "secret" => self.secrets.push(needs()?),
                "add-host" => self.hosts.push(needs()?),
                "target" => self.target = Some(needs()?),
                "platform" => self.platform = Some(needs()?),
                "no-cache" => self.no_cache = value.as_deref() != Some("false"),
                "pull" => self.pull = value.as_deref() != Some("false"),
                "quiet" | "q" => self.quiet = value.as_deref() != Some("false"),
                "progress" | "rm" | "force-rm" => {}
                _ => {
                    return Err(unsupported(
                        format!("--build-opt={option} is not supported"),
                        "list the options with: rkube image build --help",
                    ));
                }
            }
        }
        for variable in &self.environment {
            if !matches!(
                variable.as_str(),
                "DOCKER_BUILDKIT=1" | "BUILDKIT_PROGRESS=plain"
            ) {
                return Err(unsupported(
                    format!(
                        "--build-env={variable} is not supported: no other program builds the image"
                    ),
                    "pass values to the Dockerfile with --build-arg",
                ));
            }
        }
        let missing = [
            (
                !self.cache_from.is_empty(),
                "--cache-from",
                "the node keeps the cache itself",
            ),
            (
                !self.cache_to.is_empty(),
                "--cache-to",
                "the node keeps the cache itself",
            ),
            (
                !self.ssh.is_empty(),
                "--ssh",
                "pass a key with --secret instead",
            ),
        ];
        for (given, flag, advice) in missing {
            if given {
                return Err(unsupported(format!("{flag} is not supported"), advice));
            }
        }
        Ok(())
    }

    fn request(&self, dockerfile: String, name: String) -> Result<Request, Failure> {
        let mut build_args = BTreeMap::new();
        for text in &self.build_args {
            match text.split_once('=') {
                Some((name, value)) => {
                    build_args.insert(name.to_owned(), value.to_owned());
                }
                // As with Docker, an unset variable counts as not given.
                None => {
                    if let Ok(value) = std::env::var(text) {
                        build_args.insert(text.clone(), value);
                    }
                }
            }
        }
        let labels = self.labels.iter().map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        });
        let hosts = self.hosts.iter().map(|text| {
            let split = text.split_once('=').or_else(|| text.split_once(':'));
            let (name, address) =
                split.ok_or_else(|| usage(format!("--add-host {text} is not NAME:ADDRESS")))?;
            let address = address.trim_start_matches('[').trim_end_matches(']');
            match address.parse::<std::net::IpAddr>() {
                Ok(ip) => Ok((name.to_owned(), ip.to_string())),
                Err(_) => Err(usage(format!(
                    "--add-host {text}: '{address}' is not an IP address"
                ))),
            }
        });
        Ok(Request {
            dockerfile,
            dockerfile_name: name,
            names: self.tags.clone(),
            build_args,
            target: self.target.clone(),
            labels: labels.collect(),
            secrets: self
                .secrets
                .iter()
                .map(|text| secret(text))
                .collect::<Result<_, _>>()?,
            no_cache: self.no_cache,
            pull: self.pull,
            hosts: hosts.collect::<Result<_, _>>()?,
        })
    }
}

/// Reads a secret. Returns its ID and content in base64.
fn secret(text: &str) -> Result<(String, String), Failure> {
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    for field in text.split(',') {
        let (name, value) = field
            .split_once('=')
            .ok_or_else(|| usage(format!("--secret {text}: '{field}' is not NAME=VALUE")))?;
        let name = match name {
            "source" => "src",
            other => other,
        };
        if !matches!(name, "id" | "src" | "env" | "type") {
            return Err(usage(format!("--secret {text}: unknown field '{name}'")));
        }
        fields.insert(name, value);
    }
    let id = fields
        .get("id")
        .ok_or_else(|| usage(format!("--secret {text} has no id")))?;
    let env = match (fields.get("type"), fields.get("env")) {
        (Some(&"env"), None) => Some(fields.get("src").copied().unwrap_or(id)),
        (None | Some(&"env" | &"file"), env) => env.copied(),
        (Some(kind), _) => return Err(usage(format!("--secret {text}: unknown type '{kind}'"))),
    };
    let bytes = match (env, fields.get("src")) {
        (Some(name), _) => std::env::var(name)
            .map_err(|_| usage(format!("--secret {text}: the variable {name} is not set")))?
            .into_bytes(),
        (None, Some(path)) => std::fs::read(path).map_err(|e| {
            Failure::new(
                Source::Program,
                Kind::NotFound,
                format!("--secret {text}: cannot read {path}: {e}"),
            )
        })?,
        // As with Docker, the variable or file has the name of the secret.
        (None, None) => match std::env::var(id) {
            Ok(value) => value.into_bytes(),
            Err(_) => std::fs::read(id).map_err(|e| {
                usage(format!(
                    "--secret {text}: there is neither a variable nor a file {id}: {e}"
                ))
            })?,
        },
    };
    let encoded = base64::engine::general_purpose::STANDARD.encode(bytes);
    Ok(((*id).to_owned(), encoded))
}

/// Checks that an image is to be built for the platform of the nodes.
pub(in crate::cli) fn check_platform(platform: &str) -> Result<(), Failure> {
    rkube_build::plan::check_platform(platform, architecture()).map_err(|e| {
        let advice =
            "build for another platform with the engine of this machine (docker build --platform)";
        unsupported(e.message, advice)
    })
}

/// Returns the architecture of the nodes, as images name it.
pub(in crate::cli) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Builds an image. Returns false if the Dockerfile or a step of it is to blame for a failure,
/// which was printed then.
pub async fn run(
    home: &Home,
    global: &Global,
    mut args: Args,
    output: &Output,
) -> Result<bool, Failure> {
    args.translate()?;
    if args.push && args.tags.is_empty() {
        return Err(usage("--push needs a name to push under")
            .advise("name the image as the registry has it: --tag HOST/REPOSITORY:TAG"));
    }
    if let Some(platform) = &args.platform {
        check_platform(platform)?;
    }
    let profile = Profile::load(home, &global.profile)?;
    let node = profile.node(args.node.as_deref())?.clone();
    let context = source::open(&args.context, args.file.as_deref()).await?;
    let request = args.request(context.dockerfile.clone(), context.dockerfile_name.clone())?;
    let quiet = args.quiet || args.progress == Form::Quiet;
    let mut screen = Screen::new(quiet, output.json());
    screen.note(&format!("building with rkube on the node {}", node.name));
    let outcome = on_builder(home, &profile, &node, &request, &context, &mut screen).await?;
    let built = match outcome {
        Outcome::Built(built) => built,
        Outcome::Failed(error) => {
            screen.explain(&error, &context);
            return Ok(false);
        }
    };
    transfer::distribute(home, &profile, &node, &built).await?;
    screen.note(&format!("the image is on {}", super::nodes(&profile)));
    if args.push {
        for name in &built.names {
            super::push::push(home, &profile, &node, (name, None), output).await?;
        }
    }
    if let Some(path) = &args.iidfile {
        write(path, &built.id)?;
    }
    if let Some(path) = &args.metadata_file {
        write(path, &metadata(&built))?;
    }
    if args.quiet {
        output.result(&built.id, || built.id.clone());
    } else if output.json() {
        output.result(&built, String::new);
    }
    Ok(true)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(path, text).map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!(
                "the image was built, but {} cannot be written: {e}",
                path.display()
            ),
        )
    })
}

/// Returns the content of `--metadata-file`.
fn metadata(built: &Built) -> String {
    let mut value = serde_json::json!({
        "containerimage.config.digest": built.id,
        "containerimage.digest": built.manifest,
        "containerimage.descriptor": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": built.manifest,
            "size": built.manifest_size,
        },
    });
    if !built.names.is_empty() {
        value["image.name"] = built.names.join(",").into();
    }
    format!("{value:#}\n")
}

/// The outcome of a build that has run on a node.
pub(in crate::cli) enum Outcome {
    /// The image that was built.
    Built(Built),
    /// The error of the Dockerfile or of a step.
    Failed(BuildError),
}

/// Runs the build on a node and shows its progress.
pub(in crate::cli) async fn on_builder(
    home: &Home,
    profile: &Profile,
    node: &Node,
    request: &Request,
    context: &Context,
    viewer: &mut dyn Viewer,
) -> Result<Outcome, Failure> {
    let mut header = serde_json::to_vec(request).map_err(|e| usage(e.to_string()))?;
    header.push(b'\n');
    let (input, feeder) = tokio::io::duplex(PIPE_BYTES);
    let (printed, events) = tokio::io::duplex(PIPE_BYTES);
    let bridge = SyncIoBridge::new(feeder);
    let (dir, excluded) = (context.dir().to_path_buf(), context.excluded.clone());
    // The writer is kept: the node takes the end of its input for the end of this process.
    let sent = tokio::task::spawn_blocking(move || send(bridge, &header, &dir, &excluded));
    let input: Box<dyn AsyncRead + Send + Unpin> = Box::new(input);
    let command = async {
        let printed = printed;
        rkube_cluster::on_node(home, profile, node, "rkube ctl build", Some(input), printed).await
    };
    let shown = async {
        let mut result = None;
        let mut lines = BufReader::new(events).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            viewer.room().await;
            match serde_json::from_str::<Event>(&line) {
                Ok(Event::Error(error)) => result = Some(Outcome::Failed(error)),
                Ok(Event::Built(built)) => result = Some(Outcome::Built(built)),
                Ok(event) => viewer.show(&event),
                Err(e) => viewer.note(&format!("the node said something unknown: {e}: {line}")),
            }
        }
        result
    };
    let both = async { tokio::join!(command, shown) };
    tokio::pin!(both, sent);
    let (mut feeder, mut local) = (None, None);
    let (done, result) = loop {
        tokio::select! {
            done = &mut both => break done,
            sent = &mut sent, if feeder.is_none() && local.is_none() => match sent {
                Ok((bridge, Ok(()))) => feeder = Some(bridge),
                Ok((bridge, Err(e))) => {
                    // The end of the input ends the build on the node.
                    drop(bridge);
                    local = Some(e.to_string());
                }
                Err(e) => local = Some(e.to_string()),
            },
        }
    };
    drop(feeder);
    if let Some(reason) = local
        && !matches!(result, Some(Outcome::Built(_)))
    {
        // A node that has failed reads no more; its own reason is the better one.
        if result.is_none() || !reason.contains("broken pipe") {
            return Err(Failure::new(
                Source::Host,
                Kind::Error,
                format!("cannot send the build context: {reason}"),
            ));
        }
    }
    let (code, error) = done?;
    result.ok_or_else(|| {
        Failure::new(
            Source::Runtime,
            Kind::Error,
            format!("{}: the build ended with code {code}: {error}", node.name),
        )
    })
}

/// A writer to the connection, and the result of what was written to it.
type SendResult = (SyncIoBridge<tokio::io::DuplexStream>, std::io::Result<()>);

fn send(
    mut bridge: SyncIoBridge<tokio::io::DuplexStream>,
    header: &[u8],
    dir: &Path,
    excluded: &Matcher,
) -> SendResult {
    let result = bridge
        .write_all(header)
        .and_then(|()| context::write(dir, excluded, &mut bridge).map(drop))
        .and_then(|()| bridge.flush());
    (bridge, result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Args {
        let words = std::iter::once(&"build").chain(words);
        <Line as clap::Parser>::try_parse_from(words).unwrap().args
    }

    #[test]
    fn minikubes_options_are_understood_or_refused() {
        let mut args = parse(&[
            ".",
            "--build-opt=build-arg=X=1",
            "--build-opt",
            "no-cache",
            "--build-opt=target=t",
            "--build-env=DOCKER_BUILDKIT=1",
            "--all",
        ]);
        args.translate().unwrap();
        assert!(args.no_cache);
        assert_eq!(args.target.as_deref(), Some("t"));
        let request = args.request(String::new(), String::new()).unwrap();
        assert_eq!(request.build_args["X"], "1");
        for words in [
            &["--build-opt=squash"][..],
            &["--build-env=HTTP_PROXY=x"],
            &["--cache-from=x"],
            &["--ssh=default"],
        ] {
            let failure = parse(&[&["."], words].concat()).translate().unwrap_err();
            assert_eq!(failure.exit_code(), 16, "{words:?}");
            assert!(failure.advice.is_some());
        }
    }

    #[test]
    fn secrets_come_from_files_and_variables() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s").unwrap();
        let (id, content) = secret(&format!("id=a,src={}", file.path().display())).unwrap();
        assert_eq!((id.as_str(), content.as_str()), ("a", "cw=="));
        let path = std::env::var("PATH").unwrap();
        let (_, content) = secret("id=a,env=PATH").unwrap();
        assert_eq!(
            content,
            base64::engine::general_purpose::STANDARD.encode(path)
        );
        for bad in [
            "src=x",
            "id=a,what=1",
            "id",
            "id=a,src=/nonexistent",
            "id=a,type=x",
            "id=a,env=NOT_SET_X",
        ] {
            assert!(secret(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_checked() {
        let args = parse(&[".", "--add-host=a:10.0.0.1", "--add-host", "b=[::1]"]);
        let hosts = args.request(String::new(), String::new()).unwrap().hosts;
        assert_eq!(hosts[0], ("a".into(), "10.0.0.1".into()));
        assert_eq!(hosts[1], ("b".into(), "::1".into()));
        let bad = parse(&[".", "--add-host=a:b"]);
        assert!(bad.request(String::new(), String::new()).is_err());
    }
}
