//! Generates the files of a release from the command-line parser of rkube.
//!
//! Not part of the shipped binary. Run it with `cargo run -p xtask -- man DIR` or
//! `cargo run -p xtask -- completions DIR`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use clap_complete::Shell;

/// Generates man pages and shell completions
#[derive(Parser)]
#[command(name = "xtask")]
enum Task {
    /// Write man pages for rkube and all its subcommands
    Man {
        /// Output directory, created if missing
        dir: PathBuf,
    },
    /// Write completion scripts for all supported shells
    Completions {
        /// Output directory, created if missing
        dir: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Man { dir } => write_man_pages(&dir),
        Task::Completions { dir } => write_completions(&dir),
    }
}

/// Writes `rkube.1` and one page per subcommand, such as `rkube-node-add.1`.
fn write_man_pages(dir: &Path) -> anyhow::Result<()> {
    create_dir(dir)?;
    clap_mangen::generate_to(rkube::command(), dir)
        .with_context(|| format!("cannot write man pages to {}", dir.display()))
}

/// Writes one completion script per shell, under the name that the shell expects.
fn write_completions(dir: &Path) -> anyhow::Result<()> {
    create_dir(dir)?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut rkube::command(), "rkube", dir)
            .with_context(|| format!("cannot write the {shell} completion to {}", dir.display()))?;
    }
    Ok(())
}

fn create_dir(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the files that a task writes.
    fn written(task: fn(&Path) -> anyhow::Result<()>) -> Vec<String> {
        let dir = std::env::temp_dir().join(format!("xtask-{}-{task:p}", std::process::id()));
        task(&dir).unwrap();
        let names = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        std::fs::remove_dir_all(&dir).unwrap();
        names
    }

    #[test]
    fn every_subcommand_has_a_man_page() {
        let pages = written(write_man_pages);
        for page in ["rkube.1", "rkube-start.1", "rkube-node-add.1"] {
            assert!(pages.iter().any(|name| name == page), "{pages:?}");
        }
    }

    #[test]
    fn every_shell_has_a_completion_script() {
        let scripts = written(write_completions);
        assert_eq!(scripts.len(), Shell::value_variants().len(), "{scripts:?}");
    }
}
