//! The steps of a session: reading, building, applying, copying and pruning.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rkube_cluster::Profile;
use rkube_cluster::addons::objects::Object;
use rkube_dev::copies::Copies;
use rkube_dev::manifests;
use rkube_dev::plan;
use rkube_dev::pods::Workload;
use rkube_dev::scan::Root;
use rkube_failure::{Failure, Kind, Source};
use serde_json::json;

use super::{RETRY, Session, stopped};
use crate::cli::dev::{deploy, images, sync, wait};
use crate::cli::kubectl;

/// The time after which files are read again before anything is taken away: they may be incomplete
/// while an editor or version control writes them.
const PRUNE_DELAY: Duration = Duration::from_secs(3);

impl Session<'_> {
    /// Returns what is watched.
    pub(super) fn roots(&self) -> Vec<Root> {
        let settings = &self.settings;
        let whole = |dir: PathBuf| Root::Tree {
            dir,
            excluded: rkube_build::pattern::Matcher::default(),
        };
        let mut roots = Vec::new();
        for (build, context) in settings.builds.iter().zip(&self.contexts) {
            roots.push(Root::Tree {
                dir: build.context.clone(),
                excluded: context.excluded.clone(),
            });
            roots.push(Root::File(build.dockerfile()));
            roots.push(Root::File(context.ignore_file.clone()));
        }
        for sync in &settings.syncs {
            if sync.from.starts_with(&settings.builds[sync.build].context) {
                continue;
            }
            roots.push(match sync.from.is_dir() {
                true => whole(sync.from.clone()),
                false => Root::File(sync.from.clone()),
            });
        }
        roots.extend(settings.manifests.iter().map(|path| match path.is_dir() {
            true => Root::Manifests(path.clone()),
            false => Root::File(path.clone()),
        }));
        let kustomizations = settings
            .kustomize
            .iter()
            .flat_map(|dir| manifests::directories(dir));
        roots.extend(kustomizations.map(whole));
        roots
    }

    /// Reads the manifests.
    pub(super) async fn read_objects(&self) -> Result<Vec<Object>, Failure> {
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || {
            let needed = !settings.kustomize.is_empty();
            let kubectl = needed.then(kubectl::find).flatten();
            manifests::read(&settings, kubectl.as_deref())
        });
        let mut objects = read.await.map_err(|e| {
            let message = format!("cannot read the manifests: {e}");
            Failure::new(Source::Program, Kind::Error, message)
        })??;
        self.deployer
            .place(&mut objects, self.settings.namespace.as_deref())?;
        Ok(objects)
    }

    /// Tells which images no object uses.
    pub(super) fn note_unused(&self) {
        let used: BTreeSet<usize> = self
            .objects
            .iter()
            .flat_map(|object| manifests::uses(&object.content, &self.images))
            .collect();
        for (i, image) in self.images.iter().enumerate() {
            if !used.contains(&i) {
                let built = &image.built;
                self.show
                    .warn(&format!("no manifest uses the image {built}"));
            }
        }
    }

    /// Builds images. Returns whether all could be built: mistakes in their files were shown then.
    pub(super) async fn build(&mut self, which: &BTreeSet<usize>) -> Result<bool, Failure> {
        // Nodes may have been added since.
        self.profile = Profile::load(self.home, &self.profile.name)?;
        let before: Vec<Copies> = self.copied.clone();
        for i in which {
            // What changes from here on may come too late for the build.
            self.copied[*i] = plan::outside(&self.settings, *i, &before[*i]);
        }
        let (home, profile, show) = (self.home, &self.profile, &*self.show);
        let store = Mutex::new(&mut self.store);
        let note = |name: &str| {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            let known = &mut store.record.images;
            known.retain(|other| other != name);
            known.push(name.to_owned());
            store.save()
        };
        let (settings, note) = (&self.settings, &note);
        let builds = which.iter().map(|i| {
            let build = &settings.builds[*i];
            async move { (*i, images::build(home, profile, build, show, note).await) }
        });
        let results = tokio::select! {
            results = join_all(builds) => results,
            () = stopped(&mut self.stop) => return Err(Failure::interruption()),
        };
        let mut all = true;
        let mut failures = Vec::new();
        for (i, built) in results {
            if built.is_ok() {
                self.owed.rebuild.remove(&i);
            }
            match built {
                Ok(Some(name)) => {
                    self.images[i].name = Some(name);
                    continue;
                }
                Ok(None) => {}
                Err(failure) => failures.push(failure),
            }
            all = false;
            // The running containers still have them, and their successors must.
            let mut copies = before[i].clone();
            copies.merge(&self.copied[i]);
            self.copied[i] = copies;
        }
        wait::together(failures)?;
        Ok(all)
    }

    /// Applies what has changed, and waits in the background.
    pub(super) async fn apply(&mut self) -> Result<(), Failure> {
        let began = Instant::now();
        self.begun = true;
        let workloads = self.objects.iter().map(|object| Workload {
            kind: object.gvk.kind.clone(),
            namespace: object.namespace.clone().unwrap_or_default(),
            name: object.name.clone(),
        });
        self.live.set_workloads(workloads.collect());
        let applying =
            self.deployer
                .apply(&self.objects, &self.images, &mut self.store, &self.stop);
        let changes = applying.await;
        for title in &changes.adopted {
            self.show.warn(&format!(
                "{title} was there before; it is changed, and stays in the end"
            ));
        }
        for (name, verb, titles) in [
            ("applied", "applied", &changes.applied),
            ("held", "waiting for its image:", &changes.held),
        ] {
            if !titles.is_empty() {
                let message = format!("{verb} {}", titles.join(", "));
                self.show
                    .event(name, &message, json!({ "objects": titles }));
            }
        }
        let targets = changes.targets.into_iter();
        self.waiting
            .extend(targets.map(|target| (target.title.clone(), target)));
        let objects = &self.objects;
        self.waiting
            .retain(|title, _| objects.iter().any(|o| deploy::describe(o) == *title));
        let done = wait::together(changes.failures);
        if done.is_ok() {
            let surplus = deploy::surplus(&self.objects, &self.store);
            self.surplus = (!surplus.is_empty()).then(|| (Instant::now() + PRUNE_DELAY, surplus));
        }
        if !self.options.once && !done.as_ref().is_err_and(Failure::is_interruption) {
            self.wait_in_background(began);
        }
        done
    }

    /// Takes away what the manifests do not have, if they still do not have it.
    pub(super) async fn prune(&mut self) -> Result<(), Failure> {
        let Some((_, earlier)) = self.surplus.take() else {
            return Ok(());
        };
        let objects = match self.read_objects().await {
            Ok(objects) => objects,
            Err(failure) => {
                // Once they can be read, they are applied, and this is decided again.
                self.owed.manifests = true;
                return Err(failure);
            }
        };
        let mut surplus = deploy::surplus(&objects, &self.store);
        surplus.retain(|object| earlier.contains(object));
        let removed = self.deployer.prune(&surplus, &mut self.store, &self.live);
        let removed = match removed.await {
            Ok(removed) => removed,
            Err(failure) => {
                self.surplus = Some((Instant::now() + RETRY[1], surplus));
                return Err(failure);
            }
        };
        if !removed.is_empty() {
            let message = format!("removed {}", removed.join(", "));
            self.show
                .event("removed", &message, json!({ "objects": removed }));
        }
        Ok(())
    }

    /// Copies files into all running containers of an image. Returns why that is not possible.
    pub(super) async fn copy(&self, image: usize, copies: &Copies) -> Result<(), String> {
        let began = Instant::now();
        let image = &self.images[image];
        let Some(name) = &image.name else {
            return Err("it has not been built yet".to_owned());
        };
        let places = self.live.places(name);
        let profile = Profile::load(self.home, &self.profile.name);
        let profile = profile.map_err(|failure| failure.message)?;
        sync::copy(self.home, &profile, &places, copies, self.options.signal).await?;
        sync::tell(&self.show, &image.built, copies, &places, began.elapsed());
        Ok(())
    }
}
