//! Images, through the agent's handle.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::types::Runtime;
use crate::blocking::blocking;
use crate::error::{Context, ImageError, Result};
use crate::image::digest::Digest;
use crate::image::{archive, builtin, registry, store};
use crate::snapshot;
use crate::spec::{PullProgress, RegistryAuth};
use crate::status::{FsInfo, ImageStatus};

impl Runtime {
    /// Pulls `image` (a name, with a tag or digest; `docker.io/library` and
    /// `latest` by default) for this machine's platform. `auth` is tried by
    /// registry, the longest match first, then anonymously.
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

    fn image_by_id(&self, id: &str) -> Result<ImageStatus, ImageError> {
        Ok(store::status(&self.inner.store.image(id)?))
    }

    /// The image that a name, `name@digest`, ID or ID prefix (12 digits or more) stands for.
    pub fn image_status(&self, image: &str) -> Option<ImageStatus> {
        self.inner
            .store
            .image(image)
            .ok()
            .map(|image| store::status(&image))
    }

    /// All images of this node.
    pub fn list_images(&self) -> Vec<ImageStatus> {
        self.inner
            .store
            .list()
            .iter()
            .filter_map(|record| self.image_status(record.config.as_str()))
            .collect()
    }

    /// Forgets the image with all its names, and deletes what no other image
    /// or node uses. An unknown image is no error; one in use by a container is.
    pub async fn remove_image(&self, image: &str) -> Result<(), ImageError> {
        let Some(record) = self.inner.store.find(image) else {
            return Ok(());
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
        let store = self.inner.store.clone();
        blocking(move || store.remove(&id).map(drop)).await
    }

    /// Forgets one name; the image with its last one.
    pub async fn untag_image(&self, name: &str) -> Result<(), ImageError> {
        let (store, name) = (self.inner.store.clone(), name.to_string());
        blocking(move || store.untag(&name)).await
    }

    /// Gives the image another name.
    pub async fn tag_image(&self, image: &str, name: &str) -> Result<(), ImageError> {
        let (store, image, name) = (
            self.inner.store.clone(),
            image.to_string(),
            name.to_string(),
        );
        blocking(move || store.tag(&image, &name)).await
    }

    /// Those of `layers`, by their chain IDs, that are unpacked here.
    pub fn present_layers<'a>(&self, layers: &'a [String]) -> Vec<&'a str> {
        let store = &self.inner.store;
        let present = |id: &&str| Digest::parse(id).is_some_and(|id| store.has_layer(&id));
        layers.iter().map(String::as_str).filter(present).collect()
    }

    /// Loads a docker-archive or OCI-layout tar, plain, gzip or zstd; returns
    /// the images' names (or IDs of those without a name).
    pub async fn load_image(&self, archive: &Path) -> Result<Vec<String>, ImageError> {
        let (store, path) = (self.inner.store.clone(), archive.to_path_buf());
        blocking(move || archive::load(&store, &path)).await
    }

    /// The same from a stream, which is spooled to disk first.
    pub async fn load_image_from(
        &self,
        mut archive: impl tokio::io::AsyncRead + Send + Unpin,
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
        self.load_image(spool.path()).await
    }

    /// Makes an image whose root holds nothing but `binary` as `/rkube` (a hard
    /// link where possible) and `/tmp`, run as `entrypoint`, listening on `ports`
    /// (`8080/tcp`). Cheap when it is there already.
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

    /// The file system that images live on.
    pub fn image_fs_info(&self) -> Result<FsInfo> {
        snapshot::fs_info(self.inner.store.path())
    }

    /// The file system that containers' writable layers live on.
    pub fn container_fs_info(&self) -> Result<FsInfo> {
        snapshot::fs_info(&self.inner.config.root)
    }
}
