//! A session: builds, applies and waits, and then follows the changes of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use rkube_cluster::addons::objects::Object;
use rkube_cluster::{Home, Profile};
use rkube_dev::copies::Copies;
use rkube_dev::manifests::{self, Image};
use rkube_dev::plan::{self, Context, Plan};
use rkube_dev::pods::Workload;
use rkube_dev::record::{Applied, Store};
use rkube_dev::reference;
use rkube_dev::scan::{Change, Root, What};
use rkube_dev::settings::Settings;
use rkube_dev::watch::Watcher;
use rkube_failure::{Failure, Kind, Source};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::deploy::{self, Deployer};
use super::forward::Forwards;
use super::images;
use super::live::Live;
use super::show::Show;
use super::sync;
use super::wait::{self, Target};
use crate::cli::kubectl;

/// Names of an image's earlier builds that stay on the nodes, for `kubectl rollout undo`.
const KEPT_BUILDS: usize = 2;
/// The time after which files are read again before anything is taken away: they may be incomplete
/// while an editor or version control writes them.
const PRUNE_DELAY: Duration = Duration::from_secs(3);
/// The times before something that has failed is tried again: the first one, and the longest.
const RETRY: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(60)];
/// Paths that are named when files have changed.
const NAMED: usize = 3;

/// How a session runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// End when everything is ready.
    pub once: bool,
    /// Print the logs of pods.
    pub logs: bool,
    /// Forward ports.
    pub forwards: bool,
    /// The signal after copies.
    pub signal: Option<i32>,
    /// The time for workloads to become ready.
    pub timeout: Duration,
}

/// What other tasks tell the session.
pub enum Message {
    /// A container of an image has started; `again` if it has run before.
    Started { image: String, again: bool },
    /// The workloads that do not end are ready, or are no longer waited for.
    Serving { number: u64 },
    /// The wait for workloads is over; `ready` if they are.
    Waited { ready: bool, number: u64 },
}

/// A running session.
pub struct Session<'a> {
    home: &'a Home,
    profile: Profile,
    settings: Settings,
    contexts: Vec<Context>,
    images: Vec<Image>,
    /// What was copied into containers since the last build, by image.
    copied: Vec<Copies>,
    objects: Vec<Object>,
    deployer: Deployer,
    live: Arc<Live>,
    forwards: Forwards,
    store: Store,
    show: Arc<Show>,
    options: Options,
    sender: UnboundedSender<Message>,
    messages: UnboundedReceiver<Message>,
    /// The workloads that are not known to be ready.
    waiting: BTreeMap<String, Target>,
    wait: Option<AbortHandle>,
    /// The number of the last wait: others' messages are out of date.
    waits: u64,
    /// What is still to be done.
    owed: Plan,
    /// Whether the objects were read.
    read: bool,
    /// Whether the objects or the names of images differ from what was applied.
    unapplied: bool,
    /// Whether anything was applied.
    begun: bool,
    /// What seems to be wanted no more, and when the files are asked again.
    surplus: Option<(Instant, Vec<Applied>)>,
    /// When what is owed is tried again.
    retry: Option<Instant>,
    /// The time before the next attempt.
    delay: Duration,
    /// Set when the session is to end.
    stop: watch::Receiver<bool>,
}

/// Waits until a session is to end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        // Nobody is left who could end it.
        std::future::pending::<()>().await;
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// Returns whether a failure may pass by itself.
fn is_passing(failure: &Failure) -> bool {
    use Kind::{Conflict, Error, NotRunning, Timeout, Unavailable};
    matches!(
        failure.kind,
        Conflict | Error | NotRunning | Timeout | Unavailable
    )
}

fn read_contexts(settings: &Settings) -> Result<Vec<Context>, Failure> {
    let contexts = settings.builds.iter().map(Context::read);
    contexts
        .map(|read| read.map_err(|why| Failure::new(Source::Program, Kind::Config, why)))
        .collect()
}

