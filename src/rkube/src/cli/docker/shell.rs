//! Variables in the languages of shells.

use std::collections::BTreeMap;
use std::path::Path;

/// Names the endpoint for Docker's clients.
const HOST: &str = "DOCKER_HOST";
/// Chooses the classic builder, as the endpoint has no other one.
const BUILDKIT: &str = "DOCKER_BUILDKIT";
/// Tells rkube itself that `DOCKER_HOST` is not the engine of this machine.
const ACTIVE: &str = "RKUBE_ACTIVE_DOCKERD";
/// Holds the value of `DOCKER_HOST` from before.
const EXISTING_HOST: &str = "RKUBE_EXISTING_DOCKER_HOST";
/// Holds the value of `DOCKER_BUILDKIT` from before.
const EXISTING_BUILDKIT: &str = "RKUBE_EXISTING_DOCKER_BUILDKIT";

/// A shell whose language is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// Bourne shells
    #[value(aliases = ["zsh", "sh"])]
    Bash,
    Fish,
    #[value(alias = "pwsh")]
    Powershell,
    Cmd,
    #[value(alias = "csh")]
    Tcsh,
    Emacs,
    /// Lines NAME=VALUE
    None,
}

/// Variables to set and to remove.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Variables {
    set: Vec<(&'static str, String)>,
    remove: Vec<&'static str>,
}

impl Variables {
    /// Returns the variables for the socket of a profile. `existing` reads the environment.
    pub fn set(socket: &Path, profile: &str, existing: &impl Fn(&str) -> Option<String>) -> Self {
        let mut set = vec![
            (HOST, format!("unix://{}", socket.display())),
            (BUILDKIT, "0".to_owned()),
        ];
        for (name, kept) in [(HOST, EXISTING_HOST), (BUILDKIT, EXISTING_BUILDKIT)] {
            // A second call finds the values of the first one.
            let value = match existing(ACTIVE) {
                Some(_) => existing(kept),
                None => existing(name),
            };
            set.extend(value.filter(|v| !v.is_empty()).map(|value| (kept, value)));
        }
        set.push((ACTIVE, profile.to_owned()));
        Self {
            set,
            remove: Vec::new(),
        }
    }

    /// Returns what undoes [`Self::set`]. `existing` reads the environment.
    pub fn unset(existing: &impl Fn(&str) -> Option<String>) -> Self {
        let mut variables = Self::default();
        for (name, kept) in [(HOST, EXISTING_HOST), (BUILDKIT, EXISTING_BUILDKIT)] {
            match existing(kept) {
                Some(value) => {
                    variables.set.push((name, value));
                    variables.remove.push(kept);
                }
                None => variables.remove.push(name),
            }
        }
        variables.remove.push(ACTIVE);
        variables
    }

    /// Returns names and values for programs; what is to be removed is null.
    pub fn values(&self) -> BTreeMap<&'static str, Option<String>> {
        let set = self
            .set
            .iter()
            .map(|(name, value)| (*name, Some(value.clone())));
        set.chain(self.remove.iter().map(|name| (*name, None)))
            .collect()
    }
}

impl Shell {
    /// Returns the shell that `$SHELL` names; Bourne's otherwise.
    pub fn of_environment() -> Self {
        let shell = std::env::var("SHELL").unwrap_or_default();
        match Path::new(&shell).file_name().and_then(|name| name.to_str()) {
            Some("fish") => Self::Fish,
            Some("tcsh" | "csh") => Self::Tcsh,
            Some("pwsh") => Self::Powershell,
            None if cfg!(windows) => Self::Powershell,
            _ => Self::Bash,
        }
    }

    /// Returns commands that set and remove variables, and how to run them.
    pub fn print(self, variables: &Variables, profile: &str, unset: bool) -> String {
        let mut text = String::new();
        for name in &variables.remove {
            text += &self.removal(name);
        }
        for (name, value) in &variables.set {
            text += &self.assignment(name, value);
        }
        if let Some(hint) = self.hint(profile, unset) {
            text += &format!("\n{hint}\n");
        }
        text
    }

    fn assignment(self, name: &str, value: &str) -> String {
        match self {
            Self::Bash => format!("export {name}={}\n", quoted(value, "\"\\$`")),
            Self::Fish => format!("set -gx {name} {};\n", quoted(value, "\"\\$")),
            Self::Powershell => format!("$Env:{name} = '{}'\n", value.replace('\'', "''")),
            Self::Cmd => format!("SET {name}={value}\n"),
            // Within single quotes, only they and `!` need care.
            Self::Tcsh => {
                let value = value.replace('\'', "'\\''").replace('!', "\\!");
                format!("setenv {name} '{value}';\n")
            }
            Self::Emacs => format!("(setenv \"{name}\" {})\n", quoted(value, "\"\\")),
            Self::None => format!("{name}={value}\n"),
        }
    }

