//! Images from archives and from the container engine, into the nodes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::join_all;
use rkube_cluster::{Home, Node, Profile, Progress as _};
use rkube_config::OMITTED_LAYERS;
use rkube_drivers::docker::Export;
use rkube_failure::{Failure, Kind, Source};
use tokio_util::io::{InspectReader, StreamReader};

use super::{Input, check_name, mib, nodes, on_node, push, remote_failure, running};
use crate::cli::Output;

/// How often the number of bytes that were sent is shown.
const TICK: Duration = Duration::from_millis(200);

/// The number of layers that were sent to a node, and the number the image has.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Sent {
    sent: usize,
    of: usize,
}

/// The source of an image.
pub(in crate::cli) enum Origin {
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
        if let Some(origin) = Self::archive(source).await? {
            return Ok(origin);
        }
        check_name(source)?;
        match Export::find(source).await {
            Ok(export) => Ok(Self::Engine(Box::new(export))),
            Err(e) if matches!(e.kind, Kind::NotFound | Kind::NotRunning) => {
                Err(nowhere(source, e))
            }
            Err(e) => Err(e),
        }
    }

    /// Returns a file of that name, or the standard input (`-`). Returns `None` if there is no such file,
    /// and the name can be that of an image.
    async fn archive(source: &str) -> Result<Option<Self>, Failure> {
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
            return Ok(Some(Self::Copy(file, size)));
        }
        let path = PathBuf::from(source);
        match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => {
                refuse_text(&path, source)?;
                Ok(Some(Self::Archive(path, meta.len())))
            }
            Ok(_) => Err(unreadable(&path, "not a file")),
            // No name of an image, so it was meant as a path.
            Err(e) if path.is_absolute() || source.starts_with('.') || has_ending(source) => {
                Err(unreadable(&path, &e.to_string()))
            }
            Err(_) => Ok(None),
        }
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

/// Whether a name ends as those of archives do.
fn has_ending(name: &str) -> bool {
    [".tar", ".tar.gz", ".tgz", ".tar.zst"]
        .iter()
        .any(|ending| name.ends_with(ending))
}

/// Says where an image was looked for, and what else can be done.
fn nowhere(source: &str, engine: Failure) -> Failure {
    let place = std::env::current_dir().map_or_else(
        |_| "the current directory".to_owned(),
        |dir| dir.display().to_string(),
    );
    // The engine's own words, if it says more than the name.
    let why = match engine.message.split_once(" nor an image of ") {
        Some((_, engine)) => format!("{engine} has no image of that name"),
        None => engine.message,
    };
    Failure::new(
        engine.source,
        engine.kind,
        format!("there is nothing to load: {place} has no file '{source}', and {why}"),
    )
    .advise(format!(
        "name an archive (docker save -o app.tar {source}) or an image that 'docker images' lists; \
         rkube image pull {source} fetches it from its registry, rkube image build -t {source} . builds it"
    ))
}

/// Fails if a file is text, such as a manifest, and not an archive. `name` is the user's for it.
pub(in crate::cli) fn refuse_text(path: &std::path::Path, name: &str) -> Result<(), Failure> {
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

pub(in crate::cli) async fn load(
    home: &Home,
    profile: &Profile,
    source: &str,
    output: &Output,
) -> Result<(), Failure> {
    let origin = Origin::find(source).await?;
    let (loaded, most) = show(home, profile, source, &origin, output).await?;
    let loaded = loaded.join(", ");
    match most {
        Some(Sent { sent, of }) if sent < of => output.say(&format!(
            "Loaded into all nodes: {loaded} (at most {sent} of its {of} layers sent to a node)"
        )),
        _ => output.say(&format!("Loaded into all nodes: {loaded}")),
    }
    Ok(())
}

/// Loads an archive into all nodes that are not stopped. Returns the names of its images and of the
/// nodes.
pub(super) async fn archive(
    home: &Home,
    profile: &Profile,
    source: &str,
    output: &Output,
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let Some(origin) = Origin::archive(source).await? else {
        return Err(unreadable(
            std::path::Path::new(source),
            "there is no such file",
        ));
    };
    let (loaded, _) = show(home, profile, source, &origin, output).await?;
    let nodes = running(profile).map(|node| node.name.clone());
    Ok((loaded, nodes.collect()))
}

/// Loads an image into all nodes and shows how far that is.
async fn show(
    home: &Home,
    profile: &Profile,
    source: &str,
    origin: &Origin,
    output: &Output,
) -> Result<(Vec<String>, Option<Sent>), Failure> {
    let what = match origin {
        Origin::Archive(path, size) => format!("{} ({:.1} MiB)", path.display(), mib(*size)),
        Origin::Copy(_, size) => format!("the standard input ({:.1} MiB)", mib(*size)),
        Origin::Engine(_) => format!("{source} from the container engine"),
    };
    let title = format!("Loading {what} into {}", nodes(profile));
    output.step("load", &title);
    let count = Arc::new(AtomicU64::new(0));
    let mut loading = std::pin::pin!(load_counted(home, profile, origin, &count));
    let mut tick = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            done = &mut loading => return done,
            _ = tick.tick() => {
                let sent = mib(count.load(Ordering::Relaxed));
                output.update(&format!("{title}: {sent:.1} MiB sent"));
            }
        }
    }
}

