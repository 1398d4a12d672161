//! `rkube image push`

use rkube_cluster::{Home, Node, Profile, Progress as _};
use rkube_failure::{Failure, Kind, Source};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::credentials::{self, Credential};
use super::{check_name, mib, remote_failure};
use crate::cli::{Global, Output};

/// Size of the buffer between the connection and what reads it.
const PIPE_BYTES: usize = 64 << 10;

/// The text of `rkube image push --help` after the flags.
pub const HELP: &str = "\
The node sends what the registry lacks. Credentials are those of 'docker login' and 'podman login' on \
this machine, also from credential helpers. A registry without TLS must be given to the cluster \
with --insecure-registry.";

#[derive(clap::Args)]
pub struct Args {
    /// Name or ID of the image
    image: String,
    /// Name in the registry, as HOST[:PORT]/REPOSITORY[:TAG] [default: the image's own name]
    #[arg(value_name = "REGISTRY-REF")]
    target: Option<String>,
    /// Node that pushes the image [default: the control-plane node]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
}

/// The request of the command line to a node. A JSON document on standard input, because of the
/// credentials.
#[derive(Serialize, Deserialize)]
pub struct Request {
    pub image: String,
    pub target: Option<String>,
    pub credentials: Vec<Credential>,
}

/// The messages of a node during a push: a JSON document per line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    Begun {
        layers: usize,
    },
    /// The registry has a layer already, in another repository if `from` is given.
    Present {
        from: Option<String>,
    },
    Layer {
        digest: String,
        done: u64,
        total: u64,
    },
    Stored {
        digest: String,
        size: u64,
    },
    Pushed(Pushed),
}

/// The result of a push.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The name in the registry.
    pub name: String,
    /// Digest of the manifest.
    pub digest: String,
    /// Length of the manifest in bytes.
    pub size: u64,
    /// ID of the image in the registry.
    pub id: String,
    /// Whether that is the ID of the image on the node.
    pub same: bool,
}

/// The progress of a push so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::cli) struct Tally {
    layers: usize,
    present: usize,
    stored: usize,
    /// Bytes of layers that are stored.
    bytes: u64,
    /// Bytes sent of layers that are not stored yet, by digest.
    open: std::collections::BTreeMap<String, u64>,
}

impl Tally {
    fn add(&mut self, event: Event) -> Option<Pushed> {
        match event {
            Event::Begun { layers } => self.layers = layers,
            Event::Present { .. } => self.present += 1,
            Event::Layer { digest, done, .. } => {
                self.open.insert(digest, done);
            }
            Event::Stored { digest, size } => {
                self.open.remove(&digest);
                self.stored += 1;
                self.bytes += size;
            }
            Event::Pushed(pushed) => return Some(pushed),
        }
        None
    }

    /// Returns how many layers the registry has by now.
    pub(in crate::cli) fn complete(&self) -> usize {
        self.present + self.stored
    }

    /// Returns the state in words.
    pub(in crate::cli) fn progress(&self) -> String {
        let sent = self.bytes + self.open.values().sum::<u64>();
        format!(
            "{} of {} layers, {:.1} MiB sent",
            self.complete(),
            self.layers,
            mib(sent)
        )
    }
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let node = profile.node(args.node.as_deref())?;
    let names = (args.image.as_str(), args.target.as_deref());
    push(home, &profile, node, names, output).await
}

/// Pushes the image `image` of a node, under the name `target` or its own one.
pub(super) async fn push(
    home: &Home,
    profile: &Profile,
    node: &Node,
    (image, target): (&str, Option<&str>),
    output: &Output,
) -> Result<(), Failure> {
    check_name(image)?;
    let registry = registry(check_name(target.unwrap_or(image))?);
    let request = Request {
        image: image.to_owned(),
        target: target.map(str::to_owned),
        credentials: credentials::find(&registry).await?,
    };
    let anonymous = request.credentials.is_empty();
    let title = match target {
        Some(target) => format!("Pushing {image} to {target}"),
        None => format!("Pushing {image}"),
    };
    output.step("push", &title);
    let (pushed, tally) = on_pusher(home, profile, node, &request, |tally| {
        output.update(&format!("{title}: {}", tally.progress()));
    })
    .await
    .map_err(|failure| advise(failure, &registry, anonymous))?;
    if !pushed.same {
        output.warn(&format!(
            "the image has the ID {} in the registry, because its layers are no longer known as they were distributed",
            pushed.id
        ));
    }
    output.result(&pushed, || {
        format!(
            "Pushed {}: {} of {} layers sent ({:.1} MiB), digest {}",
            pushed.name,
            tally.stored,
            tally.layers,
            mib(tally.bytes),
            pushed.digest
        )
    });
    Ok(())
}

