//! The context of a build: a directory, an archive, a repository or standard input.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rkube_build::pattern::Matcher;
use rkube_failure::{Failure, Kind, Source};
use tempfile::TempDir;

/// Largest Dockerfile that is read, in bytes.
const MAX_DOCKERFILE: u64 = 16 << 20;

/// A context on this machine.
pub struct Context {
    place: ContextDirectory,
    /// Patterns of files that are not sent.
    pub excluded: Matcher,
    /// The text of the Dockerfile.
    pub dockerfile: String,
    /// Its name in messages.
    pub dockerfile_name: String,
}

enum ContextDirectory {
    Directory(PathBuf),
    /// A copy, and the directory in it.
    Temporary(TempDir, PathBuf),
}

impl Context {
    /// Returns the directory of the context.
    pub fn dir(&self) -> &Path {
        match &self.place {
            ContextDirectory::Directory(path) => path,
            ContextDirectory::Temporary(dir, below) if below.as_os_str().is_empty() => dir.path(),
            ContextDirectory::Temporary(_, below) => below,
        }
    }
}

fn failure(kind: Kind, message: impl Into<String>) -> Failure {
    Failure::new(Source::Program, kind, message)
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |e| {
        let kind = match e.kind() {
            io::ErrorKind::PermissionDenied => Kind::Permission,
            _ => Kind::NotFound,
        };
        failure(kind, format!("cannot read {}: {e}", path.display()))
    }
}

/// Opens a context and reads its Dockerfile, which `file` names.
pub async fn open(context: &str, file: Option<&str>) -> Result<Context, Failure> {
    if context == "-" {
        if file == Some("-") {
            return Err(failure(
                Kind::Usage,
                "the context and the Dockerfile cannot both be standard input",
            ));
        }
        let file = file.map(str::to_owned);
        let read = tokio::task::spawn_blocking(move || {
            from_input(file.as_deref(), io::stdin().lock(), false)
        });
        return read.await.map_err(unreadable_input)?;
    }
    let place = if is_repository(context) {
        clone(context).await?
    } else if context.starts_with("http://") || context.starts_with("https://") {
        let dir = temporary()?;
        let archive = dir.path().join("context");
        rkube_cluster::download(context, &archive).await?;
        let file = file.map(str::to_owned);
        let read = tokio::task::spawn_blocking(move || {
            let read = from_file(file.as_deref(), &archive);
            // Until here, the archive is needed.
            drop(dir);
            read
        });
        return read.await.map_err(|e| {
            let message = format!("cannot read the context: {e}");
            Failure::new(Source::Host, Kind::Error, message)
        })?;
    } else {
        let path = PathBuf::from(context);
        let metadata = fs::metadata(&path).map_err(unreadable(&path))?;
        if !metadata.is_dir() {
            return Err(
                failure(Kind::Usage, format!("{context} is not a directory"))
                    .advise("name the directory of the files, and the Dockerfile with -f"),
            );
        }
        ContextDirectory::Directory(path)
    };
    finish(place, file).await
}

async fn tokio_stdin() -> Result<Vec<u8>, Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    });
    read.await
        .map_err(io::Error::other)
        .flatten()
        .map_err(unreadable_input)
}

fn unreadable_input(e: impl std::fmt::Display) -> Failure {
    Failure::new(
        Source::Host,
        Kind::Error,
        format!("cannot read the standard input: {e}"),
    )
}

fn temporary() -> Result<TempDir, Failure> {
    tempfile::tempdir().map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot make a temporary directory: {e}"),
        )
    })
}

/// Returns the first bytes of an input, and the input with them.
fn peek(mut input: impl Read, count: u64) -> io::Result<(Vec<u8>, impl Read)> {
    let mut head = Vec::new();
    input.by_ref().take(count).read_to_end(&mut head)?;
    Ok((head.clone(), io::Cursor::new(head).chain(input)))
}

/// Makes a context of a file with a tar archive or a Dockerfile.
pub fn from_file(file: Option<&str>, path: &Path) -> Result<Context, Failure> {
    let opened = fs::File::open(path).map_err(unreadable(path))?;
    from_input(file, io::BufReader::new(opened), true)
}

/// Completes the last block of an archive. Docker's client leaves that out for the files that it adds
/// itself, such as a Dockerfile from elsewhere.
struct Padded<R> {
    input: R,
    /// The bytes read so far.
    count: u64,
    /// The zeros to add, once the input has ended.
    zeros: Option<u64>,
}

