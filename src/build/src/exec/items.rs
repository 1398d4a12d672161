//! What the sources of `COPY` and `ADD` mean.

use std::ffi::OsString;
use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::cache::Key;
use super::errors::{failed, failed_at};
use super::files;
use crate::error::{BuildError, Result};
use crate::pattern::{Matcher, Pattern, clean};

/// A thing to copy.
pub enum Item {
    /// A file or directory, which stays resolved as long as the descriptor is open.
    Path {
        name: OsString,
        path: OwnedFd,
        /// The directories that it is in, outermost first, if they are copied with it (`--parents`):
        /// their paths below the destination.
        parents: Vec<(String, OwnedFd)>,
    },
    /// A file of the Dockerfile.
    Text { name: OsString, content: String },
    /// A file that was downloaded.
    Download { name: OsString, path: PathBuf },
    /// An archive whose content is copied.
    Archive(PathBuf),
}

impl Item {
    /// Returns whether the patterns select the file or directory itself.
    pub fn is_excluded(&self, excluded: &Matcher) -> bool {
        let Self::Path { .. } = self else {
            return false;
        };
        let path = self.below();
        !path.is_empty() && excluded.matches(&path)
    }

    /// Returns the path that patterns of exclusions are compared with: the name, and what it is in if that
    /// is copied, too.
    pub fn below(&self) -> String {
        let Self::Path { name, parents, .. } = self else {
            return String::new();
        };
        let name = name.to_string_lossy();
        match parents.last() {
            Some((parent, _)) if name.is_empty() => parent.clone(),
            Some((parent, _)) => format!("{parent}/{name}"),
            None => name.into_owned(),
        }
    }

