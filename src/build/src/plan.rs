//! The stages of a Dockerfile.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{BuildError, Result};
use crate::instruction::{self, Instruction, Located};
use crate::lex::Lexer;
use crate::lines;

/// The base of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Nothing (`FROM scratch`).
    Scratch,
    /// An earlier stage, by its index.
    Stage(usize),
    /// An image.
    Image(String),
}

/// A stage.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its name; in messages, unnamed stages are called `stage-N`.
    pub name: Option<String>,
    /// The base.
    pub base: Base,
    /// Its `FROM`.
    pub from: Located,
    /// The other instructions.
    pub steps: Vec<Located>,
}

/// The settings that decide which stages are built, and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Values of `ARG`s.
    pub build_args: BTreeMap<String, String>,
    /// The stage to build; the last one if absent.
    pub target: Option<String>,
    /// The architecture of the machine, such as `amd64`.
    pub architecture: String,
}

/// A Dockerfile that is ready to be built.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The escape character.
    pub escape: char,
    /// Arguments that were declared before the first stage.
    pub globals: BTreeMap<String, String>,
    /// The stages.
    pub stages: Vec<Stage>,
    /// Index of the stage to build.
    pub target: usize,
    /// Stages that the target needs, itself included.
    pub needed: BTreeSet<usize>,
    /// Warnings for the user.
    pub warnings: Vec<String>,
}

/// Arguments that need no declaration. They reach the steps and are no part of the cache's keys.
pub const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Returns the arguments that describe the platform, which are declared before the first stage.
pub fn platform_args(architecture: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for side in ["TARGET", "BUILD"] {
        out.insert(format!("{side}PLATFORM"), format!("linux/{architecture}"));
        out.insert(format!("{side}OS"), "linux".to_owned());
        out.insert(format!("{side}ARCH"), architecture.to_owned());
        out.insert(format!("{side}VARIANT"), String::new());
    }
    out
}

impl Plan {
    /// Parses a Dockerfile and finds the stages to build.
    ///
    /// # Errors
    ///
    /// A message with the lines, if the Dockerfile is malformed or not supported.
    pub fn new(text: &str, settings: &Settings) -> Result<Self> {
        let source = lines::split(text)?;
        let mut plan = Self {
            escape: source.escape,
            globals: platform_args(&settings.architecture),
            stages: Vec::new(),
            target: 0,
            needed: BTreeSet::new(),
            warnings: Vec::new(),
        };
        plan.check_syntax(source.syntax.as_deref())?;
        if source.check.is_some() {
            plan.warnings
                .push("# check= has no effect: rkube does not lint Dockerfiles".into());
        }
        let mut declared: BTreeSet<String> = BTreeSet::new();
        for statement in &source.statements {
            let located = instruction::parse(statement, source.escape)?;
            let lines = located.lines;
            match (&located.instruction, plan.stages.is_empty()) {
                (Instruction::From { .. }, _) => plan
                    .push_stage(located, settings)
                    .map_err(|e| e.at(lines))?,
                (Instruction::Arg(args), first) => {
                    declared.extend(args.iter().map(|(name, _)| name.clone()));
                    if first {
                        plan.declare(args, settings).map_err(|e| e.at(lines))?;
                    } else if let Some(stage) = plan.stages.last_mut() {
                        stage.steps.push(located);
                    }
                }
                (_, true) => {
                    return Err(BuildError::new("no build stage in current context").at(lines));
                }
                (_, false) => {
                    if let Some(stage) = plan.stages.last_mut() {
                        stage.steps.push(located);
                    }
                }
            }
        }
        if plan.stages.is_empty() {
            return Err(BuildError::new("dockerfile contains no stages to build"));
        }
        plan.aim(settings.target.as_deref())?;
        plan.find_needed()?;
        let unused: Vec<&str> = settings
            .build_args
            .keys()
            .map(String::as_str)
            .filter(|name| {
                !declared.contains(*name)
                    && !PREDEFINED.contains(name)
                    && !plan.globals.contains_key(*name)
                    && *name != SOURCE_DATE_EPOCH
            })
            .collect();
        if !unused.is_empty() {
            plan.warnings.push(format!(
                "one or more build-args were not consumed: {}",
                unused.join(", ")
            ));
        }
        Ok(plan)
    }

