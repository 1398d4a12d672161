//! Loads images for commands other than `rkube image load`.

use clap::FromArgMatches as _;
use rkube_cluster::Home;
use rkube_failure::Failure;

use super::output::Format;
use super::{Global, Output, image, usage_failure};

/// Does what `rkube image load SOURCES` does for a cluster.
pub async fn run(
    home: &Home,
    profile: &str,
    sources: Vec<String>,
    output: &Output,
) -> Result<(), Failure> {
    let parser = <image::Args as clap::Args>::augment_args(clap::Command::new("image"));
    let words = ["image", "load", "--"].map(str::to_owned).into_iter();
    let matches = parser.try_get_matches_from(words.chain(sources));
    let parsed = matches.and_then(|matches| image::Args::from_arg_matches(&matches));
    let parsed = parsed.map_err(|e| usage_failure(e.to_string()))?;
    let global = Global {
        profile: profile.to_owned(),
        output: Format::Text,
        profile_given: true,
    };
    image::run(home, &global, parsed, output).await
}