impl<R: Read> Read for Padded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.zeros.is_none() {
            let count = self.input.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                self.count += count as u64;
                return Ok(count);
            }
        }
        let zeros = self
            .zeros
            .get_or_insert(self.count.next_multiple_of(512) - self.count);
        let added = buffer.len().min(usize::try_from(*zeros).unwrap_or(0));
        buffer[..added].fill(0);
        *zeros -= added as u64;
        Ok(added)
    }
}

/// Makes a context of a tar archive or of a Dockerfile alone. `whole` tells that nothing can be missing
/// at the end of the input.
fn from_input(file: Option<&str>, input: impl Read, whole: bool) -> Result<Context, Failure> {
    let broken = |e: io::Error| {
        failure(
            Kind::Config,
            format!("the context cannot be read or decompressed: {e}"),
        )
    };
    let (bytes, input) = peek(input, 6).map_err(broken)?;
    if bytes.starts_with(b"BZh")
        || bytes.starts_with(b"\xfd7zXZ\0")
        || bytes.starts_with(b"\x28\xb5\x2f\xfd")
    {
        return Err(failure(
            Kind::Unsupported,
            "the context is compressed in a form that is not supported",
        )
        .advise("send a tar archive, uncompressed or compressed by gzip"));
    }
    let plain: Box<dyn Read + '_> = if bytes.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(input))
    } else {
        Box::new(input)
    };
    let (head, mut plain) = peek(plain, 512).map_err(broken)?;
    let dir = temporary()?;
    if head.get(257..262) == Some(b"ustar") {
        let plain: Box<dyn Read + '_> = match whole {
            true => Box::new(Padded {
                input: plain,
                count: 0,
                zeros: None,
            }),
            false => Box::new(plain),
        };
        let mut archive = tar::Archive::new(plain);
        archive.set_preserve_mtime(true);
        archive.unpack(dir.path()).map_err(|e| {
            let why = std::error::Error::source(&e).map_or(String::new(), |s| format!(": {s}"));
            failure(
                Kind::Config,
                format!("the context cannot be unpacked: {e}{why}"),
            )
        })?;
        return settle(ContextDirectory::Temporary(dir, PathBuf::new()), file);
    }
    let mut text = Vec::new();
    plain
        .by_ref()
        .take(MAX_DOCKERFILE + 1)
        .read_to_end(&mut text)
        .map_err(broken)?;
    if text.len() as u64 > MAX_DOCKERFILE {
        return Err(failure(
            Kind::Config,
            "the input is too large for a Dockerfile",
        ));
    }
    let dockerfile =
        String::from_utf8(text).map_err(|_| failure(Kind::Config, "the Dockerfile is not text"))?;
    if file.is_some() {
        return Err(failure(
            Kind::Usage,
            "the standard input is a Dockerfile, and -f names another one",
        ));
    }
    Ok(Context {
        place: ContextDirectory::Temporary(dir, PathBuf::new()),
        excluded: Matcher::default(),
        dockerfile,
        dockerfile_name: "Dockerfile".into(),
    })
}

async fn finish(place: ContextDirectory, file: Option<&str>) -> Result<Context, Failure> {
    if file != Some("-") {
        return settle(place, file);
    }
    let bytes = tokio_stdin().await?;
    let dockerfile = String::from_utf8(bytes)
        .map_err(|_| failure(Kind::Config, "the Dockerfile is not text"))?;
    let mut context = Context {
        place,
        excluded: Matcher::default(),
        dockerfile,
        dockerfile_name: "Dockerfile".into(),
    };
    context.excluded = excluded(&context.place, &[context.dir().join(".dockerignore")])?;
    Ok(context)
}