    /// Checks the front end that the file asks for: those of the syntax that rkube implements.
    fn check_syntax(&self, syntax: Option<&str>) -> Result<()> {
        let Some(syntax) = syntax else { return Ok(()) };
        let name = syntax.split('@').next().unwrap_or(syntax);
        let name = name.strip_prefix("docker.io/").unwrap_or(name);
        let (name, tag) = name.split_once(':').unwrap_or((name, "1"));
        if name == "docker/dockerfile"
            && (tag == "latest" || tag.split(['.', '-']).next() == Some("1"))
        {
            return Ok(());
        }
        Err(BuildError::new(format!(
            "syntax={syntax} is not supported: rkube reads docker/dockerfile:1 itself and runs no other front end"
        ))
        .at((1, 1)))
    }

    /// Adds arguments that are declared before the first stage.
    fn declare(&mut self, args: &[(String, Option<String>)], settings: &Settings) -> Result<()> {
        for (name, default) in args {
            let value = match (settings.build_args.get(name), default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => None,
            };
            if let Some(value) = value {
                self.globals.insert(name.clone(), value);
            }
        }
        Ok(())
    }

    fn expand(&self, text: &str) -> Result<String> {
        Lexer::new(self.escape)
            .word(text, &|name| self.globals.get(name).cloned())
            .map_err(BuildError::new)
    }

    fn push_stage(&mut self, from: Located, settings: &Settings) -> Result<()> {
        let Instruction::From {
            image,
            name,
            platform,
        } = &from.instruction
        else {
            return Err(BuildError::new("no build stage in current context"));
        };
        if let Some(platform) = platform {
            let platform = self.expand(platform)?;
            check_platform(&platform, &settings.architecture)?;
        }
        let image = self.expand(image)?;
        if image.is_empty() {
            return Err(BuildError::new(format!(
                "base name ({}) should not be blank",
                match &from.instruction {
                    Instruction::From { image, .. } => image,
                    _ => "",
                }
            )));
        }
        let base = match self.stage_named(&image, self.stages.len()) {
            Some(index) => Base::Stage(index),
            None if image == "scratch" => Base::Scratch,
            None => Base::Image(image),
        };
        if let Some(name) = name
            && self.stages.iter().any(|s| s.name.as_ref() == Some(name))
        {
            self.warnings
                .push(format!("the name {name} of a stage is used more than once"));
        }
        self.stages.push(Stage {
            name: name.clone(),
            base,
            from,
            steps: Vec::new(),
        });
        Ok(())
    }

    /// Finds the last stage of that name before the stage `before`.
    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_lowercase();
        let stages = self.stages.iter().take(before);
        stages
            .enumerate()
            .rev()
            .find_map(|(i, s)| (s.name.as_deref() == Some(name.as_str())).then_some(i))
    }

    /// Finds the stage that a `--from` in the stage `current` means, by name or number.
    ///
    /// # Errors
    ///
    /// A message, if the number is that of no earlier stage.
    pub fn source_stage(&self, from: &str, current: usize) -> Result<Option<usize>> {
        if let Some(index) = self.stage_named(from, current) {
            return Ok(Some(index));
        }
        match from.parse::<usize>() {
            Ok(index) if index < current => Ok(Some(index)),
            Ok(_) => Err(BuildError::new(format!(
                "invalid from flag value {from}: the stage does not come before this one"
            ))),
            Err(_) => Ok(None),
        }
    }

    /// Finds the stage to build.
    fn aim(&mut self, target: Option<&str>) -> Result<()> {
        let last = self.stages.len() - 1;
        self.target = match target {
            None | Some("") => last,
            Some(name) => self
                .stage_named(name, self.stages.len())
                .or_else(|| name.parse().ok().filter(|i| *i <= last))
                .ok_or_else(|| {
                    BuildError::new(format!("target stage {name:?} could not be found"))
                })?,
        };
        Ok(())
    }

    /// Finds the stages that the target needs.
    fn find_needed(&mut self) -> Result<()> {
        let mut open = vec![self.target];
        while let Some(index) = open.pop() {
            if !self.needed.insert(index) {
                continue;
            }
            let stage = &self.stages[index];
            if let Base::Stage(base) = stage.base {
                open.push(base);
            }
            for step in &stage.steps {
                for from in sources(&step.instruction) {
                    let found = self
                        .source_stage(from, index)
                        .map_err(|e| e.at(step.lines))?;
                    open.extend(found);
                }
            }
        }
        Ok(())
    }

    /// Returns a stage's name in messages.
    pub fn title(&self, index: usize) -> String {
        self.stages[index]
            .name
            .clone()
            .unwrap_or_else(|| format!("stage-{index}"))
    }
}

