//! `RUN`: keys, processes and their output.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rkube_runtime::{ContainerSpec, HostNamespaces, SandboxSpec, SeccompProfile, Security};

use super::cache::{Entry, Key};
use super::errors::{blocking, failed, failed_at};
use super::files;
use super::mounts::Mounts;
use super::stage::Running;
use crate::error::{BuildError, Result};
use crate::instruction::{CommandLine, Instruction, Mount, MountKind};
use crate::lines::{HereDoc, opening};
use crate::pattern::Matcher;

/// The period in which a step's output is read.
const POLL_PERIOD: Duration = Duration::from_millis(30);
/// The path at which scripts of here-documents are mounted.
pub const PIPES: &str = "/dev/pipes";

/// A step that is ready to run.
pub struct Run {
    words: Vec<String>,
    /// A script to mount: its name and content.
    pub script: Option<(String, String)>,
    pub mounts: Vec<Mount>,
    network: Option<String>,
    /// The line of the history.
    pub created_by: String,
}

impl Running<'_> {
    /// Expands a `RUN`.
    pub fn prepare_run(&self, instruction: &Instruction) -> Result<Run> {
        let Instruction::Run {
            command,
            heredocs,
            mounts,
            network,
        } = instruction
        else {
            return Err(BuildError::new("not a RUN"));
        };
        let config = &self.now.document.config;
        let (words, script) = match (command, heredocs.as_slice()) {
            (CommandLine::Shell(text), [only])
                if opening(text, self.build.plan.escape).is_some() =>
            {
                let content = only.text();
                if content.starts_with("#!") {
                    let path = format!("{PIPES}/{}", only.name);
                    (vec![path], Some((only.name.clone(), content)))
                } else {
                    (config.words(&CommandLine::Shell(content)), None)
                }
            }
            (CommandLine::Shell(text), heredocs) => (
                config.words(&CommandLine::Shell(with_heredocs(text, heredocs))),
                None,
            ),
            (command, _) => (config.words(command), None),
        };
        let args = self.arguments();
        let prefix = match args.len() {
            0 => String::new(),
            n => {
                let list: Vec<String> = args.iter().map(|(n, v)| format!("{n}={v}")).collect();
                format!("|{n} {} ", list.join(" "))
            }
        };
        let mut mounts = mounts.clone();
        for mount in &mut mounts {
            for (name, value) in &mut mount.options {
                if name != "from" {
                    *value = self.word(value)?;
                }
            }
        }
        Ok(Run {
            created_by: format!("RUN {prefix}{} # buildkit", words.join(" ")),
            words,
            script,
            mounts,
            network: network.clone(),
        })
    }

    /// Runs a step. Returns the layer, and whether it was cached.
    pub async fn run(&self, run: &Run, step: usize) -> Result<(Entry, bool)> {
        if self.now.layers.is_empty() {
            return Err(BuildError::new(
                "RUN needs a program, and the stage has no files yet",
            ));
        }
        let key = self.run_key(run).await?;
        if let Some(entry) = self.build.cached(&key).await? {
            return Ok((entry, true));
        }
        let mounts = self.mounts(run, step).await?;
        let sandbox = self
            .build
            .runner
            .run_sandbox(SandboxSpec {
                name: format!("step-{step}"),
                hostname: "buildkitsandbox".into(),
                host: HostNamespaces {
                    network: run.network.as_deref() != Some("none"),
                    ..HostNamespaces::default()
                },
                ..SandboxSpec::default()
            })
            .await
            .map_err(failed)?;
        let result = self.run_in(run, &mounts, &sandbox.id, step, &key).await;
        // Also after a failure: nothing of the step goes on.
        self.build
            .runner
            .remove_sandbox(&sandbox.id)
            .await
            .map_err(failed)?;
        drop(mounts);
        result.map(|entry| (entry, false))
    }

    async fn run_in(
        &self,
        run: &Run,
        mounts: &Mounts,
        sandbox: &str,
        step: usize,
        key: &str,
    ) -> Result<Entry> {
        let runner = &self.build.runner;
        let log = self.build.work.join("logs").join(format!("{step}.log"));
        let mut env = self.arguments();
        env.extend(self.proxies());
        env.extend(mounts.env.iter().cloned());
        let spec = ContainerSpec {
            name: "step".into(),
            command: Some(run.words.clone()),
            env,
            mounts: mounts.binds.clone(),
            tmpfs: mounts.tmpfs.clone(),
            security: Security {
                seccomp: SeccompProfile::RuntimeDefault,
                // The step shares the node's network, through which all pods' packets go.
                drop_capabilities: vec!["NET_RAW".into()],
                ..Security::default()
            },
            // As a pod without requests: the first to end when memory is short.
            oom_score_adj: Some(1000),
            log_path: Some(log.clone()),
            ..ContainerSpec::default()
        };
        let config = serde_json::to_vec(&self.now.document).map_err(failed)?;
        let id = runner
            .create_container_on(sandbox, spec, &self.chains(), &config)
            .await
            .map_err(failed)?;
        let (root, upper) = runner.container_directories(&id).map_err(failed)?;
        let targets: Vec<PathBuf> = mounts
            .binds
            .iter()
            .map(|m| m.container_path.clone())
            .chain(mounts.tmpfs.iter().map(|m| m.container_path.clone()))
            .chain(["/proc", "/dev", "/sys"].map(PathBuf::from))
            .collect();
        let stubs = blocking(move || missing(&root, &targets)).await?;
        let shown = run.words.join(" ");
        runner
            .start_container(&id)
            .await
            .map_err(|e| BuildError::new(format!("process {shown:?} could not be started: {e}")))?;
        let mut tail = Tail::new(&log);
        let status = {
            let wait = runner.wait_container(&id);
            tokio::pin!(wait);
            loop {
                tokio::select! {
                    status = &mut wait => break status.map_err(failed)?,
                    () = tokio::time::sleep(POLL_PERIOD) => {}
                }
                tail.read(|line| self.build.progress.line(step, line));
            }
        };
        tail.read(|line| self.build.progress.line(step, line));
        tail.finish(|line| self.build.progress.line(step, line));
        match status.exit_code {
            Some(0) => {}
            code => {
                let code = code.map_or_else(|| "unknown".to_owned(), |c| c.to_string());
                let reason = match status.reason.as_str() {
                    "OOMKilled" => " (it ran out of memory)",
                    _ => "",
                };
                return Err(BuildError::new(format!(
                    "process {shown:?} did not complete successfully: exit code: {code}{reason}"
                )));
            }
        }
        let (runner, container) = (runner.clone(), id.clone());
        let tree = upper.clone();
        blocking(move || {
            runner.unmount_container_root(&container).map_err(failed)?;
            remove_stubs(&tree, &stubs).map_err(failed_at(&tree))
        })
        .await?;
        self.commit(key, &upper).await
    }

    /// Returns the key of a step: everything that it can depend on, but for the network, secrets
    /// and cache mounts.
    async fn run_key(&self, run: &Run) -> Result<String> {
        let config = &self.now.document.config;
        let mut key = Key::new("RUN");
        key.add(self.chains().last().cloned().unwrap_or_default());
        key.add_all(&run.words);
        key.add_all(&config.env);
        key.add_all(self.arguments().iter().map(|(n, v)| format!("{n}={v}")));
        key.add_all([&config.user, &config.working_dir]);
        key.add(run.network.as_deref().unwrap_or_default());
        if let Some((name, content)) = &run.script {
            key.add_all([name, content]);
        }
        for mount in &run.mounts {
            key.add(format!("{:?}", mount.kind));
            key.add_all(mount.options.iter().map(|(n, v)| format!("{n}={v}")));
            if mount.kind == MountKind::Bind {
                let (path, source) = self.bind_source(mount).await?;
                let digest = blocking(move || {
                    let digest = files::digest(&path, "", &Matcher::default());
                    drop(source);
                    digest
                });
                key.add(digest.await?);
            }
        }
        Ok(key.finish())
    }
}

