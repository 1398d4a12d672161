//! `rkube ssh` and `rkube ssh-key`

use std::io::IsTerminal;
use std::process::ExitCode;

use rkube_cluster::{Home, Profile};
use rkube_failure::{Failure, Kind, Source};

use super::Global;

#[derive(clap::Args)]
pub struct Args {
    /// Name of the node [default: the control-plane node]
    #[arg(short, long, value_name = "NODE")]
    node: Option<String>,
    /// Command to run instead of a shell
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub async fn run(home: &Home, global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let node = profile.node(args.node.as_deref())?;
    let session = rkube_cluster::ssh(home, &profile, node).await?;
    let code = if args.command.is_empty() {
        session.shell().await
    } else {
        let command = quote(&args.command);
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
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
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

pub fn key(home: &Home, global: &Global) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    println!("{}", rkube_cluster::ssh_key(home, &profile).display());
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
}
