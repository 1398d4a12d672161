//! Commands that only print something: `options`, `license` and `update-check`.

use std::path::PathBuf;

use clap::CommandFactory;
use rkube_cluster::io_failure;
use rkube_failure::Failure;

use super::{Cli, Output};

/// rkube's licence.
const LICENSE: &str = include_str!("../../../../LICENSE");

/// Prints the flags that every command takes.
pub fn options(output: &Output) {
    let command = Cli::command();
    let flags: Vec<(String, String)> = command
        .get_arguments()
        .filter(|arg| arg.is_global_set())
        .filter_map(|arg| {
            let long = arg.get_long()?;
            let short = arg.get_short().map_or(String::new(), |s| format!("-{s}, "));
            let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
            Some((format!("{short}--{long}"), help))
        })
        .collect();
    let value: Vec<_> = flags
        .iter()
        .map(|(flag, help)| serde_json::json!({ "flag": flag, "description": help }))
        .collect();
    output.result(&value, || {
        let rows: Vec<Vec<String>> = flags
            .iter()
            .map(|(flag, help)| vec![format!("  {flag}"), help.clone()])
            .collect();
        format!(
            "Every command takes these flags:\n{}",
            super::output::table(&rows)
        )
    });
}

#[derive(clap::Args)]
pub struct LicenseArgs {
    /// Write the licence into a directory instead of the terminal
    #[arg(short, long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints or writes rkube's licence.
pub fn license(args: LicenseArgs, output: &Output) -> Result<(), Failure> {
    let Some(dir) = args.dir else {
        output.result(&LICENSE, || LICENSE.to_owned());
        return Ok(());
    };
    std::fs::create_dir_all(&dir).map_err(|e| io_failure("create", &dir, &e))?;
    let path = dir.join("LICENSE");
    std::fs::write(&path, LICENSE).map_err(|e| io_failure("write", &path, &e))?;
    output.say(&format!("The licence was written to {}.", path.display()));
    Ok(())
}

/// Prints the version, and that rkube asks no server for another one.
pub fn update_check(output: &Output) {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    output.result(&serde_json::json!({ "currentVersion": version }), || {
        format!(
            "CurrentVersion: {version}\nrkube asks no server for newer versions; see where you got it from."
        )
    });
}
