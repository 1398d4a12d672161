//! `rkube logs`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rkube_cluster::{Home, Profile, io_failure};
use rkube_failure::Failure;
use serde::Serialize;

use super::output::print_out;
use super::{Global, Output, usage_failure};

/// The interval between reads of logs with `--follow`. Logs on nodes cannot be watched.
const FOLLOW_PERIOD: Duration = Duration::from_millis(500);

#[derive(clap::Args)]
pub struct Args {
    /// Keep printing new lines until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// Number of lines to print of each log; 0 for all
    #[arg(
        short = 'n',
        long,
        // Its name before 0.2.
        short_alias = 'l',
        default_value_t = 60,
        value_name = "LINES"
    )]
    length: usize,
    /// Name of the node [default: all nodes]
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Print only warnings and errors
    #[arg(long)]
    problems: bool,
    /// Print only what each service logged since its last start
    #[arg(long)]
    last_start_only: bool,
    /// Print the log of rkube's commands instead
    #[arg(long)]
    audit: bool,
    /// Write to a file instead of the terminal
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// The lines of one log.
#[derive(Serialize)]
struct Section {
    log: String,
    lines: Vec<String>,
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    if args.follow && (args.file.is_some() || !output.text()) {
        return Err(usage_failure(
            "--follow prints text to the terminal; it cannot be combined with --file or --output",
        ));
    }
    if args.audit {
        return super::audit::print(home, args.length, output);
    }
    let profile = Profile::load(home, &global.profile)?;
    let logs = rkube_cluster::logs(home, &profile, args.node.as_deref()).await?;
    let sections: Vec<Section> = logs
        .iter()
        .map(|(title, content)| Section {
            log: title.clone(),
            lines: select(&String::from_utf8_lossy(content), &args),
        })
        .collect();
    match &args.file {
        Some(path) => {
            std::fs::write(path, text(&sections)).map_err(|e| io_failure("write", path, &e))?;
            output.say(&format!("The logs were written to {}.", path.display()));
        }
        None => output.result(&sections, || text(&sections)),
    }
    if args.follow {
        return follow(home, &profile.name, &args, logs).await;
    }
    Ok(())
}

fn text(sections: &[Section]) -> String {
    let mut text = String::new();
    for section in sections {
        text += &format!("==> {} <==\n", section.log);
        for line in &section.lines {
            text += line;
            text.push('\n');
        }
        text.push('\n');
    }
    text
}

/// Returns the lines of a log that are wanted.
fn select(text: &str, args: &Args) -> Vec<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    if args.last_start_only {
        let start = lines.iter().rposition(|line| is_start(line));
        lines.drain(..start.unwrap_or(0));
    }
    if args.problems {
        lines.retain(|line| is_problem(line));
    }
    let first = match args.length {
        0 => 0,
        length => lines.len().saturating_sub(length),
    };
    lines[first..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}

/// Whether a line is the first one of a service's start.
fn is_start(line: &str) -> bool {
    line.contains(" service starts version=")
}

/// Whether a line reports a problem: of level WARN or ERROR, or a panic.
fn is_problem(line: &str) -> bool {
    // The level is the second word, after the time.
    line.split_whitespace()
        .take(2)
        .any(|word| matches!(word, "WARN" | "ERROR"))
        || line.contains("panicked at")
        || line.starts_with("error")
}

/// Prints what is appended to logs, until Ctrl-C.
async fn follow(
    home: &Home,
    profile: &str,
    args: &Args,
    logs: Vec<(String, Vec<u8>)>,
) -> Result<(), Failure> {
    let mut last = logs
        .last()
        .map(|(title, _)| title.clone())
        .unwrap_or_default();
    let mut seen: BTreeMap<String, Vec<u8>> = logs.into_iter().collect();
    loop {
        tokio::time::sleep(FOLLOW_PERIOD).await;
        // Nodes may have been added.
        let profile = Profile::load(home, profile)?;
        for (title, content) in rkube_cluster::logs(home, &profile, args.node.as_deref()).await? {
            let before = seen.remove(&title).unwrap_or_default();
            // A log that was rotated begins again.
            let new = content.strip_prefix(before.as_slice()).unwrap_or(&content);
            // An unfinished line is printed when it is complete.
            let complete = new.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
            let text = String::from_utf8_lossy(&new[..complete]).into_owned();
            let end = content.len() - new.len() + complete;
            let lines: Vec<&str> = text
                .lines()
                .filter(|line| !args.problems || is_problem(line))
                .collect();
            if !lines.is_empty() {
                if last != title {
                    print_out(&format!("\n==> {title} <==\n"));
                    last.clone_from(&title);
                }
                print_out(&format!("{}\n", lines.join("\n")));
            }
            seen.insert(title, content[..end].to_vec());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_start_begins_with_the_services_line() {
        let args = Args {
            follow: false,
            length: 2,
            node: None,
            problems: false,
            last_start_only: true,
            audit: false,
            file: None,
        };
        let start = "2026-01-01T00:00:00Z  INFO rkube::roles: service starts version=\"v1\"";
        let log = format!("{start}\nold\n{start}\nnew\nnewer\n");
        assert_eq!(select(&log, &args), ["new", "newer"]);
        let all = Args { length: 0, ..args };
        assert_eq!(select(&log, &all), [start, "new", "newer"]);
    }

    #[test]
    fn problems_are_found_by_their_level() {
        assert!(is_problem(
            "2026-01-01T00:00:00Z  WARN rkube_node: no space"
        ));
        assert!(is_problem("2026-01-01T00:00:00Z ERROR rkube_node: lost"));
        assert!(is_problem("thread 'main' panicked at src/x.rs:1:1:"));
        assert!(!is_problem(
            "2026-01-01T00:00:00Z  INFO rkube_node: WARNING"
        ));
    }
}
