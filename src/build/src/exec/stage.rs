//! The instructions of a stage, one after the other.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_runtime::build::Layer;
use serde_json::json;

use super::cache::Entry;
use super::errors::{blocking, failed};
use super::types::{Build, Finished};
use crate::error::{BuildError, Result};
use crate::image::Document;
use crate::instruction::{self, Copy, Instruction, Located};
use crate::lex::Lexer;
use crate::lines;
use crate::plan::{Base, PREDEFINED};

/// A stage that is being built.
pub struct Running<'a> {
    pub build: &'a Build,
    pub index: usize,
    pub now: Finished,
    /// Arguments that were declared in the stage.
    args: BTreeMap<String, String>,
    /// Whether the stage itself has set a `CMD`.
    own_cmd: bool,
    /// Number of the current step, and of all, as shown to people.
    number: usize,
    total: usize,
    /// Time of the last layer.
    created: Option<String>,
}

impl Build {
    /// Builds a stage, or waits for it.
    pub fn stage(&self, index: usize) -> BoxFuture<'_, Result<Arc<Finished>>> {
        Box::pin(async move {
            self.stages[index]
                .get_or_try_init(|| self.run_stage(index))
                .await
                .cloned()
        })
    }

    async fn run_stage(&self, index: usize) -> Result<Arc<Finished>> {
        let stage = &self.plan.stages[index];
        let lines = stage.from.lines;
        let steps = stage.steps.iter().filter(|s| has_layer(&s.instruction));
        let mut running = Running {
            build: self,
            index,
            now: Finished::default(),
            args: BTreeMap::new(),
            own_cmd: false,
            number: 0,
            total: 1 + steps.count(),
            created: None,
        };
        running.now = match &stage.base {
            Base::Scratch => Finished {
                document: Document::empty(&rkube_runtime::build::architecture()),
                layers: Vec::new(),
            },
            Base::Stage(base) => self.stage(*base).await?.as_ref().clone(),
            Base::Image(name) => {
                let found = self
                    .image(name)
                    .await
                    .map_err(|e| BuildError::new(format!("{name}: {}", e.message)).at(lines))?;
                let title = running.title(&format!("FROM {name}"));
                let step = self.progress.begin(title);
                self.progress.finish(step, Ok(()))?;
                found.as_ref().clone()
            }
        };
        running.number = running.number.max(1);
        running.created.clone_from(&running.now.document.created);
        let mut todo: VecDeque<Located> = running.triggers(lines)?;
        todo.extend(stage.steps.iter().cloned());
        for located in todo {
            running
                .step(&located)
                .await
                .map_err(|e| e.at(located.lines))?;
        }
        let mut finished = running.now;
        finished.document.created = running.created;
        Ok(Arc::new(finished))
    }

    /// Stores the layer of a step.
    pub async fn store(&self, key: &str, layer: Layer) -> Result<Entry> {
        let entry = Entry {
            layer,
            created: jiff::Timestamp::now().to_string(),
        };
        self.cache.store(key, &entry)?;
        Ok(entry)
    }

    /// Returns the cached layer of a step, if it exists on the layers below. It stays until the
    /// build ends.
    pub async fn cached(&self, key: &str) -> Result<Option<Entry>> {
        let exists = |chain: &str| self.node.layer_directory(chain).is_some();
        let Some(entry) = self.cache.find(key, exists) else {
            return Ok(None);
        };
        let chain = entry.layer.chain.clone();
        let (node, id) = (self.node.clone(), self.id.clone());
        blocking(move || node.keep_layers_for(&id, &[chain]).map_err(failed)).await?;
        // A prune may have come in between.
        Ok(exists(&entry.layer.chain).then_some(entry))
    }
}

/// Returns whether an instruction makes a layer.
fn has_layer(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run { .. } | Instruction::Copy(_) | Instruction::Workdir(_)
    )
}

