//! Reads the words of a command line as the parser does, one by one.
//!
//! Needed before the parser runs, for words that are translated, and for the log of commands, which
//! must not hold secrets.

use clap::{Arg, Command};

/// Stands for what is not logged.
const HIDDEN: &str = "…";

/// Flags whose value is a secret.
const SECRETS: &[&str] = &["password", "token"];

/// Flags whose value is `NAME=VALUE`, and the latter may be a secret.
const ASSIGNMENTS: &[&str] = &[
    "build",
    "build-arg",
    "build-env",
    "build-opt",
    "docker-env",
    "docker-opt",
    "env",
    "k3s-arg",
];

/// A word that is a flag.
struct Flag<'a> {
    /// Its definition; `None` if no command of the line knows it.
    arg: Option<&'a Arg>,
    /// The position of its value in the word.
    value: Option<usize>,
    /// Whether its value is the next word.
    next: bool,
}

impl<'a> Flag<'a> {
    const UNKNOWN: Self = Self {
        arg: None,
        value: None,
        next: false,
    };

    /// Returns the flag that a word is for the commands in `levels`; `None` if it is none.
    fn read(levels: &[&'a Command], word: &str) -> Option<Self> {
        let shorts = word.strip_prefix('-').filter(|rest| !rest.is_empty())?;
        let Some(long) = shorts.strip_prefix('-') else {
            return Some(Self::read_short(levels, shorts));
        };
        let name = long.split_once('=').map_or(long, |(name, _)| name);
        let Some(arg) = find(levels, |arg| {
            arg.get_long() == Some(name)
                || arg
                    .get_all_aliases()
                    .is_some_and(|names| names.contains(&name))
        }) else {
            return Some(Self::UNKNOWN);
        };
        let joined = long.len() > name.len();
        Some(Self {
            arg: Some(arg),
            value: joined.then(|| "--".len() + name.len() + "=".len()),
            next: !joined && has_value(arg),
        })
    }

    /// Reads one-letter flags, of which the last one may have a value: `-ab5`.
    fn read_short(levels: &[&'a Command], letters: &str) -> Self {
        for (i, letter) in letters.char_indices() {
            let Some(arg) = find(levels, |arg| {
                arg.get_short() == Some(letter)
                    || arg
                        .get_all_short_aliases()
                        .is_some_and(|all| all.contains(&letter))
            }) else {
                return Self::UNKNOWN;
            };
            if has_value(arg) {
                let end = i + letter.len_utf8();
                let joined = end < letters.len();
                return Self {
                    arg: Some(arg),
                    value: joined.then(|| "-".len() + end),
                    next: !joined,
                };
            }
        }
        Self::UNKNOWN
    }

    /// Returns what is logged of a value of the flag.
    fn logged(&self, value: &str) -> String {
        match self.arg.and_then(Arg::get_long) {
            Some(name) if SECRETS.contains(&name) => HIDDEN.to_owned(),
            Some(name) if ASSIGNMENTS.contains(&name) => match value.split_once('=') {
                Some((name, _)) => format!("{name}={HIDDEN}"),
                None => value.to_owned(),
            },
            _ => without_users(value),
        }
    }
}

/// Whether a flag takes its value from the next word if it has none.
fn has_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && !arg.is_require_equals_set()
}

/// Returns the flag of the innermost command that fits; flags of outer ones may be global.
fn find<'a>(levels: &[&'a Command], fits: impl Fn(&Arg) -> bool) -> Option<&'a Arg> {
    let levels = levels.iter().rev();
    levels
        .flat_map(|command| command.get_arguments())
        .find(|arg| !arg.is_positional() && fits(arg))
}

/// Returns the place of the command among the words: the first that is neither a flag of every command
/// nor the value of one.
pub fn place_of_command(parser: &Command, words: &[&str]) -> Option<usize> {
    let mut at = 0;
    while at < words.len() {
        match Flag::read(&[parser], words[at]) {
            Some(flag) => at += 1 + usize::from(flag.next),
            None => return Some(at),
        }
    }
    None
}

