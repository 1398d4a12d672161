//! `RUN`.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use rkube_runtime::build::Workspace;
use rkube_runtime::{
    ContainerSpec, HostNamespaces, Mount as BindMount, SandboxSpec, SeccompProfile, Security,
    TmpfsMount,
};

use super::cache::{Entry, Key};
use super::files::{self, Copying};
use super::stage::Running;
use super::{blocking, failed, failed_at};
use crate::error::{BuildError, Result};
use crate::instruction::{CommandLine, Instruction, Mount, MountKind};
use crate::lines::{HereDoc, opening};
use crate::pattern::Matcher;

/// How often a step's output is read.
const POLL: Duration = Duration::from_millis(30);
/// Where scripts of here-documents are mounted.
const PIPES: &str = "/dev/pipes";

/// A step that is ready to run.
pub struct Run {
    words: Vec<String>,
    /// A script to mount: its name and content.
    script: Option<(String, String)>,
    mounts: Vec<Mount>,
    network: Option<String>,
    /// The line of the history.
    pub created_by: String,
}

/// What a step finds in its file system besides the layers.
#[derive(Default)]
struct Mounts {
    binds: Vec<BindMount>,
    tmpfs: Vec<TmpfsMount>,
    env: Vec<(String, String)>,
    /// Locks of cache mounts, held while the step runs.
    locks: Vec<File>,
    /// Overlays of writable bind mounts.
    spaces: Vec<Workspace>,
    /// Sources that must stay mounted.
    sources: Vec<std::sync::Arc<super::sources::Mounted>>,
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
        if let Some(entry) = self.build.cached(&key) {
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
                ..Security::default()
            },
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
                    () = tokio::time::sleep(POLL) => {}
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
                    let digest = files::digest(&path, &Matcher::default());
                    drop(source);
                    digest
                });
                key.add(digest.await?);
            }
        }
        Ok(key.finish())
    }

    /// Returns the real path of a bind mount's source.
    async fn bind_source(
        &self,
        mount: &Mount,
    ) -> Result<(PathBuf, std::sync::Arc<super::sources::Mounted>)> {
        let from = mount.options.get("from").map(String::as_str);
        let source = self.build.source(from, self.index).await?;
        let path = mount.options.get("source").map_or("/", String::as_str);
        let found = files::resolve(source.root(), path)
            .map_err(|e| BuildError::new(format!("{path}: {e}")))?
            .ok_or_else(|| BuildError::new(format!("{path:?}: not found")))?;
        let real = files::real_path(&found).map_err(failed)?;
        Ok((real, source))
    }

    /// Sets up what a step finds mounted.
    async fn mounts(&self, run: &Run, step: usize) -> Result<Mounts> {
        let mut mounts = Mounts::default();
        let own = self.build.work.join("mounts").join(step.to_string());
        fs::create_dir_all(&own).map_err(failed_at(&own))?;
        // Copies, so that a step cannot see what the node's change to.
        for name in ["resolv.conf", "hosts"] {
            let file = own.join(name);
            let mut text = fs::read_to_string(format!("/etc/{name}")).unwrap_or_default();
            if name == "hosts" {
                for (host, address) in &self.build.request.hosts {
                    text.push_str(&format!("{address}\t{host}\n"));
                }
            }
            fs::write(&file, text).map_err(failed_at(&file))?;
            mounts.binds.push(BindMount {
                read_only: true,
                ..BindMount::bind(file, format!("/etc/{name}"))
            });
        }
        if let Some((name, content)) = &run.script {
            let dir = own.join("pipes");
            fs::create_dir(&dir).map_err(failed_at(&dir))?;
            let file = dir.join(name);
            fs::write(&file, content).map_err(failed_at(&file))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
                .map_err(failed_at(&file))?;
            mounts.binds.push(BindMount {
                read_only: true,
                ..BindMount::bind(dir, PIPES)
            });
        }
        for (number, mount) in run.mounts.iter().enumerate() {
            let dir = own.join(number.to_string());
            match mount.kind {
                MountKind::Bind => self.mount_bind(mount, &dir, &mut mounts).await?,
                MountKind::Cache => self.mount_cache(mount, &mut mounts).await?,
                MountKind::Tmpfs => mounts.tmpfs.push(TmpfsMount {
                    container_path: self.target(mount)?,
                    size_bytes: mount.options.get("size").map(|s| size(s)).transpose()?,
                    mode: None,
                }),
                MountKind::Secret => self.mount_secret(mount, step, number, &mut mounts)?,
            }
        }
        Ok(mounts)
    }

    /// Returns the absolute path of a mount.
    fn target(&self, mount: &Mount) -> Result<PathBuf> {
        let text = mount.options.get("target").map_or("", String::as_str);
        let path = self.now.document.config.absolute(text);
        match path.as_str() {
            "/" => Err(BuildError::new(
                "a mount cannot replace the root (target=/)",
            )),
            path => Ok(PathBuf::from(path.trim_end_matches('/'))),
        }
    }

    async fn mount_bind(&self, mount: &Mount, dir: &Path, mounts: &mut Mounts) -> Result<()> {
        let target = self.target(mount)?;
        let writable = switch(mount, "readwrite")? || option_is(mount, "readonly", false)?;
        let (path, source) = self.bind_source(mount).await?;
        mounts.sources.push(source);
        if !writable {
            mounts.binds.push(BindMount {
                read_only: true,
                ..BindMount::bind(path, target)
            });
            return Ok(());
        }
        // What is written is dropped after the step.
        if path.is_dir() {
            let dir = dir.to_path_buf();
            let space =
                blocking(move || Workspace::writable(&dir, &[path]).map_err(failed)).await?;
            mounts.binds.push(BindMount::bind(space.root(), target));
            mounts.spaces.push(space);
        } else {
            fs::copy(&path, dir).map_err(failed_at(&path))?;
            mounts.binds.push(BindMount::bind(dir, target));
        }
        Ok(())
    }

    async fn mount_cache(&self, mount: &Mount, mounts: &mut Mounts) -> Result<()> {
        let target = self.target(mount)?;
        let fallback = target.to_string_lossy().into_owned();
        let id = mount.options.get("id").unwrap_or(&fallback);
        let mut key = Key::new("cache mount");
        key.add(id);
        let name = key.finish();
        let parent = self.build.mounts.clone();
        fs::create_dir_all(&parent).map_err(failed_at(&parent))?;
        let sharing = mount
            .options
            .get("sharing")
            .map_or("shared", String::as_str);
        let (dir, lock) = match sharing {
            "shared" => (parent.join(&name), None),
            "locked" => {
                let path = parent.join(format!("{name}.lock"));
                let lock = blocking(move || {
                    let file = File::create(&path).map_err(failed_at(&path))?;
                    file.lock().map_err(failed_at(&path))?;
                    Ok(file)
                });
                (parent.join(&name), Some(lock.await?))
            }
            "private" => first_free(&parent, &name)?,
            other => {
                return Err(BuildError::new(format!(
                    "unsupported sharing value {other:?} of a cache mount"
                )));
            }
        };
        mounts.locks.extend(lock);
        if !dir.is_dir() {
            self.fill_cache(mount, &dir).await?;
        }
        mounts.binds.push(BindMount {
            read_only: switch(mount, "readonly")?,
            ..BindMount::bind(dir, target)
        });
        Ok(())
    }

    /// Makes the directory of a cache mount with its first content.
    async fn fill_cache(&self, mount: &Mount, dir: &Path) -> Result<()> {
        let number = |name: &str, radix: u32, default: u32| match mount.options.get(name) {
            None => Ok(default),
            Some(text) => u32::from_str_radix(text, radix)
                .map_err(|_| BuildError::new(format!("invalid {name} {text:?} of a cache mount"))),
        };
        let mode = number("mode", 8, 0o755)?;
        let owner = (number("uid", 10, 0)?, number("gid", 10, 0)?);
        let source = match mount.options.get("from") {
            Some(_) => Some(self.bind_source(mount).await?),
            None => None,
        };
        // Filled under another name, so that a half-filled one is never used.
        let new = dir.with_extension(format!("new-{}", std::process::id()));
        let dir = dir.to_path_buf();
        blocking(move || {
            rkube_fsutil::remove_tree(&new).map_err(failed_at(&new))?;
            fs::create_dir(&new).map_err(failed_at(&new))?;
            if let Some((path, _mounted)) = &source {
                let none = Matcher::default();
                let copying = Copying {
                    root: &new,
                    owner: None,
                    mode: None,
                    excluded: &none,
                };
                copying.copy(path, path.file_name().unwrap_or_default(), "/")?;
            }
            std::os::unix::fs::chown(&new, Some(owner.0), Some(owner.1))
                .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(mode)))
                .map_err(failed_at(&new))?;
            match fs::rename(&new, &dir) {
                // Another step was faster.
                Err(_) if dir.is_dir() => rkube_fsutil::remove_tree(&new).map_err(failed_at(&new)),
                renamed => renamed.map_err(failed_at(&dir)),
            }
        })
        .await
    }

    fn mount_secret(
        &self,
        mount: &Mount,
        step: usize,
        number: usize,
        mounts: &mut Mounts,
    ) -> Result<()> {
        let option = |name: &str| mount.options.get(name).map(String::as_str);
        let from_target = option("target").and_then(|t| t.rsplit('/').next());
        let id = option("id").or(from_target).unwrap_or_default();
        if id.is_empty() {
            return Err(BuildError::new("a secret mount needs an id or a target"));
        }
        let Some(encoded) = self.build.request.secrets.get(id) else {
            if switch(mount, "required")? {
                return Err(BuildError::new(format!(
                    "secret {id}: not found: pass it with --secret id={id},src=FILE"
                )));
            }
            return Ok(());
        };
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map_err(failed)?;
        if let Some(name) = option("env") {
            let text = String::from_utf8(bytes)
                .map_err(|_| BuildError::new(format!("secret {id} is not text")))?;
            mounts.env.push((name.to_owned(), text));
            if option("target").is_none() {
                return Ok(());
            }
            return self.mount_secret_file(mount, id, encoded, (step, number), mounts);
        }
        self.mount_secret_file(mount, id, encoded, (step, number), mounts)
    }

    fn mount_secret_file(
        &self,
        mount: &Mount,
        id: &str,
        encoded: &str,
        (step, number): (usize, usize),
        mounts: &mut Mounts,
    ) -> Result<()> {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map_err(failed)?;
        let numeric = |name: &str, radix, default| match mount.options.get(name) {
            None => Ok(default),
            Some(text) => u32::from_str_radix(text, radix)
                .map_err(|_| BuildError::new(format!("invalid {name} {text:?} of a secret"))),
        };
        let target = match mount.options.contains_key("target") {
            true => self.target(mount)?,
            false => PathBuf::from(format!("/run/secrets/{id}")),
        };
        rkube_fsutil::make_dir(&self.build.secrets, 0o700)
            .map_err(failed_at(&self.build.secrets))?;
        let file = self.build.secrets.join(format!("{step}-{number}"));
        let write = || -> io::Result<()> {
            let mut out = File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&file)?;
            out.write_all(&bytes)?;
            let (uid, gid) = (
                numeric("uid", 10, 0).map_err(io::Error::other)?,
                numeric("gid", 10, 0).map_err(io::Error::other)?,
            );
            std::os::unix::fs::fchown(&out, Some(uid), Some(gid))?;
            let mode = numeric("mode", 8, 0o400).map_err(io::Error::other)?;
            out.set_permissions(fs::Permissions::from_mode(mode & 0o7777))
        };
        write().map_err(failed_at(&file))?;
        mounts.binds.push(BindMount {
            read_only: true,
            ..BindMount::bind(file, target)
        });
        Ok(())
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

