//! Copies of images between nodes, and to files of this machine.

use std::fs::File;
use std::path::Path;

use futures::future::join_all;
use rkube_build::protocol::Built;
use rkube_cluster::{Home, Node, Profile};
use rkube_failure::{Failure, Kind, Source};

use super::{Input, check_name, on_node, remote_failure};
use crate::cli::Output;

/// Size of the buffer between two connections.
const PIPE_BYTES: usize = 256 << 10;

/// Locks the images of a profile, so that no name is given to different images on different nodes.
pub(super) async fn lock(home: &Home, profile: &str) -> Result<File, Failure> {
    let path = home.profile_dir(profile).join("images.lock");
    let lock = tokio::task::spawn_blocking(move || {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        file.lock().map(|()| file)
    });
    let failed = |e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot lock the profile's images: {e}"),
        )
    };
    lock.await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(failed)
}

/// Gives an image that was built on the node `from` to all nodes, with its names. Nodes get the
/// layers that they lack.
pub async fn distribute(
    home: &Home,
    profile: &Profile,
    from: &Node,
    built: &Built,
) -> Result<(), Failure> {
    let _lock = lock(home, &profile.name).await?;
    for name in &built.names {
        let command = format!(
            "rkube ctl tag {} {}",
            check_name(&built.id)?,
            check_name(name)?
        );
        run(home, profile, from, &command).await?;
    }
    let others = profile
        .nodes
        .iter()
        .filter(|n| n.name != from.name && !n.stopped);
    let image = (built.id.as_str(), built.layers.as_slice());
    let copies = others.map(|to| copy(home, profile, from, to, image));
    join_all(copies).await.into_iter().collect()
}

/// Runs a command on a node. Returns its output.
pub(super) async fn run(
    home: &Home,
    profile: &Profile,
    node: &Node,
    command: &str,
) -> Result<String, Failure> {
    match on_node(home, profile, node, command, None).await? {
        (0, text, _) => Ok(text),
        (code, _, error) => Err(remote_failure(node, code, &error)),
    }
}

/// Copies an image with all its names from node to node, without the layers (chain IDs) that are there.
pub(super) async fn copy(
    home: &Home,
    profile: &Profile,
    from: &Node,
    to: &Node,
    (id, layers): (&str, &[String]),
) -> Result<(), Failure> {
    let mut present = Vec::new();
    if !layers.is_empty() {
        let command = format!("rkube ctl layers {}", layers.join(" "));
        present = run(home, profile, to, &command)
            .await?
            .lines()
            .map(str::to_owned)
            .collect();
    }
    let omitted: String = present
        .iter()
        .map(|chain| format!(" --omit {chain}"))
        .collect();
    let save = format!("rkube ctl save --keep-ids{omitted} {id}");
    let (reader, writer) = tokio::io::duplex(PIPE_BYTES);
    let input: Input = Box::new(reader);
    let sending = async {
        let writer = writer;
        rkube_cluster::on_node(home, profile, from, &save, None::<Input>, writer).await
    };
    let receiving = on_node(home, profile, to, "rkube ctl load --repacked", Some(input));
    let (sent, received) = tokio::join!(sending, receiving);
    match sent? {
        (0, _) => {}
        (code, error) => return Err(remote_failure(from, code, &error)),
    }
    match received? {
        (0, _, _) => Ok(()),
        (code, _, error) => Err(remote_failure(to, code, &error)),
    }
}

/// A file that gets its name only when it is complete.
pub(super) struct Target<'a> {
    path: &'a Path,
    temporary: tempfile::NamedTempFile,
}

impl<'a> Target<'a> {
    /// Begins a file.
    pub(super) fn create(path: &'a Path) -> Result<Self, Failure> {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let temporary =
            tempfile::NamedTempFile::new_in(parent).map_err(|e| unwritable(path, &e))?;
        Ok(Self { path, temporary })
    }

    /// Opens the file for writing.
    pub(super) fn file(&self) -> Result<tokio::fs::File, Failure> {
        let file = self.temporary.reopen();
        Ok(tokio::fs::File::from_std(
            file.map_err(|e| unwritable(self.path, &e))?,
        ))
    }

    /// Gives the file its name. Everybody may read it.
    pub(super) fn keep(self) -> Result<(), Failure> {
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(self.temporary.path(), mode)
                .map_err(|e| unwritable(self.path, &e))?;
        }
        let kept = self.temporary.persist(self.path);
        kept.map(drop).map_err(|e| unwritable(self.path, &e.error))
    }
}

fn unwritable(path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(
        Source::Host,
        Kind::Error,
        format!("cannot write {}: {e}", path.display()),
    )
}

/// Writes images of a node to a file, or to standard output (`-`).
pub async fn save(
    home: &Home,
    profile: &Profile,
    images: &[String],
    to: &str,
    output: &Output,
) -> Result<(), Failure> {
    let node = profile.node(None)?;
    let mut command = "rkube ctl save".to_owned();
    for image in images {
        command.push(' ');
        command.push_str(check_name(image)?);
    }
    if to == "-" {
        let stdout = tokio::io::stdout();
        let done = rkube_cluster::on_node(home, profile, node, &command, None::<Input>, stdout);
        return match done.await? {
            (0, _) => Ok(()),
            (code, error) => Err(remote_failure(node, code, &error)),
        };
    }
    let target = Target::create(Path::new(to))?;
    let file = target.file()?;
    let done = rkube_cluster::on_node(home, profile, node, &command, None::<Input>, file);
    match done.await? {
        (0, notes) => {
            for note in notes.lines() {
                rkube_cluster::Progress::warn(output, note);
            }
        }
        (code, error) => return Err(remote_failure(node, code, &error)),
    }
    target.keep()?;
    output.say(&format!("Saved to {to}: {}", images.join(", ")));
    Ok(())
}
