//! `COPY`, `ADD` and `WORKDIR`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rkube_runtime::build::{resolve_owner, unpack_archive};

use super::cache::{Entry, Key};
use super::errors::{blocking, failed, failed_at};
use super::files::{self, Copying};
use super::stage::Running;
use super::types::Mounted;
use crate::error::{BuildError, Result};
use crate::instruction::Copy;
use crate::pattern::{Matcher, Pattern, clean};

/// A thing to copy.
enum Item {
    /// A file or directory, which stays resolved as long as the descriptor is open.
    Path { name: OsString, path: OwnedFd },
    /// A file of the Dockerfile.
    Text { name: OsString, content: String },
    /// A file that was downloaded.
    Download { name: OsString, path: PathBuf },
    /// An archive whose content is copied.
    Archive(PathBuf),
}

/// The sources of a step's copy, and its key in the cache.
struct Prepared {
    items: Vec<Item>,
    destination: String,
    mode: Option<u32>,
    excluded: Matcher,
    key: String,
    /// Directory of this step's own for unpacked archives.
    scratch: PathBuf,
    /// Keeps the sources mounted.
    _source: Arc<Mounted>,
}

impl Running<'_> {
    /// Runs `COPY` or `ADD`. Returns the layer, and whether it was cached.
    pub async fn copy(&self, copy: &Copy, step: usize) -> Result<(Entry, bool)> {
        let prepared = self.prepare(copy, step).await?;
        if let Some(entry) = self.build.cached(&prepared.key).await? {
            return Ok((entry, true));
        }
        let key = prepared.key.clone();
        let owner = copy.chown.clone();
        let asked = owner.is_some();
        let link = copy.link;
        let mut space = self.workspace(&step.to_string()).await?;
        let below = self.workspace_below(link, step).await?;
        let space = blocking(move || {
            let owner = match &owner {
                Some(owner) => Some(resolve_owner(space.root(), owner).map_err(failed)?),
                // The context has no owners.
                None if prepared._source.chain.is_none() => Some((0, 0)),
                None => None,
            };
            let root = below.as_ref().unwrap_or(&space).root().to_path_buf();
            prepared.write(&root, owner, asked, link)?;
            space.unmount().map_err(failed)?;
            Ok(below.unwrap_or(space))
        })
        .await?;
        let entry = self.commit(&key, &space.upper()).await?;
        Ok((entry, false))
    }

    /// Returns an empty root for `--link`, which sees nothing of the layers below.
    async fn workspace_below(
        &self,
        link: bool,
        step: usize,
    ) -> Result<Option<rkube_runtime::build::Workspace>> {
        if !link {
            return Ok(None);
        }
        let dir = self.build.work.join("steps").join(format!("{step}-link"));
        let made =
            blocking(move || rkube_runtime::build::Workspace::writable(&dir, &[]).map_err(failed));
        made.await.map(Some)
    }

    /// Finds, downloads and hashes what is copied.
    async fn prepare(&self, copy: &Copy, step: usize) -> Result<Prepared> {
        let source = self.build.source(copy.from.as_deref(), self.index).await?;
        let destination = self.now.document.config.absolute(&copy.destination);
        let several = copy.sources.len() + copy.heredocs.len() > 1;
        if several && !destination.ends_with('/') {
            let keyword = if copy.add { "ADD" } else { "COPY" };
            return Err(BuildError::new(format!(
                "When using {keyword} with more than one source file, the destination must be a directory and end with a /"
            )));
        }
        let mode = copy.chmod.as_deref().map(parse_mode).transpose()?;
        let excluded = Matcher::new(&copy.exclude).map_err(BuildError::new)?;
        let mut items = Vec::new();
        for text in &copy.sources {
            if copy.add && is_url(text) {
                items.push(
                    self.download(copy, text, &destination, step, items.len())
                        .await?,
                );
                continue;
            }
            if copy.add && is_repository(text) {
                return Err(BuildError::new(format!(
                    "ADD {text} is not supported: the nodes have no git; clone the repository into the context"
                )));
            }
            let (root, text) = (source.root().to_path_buf(), text.clone());
            let unpack = copy.add && copy.unpack != Some(false);
            let found = blocking(move || find(&root, &text, unpack)).await?;
            items.extend(
                found
                    .into_iter()
                    .filter(|item| !item.is_excluded(&excluded)),
            );
        }
        for heredoc in &copy.heredocs {
            items.push(Item::Text {
                name: heredoc.name.clone().into(),
                content: heredoc.content.clone(),
            });
        }
        let parts = [
            self.chains().last().cloned().unwrap_or_default(),
            destination.clone(),
            copy.chown.clone().unwrap_or_default(),
            copy.chmod.clone().unwrap_or_default(),
            copy.link.to_string(),
            source.chain.is_some().to_string(),
        ];
        let scratch = self.build.work.join("archives").join(step.to_string());
        blocking(move || {
            let mut key = Key::new("COPY");
            key.add_all(&parts);
            for item in &items {
                item.add_to(&mut key, &excluded)?;
            }
            Ok(Prepared {
                items,
                destination,
                mode,
                excluded,
                key: key.finish(),
                scratch,
                _source: source,
            })
        })
        .await
    }

    async fn download(
        &self,
        copy: &Copy,
        url: &str,
        destination: &str,
        step: usize,
        number: usize,
    ) -> Result<Item> {
        let path = url.split(['?', '#']).next().unwrap_or(url);
        let name = path
            .splitn(4, '/')
            .nth(3)
            .and_then(|p| p.rsplit('/').next());
        let name = match name.filter(|n| !n.is_empty()) {
            Some(name) => name.to_owned(),
            None if destination.ends_with('/') => {
                return Err(BuildError::new(format!(
                    "cannot determine a filename for {url}: name the file in the destination"
                )));
            }
            None => "download".to_owned(),
        };
        let dir = self.build.work.join("downloads");
        fs::create_dir_all(&dir).map_err(failed_at(&dir))?;
        let file = dir.join(format!("{step}-{number}"));
        let (digest, _) = self.build.node.download(url, &file).await.map_err(failed)?;
        if let Some(wanted) = &copy.checksum
            && *wanted != digest
        {
            return Err(BuildError::new(format!(
                "digest mismatch for {url}: expected {wanted}, got {digest}"
            )));
        }
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&file, mode).map_err(failed_at(&file))?;
        if copy.unpack == Some(true) {
            return Ok(Item::Archive(file));
        }
        Ok(Item::Download {
            name: name.into(),
            path: file,
        })
    }

    /// Makes the working directory. Returns the layer, and whether it was cached.
    pub async fn make_workdir(&self, path: &str) -> Result<(Entry, bool)> {
        let user = self.now.document.config.user.clone();
        let mut key = Key::new("WORKDIR");
        key.add(self.chains().last().cloned().unwrap_or_default());
        key.add(path);
        key.add(&user);
        let key = key.finish();
        if let Some(entry) = self.build.cached(&key).await? {
            return Ok((entry, true));
        }
        let mut space = self
            .workspace(&format!("workdir-{}-{}", self.index, self.now.layers.len()))
            .await?;
        let path = path.to_owned();
        let space = blocking(move || {
            let owner = resolve_owner(space.root(), &user).map_err(failed)?;
            let copying = Copying {
                root: space.root(),
                owner: Some(owner),
                mode: None,
                excluded: &Matcher::default(),
            };
            copying.directory(&path)?;
            space.unmount().map_err(failed)?;
            Ok(space)
        })
        .await?;
        Ok((self.commit(&key, &space.upper()).await?, false))
    }
}

