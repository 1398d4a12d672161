//! Copies of images between nodes, and to files of this machine.

use std::fs::File;

use futures::future::join_all;
use rkube_build::protocol::Built;
use rkube_cluster::{Home, Node, Profile};
use rkube_failure::{Failure, Kind, Source};

use super::{Input, check_name, on_node, remote_failure};
use crate::cli::Output;

/// Size of the buffer between two connections.
const PIPE_BYTES: usize = 256 << 10;

/// Gives an image that was built on the node `from` to all nodes, with its names. Nodes get the
/// layers that they lack.
pub async fn distribute(
    home: &Home,
    profile: &Profile,
    from: &Node,
    built: &Built,
) -> Result<(), Failure> {
    // Builds of the same name must not give it to different images on different nodes.
    let path = home.profile_dir(&profile.name).join("images.lock");
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
    let _lock = lock
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(failed)?;
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
    let copies = others.map(|to| copy(home, profile, from, to, built));
    join_all(copies).await.into_iter().collect()
}

async fn run(
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

/// Copies an image from node to node.
async fn copy(
    home: &Home,
    profile: &Profile,
    from: &Node,
    to: &Node,
    built: &Built,
) -> Result<(), Failure> {
    let mut present = Vec::new();
    if !built.layers.is_empty() {
        let command = format!("rkube ctl layers {}", built.layers.join(" "));
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
    let save = format!("rkube ctl save --keep-ids{omitted} {}", built.id);
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
    let failed = |e: std::io::Error| {
        Failure::new(Source::Host, Kind::Error, format!("cannot write {to}: {e}"))
    };
    // Under its name only when it is complete.
    let target = std::path::Path::new(to);
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty());
    let parent = parent.unwrap_or(std::path::Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
    let file = tokio::fs::File::from_std(temporary.reopen().map_err(failed)?);
    let done = rkube_cluster::on_node(home, profile, node, &command, None::<Input>, file);
    match done.await? {
        (0, notes) => {
            for note in notes.lines() {
                rkube_cluster::Progress::warn(output, note);
            }
        }
        (code, error) => return Err(remote_failure(node, code, &error)),
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(temporary.path(), mode).map_err(failed)?;
    }
    temporary.persist(target).map_err(|e| failed(e.error))?;
    output.say(&format!("Saved to {to}: {}", images.join(", ")));
    Ok(())
}