/// Returns a command line with its here-documents, for the shell.
fn with_heredocs(text: &str, heredocs: &[HereDoc]) -> String {
    let mut full = text.to_owned();
    for heredoc in heredocs {
        full.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
    }
    full
}

/// Returns the paths of mount points, and the directories on the way, that do not exist in a root,
/// parents first. The runtime makes them.
fn missing(root: &Path, targets: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for target in targets {
        let ancestors: Vec<&Path> = target.ancestors().collect();
        for path in ancestors.into_iter().rev().skip(1) {
            let text = path.to_string_lossy();
            let exists = files::resolve(root, &text)
                .map_err(|e| BuildError::new(format!("{text}: {e}")))?
                .is_some();
            if !exists && !found.iter().any(|p| p == path) {
                found.push(path.to_path_buf());
            }
        }
    }
    found.sort_by_key(|p| p.components().count());
    Ok(found)
}

/// Removes mount points from a writable layer, if nothing was written to them.
fn remove_stubs(upper: &Path, stubs: &[PathBuf]) -> io::Result<()> {
    for stub in stubs.iter().rev() {
        let text = stub.to_string_lossy();
        let parent = stub.parent().unwrap_or(Path::new("/")).to_string_lossy();
        let Some(dir) = files::resolve(upper, &parent)? else {
            continue;
        };
        let path = files::path_of(&dir).join(stub.file_name().unwrap_or_default());
        let removed = match fs::symlink_metadata(&path) {
            Err(e) => Err(e),
            Ok(m) if m.is_dir() => fs::remove_dir(&path),
            Ok(m) if m.is_file() && m.len() == 0 => fs::remove_file(&path),
            Ok(_) => Ok(()),
        };
        match removed {
            Ok(()) => {}
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) => {}
            Err(e) => return Err(io::Error::new(e.kind(), format!("{text}: {e}"))),
        }
    }
    Ok(())
}

