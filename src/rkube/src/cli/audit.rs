//! The log of commands that `rkube logs --audit` prints.
//!
//! It has minikube's fields: a line of JSON per command, in `$RKUBE_HOME/audit.jsonl`, for the user
//! only. Nothing is sent anywhere. `--skip-audit` leaves one command out, `rkube config set audit
//! false` all of them. The log goes with the last cluster, as everything else does.

use std::ffi::OsString;
use std::time::SystemTime;

use rkube_cluster::{Home, audit};
use rkube_failure::Failure;
use serde::{Deserialize, Serialize};

use super::Output;
use super::output::table;
use super::settings::Settings;

/// The setting that turns the log off.
pub const SETTING: &str = "audit";

/// Commands that change nothing and are called often, as by prompts and editors.
const LEFT_OUT: &[&str] = &[
    "completion",
    "ctl",
    "help",
    // It becomes kubectl.
    "kubectl",
    "logs",
    "options",
    "profile",
    "status",
    "version",
];

/// The most characters of arguments that are kept.
const MAX_ARGUMENTS: usize = 1000;

/// A command that was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    command: String,
    args: String,
    profile: String,
    user: String,
    version: String,
    start_time: String,
    end_time: String,
}

/// A command that is running.
pub struct Begun {
    words: Vec<String>,
    profile: String,
    user: String,
    start: SystemTime,
}

/// Begins the entry of a command. Returns `None` if it is not to be logged.
pub fn begin(
    words: &[OsString],
    profile: &str,
    user: Option<&str>,
    settings: &Settings,
) -> Option<Begun> {
    if settings.get(SETTING) == Some("false") {
        return None;
    }
    let words = words.iter().skip(1);
    let words: Vec<String> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let command = command(&words)?;
    if LEFT_OUT.contains(&command) {
        return None;
    }
    let user = user.filter(|user| !user.is_empty());
    Some(Begun {
        profile: profile.to_owned(),
        user: user.map_or_else(own_user, str::to_owned),
        start: SystemTime::now(),
        words,
    })
}

/// Returns the name of the command among the words: the first one that is neither a flag nor the value
/// of a flag that precedes the command.
fn command(words: &[String]) -> Option<&str> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-p" | "--profile" | "-o" | "--output" | "--user" => {
                words.next();
            }
            flag if flag.starts_with('-') => {}
            command => return Some(command),
        }
    }
    None
}

/// Returns the user who runs this process, or who typed sudo.
fn own_user() -> String {
    let of = |name: &str| std::env::var(name).ok().filter(|user| !user.is_empty());
    of("SUDO_USER")
        .or_else(|| of("USER"))
        .or_else(|| of("USERNAME"))
        .or_else(registered_user)
        .unwrap_or_else(|| "UNKNOWN".to_owned())
}

/// Returns the name that the system has for the user of this process. Services have no variables.
#[cfg(target_os = "linux")]
fn registered_user() -> Option<String> {
    let uid = nix::unistd::getuid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid.as_str())).then(|| name.to_owned())
    })
}

#[cfg(not(target_os = "linux"))]
fn registered_user() -> Option<String> {
    None
}

impl Begun {
    /// Returns the entry of the command, which ends now.
    fn entry(&self) -> Entry {
        let name = command(&self.words).unwrap_or_default().to_owned();
        let at = self.words.iter().position(|word| *word == name);
        let mut rest = self.words.clone();
        if let Some(at) = at {
            rest.remove(at);
        }
        // What comes after is for another program, and may be a secret.
        if let Some(at) = rest.iter().position(|word| word == "--") {
            rest.truncate(at + 1);
            rest.push("…".to_owned());
        }
        Entry {
            args: rest.join(" ").chars().take(MAX_ARGUMENTS).collect(),
            command: name,
            profile: self.profile.clone(),
            user: self.user.clone(),
            version: format!("v{}", env!("CARGO_PKG_VERSION")),
            start_time: audit::time(self.start),
            end_time: audit::time(SystemTime::now()),
        }
    }

    /// Writes the entry, if there is still a directory for it.
    pub fn end(&self, home: &Home) -> Result<(), Failure> {
        match serde_json::to_string(&self.entry()) {
            Ok(line) => audit::add(home, &line),
            // Texts are always JSON.
            Err(_) => Ok(()),
        }
    }
}

/// Prints the newest entries; all if `length` is 0.
pub fn print(home: &Home, length: usize, output: &Output) -> Result<(), Failure> {
    let lines = audit::lines(home)?;
    // A line that a full disk has cut off is left out.
    let entries = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok());
    let entries: Vec<Entry> = entries.collect();
    let first = match length {
        0 => 0,
        length => entries.len().saturating_sub(length),
    };
    let entries = &entries[first..];
    output.result(&entries, || text(entries));
    Ok(())
}

fn text(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "No commands are logged.".to_owned();
    }
    let head = [
        "COMMAND",
        "ARGS",
        "PROFILE",
        "USER",
        "VERSION",
        "START TIME",
        "END TIME",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(entries.iter().map(|e| {
        let fields = [
            &e.command,
            &e.args,
            &e.profile,
            &e.user,
            &e.version,
            &e.start_time,
            &e.end_time,
        ];
        fields.map(Clone::clone).to_vec()
    }));
    table(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun(line: &str, settings: &Settings) -> Option<Begun> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        begin(&words, "demo", Some("ann"), settings)
    }

    #[test]
    fn entries_have_minikubes_fields() {
        let settings = Settings::default();
        let entry = begun("rkube -p demo start --nodes 2", &settings)
            .unwrap()
            .entry();
        assert_eq!(
            (entry.command.as_str(), entry.args.as_str()),
            ("start", "-p demo --nodes 2")
        );
        let value = serde_json::to_value(&entry).unwrap();
        let keys: Vec<&str> = value
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            keys,
            [
                "args",
                "command",
                "endTime",
                "profile",
                "startTime",
                "user",
                "version"
            ]
        );
        assert_eq!(value["user"], "ann");
        assert!(text(&[entry]).contains("--nodes 2"));
        let secret = begun("rkube ssh -- echo secret", &settings);
        assert_eq!(secret.unwrap().entry().args, "-- …");
    }

    #[test]
    fn what_is_left_out_is_not_logged() {
        let mut settings = Settings::default();
        for line in [
            "rkube",
            "rkube -o json status",
            "rkube --profile x logs --audit",
            "rkube -h",
        ] {
            assert!(begun(line, &settings).is_none(), "{line}");
        }
        settings.set(SETTING, "false");
        assert!(begun("rkube start", &settings).is_none());
    }
}