impl<'a> Session<'a> {
    /// Connects to the cluster. Changes nothing yet.
    pub async fn open(
        home: &'a Home,
        profile: Profile,
        settings: Settings,
        store: Store,
        show: Arc<Show>,
        options: Options,
        stop: watch::Receiver<bool>,
    ) -> Result<Self, Failure> {
        // First, as mistakes in them are the user's to correct before anything begins.
        let contexts = read_contexts(&settings)?;
        // Says what is the matter with a cluster that does not run.
        drop(rkube_cluster::ssh(home, &profile, profile.control_plane()).await?);
        let client = rkube_cluster::client(home, &profile).await?;
        let deployer = Deployer::new(client.clone()).await?;
        let (sender, messages) = unbounded_channel();
        let live = Live::start(client.clone(), show.clone(), options.logs, sender.clone());
        let forwards = Forwards::new(home, &profile, client, live.clone(), show.clone());
        let images = settings.builds.iter().map(|build| Image {
            built: build.image.clone(),
            name: None,
        });
        Ok(Self {
            home,
            images: images.collect(),
            copied: vec![Copies::default(); settings.builds.len()],
            contexts,
            objects: Vec::new(),
            waiting: BTreeMap::new(),
            wait: None,
            waits: 0,
            owed: Plan {
                rebuild: (0..settings.builds.len()).collect(),
                manifests: true,
                ..Plan::default()
            },
            read: false,
            unapplied: false,
            begun: false,
            surplus: None,
            retry: None,
            delay: RETRY[0],
            stop,
            profile,
            settings,
            deployer,
            live,
            forwards,
            store,
            show,
            options,
            sender,
            messages,
        })
    }

    /// Returns whether anything was applied.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Runs until it is stopped, or with `once` until everything is ready. The step that runs when
    /// it is stopped is completed.
    pub async fn run(&mut self) -> Result<std::process::ExitCode, Failure> {
        if self.options.once {
            return self.once().await;
        }
        // Before the first build, so that changes during it are not missed.
        let mut watcher = Watcher::new(self.roots());
        let first = self.settle(&mut watcher).await;
        self.told(first)?;
        if let Some(why) = watcher.degraded() {
            self.show
                .warn(&format!("files are looked at twice a second: {why}"));
        }
        self.show
            .say("watching", "waiting for changes; Ctrl-C ends");
        let mut stop = self.stop.clone();
        loop {
            let prune = self.surplus.as_ref().map(|(due, _)| *due);
            let done = tokio::select! {
                () = stopped(&mut stop) => return Err(Failure::interruption()),
                changes = watcher.next() => self.changed(&changes, &mut watcher).await,
                Some(message) = self.messages.recv() => self.heard(message, &mut watcher).await,
                () = until(prune) => self.prune().await,
                () = until(self.retry) => self.settle(&mut watcher).await,
            };
            self.told(done)?;
        }
    }