impl Running<'_> {
    /// Returns the title of the next step with its number.
    fn title(&mut self, shown: &str) -> String {
        self.number += 1;
        // Triggers of the base image come on top.
        self.total = self.total.max(self.number);
        let stage = match self.build.plan.stages.len() {
            1 => String::new(),
            _ => format!("{} ", self.build.plan.title(self.index)),
        };
        format!("[{stage}{}/{}] {shown}", self.number, self.total)
    }

    /// Takes the triggers of the base image.
    fn triggers(&mut self, lines: (usize, usize)) -> Result<VecDeque<Located>> {
        let triggers = std::mem::take(&mut self.now.document.config.on_build);
        let parse = |text: &String| {
            let mut statement = lines::statement(text, '\\')?;
            statement.lines = lines;
            instruction::parse(&statement, '\\')
        };
        let parsed: Result<VecDeque<Located>> = triggers.iter().map(parse).collect();
        let parsed = parsed.map_err(|e| {
            BuildError::new(format!("the base image's ONBUILD: {}", e.message)).at(lines)
        })?;
        self.total += parsed.iter().filter(|s| has_layer(&s.instruction)).count();
        Ok(parsed)
    }

    /// Returns the value of a variable: the image's variables come before arguments.
    pub fn variable(&self, name: &str) -> Option<String> {
        let env = self.now.document.config.env(name).map(str::to_owned);
        env.or_else(|| self.args.get(name).cloned())
    }

    /// Expands a text to one word.
    pub fn word(&self, text: &str) -> Result<String> {
        Lexer::new(self.build.plan.escape)
            .word(text, &|name| self.variable(name))
            .map_err(BuildError::new)
    }

    /// Expands texts to words.
    fn words(&self, texts: &[String]) -> Result<Vec<String>> {
        let lexer = Lexer::new(self.build.plan.escape);
        let mut words = Vec::new();
        for text in texts {
            let expanded = lexer
                .expand(text, &|name| self.variable(name))
                .map_err(BuildError::new)?;
            words.extend(expanded.words);
        }
        Ok(words)
    }

    /// Returns the arguments that a step gets as variables. Those of the image come first.
    pub fn arguments(&self) -> Vec<(String, String)> {
        let env = &self.now.document.config;
        let own = self.args.iter().filter(|(name, _)| env.env(name).is_none());
        own.map(|(n, v)| (n.clone(), v.clone())).collect()
    }

    /// Returns the predefined arguments that the caller has set and the stage has not declared.
    pub fn proxies(&self) -> Vec<(String, String)> {
        let given = PREDEFINED.iter().filter_map(|name| {
            let value = self.build.request.build_args.get(*name)?;
            (self.variable(name).is_none()).then(|| ((*name).to_owned(), value.clone()))
        });
        given.collect()
    }

    /// Returns the chain IDs of the layers, bottom first.
    pub fn chains(&self) -> Vec<String> {
        self.now.layers.iter().map(|l| l.chain.clone()).collect()
    }

    /// Adds the layer of a step.
    fn push(&mut self, entry: Entry, created_by: String) {
        self.created = Some(entry.created.clone());
        let document = &mut self.now.document;
        document.rootfs.diff_ids.push(entry.layer.diff.clone());
        document.note(created_by, Some(entry.created), true);
        self.now.layers.push(entry.layer);
    }

    fn note(&mut self, created_by: String) {
        let created = self.created.clone();
        self.now.document.note(created_by, created, false);
    }

    /// Ends a step with its layer, of which the result tells whether it was cached.
    fn finish(
        &mut self,
        step: usize,
        result: Result<(Entry, bool)>,
        created_by: String,
    ) -> Result<()> {
        let progress = &self.build.progress;
        let entry = match result {
            Ok((entry, true)) => {
                progress.cached(step);
                entry
            }
            other => progress.finish(step, other)?.0,
        };
        self.push(entry, created_by);
        Ok(())
    }

    async fn step(&mut self, located: &Located) -> Result<()> {
        let shown = located.shown.clone();
        match &located.instruction {
            Instruction::Run { .. } => {
                let title = self.title(&shown);
                let run = self.prepare_run(&located.instruction)?;
                let created_by = run.created_by.clone();
                let step = self.build.progress.begin(title);
                let result = self.run(&run, step).await;
                self.finish(step, result, created_by)
            }
            Instruction::Copy(copy) => {
                let title = self.title(&shown);
                let copy = self.expand_copy(copy)?;
                let keyword = if copy.add { "ADD" } else { "COPY" };
                let mut words = vec![keyword.to_owned()];
                words.extend(copy.from.iter().map(|from| format!("--from={from}")));
                words.extend(copy.chown.iter().map(|owner| format!("--chown={owner}")));
                words.extend(copy.parents.then(|| "--parents".to_owned()));
                words.extend(copy.chmod.iter().map(|mode| format!("--chmod={mode}")));
                words.extend(copy.sources.iter().cloned());
                words.extend([copy.destination.clone(), "# buildkit".into()]);
                let step = self.build.progress.begin(title);
                let result = self.copy(&copy, step).await;
                self.finish(step, result, words.join(" "))
            }
            Instruction::Workdir(path) => self.workdir(path, &shown).await,
            other => self.describe(other, shown),
        }
    }

    fn expand_copy(&self, copy: &Copy) -> Result<Copy> {
        let mut copy = copy.clone();
        let expand = |texts: &mut Vec<String>| -> Result<()> {
            for text in texts {
                *text = self.word(text)?;
            }
            Ok(())
        };
        expand(&mut copy.sources)?;
        expand(&mut copy.exclude)?;
        copy.destination = self.word(&copy.destination)?;
        for text in [&mut copy.chown, &mut copy.chmod, &mut copy.checksum]
            .into_iter()
            .flatten()
        {
            *text = self.word(text)?;
        }
        let lexer = Lexer {
            skip_quotes: true,
            ..Lexer::new(self.build.plan.escape)
        };
        for heredoc in &mut copy.heredocs {
            let text = heredoc.text();
            heredoc.content = match heredoc.expand {
                true => lexer
                    .word(&text, &|name| self.variable(name))
                    .map_err(BuildError::new)?,
                false => text,
            };
            heredoc.chomp = false;
        }
        Ok(copy)
    }

    async fn workdir(&mut self, path: &str, shown: &str) -> Result<()> {
        let path = self.word(path)?;
        if path.is_empty() {
            return Err(BuildError::new("WORKDIR requires a path"));
        }
        let absolute = self.now.document.config.absolute(&path);
        let absolute = match absolute.trim_end_matches('/') {
            "" => "/".to_owned(),
            other => other.to_owned(),
        };
        self.now.document.config.working_dir.clone_from(&absolute);
        let created_by = format!("WORKDIR {absolute}");
        if absolute == "/" {
            self.number += 1;
            self.note(created_by);
            return Ok(());
        }
        let title = self.title(shown);
        let step = self.build.progress.begin(title);
        let result = self.make_workdir(&absolute).await;
        self.finish(step, result, created_by)
    }

    /// Carries out an instruction that only changes the configuration.
    fn describe(&mut self, instruction: &Instruction, shown: String) -> Result<()> {
        match instruction {
            Instruction::Arg(args) => {
                for (name, default) in args {
                    self.declare(name, default.as_deref())?;
                }
            }
            Instruction::Env(pairs) => {
                // A value does not see the other ones of its instruction.
                let expanded = self.pairs(pairs)?;
                for (name, value) in expanded {
                    self.now.document.config.set_env(&name, &value);
                }
            }
            Instruction::Label(pairs) => {
                let expanded = self.pairs(pairs)?;
                self.now.document.config.labels.extend(expanded);
            }
            Instruction::User(user) => {
                self.now.document.config.user = self.word(user)?;
            }
            Instruction::Entrypoint(command) => {
                let config = &mut self.now.document.config;
                config.entrypoint = Some(config.words(command));
                // The command of the base image was for its entry point.
                if !self.own_cmd {
                    config.cmd = None;
                }
            }
            Instruction::Cmd(command) => {
                let config = &mut self.now.document.config;
                config.cmd = Some(config.words(command));
                self.own_cmd = true;
            }
            Instruction::Shell(words) => self.now.document.config.shell = Some(words.clone()),
            Instruction::Volume(volumes) => {
                for volume in volumes {
                    let path = self.word(volume)?;
                    self.now.document.config.volumes.insert(path, json!({}));
                }
            }
            Instruction::Expose(ports) => {
                let ports = self.words(ports)?;
                self.now.document.config.expose(&ports)?;
            }
            Instruction::Maintainer(author) => {
                self.now.document.author = Some(author.clone());
            }
            Instruction::StopSignal(signal) => {
                let signal = self.word(signal)?;
                rkube_runtime::build::check_signal(&signal).map_err(failed)?;
                self.now.document.config.stop_signal = signal;
            }
            Instruction::Healthcheck(check) => self.now.document.config.check(check)?,
            Instruction::OnBuild(trigger) => {
                self.now.document.config.on_build.push(trigger.clone());
            }
            Instruction::From { .. }
            | Instruction::Run { .. }
            | Instruction::Copy(_)
            | Instruction::Workdir(_) => {
                return Err(BuildError::new(format!("unexpected instruction: {shown}")));
            }
        }
        self.note(shown);
        Ok(())
    }

    fn declare(&mut self, name: &str, default: Option<&str>) -> Result<()> {
        let given = self.build.request.build_args.get(name).cloned();
        let value = match (given, default) {
            (Some(value), _) => Some(value),
            (None, Some(default)) => Some(self.word(default)?),
            (None, None) => self.build.plan.globals.get(name).cloned(),
        };
        match value {
            Some(value) => self.args.insert(name.to_owned(), value),
            None => self.args.remove(name),
        };
        Ok(())
    }

    fn pairs(&self, pairs: &[(String, String)]) -> Result<Vec<(String, String)>> {
        let expand = |(name, value): &(String, String)| {
            Ok::<_, BuildError>((self.word(name)?, self.word(value)?))
        };
        pairs.iter().map(expand).collect()
    }

    /// Makes a layer of the changes in `tree`, and stores it in the cache.
    pub async fn commit(&self, key: &str, tree: &std::path::Path) -> Result<Entry> {
        let layer = self
            .build
            .node
            .commit_layer(&self.build.id, &self.chains(), tree)
            .await
            .map_err(failed)?;
        self.build.store(key, layer).await
    }

    /// Mounts the layers with a new writable one on top.
    pub async fn workspace(&self, step: &str) -> Result<rkube_runtime::build::Workspace> {
        let layers = self.build.directories_of(&self.now)?;
        let dir = self.build.work.join("steps").join(step);
        blocking(move || rkube_runtime::build::Workspace::writable(&dir, &layers).map_err(failed))
            .await
    }
}
