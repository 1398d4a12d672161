//! Operations on images.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::types::Runtime;
use crate::blocking::blocking;
use crate::error::{Context, ImageError, Result};
use crate::image::digest::Digest;
use crate::image::{archive, builtin, registry, store};
use crate::snapshot;
use crate::spec::{PullProgress, PushProgress, Pushed, RegistryAuth};
use crate::status::{FsInfo, GivenImage, ImageStatus};

impl Runtime {
    /// Pulls `image` for this machine's platform. The registry defaults to `docker.io/library`, the
    /// tag to `latest`. Of `auth`, the entry with the longest matching registry is used; without a
    /// match, the pull is anonymous.
    pub async fn pull_image(
        &self,
        image: &str,
        auth: &[RegistryAuth],
        progress: impl Fn(PullProgress) + Send + Sync + 'static,
    ) -> Result<ImageStatus, ImageError> {
        let id = registry::pull(
            &self.inner.store,
            &self.inner.config,
            image,
            auth,
            Arc::new(progress),
        )
        .await?;
        self.image_by_id(id.as_str())
    }

    /// Pushes `image` of this node to a registry: under the name `target`, else under its own name.
    /// Layers that the registry lacks are packed again; the image gets another ID there if they
    /// are not as they were distributed.
    pub async fn push_image(
        &self,
        image: &str,
        target: Option<&str>,
        auth: &[RegistryAuth],
        progress: impl Fn(PushProgress) + Send + Sync + 'static,
    ) -> Result<Pushed, ImageError> {
        registry::push(
            &self.inner.store,
            &self.inner.config,
            (image, target),
            auth,
            Arc::new(progress),
        )
        .await
    }

    fn image_by_id(&self, id: &str) -> Result<ImageStatus, ImageError> {
        Ok(store::status(&self.inner.store.image(id)?))
    }

    /// Returns the image with a name, `name@digest`, ID or unique ID prefix (at least 12 digits).
    pub fn image_status(&self, image: &str) -> Option<ImageStatus> {
        self.inner
            .store
            .image(image)
            .ok()
            .map(|image| store::status(&image))
    }

    /// Returns all images of this node.
    pub fn list_images(&self) -> Vec<ImageStatus> {
        self.inner
            .store
            .list()
            .iter()
            .filter_map(|record| self.image_status(record.config.as_str()))
            .collect()
    }

    /// Removes the image with all its names, and deletes content that no other image or node uses.
    /// Succeeds if the image is unknown. Fails with [`ImageError::InUse`] if a container uses it.
    ///
    /// Waits until no image is pulled, loaded or pushed.
    pub async fn remove_image(&self, image: &str) -> Result<(), ImageError> {
        let Some(id) = self.unused(image)? else {
            return Ok(());
        };
        let store = self.inner.store.clone();
        blocking(move || store.remove(&id).map(drop)).await
    }

    /// Removes an image as [`Self::remove_image`], but does nothing while an image is pulled, loaded
    /// or pushed. Returns whether it was done.
    pub async fn remove_image_unless_busy(&self, image: &str) -> Result<bool, ImageError> {
        let Some(id) = self.unused(image)? else {
            return Ok(true);
        };
        let store = self.inner.store.clone();
        blocking(move || store.remove_unless_busy(&id)).await
    }

    /// Fails with [`ImageError::InUse`] if a container of this node uses the image.
    pub fn check_unused(&self, image: &str) -> Result<(), ImageError> {
        self.unused(image).map(drop)
    }

    /// Returns the ID of an image; `None` if it is unknown. Fails if a container uses it.
    fn unused(&self, image: &str) -> Result<Option<String>, ImageError> {
        let Some(record) = self.inner.store.find(image) else {
            return Ok(None);
        };
        let id = record.config.to_string();
        let layers: Vec<PathBuf> = record
            .layers
            .iter()
            .map(|c| self.inner.store.layer_path(c))
            .collect();
        let user = self.inner.containers.lock().values().find_map(|c| {
            let volume = c.meta.image_mounts.iter().any(|(_, used)| *used == layers);
            (c.meta.image_id == id || volume).then(|| c.meta.id.clone())
        });
        if let Some(container) = user {
            return Err(ImageError::InUse {
                image: image.to_string(),
                container,
            });
        }
        Ok(Some(id))
    }

    /// Removes one name of an image, and the image with its last name. Fails if that is the last one
    /// of an image that a container uses.
    pub async fn untag_image(&self, name: &str) -> Result<(), ImageError> {
        let record = self.inner.store.find(name);
        if record.is_some_and(|r| r.tags.len() + r.digests.len() <= 1) {
            self.check_unused(name)?;
        }
        let (store, name) = (self.inner.store.clone(), name.to_string());
        blocking(move || store.untag(&name)).await
    }

