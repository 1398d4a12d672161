//! From words to a command: flags, environment, the user's settings and defaults, in this order.
//!
//! Flags are read as minikube reads them. A switch may have a value (`--all=false`), and a flag may be
//! repeated (the last one counts). Flags of minikube's that rkube does not have are known.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use super::settings::Settings;
use super::values::parse_bool;
use super::{Cli, k3d, messages, minikube};

/// A parsed command line.
pub struct Parsed {
    /// The command.
    pub cli: Cli,
    /// Findings about flags of minikube's.
    pub findings: minikube::Findings,
    /// The part of the line that the log of commands may hold.
    pub line: super::audit::Line,
}

/// Parses a command line. `args` starts with the program's name.
pub fn parse(args: Vec<OsString>, settings: &Settings) -> Result<Parsed, clap::Error> {
    let mut parser = parser(settings);
    let ((args, note), refusal) = match k3d::translate(args, &parser) {
        Ok(translated) => (translated, None),
        // A command that is always there; the refusal is reported instead of its result.
        Err(refusal) => {
            let words = vec!["rkube".into(), "options".into()];
            ((words, None), Some(refusal))
        }
    };
    let matches = match parser.try_get_matches_from_mut(args.clone()) {
        Ok(matches) => matches,
        Err(e) => return Err(explain(e, args)),
    };
    let mut cli = Cli::from_arg_matches(&matches).map_err(|e| e.format(&mut parser))?;
    cli.global.profile_given = matches!(
        matches.value_source("profile"),
        Some(ValueSource::CommandLine | ValueSource::EnvVariable)
    );
    if let (super::Command::Start(args), Some(("start", start))) =
        (&mut cli.command, matches.subcommand())
    {
        args.given = given(start);
    }
    let mut findings = minikube::check(&matches);
    findings.refusal = refusal.or(findings.refusal);
    findings.warnings.extend(note);
    let words: Vec<String> = args
        .iter()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let line = super::audit::Line {
        // Aliases have become the command's name.
        command: matches.subcommand_name().unwrap_or_default().to_owned(),
        args: super::line::logged(&parser, &words),
    };
    Ok(Parsed {
        cli,
        findings,
        line,
    })
}

/// Returns the names of the flags that are on the command line.
fn given(matches: &ArgMatches) -> Vec<String> {
    let here = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
    let ids = matches.ids().filter(here);
    ids.map(|id| id.as_str().replace('_', "-")).collect()
}

/// Prints help with the plain parser, in which switches have no values. Adds advice to the error of
/// an unknown command.
fn explain(e: clap::Error, args: Vec<OsString>) -> clap::Error {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    match e.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            match messages::translate(Cli::command()).try_get_matches_from(args) {
                Err(plain) if plain.kind() == e.kind() => plain,
                // The command line has flags that only the other parser knows.
                _ => e,
            }
        }
        ErrorKind::InvalidSubcommand => {
            let words: Vec<String> = args
                .into_iter()
                .skip(1)
                .filter_map(|word| word.into_string().ok())
                .filter(|word| !word.starts_with('-'))
                .collect();
            // Words before it are the values of flags.
            let at = match e.get(ContextKind::InvalidSubcommand) {
                Some(ContextValue::String(bad)) => words.iter().position(|word| word == bad),
                _ => None,
            };
            let words = &words[at.unwrap_or(0)..];
            match minikube::suggestion(words) {
                Some(command) => Cli::command().error(
                    ErrorKind::InvalidSubcommand,
                    format!(
                        "there is no command '{}'; use: {command}",
                        words.first().map_or("", |word| word)
                    ),
                ),
                None => e,
            }
        }
        ErrorKind::ValueValidation => {
            let source = std::error::Error::source(&e).map(ToString::to_string);
            let Some(valid) = source.as_deref().and_then(valid_instead) else {
                return e;
            };
            let text = |kind| match e.get(kind) {
                Some(ContextValue::String(text)) => text.as_str(),
                _ => "",
            };
            let (arg, value) = (
                text(ContextKind::InvalidArg),
                text(ContextKind::InvalidValue),
            );
            // Without the usage of another command.
            clap::Error::raw(
                ErrorKind::ValueValidation,
                format!(
                    "invalid value '{value}' for '{arg}': it must be {valid}\n\n\
                     For more information, try '--help'.\n"
                ),
            )
        }
        ErrorKind::ArgumentConflict => {
            let text = e.to_string();
            // The parser takes a second name for a command.
            let rest = text.split_once("the subcommand '").map(|(_, rest)| rest);
            match rest.and_then(|rest| rest.split_once('\'')) {
                Some((word, _)) => clap::Error::raw(
                    ErrorKind::ArgumentConflict,
                    format!(
                        "'{word}' is one argument too many\n\n\
                         For more information, try '--help'.\n"
                    ),
                ),
                None => e,
            }
        }
        _ => e,
    }
}

