//! The classic builder, for `docker build` with `DOCKER_BUILDKIT=0`.

use std::collections::BTreeMap;
use std::rc::Rc;

use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use rkube_build::protocol::{Built, Event, Request as Build};
use rkube_failure::{Failure, Kind, Source};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::images::familiar;
use super::reply::{self, Body, Error, Messages};
use super::request::Query;
use super::server::Endpoint;
use super::transfer::spool;
use crate::cli::image::build::{Outcome, Viewer, check_platform, on_builder};
use crate::cli::image::source::{self, Context};
use crate::cli::image::{check_name, everywhere, transfer};

/// Parameters of builds that rkube's builder has no counterpart for, and their harmless values.
const REFUSED: &[(&str, &[&str])] = &[
    ("squash", &["0", "false"]),
    ("cachefrom", &["[]", "null"]),
    ("ulimits", &["[]", "null"]),
    ("outputs", &["[]", "null"]),
    ("securityopt", &["[]", "null"]),
    ("memory", &["0"]),
    ("memswap", &["0"]),
    ("cpushares", &["0"]),
    ("cpuperiod", &["0"]),
    ("cpuquota", &["0"]),
    ("cpusetcpus", &[]),
    ("cpusetmems", &[]),
    ("cgroupparent", &[]),
    ("shmsize", &["0"]),
    ("isolation", &["default"]),
    // Steps have the network of the node.
    ("networkmode", &["default", "host", "bridge"]),
    ("session", &[]),
];

/// Reads the parameters of a build.
fn parameters(query: &Query) -> Result<Build, Error> {
    if query.get("version") == Some("2") {
        return Err(Error::unsupported(
            "rkube's endpoint for Docker's clients has no BuildKit: build with DOCKER_BUILDKIT=0, or with rkube image build",
        ));
    }
    for (name, harmless) in REFUSED {
        if let Some(value) = query.get(name).filter(|value| !harmless.contains(value)) {
            return Err(Error::unsupported(format!(
                "the build option {name}={value} is not supported by rkube's builder"
            )));
        }
    }
    if let Some(platform) = query.get("platform") {
        check_platform(platform)?;
    }
    // A client says null for a variable that it does not have.
    let build_args: BTreeMap<String, Option<String>> = query.json("buildargs")?;
    let build_args = build_args
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let hosts: Hosts = query.json("extrahosts")?;
    let mut names = Vec::new();
    for name in query.all("t") {
        names.push(check_name(name)?.to_owned());
    }
    Ok(Build {
        names,
        build_args: build_args.collect(),
        target: query.get("target").map(str::to_owned),
        labels: query.json("labels")?,
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        hosts: hosts.read()?,
        ..Build::default()
    })
}

/// Host names with addresses: a list, or `NAME:ADDRESS` separated by commas.
#[derive(Default, serde::Deserialize)]
#[serde(transparent)]
struct Hosts(Vec<String>);

impl Hosts {
    fn read(self) -> Result<Vec<(String, String)>, Error> {
        let read = |text: &String| {
            let (name, address) = text.split_once('=').or_else(|| text.split_once(':'))?;
            let address = address.trim_start_matches('[').trim_end_matches(']');
            let address: std::net::IpAddr = address.parse().ok()?;
            Some((name.to_owned(), address.to_string()))
        };
        let hosts = self.0.iter().map(|text| {
            read(text).ok_or_else(|| {
                let message = format!("the extra host {text} is not NAME:ADDRESS");
                Error::new(StatusCode::BAD_REQUEST, message)
            })
        });
        hosts.collect()
    }
}

/// Fails unless a context is that of a server. Paths and other schemes would lead to this machine.
fn check_remote(remote: &str) -> Result<(), Error> {
    const SERVERS: [&str; 6] = [
        "http://",
        "https://",
        "git://",
        "ssh://",
        "git@",
        "github.com/",
    ];
    if SERVERS.iter().any(|begin| remote.starts_with(begin)) {
        return Ok(());
    }
    let message = format!("the context {remote} is not the URL of a server");
    Err(Error::new(StatusCode::BAD_REQUEST, message))
}

