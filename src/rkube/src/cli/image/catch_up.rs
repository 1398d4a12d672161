//! Images for nodes that were stopped, or not there, while others got them.

use rkube_cluster::{Home, Node, Profile, Progress as _};
use rkube_failure::{Failure, Kind, Source, command};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::transfer;
use crate::cli::Output;

/// An image that a command gave a node: loaded, built, named or pulled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// ID of the image.
    pub id: String,
    /// Names with a tag or a digest.
    pub names: Vec<String>,
    /// Chain IDs of the layers.
    pub layers: Vec<String>,
}

/// An image of a node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Present {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
}

/// Returns those of the images that a node lacks, or has under fewer names.
fn missing(given: Vec<Given>, present: &[Present]) -> Vec<Given> {
    let there = |image: &Given| {
        let own = present.iter().find(|own| own.id == image.id);
        let has =
            |own: &Present, name| own.repo_tags.contains(name) || own.repo_digests.contains(name);
        own.is_some_and(|own| image.names.iter().all(|name| has(own, name)))
    };
    given.into_iter().filter(|image| !there(image)).collect()
}

/// Gives the nodes that are behind the images that commands gave the control-plane node. Does nothing if
/// the cluster does not run. What fails is said, and done at the next start of the node.
pub async fn run(home: &Home, profile: &str, output: &Output) {
    if let Err(failure) = all(home, profile, output).await {
        output.warn(&format!(
            "images that were loaded or built before are not on all nodes: {}; load them again, or repeat: {}",
            failure.message,
            command("start", profile)
        ));
    }
}

async fn all(home: &Home, name: &str, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, name)?;
    let behind = |node: &&Node| node.behind && !node.stopped;
    if !profile.nodes.iter().any(|node| behind(&node)) {
        return Ok(());
    }
    if !rkube_cluster::runs(home, &profile).await {
        return Ok(());
    }
    let from = profile.node(None)?;
    let given: Vec<Given> = read(home, &profile, from, "rkube ctl given").await?;
    let mut result = Ok(());
    for node in profile.nodes.iter().filter(behind) {
        let done = one(home, &profile, (from, node), &given, output).await;
        let done = done.and_then(|()| rkube_cluster::caught_up(home, name, &node.name));
        // One node that cannot be reached does not keep the images from the others.
        result = result.and(done);
    }
    result
}

/// Gives one node the images that it lacks. Returns the first failure when all were tried.
async fn one(
    home: &Home,
    profile: &Profile,
    (from, node): (&Node, &Node),
    given: &[Given],
    output: &Output,
) -> Result<(), Failure> {
    let list = "rkube ctl images -o json";
    let present: Vec<Present> = read(home, profile, node, list).await?;
    let images = missing(given.to_vec(), &present);
    if !images.is_empty() {
        let what = match images.len() {
            1 => "an image".to_owned(),
            count => format!("{count} images"),
        };
        output.step("images", &format!("Giving {what} to {}", node.name));
    }
    let mut result = Ok(());
    for image in images {
        // A build that ends meanwhile must not lose its name to what is copied here.
        let _lock = transfer::lock(home, &profile.name).await?;
        let image = (image.id.as_str(), image.layers.as_slice());
        result = result.and(transfer::copy(home, profile, from, node, image).await);
    }
    result
}

/// Runs a command on a node, and reads the JSON that it prints.
async fn read<T: DeserializeOwned>(
    home: &Home,
    profile: &Profile,
    node: &Node,
    command: &str,
) -> Result<T, Failure> {
    let text = transfer::run(home, profile, node, command).await?;
    serde_json::from_str(&text).map_err(|e| {
        let message = format!("{}: the list of images is malformed: {e}", node.name);
        Failure::new(Source::Runtime, Kind::Error, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_names_are_missing() {
        let given = |id: &str, names: &[&str]| Given {
            id: id.to_owned(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            layers: Vec::new(),
        };
        let list = r#"[{"id": "a", "repoTags": ["a:1", "a:2"], "repoDigests": ["a@d"]},
            {"id": "b", "repoTags": ["b:1"], "repoDigests": []}]"#;
        let present: Vec<Present> = serde_json::from_str(list).unwrap();
        let all = vec![
            given("a", &["a:1", "a@d"]),
            // Another image has its name there.
            given("c", &["a:2"]),
            given("b", &["b:1", "b:2"]),
            given("d", &["d@e"]),
        ];
        let found: Vec<String> = missing(all, &present).into_iter().map(|i| i.id).collect();
        assert_eq!(found, ["c", "b", "d"]);
    }
}