/// Reads a text of a context. In a copy of one, whose author may be anybody, neither paths nor links
/// may lead out of it, and only files are read.
fn read_text(place: &ContextDirectory, path: &Path) -> Result<String, Failure> {
    let mut real = path.to_path_buf();
    if let ContextDirectory::Temporary(dir, below) = place {
        let root = match below.as_os_str().is_empty() {
            true => dir.path(),
            false => below,
        };
        let root = root.canonicalize().map_err(unreadable(root))?;
        real = path.canonicalize().map_err(unreadable(path))?;
        if !real.starts_with(&root) {
            return Err(failure(
                Kind::Config,
                format!("{} leads out of the context", path.display()),
            ));
        }
        if !real.is_file() {
            return Err(failure(
                Kind::Config,
                format!("{} is not a file", path.display()),
            ));
        }
    }
    let mut bytes = Vec::new();
    fs::File::open(&real)
        .and_then(|opened| opened.take(MAX_DOCKERFILE + 1).read_to_end(&mut bytes))
        .map_err(unreadable(path))?;
    if bytes.len() as u64 > MAX_DOCKERFILE {
        return Err(failure(
            Kind::Config,
            format!(
                "{} is larger than {} MiB",
                path.display(),
                MAX_DOCKERFILE >> 20
            ),
        ));
    }
    String::from_utf8(bytes)
        .map_err(|_| failure(Kind::Config, format!("{} is not text", path.display())))
}

/// Reads the Dockerfile and the patterns of what is not sent.
fn settle(place: ContextDirectory, file: Option<&str>) -> Result<Context, Failure> {
    let mut context = Context {
        place,
        excluded: Matcher::default(),
        dockerfile: String::new(),
        dockerfile_name: file.unwrap_or("Dockerfile").to_owned(),
    };
    let dir = context.dir().to_path_buf();
    let path = match file {
        None => {
            let lower = dir.join("dockerfile");
            let usual = dir.join("Dockerfile");
            if !usual.exists() && lower.exists() {
                lower
            } else {
                usual
            }
        }
        // Docker's paths begin at the current directory, minikube's in the context.
        Some(file)
            if matches!(context.place, ContextDirectory::Directory(_))
                && Path::new(file).is_file() =>
        {
            PathBuf::from(file)
        }
        Some(file) => dir.join(file),
    };
    context.dockerfile = read_text(&context.place, &path).map_err(|e| match e.kind {
        Kind::NotFound => e.advise("name the Dockerfile with -f PATH"),
        _ => e,
    })?;
    let mut own = path.into_os_string();
    own.push(".dockerignore");
    let files = [PathBuf::from(own), dir.join(".dockerignore")];
    context.excluded = excluded(&context.place, &files)?;
    Ok(context)
}

/// Reads the first of the files that exists.
fn excluded(place: &ContextDirectory, files: &[PathBuf]) -> Result<Matcher, Failure> {
    for path in files {
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(unreadable(path)(e)),
            Ok(_) => {}
        }
        let text = read_text(place, path)?;
        return Matcher::of_ignore_file(&text)
            .map_err(|e| failure(Kind::Config, format!("{}: {e}", path.display())));
    }
    Ok(Matcher::default())
}

fn is_repository(text: &str) -> bool {
    let path = text.split('#').next().unwrap_or(text);
    let remote = text.contains("://");
    ["git@", "git://", "ssh://", "github.com/"]
        .iter()
        .any(|p| text.starts_with(p))
        || (remote && path.ends_with(".git"))
}