    /// Adds what is copied to the key of a step.
    ///
    /// `with_parents` tells whether exclusions are compared with [`Self::below`], as the copy does.
    pub fn add_to(&self, key: &mut Key, excluded: &Matcher, with_parents: bool) -> Result<()> {
        match self {
            Self::Path {
                name,
                path,
                parents,
            } => {
                key.add("path");
                key.add(name.as_encoded_bytes());
                for (place, directory) in parents {
                    key.add(place);
                    let metadata = files::path_of(directory).metadata();
                    let metadata = metadata.map_err(failed)?;
                    let numbers = [metadata.mode(), metadata.uid(), metadata.gid()];
                    key.add(numbers.map(u32::to_be_bytes).concat());
                }
                let real = files::real_path(path).map_err(failed)?;
                let below = match with_parents {
                    true => self.below(),
                    false => String::new(),
                };
                key.add(files::digest(&real, &below, excluded)?);
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

/// Returns whether a source is downloaded.
pub fn is_url(text: &str) -> bool {
    (text.starts_with("http://") || text.starts_with("https://")) && !is_repository(text)
}

/// Returns whether a source is a Git repository.
pub fn is_repository(text: &str) -> bool {
    let path = text.split(['#', '?']).next().unwrap_or(text);
    let remote = text.contains("://");
    text.starts_with("git@")
        || text.starts_with("git://")
        || text.starts_with("ssh://")
        || (remote && path.ends_with(".git"))
}

/// Finds what a path or a pattern means below `root`.
pub fn find(root: &Path, text: &str, unpack: bool) -> Result<Vec<Item>> {
    let relative = relative(text);
    if !is_pattern(text) {
        let path = open(root, &relative)?
            .ok_or_else(|| BuildError::new(format!("\"/{relative}\": not found")))?;
        return Ok(vec![item(&relative, path, unpack, root)?]);
    }
    // A pattern may match nothing, so that files can be optional.
    let mut items = Vec::new();
    for path in expand(root, String::new(), &relative, false)? {
        if let Some(fd) = open(root, &path)? {
            items.push(item(&path, fd, unpack, root)?);
        }
    }
    Ok(items)
}

/// Finds what a path or a pattern means, with the directories that it is in, from the first `/./` on or
/// from the root on. A part `**` of the pattern stands for any directories.
pub fn find_with_parents(root: &Path, text: &str) -> Result<Vec<Item>> {
    let (base, rest) = text.split_once("/./").unwrap_or(("", text));
    let bases = match is_pattern(base) {
        true => expand(root, String::new(), &relative(base), false)?,
        false => vec![relative(base)],
    };
    let mut items = Vec::new();
    for base in bases {
        let below = relative(rest);
        let found = match is_pattern(rest) {
            true => expand(root, base.clone(), &below, true)?,
            false => vec![join(&base, &below)],
        };
        for path in found {
            match open(root, &path)? {
                Some(fd) => items.push(in_parents(root, &base, &path, fd)?),
                None if is_pattern(text) => {}
                None => return Err(BuildError::new(format!("\"/{path}\": not found"))),
            }
        }
    }
    Ok(items)
}

/// Returns a path as it is below the root, without `.` and `..`.
fn relative(text: &str) -> String {
    clean(&format!("/{text}"))
        .trim_start_matches('/')
        .to_owned()
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

fn join(parent: &str, name: &str) -> String {
    match (parent, name) {
        ("", name) => name.to_owned(),
        (parent, "") => parent.to_owned(),
        (parent, name) => format!("{parent}/{name}"),
    }
}

fn open(root: &Path, path: &str) -> Result<Option<OwnedFd>> {
    files::resolve(root, path).map_err(|e| BuildError::new(format!("{path}: {e}")))
}

/// Returns the paths below `root` that a pattern means in the directory `base`, sorted. With `deep`, the
/// part `**` stands for any directories, which links do not lead to.
fn expand(root: &Path, base: String, pattern: &str, deep: bool) -> Result<Vec<String>> {
    let mut found = vec![base];
    let parts: Vec<&str> = pattern.split('/').collect();
    for (number, part) in parts.iter().copied().enumerate() {
        let mut next = Vec::new();
        if deep && part == "**" {
            // The directories are copied with all that is in them.
            if number + 1 == parts.len() {
                break;
            }
            for parent in found {
                directories_into(root, parent, 0, &mut next)?;
            }
            found = next;
            continue;
        }
        let pattern = Pattern::glob(part).map_err(BuildError::new)?;
        for parent in found {
            let names = names_in(root, &parent)?;
            let names = names.iter().filter(|name| pattern.matches(name));
            next.extend(names.map(|name| join(&parent, name)));
        }
        found = next;
    }
    // Two ways may lead to one file.
    let mut seen = std::collections::HashSet::new();
    found.retain(|path| seen.insert(path.clone()));
    Ok(found)
}

/// Returns the names in a directory, sorted; none if it is no directory.
fn names_in(root: &Path, path: &str) -> Result<Vec<String>> {
    let Some(dir) = open(root, path)? else {
        return Ok(Vec::new());
    };
    if !files::path_of(&dir).is_dir() {
        return Ok(Vec::new());
    }
    let real = files::real_path(&dir).map_err(failed)?;
    let entries = fs::read_dir(&real).map_err(failed_at(&real))?;
    let names = entries.flatten().map(|e| e.file_name().into_string());
    let mut names: Vec<String> = names.filter_map(std::result::Result::ok).collect();
    names.sort();
    Ok(names)
}

/// Adds a directory and all that are in it.
fn directories_into(
    root: &Path,
    path: String,
    depth: usize,
    found: &mut Vec<String>,
) -> Result<()> {
    if depth > files::MAX_DEPTH {
        return Err(BuildError::new("directories are nested too deeply"));
    }
    for name in names_in(root, &path)? {
        let inner = join(&path, &name);
        let real = match open(root, &path)? {
            Some(dir) => files::real_path(&dir).map_err(failed)?.join(&name),
            None => continue,
        };
        if fs::symlink_metadata(&real).is_ok_and(|metadata| metadata.is_dir()) {
            directories_into(root, inner, depth + 1, found)?;
        }
    }
    found.push(path);
    Ok(())
}

/// Returns a path with the directories that it is in below `base`.
fn in_parents(root: &Path, base: &str, path: &str, fd: OwnedFd) -> Result<Item> {
    let below = path.strip_prefix(base).unwrap_or(path);
    let below = below.trim_start_matches('/');
    let mut parents = Vec::new();
    for (end, _) in below.match_indices('/') {
        let place = &below[..end];
        let opened = open(root, &join(base, place))?;
        let opened = opened.ok_or_else(|| BuildError::new(format!("\"/{path}\": not found")))?;
        inside(root, &opened, path)?;
        parents.push((place.to_owned(), opened));
    }
    let name = below.rsplit('/').next().unwrap_or_default();
    inside(root, &fd, path)?;
    Ok(Item::Path {
        name: name.into(),
        path: fd,
        parents,
    })
}

/// Returns the real path of an open file. Fails if it is outside of `root`.
fn inside(root: &Path, file: &OwnedFd, path: &str) -> Result<PathBuf> {
    let real = files::real_path(file).map_err(failed)?;
    match real.starts_with(root) {
        true => Ok(real),
        false => Err(BuildError::new(format!("\"/{path}\": leads outside"))),
    }
}

fn item(relative: &str, path: OwnedFd, unpack: bool, root: &Path) -> Result<Item> {
    let real = inside(root, &path, relative)?;
    if unpack && is_archive(&real)? {
        return Ok(Item::Archive(real));
    }
    let name = Path::new(relative)
        .file_name()
        .unwrap_or_default()
        .to_owned();
    Ok(Item::Path {
        name,
        path,
        parents: Vec::new(),
    })
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
    fn parents_begin_at_the_pivot() {
        // The tree and the results are those of BuildKit's tests.
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in [
            "test/a/b/c/d/foo",
            "test/a/b/c/d/e/bay",
            "test/a/b2/c/d/e/bar",
            "test/a/b/c2/d/e/baz",
            "test/a/b/c2/d/e2/baz",
        ] {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), name).unwrap();
        }
        let found = |text: &str| -> Vec<String> {
            let items = find_with_parents(&root, text).unwrap();
            items.iter().map(Item::below).collect()
        };
        for (text, expected) in [
            ("/test/a/b/./c/d", &["c/d"][..]),
            ("/test/a/b/c/d/.", &["test/a/b/c/d"]),
            ("./test/a/b/c/d", &["test/a/b/c/d"]),
            ("/test/a/./b/./c", &["b/c"]),
            ("/test/a/./*/c", &["b/c", "b2/c"]),
            ("/test/a/b*/./c/**/e", &["c/d/e", "c/d/e"]),
            ("/test/a/b/c*/./d/**/baz", &["d/e/baz", "d/e2/baz"]),
            ("/test/a/b*/./c/**/bar", &["c/d/e/bar"]),
            ("/none*/./x", &[]),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
        let items = find_with_parents(&root, "test/a/b/c/d/foo").unwrap();
        let Item::Path { parents, .. } = &items[0] else {
            panic!("no path");
        };
        let places: Vec<&str> = parents.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(
            places,
            ["test", "test/a", "test/a/b", "test/a/b/c", "test/a/b/c/d"]
        );
        let missing = find_with_parents(&root, "test/./nope").map(drop);
        assert!(missing.unwrap_err().message.contains("not found"));
        // Neither the path nor a directory that it is in leads outside.
        std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
        assert!(find_with_parents(&root, "out/passwd").is_err());
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
    }
}