    /// Notes that a command gave the node the image with this ID, see [`Self::given_images`].
    pub async fn give_image(&self, id: &str) -> Result<(), ImageError> {
        let id = Digest::parse(id).ok_or_else(|| ImageError::NotPresent(id.to_string()))?;
        let store = self.inner.store.clone();
        blocking(move || store.give(&id)).await
    }

    /// Returns the images that commands gave this node: loaded, built, named or pulled ones. Those
    /// that only pods or builds needed, and those that have lost their last name, are not among them.
    pub fn given_images(&self) -> Vec<GivenImage> {
        let mut records = self.inner.store.list();
        records.retain(|r| r.given && !(r.tags.is_empty() && r.digests.is_empty()));
        let given = records.into_iter().map(|record| GivenImage {
            id: record.config.to_string(),
            names: record.tags.into_iter().chain(record.digests).collect(),
            layers: record.layers.iter().map(ToString::to_string).collect(),
        });
        given.collect()
    }

    /// Adds a name to an image. The name is taken from any other image.
    pub async fn tag_image(&self, image: &str, name: &str) -> Result<(), ImageError> {
        let (store, image, name) = (
            self.inner.store.clone(),
            image.to_string(),
            name.to_string(),
        );
        blocking(move || store.tag(&image, &name)).await
    }

    /// Returns those of `layers` (chain IDs) that are unpacked on this node.
    pub fn present_layers<'a>(&self, layers: &'a [String]) -> Vec<&'a str> {
        let store = &self.inner.store;
        let present = |id: &&str| Digest::parse(id).is_some_and(|id| store.has_layer(&id));
        layers.iter().map(String::as_str).filter(present).collect()
    }

    /// Loads a docker-archive or an OCI layout from a tar file, which may be compressed with gzip
    /// or zstd. Returns the images' names, or the IDs of images without a name.
    pub async fn load_image(&self, archive: &Path) -> Result<Vec<String>, ImageError> {
        let (store, path) = (self.inner.store.clone(), archive.to_path_buf());
        blocking(move || archive::load(&store, &path, false)).await
    }

    /// Loads an archive from a stream, which is spooled to disk first. See [`Self::load_image`].
    pub async fn load_image_from(
        &self,
        archive: impl tokio::io::AsyncRead + Send + Unpin,
    ) -> Result<Vec<String>, ImageError> {
        self.load_spooled(archive, false).await
    }

    /// Loads an archive from a stream; see [`archive::load`] for `repacked`.
    pub(crate) async fn load_spooled(
        &self,
        mut archive: impl tokio::io::AsyncRead + Send + Unpin,
        repacked: bool,
    ) -> Result<Vec<String>, ImageError> {
        let dir = self.inner.store.ingest_dir();
        let spool = blocking(move || {
            tempfile::NamedTempFile::new_in(&dir)
                .image_context(|| format!("cannot make a file in {}", dir.display()))
        })
        .await?;
        let handle = spool
            .reopen()
            .image_context(|| "cannot spool the archive".into())?;
        let mut file = tokio::fs::File::from_std(handle);
        tokio::io::copy(&mut archive, &mut file)
            .await
            .image_context(|| "cannot receive the archive".into())?;
        tokio::io::AsyncWriteExt::flush(&mut file)
            .await
            .image_context(|| "cannot spool the archive".into())?;
        let store = self.inner.store.clone();
        blocking(move || archive::load(&store, spool.path(), repacked)).await
    }

    /// Installs an image whose root contains only `binary` as `/rkube` (a hard link if possible)
    /// and `/tmp`. It runs `entrypoint` and exposes `ports` (such as `8080/tcp`). Cheap if the
    /// image already exists.
    pub async fn install_builtin_image(
        &self,
        name: &str,
        entrypoint: &[&str],
        ports: &[&str],
        binary: &Path,
    ) -> Result<ImageStatus, ImageError> {
        let own = |list: &[&str]| -> Vec<String> { list.iter().map(ToString::to_string).collect() };
        let (entrypoint, ports) = (own(entrypoint), own(ports));
        let (store, name, binary) = (
            self.inner.store.clone(),
            name.to_string(),
            binary.to_path_buf(),
        );
        let id = blocking(move || {
            let entrypoint: Vec<&str> = entrypoint.iter().map(String::as_str).collect();
            let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
            builtin::install(&store, &name, &entrypoint, &ports, &binary)
        })
        .await?;
        self.image_by_id(id.as_str())
    }

    /// Returns the file system of the images.
    pub fn image_fs_info(&self) -> Result<FsInfo> {
        snapshot::fs_info(self.inner.store.path())
    }

    /// Returns the file system of the containers' writable layers.
    pub fn container_fs_info(&self) -> Result<FsInfo> {
        snapshot::fs_info(&self.inner.config.root)
    }
}