impl Item {
    /// Returns whether the patterns select the file or directory itself.
    fn is_excluded(&self, excluded: &Matcher) -> bool {
        let Self::Path { name, .. } = self else {
            return false;
        };
        !name.is_empty() && excluded.matches(&name.to_string_lossy())
    }

    fn add_to(&self, key: &mut Key, excluded: &Matcher) -> Result<()> {
        match self {
            Self::Path { name, path } => {
                key.add("path");
                key.add(name.as_encoded_bytes());
                let real = files::real_path(path).map_err(failed)?;
                key.add(files::digest(&real, excluded)?);
            }
            Self::Text { name, content } => {
                key.add("text");
                key.add(name.as_encoded_bytes());
                key.add(content);
            }
            Self::Download { name, path } => {
                key.add("download");
                key.add(name.as_encoded_bytes());
                key.add(files::hash_file(path).map_err(failed_at(path))?);
            }
            Self::Archive(path) => {
                key.add("archive");
                key.add(files::hash_file(path).map_err(failed_at(path))?);
            }
        }
        Ok(())
    }
}

impl Prepared {
    /// Writes the copies below `root`. `asked` tells whether the owner was given.
    fn write(&self, root: &Path, owner: Option<(u32, u32)>, asked: bool, link: bool) -> Result<()> {
        let copying = Copying {
            root,
            owner,
            mode: self.mode,
            excluded: &self.excluded,
        };
        if link && self.destination.ends_with('/') {
            copying.directory(&self.destination)?;
        }
        for (number, item) in self.items.iter().enumerate() {
            match item {
                Item::Path { name, path } => {
                    let real = files::real_path(path).map_err(failed)?;
                    copying.copy(&real, name, &self.destination)?;
                }
                Item::Text { name, content } => {
                    copying.write(content.as_bytes(), name, &self.destination)?;
                }
                Item::Download { name, path } => {
                    let owned = Copying {
                        owner: owner.or(Some((0, 0))),
                        ..copying
                    };
                    owned.copy(path, name, &self.destination)?;
                }
                Item::Archive(path) => {
                    let unpacked = Unpacked::new(path, &self.scratch.join(number.to_string()))?;
                    // The owners in an archive stay, unless others are asked for.
                    let inner = Copying {
                        owner: owner.filter(|_| asked),
                        ..copying
                    };
                    inner.copy(&unpacked.0, OsStr::new(""), &self.destination)?;
                }
            }
        }
        Ok(())
    }
}

