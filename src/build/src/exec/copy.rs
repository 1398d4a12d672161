//! `COPY`, `ADD` and `WORKDIR`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rkube_runtime::build::{resolve_owner, unpack_archive};

use super::cache::{Entry, Key};
use super::errors::{blocking, failed, failed_at};
use super::files::{self, Copying};
use super::items::{Item, find, find_with_parents, is_repository, is_url};
use super::mode::Mode;
use super::stage::Running;
use super::types::Mounted;
use crate::error::{BuildError, Result};
use crate::instruction::Copy;
use crate::pattern::Matcher;

/// The sources of a step's copy, and its key in the cache.
struct Prepared {
    items: Vec<Item>,
    destination: String,
    mode: Option<Mode>,
    excluded: Matcher,
    /// Whether the directories of the sources are copied, too.
    parents: bool,
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
        let mode = copy.chmod.as_deref().map(Mode::parse).transpose()?;
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
            let parents = copy.parents;
            let found = blocking(move || match parents {
                true => find_with_parents(&root, &text),
                false => find(&root, &text, unpack),
            })
            .await?;
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
            copy.parents.to_string(),
            source.chain.is_some().to_string(),
        ];
        let parents = copy.parents;
        let scratch = self.build.work.join("archives").join(step.to_string());
        blocking(move || {
            let mut key = Key::new("COPY");
            key.add_all(&parts);
            for item in &items {
                item.add_to(&mut key, &excluded, parents)?;
            }
            Ok(Prepared {
                items,
                destination,
                mode,
                excluded,
                parents,
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

impl Prepared {
    /// Returns a path below the destination.
    fn below(&self, place: &str) -> String {
        let destination = self.destination.trim_end_matches('/');
        match place {
            "" => destination.to_owned(),
            place => format!("{destination}/{place}"),
        }
    }

    /// Writes the copies below `root`. `asked` tells whether the owner was given.
    fn write(&self, root: &Path, owner: Option<(u32, u32)>, asked: bool, link: bool) -> Result<()> {
        let copying = Copying {
            root,
            owner,
            mode: self.mode.as_ref(),
            excluded: &self.excluded,
        };
        if link && self.destination.ends_with('/') {
            copying.directory(&self.destination)?;
        }
        for (number, item) in self.items.iter().enumerate() {
            match item {
                Item::Path {
                    name,
                    path,
                    parents,
                } if self.parents => {
                    let real = files::real_path(path).map_err(failed)?;
                    for (place, directory) in parents {
                        let from = files::real_path(directory).map_err(failed)?;
                        copying.parent(&from, &self.below(place))?;
                    }
                    let place = parents.last().map_or("", |(place, _)| place);
                    let place = self.below(place);
                    if real.is_dir() && !name.is_empty() {
                        let target = format!("{place}/{}", name.to_string_lossy());
                        copying.parent(&real, &target)?;
                        copying.copy_below(&real, name, &target, &item.below())?;
                    } else {
                        copying.copy_below(&real, name, &format!("{place}/"), &item.below())?;
                    }
                }
                Item::Path { name, path, .. } => {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
