//! Loads images for commands other than `rkube image load`.

use rkube_cluster::{Home, Profile};
use rkube_failure::Failure;

use super::{Output, image};

/// Does what `rkube image load SOURCES` does for a cluster.
pub async fn run(
    home: &Home,
    profile: &str,
    sources: Vec<String>,
    output: &Output,
) -> Result<(), Failure> {
    let profile = Profile::load(home, profile)?;
    for source in sources {
        image::load(home, &profile, &source, output).await?;
    }
    Ok(())
}