/// Returns the value of a switch of a mount; false if it is absent.
fn switch(mount: &Mount, name: &str) -> Result<bool> {
    option_is(mount, name, true)
}

/// Returns whether an option is there and has this value.
fn option_is(mount: &Mount, name: &str, wanted: bool) -> Result<bool> {
    match mount.options.get(name).map(String::as_str) {
        None => Ok(false),
        Some("true" | "1") => Ok(wanted),
        Some("false" | "0") => Ok(!wanted),
        Some(other) => Err(BuildError::new(format!(
            "invalid value {other:?} of {name} in --mount"
        ))),
    }
}

/// Parses a size such as `64m`.
fn size(text: &str) -> Result<u64> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(['b', 'i']);
    let (digits, shift) = match number.chars().last() {
        Some('k') => (&number[..number.len() - 1], 10),
        Some('m') => (&number[..number.len() - 1], 20),
        Some('g') => (&number[..number.len() - 1], 30),
        _ => (number, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_shl(shift))
        .ok_or_else(|| BuildError::new(format!("invalid size {text:?}")))
}

/// Returns the first copy of a private cache mount that no other step uses.
fn first_free(parent: &Path, name: &str) -> Result<(PathBuf, Option<File>)> {
    for number in 0.. {
        let path = parent.join(format!("{name}-{number}.lock"));
        let file = File::create(&path).map_err(failed_at(&path))?;
        if file.try_lock().is_ok() {
            return Ok((parent.join(format!("{name}-{number}")), Some(file)));
        }
    }
    Err(BuildError::new("no private cache mount is free"))
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
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("64m").unwrap(), 64 << 20);
        assert_eq!(size("1GiB").unwrap(), 1 << 30);
        assert_eq!(size("100").unwrap(), 100);
        assert!(size("x").is_err() && size("").is_err());
    }

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