/// Returns what is valid where a parser of Rust's library only says what is wrong.
fn valid_instead(error: &str) -> Option<&'static str> {
    Some(match error {
        "invalid digit found in string"
        | "cannot parse integer from empty string"
        | "number too small to fit in target type" => "a whole number, 0 or more",
        "number too large to fit in target type" => "a smaller number",
        "invalid IP address syntax" => "an address range such as 192.168.77.0/24",
        "invalid IPv4 address syntax" => "an address such as 192.168.77.2",
        _ => return None,
    })
}

/// Returns the parser of command lines.
pub fn parser(settings: &Settings) -> Command {
    let mut command = relax(Cli::command(), "");
    command = command.mut_subcommand("start", |start| {
        start.mut_args(|arg| with_sources(arg, settings))
    });
    command.mut_args(|arg| match arg.get_id().as_str() {
        "profile" | messages::SETTING => with_sources(arg, settings),
        _ => arg,
    })
}

/// Makes a command and its subcommands accept what minikube accepts.
fn relax(command: Command, path: &str) -> Command {
    let names: Vec<String> = command
        .get_subcommands()
        .map(|c| c.get_name().to_owned())
        .collect();
    let mut command =
        minikube::add_flags(command.args_override_self(true).mut_args(with_value), path);
    for name in names {
        command = command.mut_subcommand(&name, |subcommand| {
            relax(subcommand, format!("{path} {name}").trim_start())
        });
    }
    command
}

/// Lets the switches of a command and its subcommands have values, and flags be repeated.
pub fn with_values(command: Command) -> Command {
    let command = command.args_override_self(true).mut_args(with_value);
    command.mut_subcommands(with_values)
}

/// Lets a switch have a value, as in `--all=false`. Lets the value of another flag be negative, so that
/// its own check says what is valid.
fn with_value(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        let takes_value = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
        return match takes_value && !arg.is_positional() && !arg.is_allow_hyphen_values_set() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        };
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("true|false")
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .value_parser(parse_bool)
}

