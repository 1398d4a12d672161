//! `rkube dev`: the loop from a changed file to a running pod.

mod deploy;
mod forward;
mod images;
mod live;
mod session;
mod show;
mod sync;
mod wait;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rkube_cluster::{Home, Profile};
use rkube_dev::record::Store;
use rkube_dev::settings::{Build, Section, Settings};
use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;

use super::yaml::Document;
use super::{Global, Output, file, interrupted, usage_failure};
use session::{Options, Session};
use show::Show;

/// The file that is read if no flag names manifests or images.
const FILE: &str = "rkube-dev.yaml";
/// The kind of a file with the settings of a session alone.
const KIND: &str = "Dev";

pub const HELP: &str = "\
Builds the images in a node, sets them in the manifests, applies these, waits until the workloads \
are ready, prints the logs of their pods and forwards the ports of their services. Then, whenever \
a file changes, it repeats just what that file concerns: files of --sync are copied into the running \
containers, others are built into their image, and changed manifests are applied. A mistake in a \
file is shown, and the next change is waited for.

Ctrl-C ends it and deletes what it has made, as Skaffold does, unless there is --keep (Tilt's way). \
Objects that were there before stay. --once leaves everything; --delete takes it away later.

Without -f, -k and --build, the settings come from rkube-dev.yaml, if there is one:

  apiVersion: rkube.dev/v1alpha1
  kind: Dev
  manifests: [deploy.yaml]
  build: [{image: app, context: ./app}]
  sync: ['./app/src:/app/src']
  portForward: ['svc/app:8080:80']";

#[derive(clap::Args)]
pub struct Args {
    /// Manifest, or directory of manifests, to apply; can be repeated
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    filenames: Vec<PathBuf>,
    /// Directory with a kustomization to apply, by kubectl; can be repeated
    #[arg(short = 'k', long = "kustomize", value_name = "DIRECTORY")]
    kustomize: Vec<PathBuf>,
    /// Image of the manifests to build from a directory, as
    /// IMAGE=DIRECTORY[,file=DOCKERFILE][,target=STAGE][,arg=NAME=VALUE]; can be repeated
    #[arg(long = "build", value_name = "BUILD")]
    builds: Vec<String>,
    /// Files to copy into running containers when they change, as
    /// [IMAGE=]PATH:PATH-IN-CONTAINER; can be repeated
    #[arg(long = "sync", value_name = "SYNC")]
    syncs: Vec<String>,
    /// Signal that the first process of a container gets after files were copied, such as HUP
    #[arg(long, value_name = "SIGNAL")]
    sync_signal: Option<String>,
    /// Port to forward, as KIND/NAME:[LOCAL:]PORT, such as svc/app:8080:80; can be repeated
    /// [default: all ports of the services in the manifests]
    #[arg(long = "port-forward", value_name = "PORT")]
    ports: Vec<String>,
    /// Forward no ports
    #[arg(long, conflicts_with = "ports")]
    no_port_forward: bool,
    /// File with the settings: of kind Dev, or a cluster file with the section dev
    /// [default: rkube-dev.yaml if there is one]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Namespace of objects without one [default: default]
    #[arg(short, long, value_name = "NAME")]
    namespace: Option<String>,
    /// Name that tells this session from others [default: that of the working directory]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Build, apply and wait once, then end; what was applied stays
    #[arg(long, conflicts_with_all = [
        "keep", "syncs", "sync_signal", "ports", "no_port_forward", "no_logs",
    ])]
    once: bool,
    /// Delete nothing in the end
    #[arg(long)]
    keep: bool,
    /// Delete what an earlier session has left, and end
    #[arg(long, conflicts_with_all = [
        "once", "keep", "filenames", "kustomize", "builds", "syncs", "sync_signal", "ports",
        "no_port_forward", "config", "namespace", "no_logs", "timeout",
    ])]
    delete: bool,
    /// Print no logs of pods
    #[arg(long)]
    no_logs: bool,
    /// Time for workloads to become ready, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

/// The contents of a file of kind `Dev`.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "apiVersion")]
    api_version: String,
    kind: String,
}

/// Reads the settings of a file.
fn read(path: &Path) -> Result<Section, Failure> {
    let document = Document::read(path)?;
    let head: Head = document.parse()?;
    if head.kind != KIND {
        // Reports what is wrong with any other document.
        return file::read(&document)?.dev.ok_or_else(|| {
            let message = format!("{} has no section 'dev'", path.display());
            Failure::new(Source::Program, Kind::Config, message)
        });
    }
    if head.api_version != file::API_VERSION {
        let why = format!("it must be {}", file::API_VERSION);
        return Err(document.wrong("apiVersion", why));
    }
    let whole: Whole = document.parse()?;
    Ok(whole.into_section())
}