/// The content of an archive, removed when it is dropped.
struct Unpacked(PathBuf);

impl Unpacked {
    /// Unpacks an archive into the new directory `dir`.
    fn new(archive: &Path, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).map_err(failed_at(dir))?;
        let unpacked = Self(dir.to_path_buf());
        let file = fs::File::open(archive).map_err(failed_at(archive))?;
        unpack_archive(file, dir)
            .map_err(|e| BuildError::new(format!("cannot unpack the archive: {e}")))?;
        Ok(unpacked)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        // The rest is removed with the work directory.
        let _ = rkube_fsutil::remove_tree(&self.0);
    }
}

fn is_url(text: &str) -> bool {
    (text.starts_with("http://") || text.starts_with("https://")) && !is_repository(text)
}

fn is_repository(text: &str) -> bool {
    let path = text.split(['#', '?']).next().unwrap_or(text);
    let remote = text.contains("://");
    text.starts_with("git@")
        || text.starts_with("git://")
        || text.starts_with("ssh://")
        || (remote && path.ends_with(".git"))
}

/// Finds what a path or a pattern means below `root`.
fn find(root: &Path, text: &str, unpack: bool) -> Result<Vec<Item>> {
    let relative = clean(&format!("/{text}"));
    let relative = relative.trim_start_matches('/');
    let open = |path: &str| -> Result<Option<OwnedFd>> {
        files::resolve(root, path).map_err(|e| BuildError::new(format!("{path}: {e}")))
    };
    if !text.contains(['*', '?', '[', '\\']) {
        let path = open(relative)?
            .ok_or_else(|| BuildError::new(format!("\"/{relative}\": not found")))?;
        return Ok(vec![item(relative, path, unpack, root)?]);
    }
    let mut found = vec![String::new()];
    for part in relative.split('/') {
        let pattern = Pattern::glob(part).map_err(BuildError::new)?;
        let mut next = Vec::new();
        for parent in found {
            let Some(dir) = open(&parent)? else { continue };
            let path = files::path_of(&dir);
            if !path.is_dir() {
                continue;
            }
            let real = files::real_path(&dir).map_err(failed)?;
            let entries = fs::read_dir(&real).map_err(failed_at(&real))?;
            let mut names: Vec<String> = entries
                .flatten()
                .filter_map(|e| e.file_name().into_string().ok())
                .filter(|name| pattern.matches(name))
                .collect();
            names.sort();
            let prefix = match parent.as_str() {
                "" => String::new(),
                parent => format!("{parent}/"),
            };
            next.extend(names.iter().map(|name| format!("{prefix}{name}")));
        }
        found = next;
    }
    // A pattern may match nothing, so that files can be optional.
    let mut items = Vec::new();
    for path in found {
        if let Some(fd) = open(&path)? {
            items.push(item(&path, fd, unpack, root)?);
        }
    }
    Ok(items)
}

