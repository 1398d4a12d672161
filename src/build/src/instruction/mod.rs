//! The instructions of a Dockerfile, before variables are expanded.

use std::collections::BTreeMap;

use crate::error::{BuildError, Result};
use crate::lines::{self, HereDoc, Statement};

/// A command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// Program and arguments.
    Exec(Vec<String>),
    /// A line for the shell.
    Shell(String),
}

/// The common part of `COPY` and `ADD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Whether it is `ADD`.
    pub add: bool,
    /// Paths, patterns or, for `ADD`, URLs.
    pub sources: Vec<String>,
    /// Files that are written in the Dockerfile.
    pub heredocs: Vec<HereDoc>,
    /// The destination.
    pub destination: String,
    /// The stage or image of the sources (`--from`).
    pub from: Option<String>,
    /// Owner and group of the copies (`--chown`).
    pub chown: Option<String>,
    /// Permission bits of the copies (`--chmod`).
    pub chmod: Option<String>,
    /// Patterns of what is left out (`--exclude`).
    pub exclude: Vec<String>,
    /// Whether the destination's links are not followed (`--link`).
    pub link: bool,
    /// Whether the directories of the sources are copied, too (`--parents`).
    pub parents: bool,
    /// The digest of what is downloaded (`--checksum`).
    pub checksum: Option<String>,
    /// Whether archives are unpacked (`--unpack`); by default, those that are not downloaded.
    pub unpack: Option<bool>,
}

/// The type of a mount of `RUN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    Bind,
    /// A directory that later builds find again.
    Cache,
    /// A directory in memory.
    Tmpfs,
    /// A secret of the caller's.
    Secret,
}

/// A mount of `RUN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its type.
    pub kind: MountKind,
    /// The other settings by name; values are not expanded yet.
    pub options: BTreeMap<String, String>,
}

/// A health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// The command; absent to switch off the check of the base image.
    pub command: Option<CommandLine>,
    /// Durations and numbers by the names of the flags.
    pub options: BTreeMap<String, String>,
}

/// An instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of Dockerfiles")]
pub enum Instruction {
    From {
        image: String,
        name: Option<String>,
        platform: Option<String>,
    },
    Arg(Vec<(String, Option<String>)>),
    Env(Vec<(String, String)>),
    Run {
        command: CommandLine,
        heredocs: Vec<HereDoc>,
        mounts: Vec<Mount>,
        network: Option<String>,
    },
    Copy(Box<Copy>),
    Workdir(String),
    User(String),
    Entrypoint(CommandLine),
    Cmd(CommandLine),
    Shell(Vec<String>),
    Volume(Vec<String>),
    Expose(Vec<String>),
    Label(Vec<(String, String)>),
    Maintainer(String),
    StopSignal(String),
    Healthcheck(Healthcheck),
    OnBuild(String),
}

/// An instruction with its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The instruction.
    pub instruction: Instruction,
    /// First and last line, from 1.
    pub lines: (usize, usize),
    /// The instruction as shown to people, on one line.
    pub shown: String,
}

/// The flags of an instruction.
struct Flags<'a> {
    keyword: &'a str,
    flags: Vec<(&'a str, Option<&'a str>)>,
}

impl<'a> Flags<'a> {
    fn of(statement: &'a Statement) -> Self {
        let split = |flag: &'a String| {
            let flag = flag.trim_start_matches("--");
            match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag, None),
            }
        };
        Self {
            keyword: &statement.keyword,
            flags: statement.flags.iter().map(split).collect(),
        }
    }

    fn all(&mut self, name: &str) -> Result<Vec<String>> {
        let mut values = Vec::new();
        for (_, value) in self.flags.iter().filter(|(n, _)| *n == name) {
            let value = value
                .ok_or_else(|| BuildError::new(format!("missing a value on flag: --{name}")))?;
            values.push(value.to_owned());
        }
        self.flags.retain(|(n, _)| *n != name);
        Ok(values)
    }

    fn value(&mut self, name: &str) -> Result<Option<String>> {
        let mut values = self.all(name)?;
        if values.len() > 1 {
            return Err(BuildError::new(format!("duplicate flag specified: {name}")));
        }
        Ok(values.pop())
    }

    fn switch(&mut self, name: &str) -> Result<Option<bool>> {
        let found = self.flags.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        self.flags.retain(|(n, _)| *n != name);
        match found {
            None => Ok(None),
            Some(None | Some("true")) => Ok(Some(true)),
            Some(Some("false")) => Ok(Some(false)),
            Some(Some(other)) => Err(BuildError::new(format!(
                "expecting boolean value for flag {name}, not: {other}"
            ))),
        }
    }

    /// Fails for a flag that BuildKit has and rkube does not.
    fn refuse(&self, name: &str, advice: &str) -> Result<()> {
        match self.flags.iter().any(|(n, _)| *n == name) {
            true => Err(BuildError::new(format!(
                "{} --{name} is not supported: {advice}",
                self.keyword
            ))),
            false => Ok(()),
        }
    }

    /// Fails if flags are left.
    fn done(self) -> Result<()> {
        match self.flags.first() {
            Some((name, _)) => Err(BuildError::new(format!(
                "unknown flag: --{name} of {}",
                self.keyword
            ))),
            None => Ok(()),
        }
    }
}

