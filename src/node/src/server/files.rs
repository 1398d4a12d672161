//! Serves files and directory listings below `/var/log`, like the kubelet.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::io::AsyncReadExt;

use super::answer::{Answer, Body, not_found, text};
use crate::volumes::open_beneath;

/// Size of the parts in which a file is sent, in bytes.
const CHUNK_BYTES: usize = 32 << 10;

/// A file or directory below the root.
enum Entry {
    File(File, Metadata),
    Directory(Vec<String>),
}

/// Serves the file or the directory listing at `parts` below `root`.
pub(super) async fn serve(root: &Path, parts: &[&str]) -> Answer {
    if parts
        .iter()
        .any(|p| *p == ".." || *p == "." || p.contains('/'))
    {
        return text(StatusCode::BAD_REQUEST, "invalid path");
    }
    let (root, path) = (root.to_owned(), parts.join("/"));
    let found = tokio::task::spawn_blocking(move || find(&root, &path)).await;
    match found.unwrap_or_else(|e| Err(io::Error::other(e))) {
        Ok(Entry::Directory(names)) => text(StatusCode::OK, names.join("\n") + "\n"),
        Ok(Entry::File(file, meta)) => Response::new(body(file, &meta)),
        Err(e) if e.raw_os_error() == Some(libc::EXDEV) => {
            text(StatusCode::FORBIDDEN, "not below /var/log")
        }
        Err(e)
            if matches!(
                e.raw_os_error(),
                Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
            ) =>
        {
            not_found()
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Opens what is at `path`. Symbolic links that leave `root` are not followed, even if they are
/// placed meanwhile.
fn find(root: &Path, path: &str) -> io::Result<Entry> {
    let root: OwnedFd = File::options()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(root)?
        .into();
    let path = Path::new(if path.is_empty() { "." } else { path });
    // O_NONBLOCK: opening a FIFO must not wait for its other end.
    let file = File::from(open_beneath(
        &root,
        path,
        libc::O_RDONLY | libc::O_NONBLOCK,
    )?);
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Ok(Entry::Directory(list(&file)?));
    }
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    Ok(Entry::File(file, meta))
}

/// Returns the sorted names in an open directory; names of directories end with a slash.
fn list(dir: &File) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    let mut names: Vec<String> = entries
        .flatten()
        .map(|e| {
            let slash = if e.path().is_dir() { "/" } else { "" };
            format!("{}{slash}", e.file_name().to_string_lossy())
        })
        .collect();
    names.sort();
    Ok(names)
}

/// Returns a file's content, up to its present length, as a body that is read as it is sent.
fn body(file: File, meta: &Metadata) -> Body {
    let reader = tokio::fs::File::from_std(file).take(meta.len());
    let frames = futures::stream::try_unfold(reader, async |mut reader| {
        let mut chunk = vec![0; CHUNK_BYTES];
        let count = reader.read(&mut chunk).await?;
        chunk.truncate(count);
        let frame = Frame::data(Bytes::from(chunk));
        Ok((count > 0).then_some((frame, reader)))
    });
    StreamBody::new(frames).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: Answer) -> (u16, String) {
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn logs_stay_below_their_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(dir.path()).unwrap();
        std::fs::create_dir(root.join("sub")).unwrap();
        std::fs::write(root.join("a.log"), "text").unwrap();
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        std::fs::write(root.join("large"), vec![b'x'; 3 * CHUNK_BYTES + 1]).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let get = async |parts: &[&str]| answered(serve(&root, parts).await).await;
        assert_eq!(get(&["a.log"]).await, (200, "text".into()));
        assert_eq!(
            get(&[]).await,
            (200, "a.log\nfifo\nlarge\nout/\nsub/\n".into())
        );
        assert_eq!(get(&["large"]).await.1.len(), 3 * CHUNK_BYTES + 1);
        assert_eq!(get(&["fifo"]).await.0, 500);
        assert_eq!(get(&["none"]).await.0, 404);
        assert_eq!(get(&["a.log", "none"]).await.0, 404);
        assert_eq!(get(&["out", "passwd"]).await.0, 403);
        for bad in ["..", ".", "sub/.."] {
            assert_eq!(get(&[bad]).await.0, 400, "{bad}");
        }
    }
}
