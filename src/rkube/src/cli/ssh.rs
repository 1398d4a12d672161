//! `rkube ssh`, `rkube ssh-key` and `rkube ssh-host`

use std::io::IsTerminal;
use std::process::ExitCode;

use rkube_cluster::{Home, Profile};
use rkube_failure::{Failure, Kind, Source};

use super::{Global, Output};

/// The exit code of shells for a command that does not exist.
const NOT_FOUND: i32 = 127;

#[derive(clap::Args)]
pub struct Args {
    /// Name of the node [default: the control-plane node]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
    /// Command to run instead of a shell; flags of rkube come before it
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

/// Runs `rkube ssh`.
pub async fn run(home: &Home, global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let mut target = Target {
        profile: global.profile.clone(),
        node: args.node,
    };
    let mut command = args.command;
    // Words after dashes belong to the command.
    if !std::env::args_os().any(|word| word == "--") {
        target.take_flags(home, &mut command);
    }
    super::audit::about(&target.profile);
    let profile = Profile::load(home, &target.profile)?;
    let node = profile.node(target.node.as_deref())?;
    let session = rkube_cluster::ssh(home, &profile, node).await?;
    let first = command.first().cloned();
    let code = if command.is_empty() {
        session.shell().await
    } else {
        let command = quote(&command);
        if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
            session.interactive(Some(&command)).await
        } else {
            session
                .exec(
                    &command,
                    Some(tokio::io::stdin()),
                    tokio::io::stdout(),
                    tokio::io::stderr(),
                )
                .await
        }
    };
    let code = code.map_err(|e| {
        Failure::new(
            Source::Guest,
            Kind::Error,
            format!("the connection to the node {} was lost: {e}", node.name),
        )
    })?;
    if code == NOT_FOUND
        && let Some(other) = first.filter(|word| profile.node(Some(word)).is_ok())
    {
        let of = &profile.name;
        eprintln!("{other} is a node: use 'rkube ssh -p {of} -n {other} -- COMMAND'");
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// The place where a command runs.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    profile: String,
    node: Option<String>,
}

impl Target {
    /// Takes flags from behind a command in one word, as in `ssh 'ls /' -p demo`, which minikube
    /// understands. They are the command's unless they name a profile or a node that exists.
    fn take_flags(&mut self, home: &Home, command: &mut Vec<String>) {
        let [line, flags @ ..] = command.as_slice() else {
            return;
        };
        let mut found = Self {
            profile: self.profile.clone(),
            node: self.node.clone(),
        };
        let mut rest = flags.iter();
        while let Some(flag) = rest.next() {
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag.as_str(), rest.next().cloned()),
            };
            match (name, value) {
                ("-p" | "--profile", Some(value)) => found.profile = value,
                ("-n" | "--node", Some(value)) => found.node = Some(value),
                _ => return,
            }
        }
        let exists = Profile::load(home, &found.profile)
            .is_ok_and(|profile| profile.node(found.node.as_deref()).is_ok());
        if !flags.is_empty() && exists {
            let line = line.clone();
            *self = found;
            *command = vec![line];
        }
    }
}

/// Joins arguments to a shell command line. A single argument is passed as it is, as
/// OpenSSH does; several are quoted where needed.
fn quote(words: &[String]) -> String {
    if let [line] = words {
        return line.clone();
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    let quoted: Vec<String> = words
        .iter()
        .map(|word| {
            if !word.is_empty() && word.chars().all(plain) {
                word.clone()
            } else {
                format!("'{}'", word.replace('\'', r"'\''"))
            }
        })
        .collect();
    quoted.join(" ")
}

#[derive(clap::Args)]
pub struct KeyArgs {
    /// Name of the node; the key is the same on all nodes
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
}

/// Runs `rkube ssh-key`.
pub fn key(home: &Home, global: &Global, args: KeyArgs, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    profile.node(args.node.as_deref())?;
    let path = rkube_cluster::ssh_key(home, &profile);
    let path = path.display().to_string();
    output.result(&serde_json::json!({ "path": path }), || path.clone());
    Ok(())
}

#[derive(clap::Args)]
pub struct HostArgs {
    /// Name of the node [default: the control-plane node]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
    /// Add the key to ~/.ssh/known_hosts instead of printing it
    #[arg(long)]
    append_known: bool,
}

/// Runs `rkube ssh-host`.
pub fn host(home: &Home, global: &Global, args: HostArgs, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let node = profile.node(args.node.as_deref())?;
    let address = rkube_cluster::ssh_address(home, &profile, node)?;
    let key = rkube_cluster::ssh_host_key(home, &profile, node)?;
    // The comment is not part of known_hosts.
    let key: Vec<&str> = key.split_whitespace().take(2).collect();
    let line = match address.port() {
        22 => format!("{} {}", address.ip(), key.join(" ")),
        port => format!("[{}]:{port} {}", address.ip(), key.join(" ")),
    };
    if !args.append_known {
        output.result(&serde_json::json!({ "knownHosts": line }), || line.clone());
        return Ok(());
    }
    let path = rkube_cluster::home_dir()
        .ok_or_else(|| {
            Failure::new(
                Source::Program,
                Kind::Config,
                "the home directory is not known",
            )
            .advise("set HOME")
        })?
        .join(".ssh/known_hosts");
    let added = rkube_cluster::add_line(&path, &line)?;
    let what = match added {
        true => "was added to",
        false => "is already in",
    };
    output.say(&format!(
        "The key of {} {what} {}.",
        node.name,
        path.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_borders() {
        let words = |w: &[&str]| w.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert_eq!(quote(&words(&["ps aux | head"])), "ps aux | head");
        assert_eq!(
            quote(&words(&["echo", "a b", "it's"])),
            r"echo 'a b' 'it'\''s'"
        );
    }

    #[test]
    fn flags_of_the_command_stay_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        for words in [vec!["mkdir", "-p", "/x"], vec!["ls", "-la"], vec!["ls"]] {
            let mut target = Target {
                profile: "a".into(),
                node: None,
            };
            let mut command: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            target.take_flags(&home, &mut command);
            assert_eq!(command, words);
            assert_eq!(target.profile, "a");
        }
    }
}