/// Completes an image name: `app` becomes `docker.io/library/app:latest`.
pub(in crate::cli) fn full_name(name: &str) -> String {
    let (first, rest) = name.split_once('/').unwrap_or(("", name));
    let registry = first.contains(['.', ':']) || first == "localhost";
    let mut full = match (registry, first) {
        (true, _) => name.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{name}"),
    };
    if !name
        .rsplit('/')
        .next()
        .is_some_and(|last| last.contains([':', '@']))
    {
        full.push_str(":latest");
    }
    full
}

/// Returns the registry that an image name means.
pub(in crate::cli) fn registry(name: &str) -> String {
    let full = full_name(name);
    full.split('/').next().unwrap_or_default().to_owned()
}

/// Says what to do about the usual failures.
pub(in crate::cli) fn advise(failure: Failure, registry: &str, anonymous: bool) -> Failure {
    if failure.advice.is_some() {
        return failure;
    }
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    if failure.kind == Kind::Permission {
        let words = match anonymous {
            true => format!("log in, as with: docker login {registry}"),
            false => format!(
                "check that the user may push to this repository, or log in as another one: docker login {registry}"
            ),
        };
        return failure.advise(words);
    }
    if loopback && failure.message.contains("refused") {
        return failure.advise(format!(
            "{registry} is an address of the node; for that of this machine, start the cluster with --insecure-registry {registry}"
        ));
    }
    failure
}

/// Runs the push on a node. Returns its result and what was done.
pub(in crate::cli) async fn on_pusher(
    home: &Home,
    profile: &Profile,
    node: &Node,
    request: &Request,
    show: impl Fn(&Tally),
) -> Result<(Pushed, Tally), Failure> {
    let failed = |what: String| Failure::new(Source::Runtime, Kind::Error, what);
    let input = serde_json::to_vec(request).map_err(|e| failed(e.to_string()))?;
    let (printed, events) = tokio::io::duplex(PIPE_BYTES);
    let command = async {
        let printed = printed;
        let input = Some(std::io::Cursor::new(input));
        rkube_cluster::on_node(home, profile, node, "rkube ctl push", input, printed).await
    };
    let shown = async {
        let (mut tally, mut pushed) = (Tally::default(), None);
        let mut lines = BufReader::new(events).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let event = serde_json::from_str(&line)
                .map_err(|e| failed(format!("{}: a malformed message: {e}: {line}", node.name)))?;
            pushed = tally.add(event).or(pushed);
            show(&tally);
        }
        Ok::<_, Failure>((pushed, tally))
    };
    let (done, shown) = tokio::join!(command, shown);
    let (code, error) = done?;
    if code != 0 {
        return Err(remote_failure(node, code, &error));
    }
    match shown? {
        (Some(pushed), tally) => Ok((pushed, tally)),
        (None, _) => Err(failed(format!("{}: the push has no result", node.name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_counted() {
        let mut tally = Tally::default();
        let layer = |done| Event::Layer {
            digest: "d".into(),
            done,
            total: 3 << 20,
        };
        for event in [
            Event::Begun { layers: 3 },
            Event::Present { from: None },
            layer(1 << 20),
            layer(2 << 20),
        ] {
            assert_eq!(tally.add(event), None);
        }
        assert_eq!(tally.progress(), "1 of 3 layers, 2.0 MiB sent");
        let stored = Event::Stored {
            digest: "d".into(),
            size: 3 << 20,
        };
        tally.add(stored);
        assert_eq!(tally.progress(), "2 of 3 layers, 3.0 MiB sent");
        let pushed = Pushed::default();
        assert_eq!(tally.add(Event::Pushed(pushed.clone())), Some(pushed));
    }

    #[test]
    fn failures_have_advice() {
        let failure = |kind, text: &str| Failure::new(Source::Runtime, kind, text.to_owned());
        let advice = |failure, registry: &str, anonymous| {
            advise(failure, registry, anonymous)
                .advice
                .unwrap_or_default()
        };
        let denied = || failure(Kind::Permission, "denied");
        assert!(advice(denied(), "r.example", true).contains("docker login r.example"));
        assert!(advice(denied(), "r.example", false).contains("another one"));
        let refused = || failure(Kind::Unavailable, "connection refused");
        let words = advice(refused(), "localhost:5000", true);
        assert!(
            words.contains("--insecure-registry localhost:5000"),
            "{words}"
        );
        assert_eq!(advice(refused(), "r.example:5000", true), "");
        assert_eq!(registry("app:1"), "docker.io");
        assert_eq!(registry("r.example:5000/app"), "r.example:5000");
    }

    #[test]
    fn names_are_completed_as_docker_does() {
        assert_eq!(full_name("app"), "docker.io/library/app:latest");
        assert_eq!(full_name("team/app:1"), "docker.io/team/app:1");
        assert_eq!(full_name("localhost/app"), "localhost/app:latest");
        assert_eq!(full_name("r.io:5000/a/b:2"), "r.io:5000/a/b:2");
    }
}