    fn removal(self, name: &str) -> String {
        match self {
            Self::Bash => format!("unset {name};\n"),
            Self::Fish => format!("set -e {name};\n"),
            Self::Powershell => format!("Remove-Item Env:\\{name} -ErrorAction SilentlyContinue\n"),
            Self::Cmd => format!("SET {name}=\n"),
            Self::Tcsh => format!("unsetenv {name};\n"),
            Self::Emacs => format!("(setenv \"{name}\" nil)\n"),
            Self::None => format!("{name}\n"),
        }
    }

    /// Returns a comment that says how to run the commands.
    fn hint(self, profile: &str, unset: bool) -> Option<String> {
        let line = match unset {
            true => format!("rkube -p {profile} docker-env --unset"),
            false => format!("rkube -p {profile} docker-env"),
        };
        let (mark, hint) = match self {
            Self::Bash => ("#", format!("eval $({line})")),
            Self::Fish => ("#", format!("{line} | source")),
            Self::Powershell => ("#", format!("& {line} | Out-String | Invoke-Expression")),
            Self::Cmd => (
                "REM",
                format!("@FOR /f \"tokens=*\" %i IN ('{line}') DO @%i"),
            ),
            Self::Tcsh => ("#", format!("eval `{line}`")),
            Self::Emacs => (
                ";;",
                format!(
                    "(with-temp-buffer (shell-command \"{line}\" (current-buffer)) (eval-buffer))"
                ),
            ),
            Self::None => return None,
        };
        Some(format!(
            "{mark} To use it in this shell, run:\n{mark} {hint}"
        ))
    }
}

/// Puts a text into double quotes, with a backslash before each of `special`.
fn quoted(text: &str, special: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if special.contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(existing: &[(&str, &str)]) -> Variables {
        Variables::set(Path::new("/h/docker.sock"), "p", &reader(existing))
    }

    fn reader(existing: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        let existing: BTreeMap<String, String> = existing
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        move |name| existing.get(name).cloned()
    }

    #[test]
    fn each_shell_has_its_words() {
        for (shell, set, unset) in [
            (
                Shell::Bash,
                "export DOCKER_HOST=\"unix:///h/docker.sock\"\n",
                "unset DOCKER_HOST;\n",
            ),
            (
                Shell::Fish,
                "set -gx DOCKER_HOST \"unix:///h/docker.sock\";\n",
                "set -e DOCKER_HOST;\n",
            ),
            (
                Shell::Powershell,
                "$Env:DOCKER_HOST = 'unix:///h/docker.sock'\n",
                "Remove-Item Env:\\DOCKER_HOST -ErrorAction SilentlyContinue\n",
            ),
            (
                Shell::Cmd,
                "SET DOCKER_HOST=unix:///h/docker.sock\n",
                "SET DOCKER_HOST=\n",
            ),
            (
                Shell::Tcsh,
                "setenv DOCKER_HOST 'unix:///h/docker.sock';\n",
                "unsetenv DOCKER_HOST;\n",
            ),
            (
                Shell::Emacs,
                "(setenv \"DOCKER_HOST\" \"unix:///h/docker.sock\")\n",
                "(setenv \"DOCKER_HOST\" nil)\n",
            ),
            (
                Shell::None,
                "DOCKER_HOST=unix:///h/docker.sock\n",
                "DOCKER_HOST\n",
            ),
        ] {
            let text = shell.print(&variables(&[]), "p", false);
            assert!(text.starts_with(set), "{shell:?}: {text}");
            let text = shell.print(&Variables::unset(&reader(&[])), "p", true);
            assert!(text.starts_with(unset), "{shell:?}: {text}");
        }
        let text = Shell::Bash.print(&variables(&[]), "p", false);
        assert!(
            text.ends_with("# eval $(rkube -p p docker-env)\n"),
            "{text}"
        );
        assert_eq!(quoted("a\"$b", "\"\\$`"), "\"a\\\"\\$b\"");
    }

    #[test]
    fn previous_variables_are_restored() {
        let old = "tcp://1.2.3.4:2375";
        let first = variables(&[(HOST, old)]);
        assert!(first.set.contains(&(EXISTING_HOST, old.to_owned())));
        let now: Vec<(&str, &str)> = first.set.iter().map(|(n, v)| (*n, v.as_str())).collect();
        // A second call keeps the first one's memory.
        assert_eq!(variables(&now), first);
        let back = Variables::unset(&reader(&now));
        assert_eq!(back.set, [(HOST, old.to_owned())]);
        assert_eq!(back.remove, [EXISTING_HOST, BUILDKIT, ACTIVE]);
        assert_eq!(back.values()[ACTIVE], None);
    }
}