/// A file of kind `Dev`: a section with a head. Spelled out, because unknown fields are errors.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Whole {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    namespace: Option<String>,
    #[serde(default)]
    manifests: Vec<PathBuf>,
    #[serde(default)]
    kustomize: Vec<PathBuf>,
    #[serde(default)]
    build: Vec<Build>,
    #[serde(default)]
    sync: Vec<String>,
    #[serde(default)]
    port_forward: Vec<String>,
}

impl Whole {
    fn into_section(self) -> Section {
        Section {
            namespace: self.namespace,
            manifests: self.manifests,
            kustomize: self.kustomize,
            build: self.build,
            sync: self.sync,
            port_forward: self.port_forward,
        }
    }
}

impl Args {
    /// Returns the settings: those of the file, and the flags.
    fn section(&self) -> Result<Section, Failure> {
        let flags = !self.filenames.is_empty() || !self.kustomize.is_empty();
        let flags = flags || !self.builds.is_empty();
        let mut section = match &self.config {
            Some(path) => read(path)?,
            None if !flags && Path::new(FILE).exists() => read(Path::new(FILE))?,
            None => Section::default(),
        };
        section.namespace = self.namespace.clone().or(section.namespace);
        section.manifests.extend(self.filenames.iter().cloned());
        section.kustomize.extend(self.kustomize.iter().cloned());
        for text in &self.builds {
            section.build.push(Build::parse(text)?);
        }
        section.sync.extend(self.syncs.iter().cloned());
        if !self.ports.is_empty() {
            section.port_forward.clone_from(&self.ports);
        }
        Ok(section)
    }
}

/// Returns the name of a session in a directory. Directories of the same name differ in a number.
fn name_of(directory: &Path) -> String {
    let base = directory
        .file_name()
        .map_or("root".into(), |n| n.to_string_lossy());
    let base: String = base
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    // FNV-1a: the same in every build.
    let hash = directory
        .to_string_lossy()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    format!("{base}-{hash:08x}")
}

/// Returns the number of a signal.
fn signal(name: &str) -> Result<i32, Failure> {
    // Linux' numbers, as containers run there. Those that ask a program to end are of no use: the
    // container would be started again, without the files.
    let known = [("HUP", 1), ("USR1", 10), ("USR2", 12), ("WINCH", 28)];
    let short = name.to_ascii_uppercase();
    let short = short.strip_prefix("SIG").unwrap_or(&short);
    let found = known.iter().find(|(known, _)| *known == short);
    found.map(|(_, number)| *number).ok_or_else(|| {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        usage_failure(format!(
            "--sync-signal {name}: the signals are {}",
            names.join(", ")
        ))
    })
}