fn item(relative: &str, path: OwnedFd, unpack: bool, root: &Path) -> Result<Item> {
    let real = files::real_path(&path).map_err(failed)?;
    if !real.starts_with(root) {
        return Err(BuildError::new(format!("\"/{relative}\": leads outside")));
    }
    if unpack && is_archive(&real)? {
        return Ok(Item::Archive(real));
    }
    let name = Path::new(relative)
        .file_name()
        .unwrap_or_default()
        .to_owned();
    Ok(Item::Path { name, path })
}

/// Returns whether a file is a tar archive that can be unpacked.
fn is_archive(path: &Path) -> Result<bool> {
    if !fs::symlink_metadata(path)
        .map_err(failed_at(path))?
        .is_file()
    {
        return Ok(false);
    }
    let head = |reader: &mut dyn std::io::Read| {
        let mut head = Vec::new();
        reader.take(512).read_to_end(&mut head).map(|_| head)
    };
    let mut file = fs::File::open(path).map_err(failed_at(path))?;
    let start = head(&mut file).map_err(failed_at(path))?;
    if start.starts_with(b"BZh") || start.starts_with(b"\xfd7zXZ\0") {
        return Err(BuildError::new(format!(
            "ADD cannot unpack {}: only archives compressed by gzip or zstd are supported; COPY it, or ADD it with --unpack=false",
            path.file_name().unwrap_or_default().display()
        )));
    }
    if is_tar(&start) {
        return Ok(true);
    }
    let file = fs::File::open(path).map_err(failed_at(path))?;
    let plain = rkube_runtime::build::decompress(file)
        .and_then(|mut plain| head(&mut plain))
        // A file that only begins like a compressed one is copied as it is.
        .unwrap_or_default();
    Ok(is_tar(&plain))
}

/// Returns whether a block is the header of a tar archive: its checksum is right.
fn is_tar(block: &[u8]) -> bool {
    if block.len() < 512 || block.iter().all(|b| *b == 0) {
        return false;
    }
    let mut header = tar::Header::new_old();
    header.as_mut_bytes().copy_from_slice(&block[..512]);
    let sum: u32 = block[..148]
        .iter()
        .chain(&block[156..512])
        .map(|b| u32::from(*b))
        .sum::<u32>()
        + 8 * u32::from(b' ');
    header.cksum().is_ok_and(|wanted| wanted == sum)
}

