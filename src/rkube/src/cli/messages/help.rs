//! Help and the errors of the parser in the language that was chosen.

use clap::builder::StyledStr;
use clap::{Arg, Command};

use super::{active, text};

/// The parser's own words. It has no place for others, so they are replaced in what it prints.
pub const WORDS: &[&str] = &[
    "Usage: ",
    "Options:",
    "Commands:",
    "Arguments:",
    "Possible values:",
    "[default: ",
    "[possible values: ",
    "[aliases: ",
    "[env: ",
    "[subcommands: ",
    "Print this message or the help of the given subcommand(s)",
    "Print help (see more with '--help')",
    "Print help (see a summary with '-h')",
    "Print help",
    "Print version",
    "For more information, try '--help'.",
    "error: ",
    "tip: ",
];

/// The errors of the parser, for the test of the catalogue.
#[cfg(test)]
pub const ERRORS: &[&str] = &[
    "unexpected argument '{}' found",
    "unexpected value '{}' for '{}' found; no more were expected",
    "unrecognized subcommand '{}'",
    "invalid value '{}' for '{}': it must be {}",
    "a similar subcommand exists: '{}'",
    "a similar argument exists: '{}'",
    "some similar subcommands exist: {}",
    "some similar arguments exist: {}",
    "a similar value exists: '{}'",
    "to pass '{}' as a value, use '-- {}'",
    "invalid value '{}' for '{}'",
    "invalid value '{}' for '{}': {}",
    "a value is required for '{}' but none was supplied",
    "equal sign is needed when assigning values to '{}'",
    "the following required arguments were not provided:",
    "'{}' requires a subcommand but one was not provided",
    "the argument '{}' cannot be used with '{}'",
    "the argument '{}' cannot be used with:",
    "the argument '{}' cannot be used multiple times",
];

/// Translates the help of a command and all below. Does nothing in English.
pub fn translate(command: Command) -> Command {
    if !active() {
        return command;
    }
    // The parser counts bytes where it wraps lines, and looks for spaces.
    translate_one(command.term_width(0))
}

fn translate_one(mut command: Command) -> Command {
    let own = |help: Option<&StyledStr>| help.map(|help| text(&help.to_string()).into_owned());
    let (about, long) = (own(command.get_about()), own(command.get_long_about()));
    let after = own(command.get_after_help());
    if let Some(about) = about {
        command = command.about(about);
    }
    if let Some(long) = long {
        command = command.long_about(long);
    }
    if let Some(after) = after {
        command = command.after_help(after);
    }
    command
        .mut_args(translate_arg)
        .mut_subcommands(translate_one)
}

fn translate_arg(arg: Arg) -> Arg {
    let own = |help: Option<&StyledStr>| help.map(|help| text(&help.to_string()).into_owned());
    let (help, long) = (own(arg.get_help()), own(arg.get_long_help()));
    let arg = match help {
        Some(help) => arg.help(help),
        None => arg,
    };
    match long {
        Some(long) => arg.long_help(long),
        None => arg,
    }
}

/// Translates the parser's own words in what it prints. Does nothing in English.
pub fn finish(printed: &str) -> String {
    if !active() {
        return printed.to_owned();
    }
    let mut all = String::new();
    for line in printed.split_inclusive('\n') {
        all += &finish_line(line);
    }
    all
}

fn finish_line(line: &str) -> String {
    let trimmed = line.trim();
    for (mark, rest) in [
        ("error: ", trimmed.strip_prefix("error: ")),
        ("tip: ", trimmed.strip_prefix("tip: ")),
    ] {
        if let Some(rest) = rest {
            let said = format!("{}{}", text(mark), text(rest));
            return line.replace(trimmed, &said);
        }
    }
    // A value of a flag with its help.
    if let Some((name, help)) = trimmed
        .strip_prefix("- ")
        .and_then(|line| line.split_once(':'))
    {
        let help = help.trim();
        return line.replace(trimmed, &format!("- {name}: {}", text(help)));
    }
    let mut line = line.to_owned();
    for word in WORDS {
        if line.contains(word) {
            line = line.replace(word, &text(word));
        }
    }
    line
}