/// Runs a session. Exits with 1 if an image cannot be built and there is `--once`.
pub async fn run(
    home: &Home,
    global: &Global,
    args: Args,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let here = std::env::current_dir()
        .map_err(|e| usage_failure(format!("cannot find the working directory: {e}")))?;
    let name = match &args.name {
        Some(name) => {
            rkube_cluster::check_name(name)?;
            name.clone()
        }
        None => name_of(&here),
    };
    let signal = args.sync_signal.as_deref().map(signal).transpose()?;
    let settings = match args.delete {
        true => Settings::default(),
        false => Settings::new(args.section()?, &here)?,
    };
    let store = Store::open(&home.profile_dir(&profile.name).join("dev"), &name)?;
    let show = Arc::new(Show::new(output.json()));
    let options = Options {
        once: args.once,
        logs: !args.no_logs && !args.once,
        forwards: !args.no_port_forward && !args.once,
        signal,
        timeout: Duration::from_secs(args.timeout),
    };
    // Before the first change to the cluster, so that none is left behind.
    let interrupt = interrupted();
    tokio::pin!(interrupt);
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let opening = Session::open(
        home,
        profile,
        settings,
        store,
        show.clone(),
        options,
        stopped,
    );
    let mut session = tokio::select! {
        opened = opening => opened?,
        () = &mut interrupt => return Err(Failure::interruption()),
    };
    if args.delete {
        session.clean_up().await?;
        return Ok(ExitCode::SUCCESS);
    }
    let rest = "interrupted; take away the rest with --delete";
    let result = {
        let running = session.run();
        tokio::pin!(running);
        tokio::select! {
            result = &mut running => result,
            () = &mut interrupt => {
                // What the running step makes must be known before it is deleted.
                stop.send_replace(true);
                tokio::select! {
                    result = &mut running => result,
                    () = interrupted() => {
                        show.warn(rest);
                        return Err(Failure::interruption());
                    }
                }
            }
        }
    };
    session.quiet();
    let interrupted_by_user = matches!(&result, Err(failure) if failure.is_interruption());
    if args.once || args.keep {
        if args.keep && interrupted_by_user {
            show.say("kept", "what was applied stays; delete it with --delete");
            return Ok(ExitCode::SUCCESS);
        }
        return result;
    }
    if !interrupted_by_user && !session.has_begun() {
        // What there is was left by an earlier session.
        return result;
    }
    show.say("deleting", "deleting what was applied");
    tokio::select! {
        cleaned = session.clean_up() => cleaned?,
        () = interrupted() => {
            show.warn(rest);
            return Err(Failure::interruption());
        }
    }
    match interrupted_by_user {
        true => Ok(ExitCode::SUCCESS),
        false => result,
    }
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
        let words = std::iter::once(&"dev").chain(words);
        <Line as clap::Parser>::try_parse_from(words).unwrap().args
    }

    #[test]
    fn flags_are_added_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dev.yaml");
        let config = path.display().to_string();
        let head = "apiVersion: rkube.dev/v1alpha1\n";
        let body = "namespace: a\nmanifests: [x.yaml]\nbuild: [{image: app, context: .}]\nportForward: ['svc/a:80']\n";
        std::fs::write(&path, format!("{head}kind: Dev\n{body}")).unwrap();
        let args = parse(&[
            "-c",
            &config,
            "-f",
            "y.yaml",
            "--build",
            "b=.",
            "--port-forward",
            "svc/b:1",
            "-n",
            "b",
        ]);
        let section = args.section().unwrap();
        assert_eq!(section.manifests, ["x.yaml", "y.yaml"].map(PathBuf::from));
        let images: Vec<_> = section.build.iter().map(|b| b.image.as_str()).collect();
        assert_eq!(images, ["app", "b"]);
        assert_eq!(section.port_forward, ["svc/b:1"]);
        assert_eq!(section.namespace.as_deref(), Some("b"));

        let indented = body.replace('\n', "\n  ");
        std::fs::write(&path, format!("{head}kind: Cluster\ndev:\n  {indented}")).unwrap();
        let section = parse(&["-c", &config]).section().unwrap();
        assert_eq!(section.manifests, [PathBuf::from("x.yaml")]);
        for (text, part) in [
            (format!("{head}kind: Cluster\n"), "no section 'dev'"),
            (
                format!("{head}kind: Dev\nzzz: 1\n"),
                ":3:1: unknown field `zzz`",
            ),
            (
                "apiVersion: v2\nkind: Dev\n".to_owned(),
                "it must be rkube.dev/v1alpha1",
            ),
            (
                format!("{head}kind: Cluster\ndev: {{zzz: 1}}\n"),
                "unknown field `zzz`",
            ),
        ] {
            std::fs::write(&path, text).unwrap();
            let failure = parse(&["-c", &config]).section().unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        }
    }

    #[test]
    fn directories_of_one_name_are_told_apart() {
        let (a, b) = (
            name_of(Path::new("/a/My App")),
            name_of(Path::new("/b/My App")),
        );
        assert!(a.starts_with("my-app-") && b.starts_with("my-app-") && a != b);
        assert_eq!(a, name_of(Path::new("/a/My App")));
        assert!(rkube_cluster::check_name(&a).is_ok());
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal("HUP").unwrap(), 1);
        assert_eq!(signal("sigusr1").unwrap(), 10);
        for name in ["KILL", "TERM", "INT", "QUIT"] {
            let failure = signal(name).unwrap_err();
            assert!(failure.message.contains("HUP, USR1"), "{failure}");
        }
    }

    #[test]
    fn flags_that_would_be_ignored_are_refused() {
        for words in [
            &["--once", "--no-logs"][..],
            &["--once", "--keep"],
            &["--once", "--sync", "a:/b"],
            &["--once", "--port-forward", "svc/a:80"],
            &["--delete", "-f", "a"],
            &["--delete", "--once"],
            &["--delete", "--build", "a=b"],
        ] {
            let words = std::iter::once(&"dev").chain(words);
            let parsed = <Line as clap::Parser>::try_parse_from(words);
            let error = parsed.map(drop).unwrap_err();
            assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
        }
        assert!(parse(&["--delete", "--name", "a"]).delete);
        assert!(parse(&["--once", "-f", "a", "--timeout", "5"]).once);
    }
}