/// Parses a statement.
///
/// # Errors
///
/// A message with the lines, if the statement is malformed, or not supported.
pub fn parse(statement: &Statement, escape: char) -> Result<Located> {
    let mut flags = Flags::of(statement);
    let instruction = parse_one(statement, &mut flags, escape)
        .and_then(|instruction| flags.done().map(|()| instruction))
        .map_err(|e| e.at(statement.lines))?;
    Ok(Located {
        instruction,
        lines: statement.lines,
        shown: format_statement(statement),
    })
}

/// Returns an instruction on one line.
fn format_statement(statement: &Statement) -> String {
    let mut words = vec![statement.keyword.as_str()];
    words.extend(statement.flags.iter().map(String::as_str));
    words.extend(statement.args.split_whitespace());
    let mut text = words.join(" ");
    if let ("RUN", [only]) = (statement.keyword.as_str(), statement.heredocs.as_slice()) {
        let lines: Vec<&str> = only.content.lines().map(str::trim).take(2).collect();
        let more = if only.content.lines().count() > 2 {
            "..."
        } else {
            ""
        };
        text = format!("{text} ({}{more})", lines.join("..."));
    }
    text
}

fn parse_one(s: &Statement, flags: &mut Flags<'_>, escape: char) -> Result<Instruction> {
    let args = s.args.as_str();
    let required = || match args.is_empty() {
        true => Err(BuildError::new(format!(
            "{} requires at least one argument",
            s.keyword
        ))),
        false => Ok(()),
    };
    if !matches!(s.keyword.as_str(), "CMD" | "ENTRYPOINT" | "RUN") {
        required()?;
    }
    Ok(match s.keyword.as_str() {
        "FROM" => from(args, flags)?,
        "ARG" => Instruction::Arg(arguments(args, escape)?),
        "ENV" => Instruction::Env(pairs("ENV", args, escape)?),
        "LABEL" => Instruction::Label(pairs("LABEL", args, escape)?),
        "RUN" => {
            if args.is_empty() {
                required()?;
            }
            run(s, flags)?
        }
        "COPY" | "ADD" => Instruction::Copy(Box::new(copy(s, flags, escape)?)),
        "WORKDIR" => Instruction::Workdir(args.into()),
        "USER" => Instruction::User(args.into()),
        "ENTRYPOINT" => Instruction::Entrypoint(command_line(args)),
        "CMD" => Instruction::Cmd(command_line(args)),
        "SHELL" => match json(args) {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            _ => {
                return Err(BuildError::new(
                    "SHELL requires the arguments to be in JSON form",
                ));
            }
        },
        "VOLUME" => {
            let volumes = json(args).unwrap_or_else(|| split(args));
            if volumes.iter().any(|v| v.trim().is_empty()) {
                return Err(BuildError::new(
                    "VOLUME specified can not be an empty string",
                ));
            }
            Instruction::Volume(volumes)
        }
        "EXPOSE" => Instruction::Expose(split(args)),
        "MAINTAINER" => Instruction::Maintainer(args.into()),
        "STOPSIGNAL" => Instruction::StopSignal(args.into()),
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(args, flags)?),
        "ONBUILD" => onbuild(s, escape)?,
        other => return Err(BuildError::new(format!("unknown instruction: {other}"))),
    })
}

