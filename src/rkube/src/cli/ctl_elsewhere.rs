//! `rkube ctl`, where no node can be.

use rkube_failure::{Failure, Kind, Source};

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// What to look at, as on a node
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    words: Vec<String>,
}

/// Always fails, and says where the command is to be run.
pub async fn run(_global: &Global, args: Args, _output: &Output) -> Result<(), Failure> {
    let words = match args.words.is_empty() {
        true => "ps".to_owned(),
        false => args.words.join(" "),
    };
    Err(Failure::new(
        Source::Program,
        Kind::Unsupported,
        format!(
            "rkube ctl looks into the node that it runs on, and no node is on {}",
            std::env::consts::OS
        ),
    )
    .advise(format!("run it on a node: rkube ssh -- rkube ctl {words}")))
}