/// Returns the logged form of the words beside the name of the command. It has no words for other
/// programs, no values that may be secrets, and no users and passwords in URLs.
pub fn logged(parser: &Command, words: &[String]) -> String {
    let mut levels = vec![parser];
    let mut all: Vec<String> = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let command = levels[levels.len() - 1];
        let for_others = command.get_positionals().any(Arg::is_trailing_var_arg_set);
        let flag = Flag::read(&levels, word).filter(|_| word != "--");
        match flag {
            // The flag of another program.
            Some(flag) if flag.arg.is_none() && for_others => {
                all.push(HIDDEN.to_owned());
                break;
            }
            Some(flag) => {
                all.push(match flag.value {
                    Some(at) => format!("{}{}", &word[..at], flag.logged(&word[at..])),
                    None => without_users(word),
                });
                if flag.next {
                    all.extend(words.next().map(|value| flag.logged(value)));
                }
            }
            None if word == "--" => {
                all.extend([word.clone(), HIDDEN.to_owned()]);
                break;
            }
            None => match command.find_subcommand(word) {
                Some(subcommand) => {
                    // The first is the command itself.
                    if levels.len() > 1 {
                        all.push(word.clone());
                    }
                    levels.push(subcommand);
                }
                None if for_others => {
                    all.push(HIDDEN.to_owned());
                    break;
                }
                None => all.push(without_users(word)),
            },
        }
    }
    all.join(" ")
}

/// Replaces users and passwords of the URLs in a word.
fn without_users(word: &str) -> String {
    let mut parts = word.split("://");
    let mut all = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // The authority ends there (RFC 3986, section 3.2).
        let end = part.find(['/', '?', '#']).unwrap_or(part.len());
        let part = match part[..end].rfind('@') {
            Some(at) => format!("{HIDDEN}{}", &part[at..]),
            None => part.to_owned(),
        };
        all = format!("{all}://{part}");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::parser;
    use crate::cli::settings::Settings;

    #[test]
    fn secrets_are_not_logged() {
        let parser = parser(&Settings::default());
        for (line, expected) in [
            ("-p demo start --nodes 2", "-p demo --nodes 2"),
            // Of build arguments, the names stay.
            (
                "image build --build-arg TOKEN=x -t app .",
                "build --build-arg TOKEN=… -t app .",
            ),
            (
                "image build --build-arg=TOKEN=x=y .",
                "build --build-arg=TOKEN=… .",
            ),
            (
                "image build --build-arg TOKEN .",
                "build --build-arg TOKEN .",
            ),
            (
                "image build --build-opt=build-arg=TOKEN=x .",
                "build --build-opt=build-arg=… .",
            ),
            (
                "image build --build-opt build-arg=TOKEN=x .",
                "build --build-opt build-arg=… .",
            ),
            (
                "image build --build-env=PASSWORD=x .",
                "build --build-env=PASSWORD=… .",
            ),
            // Words for other programs, also without dashes before them.
            ("ssh mysql -psecret", "…"),
            ("ssh -n m02 mysql -p secret", "-n m02 …"),
            ("ssh -nm02 -p demo env TOKEN=x", "-nm02 -p demo …"),
            ("ssh --node=m02 -- echo secret", "--node=m02 -- …"),
            ("ssh -x secret", "…"),
            ("-v 5 kubectl get secrets", "-v 5 …"),
            ("start --token secret", "--token …"),
            ("start --token=secret", "--token=…"),
            ("start --env TOKEN=x@server:0", "--env TOKEN=…"),
            ("start --k3s-arg=--token=x@server:*", "--k3s-arg=--token=…"),
            // Users of URLs.
            (
                "start --store https://ann:secret@a:2379,http://b:c@d",
                "--store https://…@a:2379,http://…@d",
            ),
            (
                "start --store=https://token@a:2379/x@y",
                "--store=https://…@a:2379/x@y",
            ),
            (
                "image build https://a:b@git.example/x.git",
                "build https://…@git.example/x.git",
            ),
            (
                "image load https://host/x@sha256:1",
                "load https://host/x@sha256:1",
            ),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(logged(&parser, &words), expected, "{line}");
        }
    }

    #[test]
    fn values_of_flags_are_no_commands() {
        let parser = parser(&Settings::default());
        for (line, expected) in [
            ("status", Some(0)),
            ("-v 5 status", Some(2)),
            ("-v=5 -p demo --output json cluster list", Some(5)),
            ("-pdemo --verbose cluster", Some(2)),
            ("--alsologtostderr --user ann stop", Some(3)),
            ("-h", None),
        ] {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(place_of_command(&parser, &words), expected, "{line}");
        }
    }
}