/// Returns the words of a JSON array of strings.
fn json(text: &str) -> Option<Vec<String>> {
    let text = text.trim_start();
    text.starts_with('[')
        .then(|| serde_json::from_str(text).ok())
        .flatten()
}

fn command_line(text: &str) -> CommandLine {
    match json(text) {
        Some(words) => CommandLine::Exec(words),
        None => CommandLine::Shell(text.to_owned()),
    }
}

fn split(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn from(args: &str, flags: &mut Flags<'_>) -> Result<Instruction> {
    let platform = flags.value("platform")?;
    let words = split(args);
    let name = match words.as_slice() {
        [_] => None,
        [_, word, name] if word.eq_ignore_ascii_case("as") => {
            let name = name.to_lowercase();
            let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
            if !valid {
                return Err(BuildError::new(format!(
                    "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
                )));
            }
            Some(name)
        }
        _ => {
            return Err(BuildError::new(
                "FROM requires either one or three arguments",
            ));
        }
    };
    Ok(Instruction::From {
        image: words.into_iter().next().unwrap_or_default(),
        name,
        platform,
    })
}

/// Splits words at spaces outside of quotes. Quotes and escapes stay.
fn raw_words(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (q, c) if c == escape && q != Some('\'') => {
                word.push(c);
                word.extend(chars.next());
                continue;
            }
            _ => {}
        }
        word.push(c);
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn arguments(args: &str, escape: char) -> Result<Vec<(String, Option<String>)>> {
    raw_words(args, escape)
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(BuildError::new("ARG names can not be blank")),
            Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
            None => Ok((word, None)),
        })
        .collect()
}

