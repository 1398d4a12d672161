//! The sources that steps copy and mount from: the context, stages and images.

use std::path::PathBuf;
use std::sync::Arc;

use rkube_runtime::PullProgress;
use rkube_runtime::build::Workspace;

use super::errors::{blocking, failed};
use super::types::{Build, Finished, Mounted};
use crate::error::{BuildError, Result};
use crate::image::Document;

impl Build {
    /// Returns an image as the result of a stage. It is pulled if the node lacks it.
    pub async fn image(&self, name: &str) -> Result<Arc<Finished>> {
        let cell = {
            let mut images = self.images.lock().await;
            images.entry(name.to_owned()).or_default().clone()
        };
        cell.get_or_try_init(|| self.find_image(name))
            .await
            .cloned()
    }

    async fn find_image(&self, name: &str) -> Result<Arc<Finished>> {
        let mut content = match self.request.pull {
            true => None,
            false => self.node.image_content(name).ok(),
        };
        if content.is_none() {
            let step = self.progress.begin(format!("[internal] pull {name}"));
            let progress = self.progress.clone();
            let report = move |event| match event {
                PullProgress::Resolved {
                    digest,
                    layers,
                    bytes,
                } => {
                    let megabytes = bytes as f64 / 1e6;
                    progress.line(
                        step,
                        &format!("{digest}: {layers} layers, {megabytes:.1}MB to pull"),
                    );
                }
                PullProgress::Waiting { text } => progress.line(step, &text),
                PullProgress::Layer { .. } | PullProgress::Unpacked { .. } => {}
            };
            let pulled = self
                .node
                .pull_image(name, &[], report)
                .await
                .map_err(failed);
            self.progress.finish(step, pulled)?;
            content = Some(self.node.image_content(name).map_err(failed)?);
        }
        let Some(content) = content else {
            return Err(BuildError::new(format!("image {name} was not found")));
        };
        let chains: Vec<String> = content.layers.iter().map(|l| l.chain.clone()).collect();
        let (node, id) = (self.node.clone(), self.id.clone());
        // Kept because cached steps are on top of them, also if the image is removed later.
        blocking(move || node.keep_layers(&id, &chains).map_err(failed)).await?;
        for layer in &content.layers {
            self.directory_of(&layer.chain)?;
        }
        let mut document: Document = serde_json::from_slice(&content.config)
            .map_err(|e| BuildError::new(format!("malformed configuration of {name}: {e}")))?;
        let architecture = rkube_runtime::build::architecture();
        if document.architecture.is_empty() {
            document.architecture.clone_from(&architecture);
        }
        if document.os.is_empty() {
            document.os = "linux".into();
        }
        document.rootfs.kind = "layers".into();
        Ok(Arc::new(Finished {
            document,
            layers: content.layers,
        }))
    }

    /// Returns the directory of a layer.
    pub fn directory_of(&self, chain: &str) -> Result<PathBuf> {
        self.node.layer_directory(chain).ok_or_else(|| {
            BuildError::new(format!(
                "layer {chain} was removed while the build ran: try again"
            ))
        })
    }

    /// Returns the directories of layers, bottom first.
    pub fn directories_of(&self, finished: &Finished) -> Result<Vec<PathBuf>> {
        finished
            .layers
            .iter()
            .map(|l| self.directory_of(&l.chain))
            .collect()
    }

    /// Returns the files that `--from` of the stage `current` means; those of the context without
    /// it.
    pub async fn source(&self, from: Option<&str>, current: usize) -> Result<Arc<Mounted>> {
        let Some(from) = from else {
            return Ok(Arc::new(Mounted {
                root: self.context.clone(),
                chain: None,
                _space: None,
            }));
        };
        if from.contains('$') {
            return Err(BuildError::new(
                "'from' doesn't support variable expansion, define alias stage instead",
            ));
        }
        let finished = match self.plan.source_stage(from, current)? {
            Some(index) => self.stage(index).await?,
            None if from == "scratch" => Arc::default(),
            None => self.image(from).await?,
        };
        self.mount(&finished).await
    }

    /// Mounts a result for reading.
    async fn mount(&self, finished: &Finished) -> Result<Arc<Mounted>> {
        let chain = finished.layers.last().map(|l| l.chain.clone());
        let key = chain.clone().unwrap_or_default();
        let mut mounted = self.mounted.lock().await;
        if let Some(found) = mounted.get(&key) {
            return Ok(found.clone());
        }
        let layers = self.directories_of(finished)?;
        let dir = self.work.join("sources").join(mounted.len().to_string());
        let space = blocking(move || Workspace::read_only(&dir, &layers).map_err(failed)).await?;
        let new = Arc::new(Mounted {
            root: space.root().to_path_buf(),
            // The content of nothing has a name, too.
            chain: Some(chain.unwrap_or_else(|| "scratch".into())),
            _space: Some(space),
        });
        mounted.insert(key, new.clone());
        Ok(new)
    }
}