    /// Shows a failure that the session goes on after. Returns the others.
    fn told(&self, done: Result<(), Failure>) -> Result<(), Failure> {
        match done {
            Err(failure) if failure.is_interruption() => return Err(failure),
            Err(failure) => self.show.failure(&failure),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Builds, applies and waits once. Returns 1 if an image cannot be built.
    async fn once(&mut self) -> Result<std::process::ExitCode, Failure> {
        self.objects = self.read_objects().await?;
        self.note_unused();
        let all = self.owed.rebuild.clone();
        if !self.build(&all).await? {
            return Ok(std::process::ExitCode::from(1));
        }
        self.apply().await?;
        let mut stop = self.stop.clone();
        let targets: Vec<Target> = self.waiting.values().cloned().collect();
        let client = self.deployer.client();
        let prune = self.surplus.as_ref().map(|(due, _)| *due);
        if prune.is_some() {
            tokio::select! {
                () = stopped(&mut stop) => return Err(Failure::interruption()),
                () = until(prune) => self.prune().await?,
            }
        }
        tokio::select! {
            () = stopped(&mut stop) => return Err(Failure::interruption()),
            ready = wait::ready(&client, &targets, self.options.timeout) => ready?,
        }
        self.show.say("ready", "everything is ready");
        Ok(std::process::ExitCode::SUCCESS)
    }

    /// Returns what is watched.
    fn roots(&self) -> Vec<Root> {
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
    async fn read_objects(&self) -> Result<Vec<Object>, Failure> {
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
    fn note_unused(&self) {
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
    async fn build(&mut self, which: &BTreeSet<usize>) -> Result<bool, Failure> {
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
    async fn apply(&mut self) -> Result<(), Failure> {
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
    async fn prune(&mut self) -> Result<(), Failure> {
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

    fn wait_in_background(&mut self, began: Instant) {
        if let Some(wait) = self.wait.take() {
            wait.abort();
        }
        self.waits += 1;
        let number = self.waits;
        let (client, timeout) = (self.deployer.client(), self.options.timeout);
        let (show, sender) = (self.show.clone(), self.sender.clone());
        let targets: Vec<Target> = self.waiting.values().cloned().collect();
        let wait = tokio::spawn(async move {
            let (ending, serving): (Vec<_>, Vec<_>) =
                targets.iter().cloned().partition(|target| target.ends);
            let served = wait::ready(&client, &serving, timeout).await;
            // Ports need not wait for jobs. The receiver is gone when the session has ended.
            let _ = sender.send(Message::Serving { number });
            let ended = wait::ready(&client, &ending, timeout).await;
            let failures = [served, ended].into_iter().filter_map(Result::err);
            let done = wait::together(failures.collect());
            match &done {
                Ok(()) if targets.is_empty() => {}
                Ok(()) => {
                    let titles: Vec<_> = targets.iter().map(|target| &target.title).collect();
                    let took = began.elapsed();
                    show.event(
                        "ready",
                        &format!("everything is ready, after {:.1} s", took.as_secs_f64()),
                        json!({ "objects": titles, "took": took.as_millis() as u64 }),
                    );
                }
                Err(failure) => show.failure(failure),
            }
            let ready = done.is_ok();
            let _ = sender.send(Message::Waited { ready, number });
        });
        self.wait = Some(wait.abort_handle());
    }

    /// Does what follows from changed files.
    async fn changed(&mut self, changes: &[Change], watcher: &mut Watcher) -> Result<(), Failure> {
        let plan = plan::plan(&self.settings, &self.contexts, changes);
        if plan.is_empty() {
            return Ok(());
        }
        self.tell(changes);
        self.owed.merge(plan);
        self.settle(watcher).await
    }

    /// Does what is owed. What fails stays owed, and is tried again if it may pass.
    async fn settle(&mut self, watcher: &mut Watcher) -> Result<(), Failure> {
        let failures = self.settle_all(watcher).await;
        self.retry = None;
        if failures.iter().any(is_passing) {
            self.retry = Some(Instant::now() + self.delay);
            self.delay = (self.delay * 2).min(RETRY[1]);
        }
        if failures.is_empty() {
            self.delay = RETRY[0];
        }
        wait::together(failures)
    }

    async fn settle_all(&mut self, watcher: &mut Watcher) -> Vec<Failure> {
        let mut failures = Vec::new();
        let moved = self.owed.patterns || self.owed.manifests;
        if self.owed.patterns {
            match read_contexts(&self.settings) {
                Ok(contexts) => {
                    self.contexts = contexts;
                    self.owed.patterns = false;
                }
                Err(failure) => failures.push(failure),
            }
        }
        if self.owed.manifests {
            match self.read_objects().await {
                Ok(objects) => {
                    self.objects = objects;
                    self.owed.manifests = false;
                    self.unapplied = true;
                    if !std::mem::replace(&mut self.read, true) {
                        self.note_unused();
                    }
                }
                Err(failure) => failures.push(failure),
            }
        }
        if moved {
            watcher.set_roots(self.roots());
        }
        failures.extend(self.renew().await.err());
        if self.unapplied && self.read {
            match self.apply().await {
                Ok(()) => self.unapplied = false,
                Err(failure) => failures.push(failure),
            }
        }
        failures
    }

    /// Copies files and builds images.
    async fn renew(&mut self) -> Result<(), Failure> {
        for (i, copies) in std::mem::take(&mut self.owed.copies) {
            self.copied[i].merge(&copies);
            let Err(why) = self.copy(i, &copies).await else {
                continue;
            };
            let image = &self.images[i];
            let built = &image.built;
            if plan::outside(&self.settings, i, &copies) != copies {
                self.show
                    .warn(&format!("{built}: {why}; building the image instead"));
                self.owed.rebuild.insert(i);
            } else if image.name.is_some() {
                // No build brings them.
                self.show
                    .warn(&format!("{built}: {why}; new containers get the files"));
            }
        }
        if self.owed.rebuild.is_empty() {
            return Ok(());
        }
        let before = self.images.clone();
        let rebuild = self.owed.rebuild.clone();
        let built = self.build(&rebuild).await;
        self.unapplied |= self.images != before;
        built.map(drop)
    }

    fn tell(&self, changes: &[Change]) {
        let here = std::env::current_dir().unwrap_or_default();
        let names: Vec<String> = changes
            .iter()
            .map(|change| {
                let path = change.path.strip_prefix(&here).unwrap_or(&change.path);
                match change.what {
                    What::Written => path.display().to_string(),
                    What::Removed => format!("{} (removed)", path.display()),
                }
            })
            .collect();
        let mut message = format!("changed: {}", names[..names.len().min(NAMED)].join(", "));
        if names.len() > NAMED {
            message.push_str(&format!(" and {} more", names.len() - NAMED));
        }
        self.show
            .event("changed", &message, json!({ "files": names }));
    }

    /// Copies files into all running containers of an image. Returns why that is not possible.
    async fn copy(&self, image: usize, copies: &Copies) -> Result<(), String> {
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

    /// Does what follows from a message of another task.
    async fn heard(&mut self, message: Message, watcher: &mut Watcher) -> Result<(), Failure> {
        match message {
            Message::Serving { number } | Message::Waited { number, .. }
                if number != self.waits => {}
            Message::Serving { .. } => self.forward().await,
            Message::Waited { ready, .. } => {
                self.forward().await;
                if ready {
                    self.waiting.clear();
                    self.forget_old().await?;
                }
            }
            Message::Started { image, again } => {
                let mut images = self.images.iter();
                let found = images.position(|known| known.name.as_ref() == Some(&image));
                let Some(i) = found.filter(|i| !self.copied[*i].is_empty()) else {
                    return Ok(());
                };
                let copies = self.copied[i].clone();
                let outside = plan::outside(&self.settings, i, &copies);
                let mut plan = Plan::default();
                if again && outside != copies {
                    // Without the copies it fails perhaps; with them in the image it cannot.
                    plan.rebuild.insert(i);
                    if !outside.is_empty() {
                        plan.copies.insert(i, outside);
                    }
                } else {
                    plan.copies.insert(i, copies);
                }
                self.owed.merge(plan);
                self.settle(watcher).await?;
            }
        }
        Ok(())
    }

    /// Forwards the ports that the settings name, or those of all services.
    async fn forward(&mut self) {
        if !self.options.forwards {
            return;
        }
        let wanted = match self.settings.ports.is_empty() {
            false => self.settings.ports.clone(),
            true => {
                let services = self.objects.iter();
                let services =
                    services.filter(|o| o.gvk.kind == "Service" && o.gvk.group.is_empty());
                let names = services
                    .map(|o| (o.namespace.clone().unwrap_or_default(), o.name.clone()))
                    .collect::<Vec<_>>();
                self.forwards.of_services(&names).await
            }
        };
        match Profile::load(self.home, &self.profile.name) {
            Ok(profile) => self.forwards.set_profile(&profile),
            Err(failure) => self.show.warn(&failure.message),
        }
        let namespace = self.settings.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| "default".to_owned());
        self.forwards.set(wanted, &namespace).await;
    }

    /// Takes the names of older builds away.
    async fn forget_old(&mut self) -> Result<(), Failure> {
        let mut old = Vec::new();
        for image in &self.images {
            let known = self.store.record.images.iter();
            let others = known.filter(|name| image.name.as_ref() != Some(*name));
            let names: Vec<_> = others
                .filter(|name| reference::is_build_of(&image.built, name))
                .collect();
            let count = names.len().saturating_sub(KEPT_BUILDS);
            old.extend(names.into_iter().take(count).cloned());
        }
        if old.is_empty() {
            return Ok(());
        }
        // Pods of objects that could not be applied, or that are older, still need theirs.
        let used = self.deployer.used_images().await?;
        old.retain(|name| !used.contains(name));
        let left = images::forget(self.home, &self.profile, &old).await;
        let known = &mut self.store.record.images;
        known.retain(|name| !old.contains(name) || left.contains(name));
        self.store.save()
    }

    /// Prints and forwards nothing any more.
    pub fn quiet(&mut self) {
        if let Some(wait) = self.wait.take() {
            wait.abort();
        }
        self.live.quiet();
        self.forwards.stop();
    }

    /// Takes away what the session, or an earlier one, has made.
    pub async fn clean_up(&mut self) -> Result<(), Failure> {
        let objects = self.store.record.objects.clone();
        self.live.quiet();
        let removed = self.deployer.remove(&objects, &self.live).await?;
        self.store.record.objects.retain(|object| object.adopted);
        self.store.save()?;
        // Objects that were there before stay, and with them the images that they got.
        let mut used = BTreeSet::new();
        let names = std::mem::take(&mut self.store.record.images);
        let mut adopted = std::mem::take(&mut self.store.record.objects);
        let mut kept = Vec::new();
        for object in adopted.drain(..) {
            let images = self.deployer.images_of(&object).await?;
            if names.iter().any(|name| images.contains(name)) {
                used.extend(images);
                kept.push(object);
            }
        }
        used.extend(self.deployer.pod_images().await?);
        let (kept_names, old): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| used.contains(name));
        self.store.record.objects = kept;
        self.store.record.images = images::forget(self.home, &self.profile, &old).await;
        self.store.record.images.extend(kept_names);
        self.store.save()?;
        let message = match removed.is_empty() {
            true => "there was nothing to delete".to_owned(),
            false => format!("deleted {}", removed.join(", ")),
        };
        self.show
            .event("deleted", &message, json!({ "objects": removed }));
        Ok(())
    }
}