/// Clones a repository: `URL#REF:DIRECTORY`.
async fn clone(text: &str) -> Result<ContextDirectory, Failure> {
    let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
    let (reference, below) = fragment.split_once(':').unwrap_or((fragment, ""));
    let url = match url.strip_prefix("github.com/") {
        Some(rest) => format!("https://github.com/{rest}"),
        None => url.to_owned(),
    };
    let dir = temporary()?;
    let reference = if reference.is_empty() {
        "HEAD"
    } else {
        reference
    };
    let commands: [&[&str]; 4] = [
        &["init", "--quiet"],
        &["remote", "add", "origin", "--", &url],
        &["fetch", "--quiet", "--depth=1", "origin", "--", reference],
        &["checkout", "--quiet", "FETCH_HEAD"],
    ];
    for words in commands {
        let run = tokio::process::Command::new("git")
            .args(words)
            .current_dir(dir.path())
            .env("GIT_TERMINAL_PROMPT", "0")
            .kill_on_drop(true)
            .output()
            .await;
        let out = run.map_err(|e| {
            failure(
                Kind::Unsupported,
                format!("{text} needs git, which cannot be run: {e}"),
            )
            .advise("install git, or clone the repository and name its directory")
        })?;
        if !out.status.success() {
            let told = String::from_utf8_lossy(&out.stderr);
            return Err(Failure::new(
                Source::Internet,
                Kind::Error,
                format!("cannot clone {text}: {}", told.trim()),
            ));
        }
    }
    // Builds do not see the repository itself.
    fs::remove_dir_all(dir.path().join(".git")).map_err(unreadable(dir.path()))?;
    let root = dir.path().canonicalize().map_err(unreadable(dir.path()))?;
    let place = root.join(below.trim_start_matches('/'));
    let place = place.canonicalize().map_err(unreadable(&place))?;
    if !place.starts_with(&root) {
        return Err(failure(
            Kind::Usage,
            format!("{below} leads out of the repository"),
        ));
    }
    Ok(ContextDirectory::Temporary(dir, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_a_dockerfile_or_an_archive() {
        let context = from_input(None, &b"FROM scratch\n"[..], false).unwrap();
        assert_eq!(context.dockerfile, "FROM scratch\n");
        assert_eq!(fs::read_dir(context.dir()).unwrap().count(), 0);
        let mut tar = tar::Builder::new(Vec::new());
        for (name, text) in [("d/File", "FROM a\n"), (".dockerignore", "x\n")] {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        let context = from_input(Some("d/File"), bytes.as_slice(), false).unwrap();
        assert_eq!(context.dockerfile, "FROM a\n");
        assert!(context.excluded.matches("x"));
        assert!(from_input(None, bytes.as_slice(), false).is_err());
        // Docker's client ends after the last file.
        let end = 512 + 512 + 512 + 2;
        let cut = |whole| from_input(Some("d/File"), &bytes[..end], whole);
        assert!(cut(true).unwrap().excluded.matches("x"));
        assert!(cut(false).is_err());
        assert!(from_input(None, &b"BZh9"[..], false).is_err());
    }

    #[test]
    fn the_dockerfiles_own_patterns_come_first() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("other"), "FROM b\n").unwrap();
        fs::write(dir.path().join(".dockerignore"), "a\n").unwrap();
        fs::write(dir.path().join("other.dockerignore"), "b\n").unwrap();
        let place = ContextDirectory::Directory(dir.path().to_path_buf());
        let context = settle(place, Some("other")).unwrap();
        assert!(context.excluded.matches("b") && !context.excluded.matches("a"));
        let place = ContextDirectory::Directory(dir.path().to_path_buf());
        let missing = settle(place, None).err().unwrap();
        assert!(missing.advice.is_some());
    }

    #[cfg(unix)]
    #[test]
    fn copies_of_contexts_are_not_left() {
        let outside = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "FROM a\n").unwrap();
        let open = |links: &[(&str, &str)], file: Option<&str>| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("real"), "FROM b\n").unwrap();
            for (name, target) in links {
                std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
            }
            settle(ContextDirectory::Temporary(dir, PathBuf::new()), file)
        };
        let secret = secret.to_str().unwrap();
        let up = format!("../../../../../../../..{secret}");
        for (links, file) in [
            (&[][..], Some(secret)),
            (&[], Some(up.as_str())),
            (&[("Dockerfile", secret)], None),
            (&[("d", outside.path().to_str().unwrap())], Some("d/secret")),
            // It never ends.
            (&[("Dockerfile", "/dev/zero")], None),
            (&[("Dockerfile", "real"), (".dockerignore", secret)], None),
            (&[("Dockerfile", ".")], None),
        ] {
            let failed = open(links, file).err();
            let failed = failed.unwrap_or_else(|| panic!("{links:?} {file:?} was read"));
            assert_eq!(failed.kind, Kind::Config, "{links:?} {file:?}");
        }
        let inside = open(&[("Dockerfile", "real")], None).unwrap();
        assert_eq!(inside.dockerfile, "FROM b\n");
    }

    #[test]
    fn texts_of_a_context_have_a_limit() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("Dockerfile"), "FROM a\n").unwrap();
        let ignore = fs::File::create(dir.path().join(".dockerignore")).unwrap();
        ignore.set_len(MAX_DOCKERFILE + 1).unwrap();
        let place = ContextDirectory::Directory(dir.path().to_path_buf());
        assert_eq!(settle(place, None).err().unwrap().kind, Kind::Config);
    }

    #[test]
    fn repositories_and_archives_are_distinguished() {
        for text in [
            "https://x.org/a.git#main:d",
            "git@x.org:a.git",
            "github.com/a/b",
        ] {
            assert!(is_repository(text), "{text}");
        }
        for text in ["https://x.org/a.tar.gz", "dir.git", "."] {
            assert!(!is_repository(text), "{text}");
        }
    }
}