/// Loads an image into all nodes that are not stopped. Returns the image's names, and the layers sent to the node that
/// lacked most.
#[cfg(unix)]
pub(in crate::cli) async fn load_everywhere(
    home: &Home,
    profile: &Profile,
    origin: &Origin,
) -> Result<(Vec<String>, Option<Sent>), Failure> {
    load_counted(home, profile, origin, &Arc::default()).await
}

/// Loads an image into all nodes that are not stopped, and counts the bytes that are sent. Returns the image's
/// names, and the layers sent to the node that lacked most.
async fn load_counted(
    home: &Home,
    profile: &Profile,
    origin: &Origin,
    count: &Arc<AtomicU64>,
) -> Result<(Vec<String>, Option<Sent>), Failure> {
    // The first node unpacks the layers; with drivers that share them, the others reuse them.
    let nodes: Vec<&Node> = running(profile).collect();
    let (first, rest) = nodes.split_at(nodes.len().min(1));
    let mut loaded = Vec::new();
    let mut most: Option<Sent> = None;
    for nodes in [first, rest] {
        let loads = nodes
            .iter()
            .map(|n| load_on(home, profile, n, origin, count));
        for result in join_all(loads).await {
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
    count: &Arc<AtomicU64>,
) -> Result<(Vec<String>, Option<Sent>), Failure> {
    let mut present = Vec::new();
    if let Origin::Engine(export) = origin {
        let of = export.layers().len();
        if has_image(home, profile, node, export).await {
            return Ok((vec![export.name().to_owned()], Some(Sent { sent: 0, of })));
        }
        present = layers(home, profile, node, export).await;
    }
    loop {
        let (input, sent) = origin.open(&present).await?;
        let count = count.clone();
        let input = InspectReader::new(input, move |bytes: &[u8]| {
            count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
        let input: Input = Box::new(input);
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
async fn has_image(home: &Home, profile: &Profile, node: &Node, export: &Export) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_archives_are_no_images() {
        for name in ["a.tar", "b/app.tar.gz", "a.tgz", "a.tar.zst"] {
            assert!(has_ending(name), "{name}");
        }
        assert!(!has_ending("registry.example/app:1.tarball"));
    }

    #[test]
    fn what_is_nowhere_has_ways_out() {
        let told = |message: &str| {
            let engine = Failure::new(Source::Provider, Kind::NotFound, message);
            let failure = nowhere("app:1", engine);
            assert_eq!(failure.exit_code(), 65);
            let advice = failure.advice.unwrap_or_default();
            assert!(advice.contains("rkube image pull app:1"), "{advice}");
            failure.message
        };
        let missing = told("'app:1' is neither a file nor an image of the container engine at E");
        assert!(missing.ends_with("the container engine at E has no image of that name"));
        let none = told("no container engine is there");
        assert!(none.ends_with("no file 'app:1', and no container engine is there"));
    }

    #[test]
    fn text_and_archives_are_distinguished() {
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