/// Parses an octal mode.
fn parse_mode(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o7777)
        .ok_or_else(|| {
            BuildError::new(format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(root: &Path, text: &str) -> Result<Vec<String>> {
        let items = find(root, text, true)?;
        let name = |item: Item| match item {
            Item::Path { name, .. } => name.to_string_lossy().into_owned(),
            Item::Archive(path) => format!("archive {}", path.file_name().unwrap().display()),
            _ => String::new(),
        };
        Ok(items.into_iter().map(name).collect())
    }

    #[test]
    fn paths_and_patterns_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["a.txt", "b.txt", "d/c.txt", "d/e/f.txt"] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        std::os::unix::fs::symlink(outside.path(), root.join("out")).unwrap();
        std::os::unix::fs::symlink("d/c.txt", root.join("link")).unwrap();
        assert_eq!(names(&root, "*.txt").unwrap(), ["a.txt", "b.txt"]);
        assert_eq!(names(&root, "./d/*").unwrap(), ["c.txt", "e"]);
        assert_eq!(names(&root, "*/*/f*").unwrap(), ["f.txt"]);
        assert_eq!(names(&root, "x*").unwrap(), Vec::<String>::new());
        assert_eq!(names(&root, "link").unwrap(), ["link"]);
        assert_eq!(names(&root, "../../a.txt").unwrap(), ["a.txt"]);
        assert_eq!(names(&root, "/").unwrap(), [""]);
        for text in ["out/secret", "missing", "a.txt/b"] {
            let error = names(&root, text).unwrap_err();
            assert!(error.message.contains("not found"), "{text}: {error}");
        }
        assert_eq!(names(&root, "out/*").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn patterns_exclude_what_other_patterns_find() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["home.txt", "home.png"] {
            fs::write(root.join(name), name).unwrap();
        }
        let excluded = Matcher::new(["*.txt"]).unwrap();
        let mut items = find(&root, "hom*", false).unwrap();
        items.retain(|item| !item.is_excluded(&excluded));
        assert!(matches!(&items[..], [Item::Path { name, .. }] if name == "home.png"));
    }

    #[test]
    fn archives_are_recognized_by_their_content() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        tar.append_data(&mut header, "f", &b"x"[..]).unwrap();
        fs::write(root.join("a"), tar.into_inner().unwrap()).unwrap();
        fs::write(root.join("b.tar"), vec![b'x'; 1000]).unwrap();
        fs::write(root.join("c"), b"BZh91AY").unwrap();
        assert_eq!(names(&root, "a").unwrap(), ["archive a"]);
        assert_eq!(names(&root, "b.tar").unwrap(), ["b.tar"]);
        assert!(
            names(&root, "c")
                .unwrap_err()
                .message
                .contains("gzip or zstd")
        );
        let plain = find(&root, "a", false).unwrap();
        assert!(matches!(plain[0], Item::Path { .. }));
    }

    #[test]
    fn archives_are_unpacked_outside_of_their_directory() {
        // SAFETY: no memory is involved.
        let (user, group) = unsafe { (libc::geteuid(), libc::getegid()) };
        let context = tempfile::tempdir().unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_uid(user.into());
        header.set_gid(group.into());
        tar.append_data(&mut header, "f", &b"x"[..]).unwrap();
        let archive = context.path().join("a.tar");
        let bytes = tar.into_inner().unwrap();
        fs::write(&archive, &bytes).unwrap();
        let entries = |dir: &Path| fs::read_dir(dir).unwrap().count();
        // Two steps unpack the same archive at the same time.
        let [one, two] = ["1/0", "2/0"].map(|name| scratch.path().join(name));
        let first = Unpacked::new(&archive, &one).unwrap();
        let second = Unpacked::new(&archive, &two).unwrap();
        assert_eq!(entries(context.path()), 1);
        for unpacked in [&first, &second] {
            assert_eq!(fs::read(unpacked.0.join("f")).unwrap(), b"x");
        }
        drop((first, second));
        fs::write(&archive, &bytes[..600]).unwrap();
        assert!(Unpacked::new(&archive, &one).is_err());
        assert!(!one.exists() && !two.exists());
        assert_eq!(entries(context.path()), 1);
    }

    #[test]
    fn urls_and_repositories() {
        assert!(is_url("https://example.com/a.tar"));
        for text in [
            "https://example.com/a.git#main",
            "git@example.com:a/b.git",
            "ssh://x/y",
        ] {
            assert!(is_repository(text) && !is_url(text), "{text}");
        }
        assert!(!is_url("dir/file") && !is_repository("dir/a.git"));
        assert_eq!(parse_mode("0755").unwrap(), 0o755);
        assert!(parse_mode("u+x").is_err() && parse_mode("10000").is_err());
    }
}