/// Lets a flag take its value from the environment, as `RKUBE_FLAG`, or from the user's settings.
fn with_sources(arg: Arg, settings: &Settings) -> Arg {
    let Some(long) = arg.get_long().map(str::to_owned) else {
        return arg;
    };
    let variable = variable(&long);
    let mut arg = arg;
    if arg.get_env().is_none() {
        arg = arg.env(&*variable.clone().leak()).hide_env(true);
    }
    // An empty variable is an unset one.
    if std::env::var_os(&variable).is_some_and(|value| value.is_empty()) {
        arg = arg.env(None::<&'static str>);
    }
    match settings.get(&long) {
        Some(value) => arg.default_value(&*value.to_owned().leak()),
        None => arg,
    }
}

/// Returns the environment variable of a flag.
fn variable(flag: &str) -> String {
    format!("RKUBE_{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// A flag that can be set with `rkube config set`.
pub struct Property {
    /// The flag without dashes.
    pub name: String,
    /// Its description.
    pub help: String,
    /// The environment variable of the same meaning.
    pub variable: String,
    /// Its default, empty if there is none.
    pub default: String,
    /// Its values, if only certain ones are possible.
    pub values: Vec<String>,
}

/// Returns the flags that can be set with `rkube config set`: those of `start`, and the profile.
pub fn properties() -> Vec<Property> {
    let command = Cli::command();
    let start = command.find_subcommand("start").into_iter();
    let flags = start.flat_map(Command::get_arguments);
    let profile = command
        .get_arguments()
        .filter(|arg| ["profile", messages::SETTING].contains(&arg.get_id().as_str()));
    // These say what one call does.
    let once = |arg: &&Arg| {
        !matches!(
            arg.get_long(),
            Some("dry-run" | "file" | "help" | "version") | None
        )
    };
    let audit = Property {
        name: super::audit::SETTING.to_owned(),
        help: "Whether commands are logged (rkube logs --audit)".to_owned(),
        variable: "-".to_owned(),
        default: "true".to_owned(),
        values: vec!["true".into(), "false".into()],
    };
    flags
        .chain(profile)
        .filter(once)
        .filter(|arg| !arg.is_hide_set())
        .filter_map(|arg| {
            let name = arg.get_long()?.to_owned();
            let text = |values: &[clap::builder::OsStr]| {
                let words = values.iter().map(|value| value.to_string_lossy());
                words.collect::<Vec<_>>().join(",")
            };
            Some(Property {
                variable: variable(&name),
                help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
                default: text(arg.get_default_values()),
                values: match arg.get_action() {
                    ArgAction::SetTrue => vec!["true".into(), "false".into()],
                    _ => arg
                        .get_possible_values()
                        .iter()
                        .map(|value| value.get_name().to_owned())
                        .collect(),
                },
                name,
            })
        })
        .chain(std::iter::once(audit))
        .collect()
}

/// Checks a value of a flag that is to become a setting, as the flag itself would be checked.
/// Returns the error in one line.
pub fn check_value(name: &str, value: &str) -> Result<(), String> {
    let flag = format!("--{name}={value}");
    let words = ["rkube".into(), "start".into(), OsString::from(flag)];
    let matches: Result<ArgMatches, clap::Error> =
        parser(&Settings::default()).try_get_matches_from(words);
    match matches {
        Ok(_) => Ok(()),
        Err(e) => {
            let text = e.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            Err(line.trim_start_matches("error: ").to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parser_is_consistent() {
        parser(&Settings::default()).debug_assert();
    }

    #[test]
    fn flags_and_defaults_are_distinguished() {
        let words = [
            "rkube",
            "-p",
            "demo",
            "start",
            "--pod-network-cidr=10.0.0.0/16",
        ];
        let parsed = parse(words.map(OsString::from).to_vec(), &Settings::default()).unwrap();
        assert!(parsed.cli.global.profile_given);
        let super::super::Command::Start(args) = parsed.cli.command else {
            panic!("another command");
        };
        assert!(args.given.contains(&"pod-network-cidr".to_owned()));
        assert!(!args.given.contains(&"dns-domain".to_owned()));
    }

    #[test]
    fn the_error_of_a_wrong_value_lists_valid_ones() {
        for (line, part) in [
            (
                "logs -n x",
                "'x' for '--length <LINES>': it must be a whole number, 0 or more",
            ),
            ("start --subnet=x", "an address range such as"),
            ("dashboard --port 99999999", "0..=65535"),
            ("start --nodes=x", "'x' is not a number of nodes"),
            ("start --nodes 0", "'0' is not a number of nodes"),
            ("logs -n -3", "'-3' for '--length <LINES>'"),
            ("node add --count -1", "'-1' for '--count <"),
            ("stop --schedule -5m", "'-5m' for '--schedule <TIME>'"),
            ("status -o xml", "text, json, yaml, name"),
            ("profile a b", "'b' is one argument too many"),
            (
                "start --insecure-registry=http://a",
                "'http://a' is neither HOST[:PORT] nor a range of addresses",
            ),
        ] {
            let words = std::iter::once("rkube").chain(line.split(' '));
            let words = words.map(OsString::from).collect();
            let error = parse(words, &Settings::default()).err().unwrap();
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn every_flag_of_start_has_a_variable() {
        let properties = properties();
        let nodes = properties.iter().find(|p| p.name == "nodes").unwrap();
        assert_eq!(nodes.variable, "RKUBE_NODES");
        let store = properties.iter().find(|p| p.name == "store-ca").unwrap();
        assert_eq!(store.variable, "RKUBE_STORE_CA");
        assert!(properties.iter().all(|p| p.name != "dry-run"));
    }

    #[test]
    fn settings_are_checked_as_flags_are() {
        assert_eq!(check_value("memory", "4g"), Ok(()));
        let error = check_value("memory", "lots").unwrap_err();
        assert!(error.contains("lots"), "{error}");
        assert!(check_value("nodes", "-1").is_err());
        assert!(check_value("nonsense", "1").is_err());
        assert_eq!(check_value("keep-context", "true"), Ok(()));
        assert!(check_value("keep-context", "maybe").is_err());
    }
}
