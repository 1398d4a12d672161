//! A session: builds, applies and waits, and then follows the changes of files.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rkube_cluster::addons::objects::Object;
use rkube_cluster::{Home, Profile};
use rkube_dev::copies::Copies;
use rkube_dev::manifests::Image;
use rkube_dev::plan::{self, Context, Plan};
use rkube_dev::record::{Applied, Store};
use rkube_dev::scan::{Change, What};
use rkube_dev::settings::Settings;
use rkube_dev::watch::Watcher;
use rkube_failure::{Failure, Kind, Source};
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::deploy::Deployer;
use super::forward::Forwards;
use super::live::Live;
use super::show::Show;
use super::wait::{self, Target};

mod ending;
mod steps;
mod waiting;

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
}