fn pairs(keyword: &str, args: &str, escape: char) -> Result<Vec<(String, String)>> {
    let words = raw_words(args, escape);
    // The old form has one name, and everything after it is the value.
    if !words.first().is_some_and(|word| word.contains('=')) {
        let (name, value) = args
            .split_once(char::is_whitespace)
            .ok_or_else(|| BuildError::new(format!("{keyword} must have two arguments")))?;
        return Ok(vec![(name.to_owned(), value.trim_start().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some(("", _)) => Err(BuildError::new(format!("{keyword} names can not be blank"))),
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(BuildError::new(format!(
                "Syntax error - can't find = in {word:?}. Must be of the form: name=value"
            ))),
        })
        .collect()
}

fn run(s: &Statement, flags: &mut Flags<'_>) -> Result<Instruction> {
    let mounts = flags.all("mount")?;
    let mounts = mounts
        .iter()
        .map(|text| mount(text))
        .collect::<Result<Vec<_>>>()?;
    let network = flags.value("network")?;
    match network.as_deref() {
        None | Some("default" | "none" | "host") => {}
        Some(other) => {
            return Err(BuildError::new(format!("invalid network mode: {other:?}")));
        }
    }
    flags.refuse("security", "no step of a build is privileged")?;
    flags.refuse("device", "no step of a build gets devices")?;
    let command = command_line(&s.args);
    if command == CommandLine::Exec(Vec::new()) {
        return Err(BuildError::new("RUN requires at least one argument"));
    }
    Ok(Instruction::Run {
        command,
        heredocs: s.heredocs.clone(),
        mounts,
        network,
    })
}

/// Parses the value of `--mount`.
fn mount(text: &str) -> Result<Mount> {
    let mut options = BTreeMap::new();
    for field in text.split(',').map(str::trim).filter(|f| !f.is_empty()) {
        let (name, value) = field.split_once('=').unwrap_or((field, "true"));
        let name = match name.to_ascii_lowercase().as_str() {
            "dst" | "destination" => "target".to_owned(),
            "src" => "source".to_owned(),
            "ro" => "readonly".to_owned(),
            "rw" => "readwrite".to_owned(),
            other => other.to_owned(),
        };
        let value = value.trim_matches('"').to_owned();
        options.insert(name, value);
    }
    let kind = options.remove("type").unwrap_or_else(|| "bind".into());
    let (kind, known): (_, &[&str]) = match kind.as_str() {
        "bind" => (
            MountKind::Bind,
            &["target", "source", "from", "readonly", "readwrite"],
        ),
        "cache" => (
            MountKind::Cache,
            &[
                "id",
                "target",
                "source",
                "from",
                "sharing",
                "mode",
                "uid",
                "gid",
                "readonly",
                "readwrite",
            ],
        ),
        "tmpfs" => (MountKind::Tmpfs, &["target", "size"]),
        "secret" => (
            MountKind::Secret,
            &["id", "target", "env", "required", "mode", "uid", "gid"],
        ),
        "ssh" => {
            return Err(BuildError::new(
                "RUN --mount=type=ssh is not supported: no agent of this machine reaches the node; pass a key with --secret and RUN --mount=type=secret",
            ));
        }
        other => return Err(BuildError::new(format!("unsupported mount type {other:?}"))),
    };
    if let Some(name) = options.keys().find(|name| !known.contains(&name.as_str())) {
        return Err(BuildError::new(format!(
            "unexpected key '{name}' in --mount={text}"
        )));
    }
    let target = options.contains_key("target");
    if !target && matches!(kind, MountKind::Bind | MountKind::Cache | MountKind::Tmpfs) {
        return Err(BuildError::new(format!("--mount={text} has no target")));
    }
    Ok(Mount { kind, options })
}

fn copy(s: &Statement, flags: &mut Flags<'_>, escape: char) -> Result<Copy> {
    let add = s.keyword == "ADD";
    if add {
        flags.refuse(
            "parents",
            "use COPY --parents, which unpacks and downloads nothing",
        )?;
        flags.refuse("keep-git-dir", "repositories are not cloned by ADD")?;
    }
    let mut words = json(&s.args).unwrap_or_else(|| split(&s.args));
    if words.len() < 2 {
        return Err(BuildError::new(format!(
            "{} requires at least two arguments, but only {} was provided. Destination could not be determined",
            s.keyword,
            words.len()
        )));
    }
    let destination = words.pop().unwrap_or_default();
    // The openings of here-documents are no paths.
    words.retain(|word| s.heredocs.is_empty() || lines::opening(word, escape).is_none());
    Ok(Copy {
        add,
        sources: words,
        heredocs: s.heredocs.clone(),
        destination,
        from: if add { None } else { flags.value("from")? },
        chown: flags.value("chown")?,
        chmod: flags.value("chmod")?,
        exclude: flags.all("exclude")?,
        link: flags.switch("link")?.unwrap_or(false),
        parents: !add && flags.switch("parents")?.unwrap_or(false),
        checksum: if add { flags.value("checksum")? } else { None },
        unpack: if add { flags.switch("unpack")? } else { None },
    })
}

fn healthcheck(args: &str, flags: &mut Flags<'_>) -> Result<Healthcheck> {
    let mut options = BTreeMap::new();
    for name in [
        "interval",
        "timeout",
        "start-period",
        "start-interval",
        "retries",
    ] {
        if let Some(value) = flags.value(name)? {
            options.insert(name.to_owned(), value);
        }
    }
    let (word, rest) = args.split_once(char::is_whitespace).unwrap_or((args, ""));
    match word.to_ascii_uppercase().as_str() {
        "NONE" if rest.trim().is_empty() => Ok(Healthcheck {
            command: None,
            options,
        }),
        "NONE" => Err(BuildError::new("HEALTHCHECK NONE takes no arguments")),
        "CMD" if rest.trim().is_empty() => {
            Err(BuildError::new("missing command after HEALTHCHECK CMD"))
        }
        "CMD" => Ok(Healthcheck {
            command: Some(command_line(rest.trim())),
            options,
        }),
        other => Err(BuildError::new(format!(
            "unknown type {other:?} in HEALTHCHECK (try CMD)"
        ))),
    }
}

fn onbuild(s: &Statement, escape: char) -> Result<Instruction> {
    if !s.heredocs.is_empty() {
        return Err(BuildError::new(
            "here-documents in ONBUILD are not supported: the image's configuration keeps one line",
        ));
    }
    let inner = lines::statement(&s.args, escape)?;
    match inner.keyword.as_str() {
        "ONBUILD" => Err(BuildError::new(
            "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed",
        )),
        "FROM" | "MAINTAINER" => Err(BuildError::new(format!(
            "{} isn't allowed as an ONBUILD trigger",
            inner.keyword
        ))),
        _ => {
            parse(&inner, escape).map_err(|e| BuildError::new(e.message))?;
            Ok(Instruction::OnBuild(s.args.clone()))
        }
    }
}

#[cfg(test)]
mod tests;