/// Opens the context: what the client sends, or what `remote` names.
async fn context(query: &Query, archive: NamedTempFile) -> Result<Context, Error> {
    let file = query.get("dockerfile").map(str::to_owned);
    let usual = |file: Option<String>| file.filter(|name| name != "Dockerfile");
    if let Some(remote) = query.get("remote") {
        check_remote(remote)?;
        return Ok(source::open(remote, usual(file).as_deref()).await?);
    }
    let opened = tokio::task::spawn_blocking(move || {
        source::from_file(usual(file).as_deref(), archive.path())
    });
    let opened = opened.await.map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot read the context: {e}"),
        )
    })?;
    Ok(opened?)
}

/// `docker build`
pub async fn run(
    endpoint: Rc<Endpoint>,
    query: Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Error> {
    // First, so that the client sees an answer that refuses the build.
    let archive = spool(request).await?;
    let mut build = parameters(&query)?;
    let quiet = query.flag("q");
    let profile = endpoint.profile()?;
    let context = context(&query, archive).await?;
    build.dockerfile.clone_from(&context.dockerfile);
    build.dockerfile_name.clone_from(&context.dockerfile_name);
    let (messages, response) = Messages::open();
    let mut log = Log {
        messages: messages.clone(),
        quiet,
    };
    let building = async move {
        let node = Endpoint::node(&profile)?.clone();
        let outcome =
            on_builder(&endpoint.home, &profile, &node, &build, &context, &mut log).await?;
        let built = match outcome {
            Outcome::Built(built) => built,
            Outcome::Failed(error) => {
                let place = match error.lines {
                    Some((first, _)) => format!("{}:{first}: ", context.dockerfile_name),
                    None => String::new(),
                };
                let message = format!("{place}{}", error.message);
                return Err(Failure::new(Source::Runtime, Kind::Error, message));
            }
        };
        transfer::distribute(&endpoint.home, &profile, &node, &built).await?;
        Ok::<_, Failure>(built)
    };
    tokio::task::spawn_local(async move {
        tokio::select! {
            // The build on the node ends with its connection.
            () = messages.closed() => {}
            built = building => match built {
                Ok(built) => finish(&built, quiet).iter().for_each(|m| messages.send(m)),
                Err(failure) => messages.error(1, &reply::words(&failure)),
            },
        }
    });
    Ok(response)
}

/// Returns the last messages of a build.
fn finish(built: &Built, quiet: bool) -> Vec<Value> {
    let line = |text: String| json!({ "stream": format!("{text}\n") });
    let mut messages = vec![json!({ "aux": { "ID": built.id } })];
    if quiet {
        messages.push(line(built.id.clone()));
        return messages;
    }
    let short: String = built
        .id
        .trim_start_matches("sha256:")
        .chars()
        .take(12)
        .collect();
    messages.push(line(format!("Successfully built {short}")));
    let names = built.names.iter();
    messages.extend(names.map(|name| line(format!("Successfully tagged {}", familiar(name)))));
    messages
}

/// Sends the progress of a build to the client, in BuildKit's plain form.
struct Log {
    messages: Messages,
    quiet: bool,
}

/// Returns an event as a line.
fn line(event: &Event) -> Option<String> {
    Some(match event {
        Event::Begin { id, name } => format!("#{id} {name}"),
        Event::Line { id, after, text } => format!("#{id} {:.3} {text}", *after as f64 / 1e3),
        Event::Done { id, took } => format!("#{id} DONE {:.1}s", *took as f64 / 1e3),
        Event::Cached { id } => format!("#{id} CACHED"),
        Event::Failed { id, message } => format!("#{id} ERROR: {message}"),
        Event::Canceled { id } => format!("#{id} CANCELED"),
        Event::Warning { text } => format!("warning: {text}"),
        Event::Error(_) | Event::Built(_) => return None,
    })
}

impl Viewer for Log {
    fn note(&mut self, text: &str) {
        if !self.quiet {
            self.messages.line(&format!("#0 {text}"));
        }
    }

    fn show(&mut self, event: &Event) {
        if let Some(text) = line(event).filter(|_| !self.quiet) {
            self.messages.line(&text);
        }
    }

    fn room(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(self.messages.room())
    }
}

/// `docker builder prune`
pub async fn prune(endpoint: &Endpoint) -> Result<Response<Body>, Error> {
    everywhere(&endpoint.home, &endpoint.profile()?, "rkube ctl prune").await?;
    Ok(reply::json(
        &json!({ "CachesDeleted": [], "SpaceReclaimed": 0 }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_dockers_client_are_read() {
        // As Docker 28 sends them for `docker build -t app:1 --build-arg A=1 --label l=v .`
        let text = "buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&cachefrom=%5B%5D&cgroupparent=&cpuperiod=0&cpuquota=0&cpusetcpus=&cpusetmems=&cpushares=0&dockerfile=Dockerfile&labels=%7B%22l%22%3A%22v%22%7D&memory=0&memswap=0&networkmode=default&rm=1&shmsize=0&t=app%3A1&target=&ulimits=%5B%5D&version=1";
        let build = parameters(&Query::parse(text)).unwrap();
        assert_eq!(build.names, ["app:1"]);
        assert_eq!(build.build_args, [("A".into(), "1".into())].into());
        assert_eq!(build.labels["l"], "v");
        assert_eq!(build.target, None);
        assert!(!build.no_cache && !build.pull);
        let text = r#"extrahosts=["a:10.0.0.1"]&nocache=1"#;
        let build = parameters(&Query::parse(text)).unwrap();
        assert_eq!(build.hosts, [("a".into(), "10.0.0.1".into())]);
        assert!(build.no_cache);
    }

    #[test]
    fn unsupported_build_options_are_refused() {
        for (text, status, words) in [
            ("version=2", 501, "DOCKER_BUILDKIT=0"),
            ("squash=1", 501, "squash=1"),
            (r#"cachefrom=["a"]"#, 501, "cachefrom"),
            ("networkmode=none", 501, "networkmode=none"),
            ("memory=100", 501, "memory=100"),
            ("platform=windows/amd64", 501, "platform"),
            ("t=a%20b", 400, "a b"),
            (r#"extrahosts=["a"]"#, 400, "NAME:ADDRESS"),
            ("buildargs=x", 400, "buildargs"),
        ] {
            let error = parameters(&Query::parse(text)).unwrap_err();
            assert_eq!(error.status.as_u16(), status, "{text}");
            assert!(error.message.contains(words), "{text}: {}", error.message);
        }
    }

    #[test]
    fn contexts_come_from_servers() {
        for remote in [
            "https://x.org/a.tar.gz",
            "git@x.org:a.git",
            "github.com/a/b",
        ] {
            check_remote(remote).unwrap();
        }
        for remote in [
            "/a",
            "/a/x://../..",
            "file:///a.git",
            "a",
            "ext::sh://x.git",
            "-",
        ] {
            let error = check_remote(remote).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{remote}");
        }
    }

    #[test]
    fn the_result_has_the_words_that_clients_look_for() {
        let built = Built {
            id: "sha256:0123456789abcdef".into(),
            manifest: String::new(),
            manifest_size: 0,
            names: vec!["docker.io/library/app:1".into()],
            layers: Vec::new(),
        };
        let texts = finish(&built, false);
        assert_eq!(texts[0]["aux"]["ID"], built.id.as_str());
        assert_eq!(texts[1]["stream"], "Successfully built 0123456789ab\n");
        assert_eq!(texts[2]["stream"], "Successfully tagged app:1\n");
        assert_eq!(
            finish(&built, true)[1]["stream"],
            "sha256:0123456789abcdef\n"
        );
    }
}
