//! `rkube cp`

use std::path::{Path, PathBuf};

use rkube_cluster::{Home, Node, Profile, io_failure};
use rkube_failure::{Failure, Kind, Source};
use tokio::io::AsyncRead;

use super::{Global, Output, usage_failure};

#[derive(clap::Args)]
pub struct Args {
    /// File to copy: PATH on this machine, or NODE:PATH
    source: String,
    /// Where to copy it: PATH on this machine, or NODE:PATH; without any node, the path is on
    /// the control-plane node
    target: String,
}

/// A path on this machine or on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Location {
    node: Option<String>,
    path: String,
}

impl Location {
    fn parse(text: &str) -> Result<Self, Failure> {
        let (node, path) = match text.split_once(':') {
            // A path with a colon, or one of a Windows drive.
            Some((node, _)) if node.contains(['/', '\\', '.']) || node.len() == 1 => (None, text),
            Some((node, path)) => (Some(node.to_owned()), path),
            None => (None, text),
        };
        if path.is_empty() || node.as_deref() == Some("") {
            return Err(usage_failure(format!(
                "'{text}' is neither PATH nor NODE:PATH"
            )));
        }
        Ok(Self {
            node,
            path: path.to_owned(),
        })
    }

    /// Completes a target that is a directory with the name of the source's file.
    fn complete(mut self, source: &Self, is_dir: bool) -> Result<Self, Failure> {
        if !is_dir && !self.path.ends_with('/') {
            return Ok(self);
        }
        let name = match source.node {
            Some(_) => source.path.rsplit('/').next(),
            None => Path::new(&source.path).file_name().and_then(|n| n.to_str()),
        };
        let name = name
            .filter(|name| !name.is_empty())
            .ok_or_else(|| usage_failure(format!("'{}' names no file", source.path)))?;
        self.path = format!("{}/{name}", self.path.trim_end_matches('/'));
        Ok(self)
    }
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let source = Location::parse(&args.source)?;
    let mut target = Location::parse(&args.target)?;
    if source.node.is_none() && target.node.is_none() {
        target.node = Some(profile.control_plane().name.clone());
    }
    let is_dir = target.node.is_none() && Path::new(&target.path).is_dir();
    let target = target.complete(&source, is_dir)?;
    let node = |place: &Location| match &place.node {
        Some(name) => profile.node(Some(name)).map(Some),
        None => Ok(None),
    };
    let (from, to) = (node(&source)?, node(&target)?);
    match (from, to) {
        (None, Some(node)) => {
            let path = Path::new(&source.path);
            let (file, mode) = open(path, &profile).await?;
            write(home, &profile, node, &target.path, mode, file).await?;
        }
        (Some(node), None) => {
            let path = PathBuf::from(&target.path);
            let content = read(home, &profile, node, &source.path).await?;
            std::fs::write(&path, content).map_err(|e| io_failure("write", &path, &e))?;
        }
        (Some(from), Some(to)) => {
            let content = read(home, &profile, from, &source.path).await?;
            write(home, &profile, to, &target.path, 0o644, content.as_slice()).await?;
        }
        (None, None) => return Err(usage_failure("one of the paths must be on a node")),
    }
    let place = match to {
        Some(node) => format!("{}:{}", node.name, target.path),
        None => target.path,
    };
    output.say(&format!("Copied {} to {place}.", args.source));
    Ok(())
}

/// Opens a file of this machine. Also returns its permission bits.
async fn open(path: &Path, profile: &Profile) -> Result<(tokio::fs::File, u32), Failure> {
    let failed = |e: std::io::Error| io_failure("read", path, &e);
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let meta = file.metadata().await.map_err(failed)?;
    if meta.is_dir() {
        return Err(super::unsupported::unsupported(
            format!(
                "{} is a directory, and only files are copied",
                path.display()
            ),
            format!(
                "pack it: tar -c -C {} . | {}",
                path.display(),
                rkube_failure::command("ssh -- tar -x -C /PATH", &profile.name)
            ),
        ));
    }
    #[cfg(unix)]
    let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o777;
    #[cfg(not(unix))]
    let mode = 0o644;
    Ok((file, mode))
}

async fn write(
    home: &Home,
    profile: &Profile,
    node: &Node,
    path: &str,
    mode: u32,
    content: impl AsyncRead + Unpin,
) -> Result<(), Failure> {
    let command = format!("rkube ctl file write --mode {mode:o} {}", quote_path(path)?);
    let sink = tokio::io::sink();
    let done = rkube_cluster::on_node(home, profile, node, &command, Some(content), sink);
    check(node, done.await?)
}

async fn read(home: &Home, profile: &Profile, node: &Node, path: &str) -> Result<Vec<u8>, Failure> {
    let command = format!("rkube ctl file read {}", quote_path(path)?);
    let mut content = Vec::new();
    let none: Option<tokio::io::Empty> = None;
    let done = rkube_cluster::on_node(home, profile, node, &command, none, &mut content);
    check(node, done.await?)?;
    Ok(content)
}

/// Quotes an absolute path for a shell command line.
fn quote_path(path: &str) -> Result<String, Failure> {
    if !path.starts_with('/') {
        return Err(usage_failure(format!(
            "'{path}' must be an absolute path, because it is on a node"
        )));
    }
    Ok(format!("'{}'", path.replace('\'', r"'\''")))
}

fn check(node: &Node, (code, error): (i32, String)) -> Result<(), Failure> {
    if code == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Source::Guest,
        Kind::of_exit_code(code),
        format!("{}: {error}", node.name),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(node: Option<&str>, path: &str) -> Location {
        Location {
            node: node.map(str::to_owned),
            path: path.to_owned(),
        }
    }

    #[test]
    fn nodes_and_paths_are_distinguished() {
        let cases = [
            ("a.txt", place(None, "a.txt")),
            ("m02:/a", place(Some("m02"), "/a")),
            ("./x:y", place(None, "./x:y")),
            (r"C:\a.txt", place(None, r"C:\a.txt")),
            ("/srv/x:y", place(None, "/srv/x:y")),
        ];
        for (text, expected) in cases {
            assert_eq!(Location::parse(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "m02:", ":/a"] {
            assert_eq!(Location::parse(bad).unwrap_err().exit_code(), 14, "{bad}");
        }
    }

    #[test]
    fn a_directory_gets_the_name_of_the_file() {
        let source = place(None, "dir/a.txt");
        let done = place(Some("m02"), "/tmp/")
            .complete(&source, false)
            .unwrap();
        assert_eq!(done.path, "/tmp/a.txt");
        let source = place(Some("m02"), "/etc/hosts");
        let done = place(None, ".").complete(&source, true).unwrap();
        assert_eq!(done.path, "./hosts");
    }

    #[test]
    fn paths_on_nodes_are_absolute_and_quoted() {
        assert_eq!(quote_path("/it's").unwrap(), r"'/it'\''s'");
        assert_eq!(quote_path("a").unwrap_err().exit_code(), 14);
    }
}
