//! minikube's command line: flags and commands that rkube does not have itself.
//!
//! They are accepted where the result is the same without them, with a warning that says so.
//! Otherwise they are refused with advice. None of them is a usage error, so that scripts and
//! habits fail with a reason.

mod flags;
#[cfg(test)]
mod tests;

use clap::{Arg, ArgAction, ArgMatches, Command};
use rkube_failure::Failure;

use super::unsupported::unsupported;
use super::values::parse_bool;
use flags::FLAGS;

/// A flag of minikube's that rkube has no use for.
struct Flag {
    /// The words of the command that takes it; empty for every command.
    path: &'static str,
    /// The flag without dashes.
    name: &'static str,
    /// Its one-letter form.
    short: Option<char>,
    /// Whether it takes a value; otherwise it may have `=true` or `=false`.
    takes_value: bool,
    /// Its treatment.
    rule: Rule,
}

/// The treatment of a flag.
enum Rule {
    /// It changes nothing, for this reason.
    Harmless(&'static str),
    /// Only these values change nothing; other ones are refused, with this explanation.
    Refused(&'static [&'static str], &'static str),
    /// The value decides.
    Depends(fn(&str) -> Verdict),
}

/// The treatment of a flag with its value.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing needs to be said.
    Fine,
    /// It changes nothing, for this reason.
    Harmless(String),
    /// It is refused, with this explanation.
    Refused(String),
    /// There is nothing to do, for this reason, and the command ends.
    Done(String),
}

/// The result of the check of a command line.
#[derive(Debug, Default)]
pub struct Findings {
    /// Flags that change nothing.
    pub warnings: Vec<String>,
    /// The first flag that is refused.
    pub refusal: Option<Failure>,
    /// Why nothing is left to do.
    pub done: Option<String>,
}

impl Flag {
    fn judge(&self, value: &str) -> Verdict {
        // A switch that is off changes nothing.
        let off = !self.takes_value && value == "false";
        match &self.rule {
            Rule::Harmless(_) if off => Verdict::Fine,
            Rule::Harmless(why) => Verdict::Harmless((*why).to_owned()),
            Rule::Refused(harmless, _) if off || harmless.contains(&value) => Verdict::Fine,
            Rule::Refused(_, why) => Verdict::Refused((*why).to_owned()),
            Rule::Depends(judge) => judge(value),
        }
    }
}

/// Adds minikube's flags to a command and its subcommands. `path` holds the words of the command.
/// Flags that the command has itself are left out.
pub fn add_flags(mut command: Command, path: &str) -> Command {
    for flag in FLAGS.iter().filter(|flag| flag.path == path) {
        let has = |arg: &Arg| {
            let mut aliases = arg.get_all_aliases().unwrap_or_default();
            aliases.extend(arg.get_long());
            aliases.contains(&flag.name)
        };
        if command.get_arguments().any(has) {
            continue;
        }
        let mut arg = Arg::new(&*id(flag).leak())
            .long(flag.name)
            .hide(true)
            .global(path.is_empty())
            .action(ArgAction::Append);
        if let Some(short) = flag.short {
            arg = arg.short(short);
        }
        if !flag.takes_value {
            arg = arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_parser(|text: &str| parse_bool(text).map(|b| b.to_string()));
        }
        command = command.arg(arg);
    }
    command
}

/// Returns the name of a flag in the parser, which must differ from the names of rkube's flags.
fn id(flag: &Flag) -> String {
    format!("minikube {} {}", flag.path, flag.name)
}

/// Checks minikube's flags on a parsed command line.
pub fn check(matches: &ArgMatches) -> Findings {
    let mut findings = Findings::default();
    find(matches, "", &mut findings);
    findings
}

fn find(matches: &ArgMatches, path: &str, findings: &mut Findings) {
    for flag in FLAGS.iter().filter(|flag| flag.path == path) {
        let Ok(Some(values)) = matches.try_get_many::<String>(&id(flag)) else {
            continue;
        };
        for value in values {
            findings.add(&format!("--{}", flag.name), value, flag);
        }
    }
    if let Some((name, matches)) = matches.subcommand() {
        find(matches, format!("{path} {name}").trim_start(), findings);
    }
}

impl Findings {
    fn add(&mut self, name: &str, value: &str, flag: &Flag) {
        match flag.judge(value) {
            Verdict::Fine => {}
            Verdict::Harmless(why) => self.warnings.push(format!("{name} has no effect: {why}")),
            Verdict::Refused(why) => {
                if self.refusal.is_none() {
                    let what = match flag.takes_value {
                        true => format!("{name}={value}"),
                        false => name.to_owned(),
                    };
                    self.refusal = Some(unsupported(format!("{what} is not supported"), why));
                }
            }
            Verdict::Done(why) => self.done = Some(why),
        }
    }
}

/// Checks a setting of `rkube config set` that stands for one of minikube's flags of `start`, or
/// for a property of its configuration. Returns `None` if minikube has none of that name.
pub fn check_setting(name: &str, value: &str) -> Option<Findings> {
    let mut findings = Findings::default();
    if flags::PROPERTIES.contains(&name) {
        let why = "it belongs to minikube's own programs and notices";
        let warning = format!("'{name}' has no effect: {why}");
        findings.warnings.push(warning);
        return Some(findings);
    }
    let flag = FLAGS
        .iter()
        .find(|flag| matches!(flag.path, "start" | "") && flag.name == name)?;
    findings.add(name, value, flag);
    Some(findings)
}

/// A command of minikube's that rkube does not have, with its arguments.
#[derive(clap::Args)]
pub struct Rest {
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        hide = true,
        value_name = "ARGUMENTS"
    )]
    _arguments: Vec<String>,
}

/// Returns what to do instead of a command that rkube does not have.
pub fn instead_of(command: &str, profile: &str) -> Failure {
    let with = |words: &str| rkube_failure::command(words, profile);
    match command {
        "cache" => unsupported(
            "'cache' is not supported: images are kept per cluster",
            format!(
                "put an image on all nodes with: {}",
                with("image load NAME")
            ),
        ),
        _ => unsupported(
            format!("'{command}' is not supported"),
            "list the commands with: rkube help",
        ),
    }
}

/// Returns the command to use instead of an unknown one, if other tools have it.
pub fn suggestion(words: &[String]) -> Option<&'static str> {
    let word = |i: usize| words.get(i).map(String::as_str);
    Some(match (word(0)?, word(1)) {
        ("up" | "create", _) => "rkube start -p NAME",
        ("down", _) => "rkube stop, or: rkube delete",
        ("rm" | "remove" | "destroy", _) => "rkube delete -p NAME",
        ("cluster", _) | ("get", Some("clusters")) | ("ls" | "ps", _) => "rkube profile list",
        ("get", Some("nodes")) => "rkube node list",
        ("kubeconfig", _) | ("get", Some("kubeconfig")) => "rkube export kubeconfig",
        ("load", _) => "rkube image load NAME",
        ("context" | "use" | "switch", _) => "rkube profile NAME",
        ("shell" | "exec", _) => "rkube ssh",
        _ => return None,
    })
}
