//! The log of commands that `rkube logs --audit` prints.
//!
//! It has minikube's fields: a line of JSON per command, in `$RKUBE_HOME/audit.jsonl`, for the user
//! only. Nothing is sent anywhere. `--skip-audit` leaves one command out, `rkube config set audit
//! false` all of them. The log goes with the last cluster, as everything else does.

use std::sync::Mutex;
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
/// The most characters of the names of users and profiles that are kept.
const MAX_NAME: usize = 100;

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
pub struct RunningCommand {
    line: Line,
    profile: String,
    user: String,
    start: SystemTime,
}

/// The logged part of a command line, without secrets.
pub struct Line {
    /// The name of the command, no alias.
    pub command: String,
    /// The other words.
    pub args: String,
}

/// The profile that the command has found out to be about, as from its file.
static PROFILE: Mutex<Option<String>> = Mutex::new(None);

/// Notes which profile the command is about, if no flag names that.
pub fn about(profile: &str) {
    if let Ok(mut name) = PROFILE.lock() {
        *name = Some(profile.to_owned());
    }
}

/// Begins the entry of a command. Returns `None` if it is not to be logged.
pub fn begin(
    line: Line,
    profile: &str,
    user: Option<&str>,
    settings: &Settings,
) -> Option<RunningCommand> {
    if settings.get(SETTING) == Some("false") || LEFT_OUT.contains(&line.command.as_str()) {
        return None;
    }
    let user = user.filter(|user| !user.is_empty());
    Some(RunningCommand {
        line,
        profile: profile.to_owned(),
        user: user.map_or_else(own_user, str::to_owned),
        start: SystemTime::now(),
    })
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

impl RunningCommand {
    /// Returns the entry of the command, which ends now.
    fn entry(&self, profile: Option<String>) -> Entry {
        let cut = |text: &str, most| text.chars().take(most).collect();
        Entry {
            args: cut(&self.line.args, MAX_ARGUMENTS),
            command: self.line.command.clone(),
            profile: cut(profile.as_ref().unwrap_or(&self.profile), MAX_NAME),
            user: cut(&self.user, MAX_NAME),
            version: format!("v{}", env!("CARGO_PKG_VERSION")),
            start_time: audit::time(self.start),
            end_time: audit::time(SystemTime::now()),
        }
    }

    /// Writes the entry, if there is still a directory for it.
    pub fn end(&self, home: &Home) -> Result<(), Failure> {
        let profile = PROFILE.lock().ok().and_then(|mut name| name.take());
        match serde_json::to_string(&self.entry(profile)) {
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

    fn begun(line: &str, settings: &Settings) -> Option<RunningCommand> {
        let words = line.split(' ').map(std::ffi::OsString::from).collect();
        let parsed = crate::cli::args::parse(words, settings).unwrap();
        begin(parsed.line, "demo", Some("ann"), settings)
    }

    #[test]
    fn entries_have_minikubes_fields() {
        let settings = Settings::default();
        let entry = begun("rkube -p demo start --nodes 2", &settings)
            .unwrap()
            .entry(None);
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
        let mut long = begun("rkube ssh -- echo secret", &settings).unwrap();
        assert_eq!(long.entry(None).args, "-- …");
        // The command knows better which profile it is about.
        assert_eq!(long.entry(Some("other".to_owned())).profile, "other");
        long.user = "x".repeat(5000);
        assert_eq!(long.entry(None).user.len(), MAX_NAME);
    }

    #[test]
    fn names_are_those_of_commands() {
        let settings = Settings::default();
        for (line, command, args) in [
            ("rkube -v 5 stop", "stop", "-v 5"),
            ("rkube resume", "unpause", ""),
            ("rkube addon list", "addons", "list"),
            ("rkube cluster create x", "start", "--profile=x"),
            ("rkube -p start stop", "stop", "-p start"),
        ] {
            let entry = begun(line, &settings).unwrap().entry(None);
            assert_eq!(
                (entry.command.as_str(), entry.args.as_str()),
                (command, args),
                "{line}"
            );
        }
    }

    #[test]
    fn words_that_are_left_out_are_not_logged() {
        let mut settings = Settings::default();
        for line in [
            "rkube -o json status",
            "rkube -v 5 status",
            "rkube profiles list",
            "rkube --profile x logs --audit",
        ] {
            assert!(begun(line, &settings).is_none(), "{line}");
        }
        settings.set(SETTING, "false");
        assert!(begun("rkube start", &settings).is_none());
    }
}
