//! `rkube ctl` on systems that cannot be a node.

use rkube_failure::{Failure, Kind, Source};

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Arguments of the command on a node
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    words: Vec<String>,
}

impl Args {
    /// Returns whether the command undoes its work when it is interrupted.
    pub fn handles_interrupt(&self) -> bool {
        false
    }
}

/// Always fails, with advice to run the command on a node.
pub async fn run(global: &Global, args: Args, _output: &Output) -> Result<(), Failure> {
    let words = match args.words.is_empty() {
        true => "ps".to_owned(),
        false => args.words.join(" "),
    };
    Err(Failure::new(
        Source::Program,
        Kind::Unsupported,
        format!(
            "'rkube ctl' must be run on a node, and nodes do not run on {}",
            std::env::consts::OS
        ),
    )
    .advise(format!(
        "run it through SSH: {}",
        rkube_failure::command(&format!("ssh -- rkube ctl {words}"), &global.profile)
    )))
}