/// The build argument that sets the times in an image's configuration.
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Checks a platform: steps can only run on the machine's own.
///
/// # Errors
///
/// A message, if it is another one.
pub fn check_platform(platform: &str, architecture: &str) -> Result<()> {
    let own = format!("linux/{architecture}");
    let rest = platform.strip_prefix(own.as_str());
    let baseline = match architecture {
        "arm64" => "/v8",
        "amd64" => "/v1",
        _ => "",
    };
    if rest.is_some_and(|rest| rest.is_empty() || rest == baseline) || platform == "local" {
        return Ok(());
    }
    Err(BuildError::new(format!(
        "platform {platform} is not supported: the nodes are {own} and emulate no other"
    )))
}

/// Returns what `--from` and mounts of an instruction refer to.
fn sources(instruction: &Instruction) -> Vec<&str> {
    match instruction {
        Instruction::Copy(copy) => copy.from.iter().map(String::as_str).collect(),
        Instruction::Run { mounts, .. } => mounts
            .iter()
            .filter_map(|m| m.options.get("from").map(String::as_str))
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(text: &str, target: Option<&str>, args: &[(&str, &str)]) -> Result<Plan> {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        Plan::new(
            text,
            &Settings {
                build_args: args.iter().map(own).collect(),
                target: target.map(str::to_owned),
                architecture: "amd64".into(),
            },
        )
    }

    const THREE: &str = "ARG V=1\nARG W=v$V\nFROM base:$W AS a\nRUN x\nFROM scratch AS b\nCOPY --from=a /x /\nFROM a as unused\nFROM B\nRUN --mount=from=0,target=/t y\n";

    #[test]
    fn only_needed_stages_are_built() {
        let plan = plan_of(THREE, None, &[]).unwrap();
        assert_eq!(plan.stages[0].base, Base::Image("base:v1".into()));
        assert_eq!(plan.stages[3].base, Base::Stage(1));
        assert_eq!(plan.needed, BTreeSet::from([0, 1, 3]));
        assert_eq!(plan.title(3), "stage-3");
        let plan = plan_of(THREE, Some("A"), &[("V", "2"), ("Z", "1")]).unwrap();
        assert_eq!(plan.needed, BTreeSet::from([0]));
        assert_eq!(plan.stages[0].base, Base::Image("base:v2".into()));
        assert!(plan.warnings[0].contains("not consumed: Z"));
    }

    #[test]
    fn errors() {
        for (text, target, part) in [
            ("RUN x\nFROM a", None, "no build stage"),
            ("ARG x", None, "no stages"),
            ("FROM a", Some("b"), "could not be found"),
            ("FROM $x", None, "should not be blank"),
            ("FROM --platform=linux/riscv64 a", None, "linux/riscv64"),
            ("FROM a\nCOPY --from=0 x y", None, "invalid from flag"),
            ("# syntax=other/front\nFROM a", None, "not supported"),
        ] {
            let error = plan_of(text, target, &[]).unwrap_err();
            assert!(error.message.contains(part), "{text}: {error}");
        }
        assert!(
            plan_of(
                "# syntax=docker/dockerfile:1.7-labs\nFROM --platform=$BUILDPLATFORM a",
                None,
                &[]
            )
            .is_ok()
        );
    }
}