/// Reads a log in the CRI format while it is written.
struct Tail {
    path: PathBuf,
    offset: u64,
    rest: Vec<u8>,
    /// The beginning of a line that was written in parts.
    partial: String,
}

impl Tail {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            offset: 0,
            rest: Vec::new(),
            partial: String::new(),
        }
    }

    /// Reads what is new. A log that cannot be read yet has nothing new.
    fn read(&mut self, mut tell: impl FnMut(&str)) {
        let mut new = Vec::new();
        let read = File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut new)
        });
        self.offset += read.unwrap_or(0) as u64;
        self.rest.extend(new);
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let record: Vec<u8> = self.rest.drain(..=end).collect();
            let record = String::from_utf8_lossy(&record);
            let mut fields = record.trim_end_matches('\n').splitn(4, ' ').skip(2);
            let tag = fields.next().unwrap_or("F");
            self.partial.push_str(fields.next().unwrap_or(""));
            if tag != "P" {
                tell(&std::mem::take(&mut self.partial));
            }
        }
    }

    /// Tells a last line that was not ended.
    fn finish(&mut self, tell: impl FnOnce(&str)) {
        if !self.partial.is_empty() {
            tell(&self.partial);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn mount_points_are_removed_if_nothing_was_written() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let targets = ["/etc/hosts", "/run/secrets/a", "/c/d"].map(PathBuf::from);
        let stubs = missing(root.path(), &targets).unwrap();
        let expected = [
            "/run",
            "/c",
            "/etc/hosts",
            "/run/secrets",
            "/c/d",
            "/run/secrets/a",
        ];
        assert_eq!(stubs, expected.map(PathBuf::from));
        for dir in ["run/secrets", "c/d"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        for file in ["etc/hosts", "run/secrets/a"] {
            fs::write(root.path().join(file), "").unwrap();
        }
        fs::write(root.path().join("c/kept"), "x").unwrap();
        remove_stubs(root.path(), &stubs).unwrap();
        assert!(!root.path().join("run").exists() && !root.path().join("etc/hosts").exists());
        assert!(root.path().join("c/kept").exists() && !root.path().join("c/d").exists());
    }

    #[test]
    fn logs_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut tail = Tail::new(&path);
        let mut lines = Vec::new();
        tail.read(|line| lines.push(line.to_owned()));
        fs::write(&path, "t stdout F a b\nt stdout P c\nt std").unwrap();
        tail.read(|line| lines.push(line.to_owned()));
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"err F d\nt stdout P e\n").unwrap();
        tail.read(|line| lines.push(line.to_owned()));
        tail.finish(|line| lines.push(line.to_owned()));
        assert_eq!(lines, ["a b", "cd", "e"]);
    }
}
