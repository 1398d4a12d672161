//! Commands of `rkube ctl` that show and pull images.

use rkube_failure::Failure;
use rkube_runtime::{ImageStatus, PullProgress, Runtime};

use super::super::Output;
use super::super::image::WAITING;
use super::super::image::catch_up::Given;
use super::super::output::table;
use super::{ctl_push, failure, image_failure, short};

/// Pulls an image. Its credentials are on standard input if the command line of the host asks.
pub async fn pull(runtime: &Runtime, image: &str, from_host: bool) -> Result<(), Failure> {
    let auth = match from_host {
        true => ctl_push::credentials().await?,
        false => Vec::new(),
    };
    let status = runtime
        .pull_image(image, &auth, move |step| tell_wait(step, from_host))
        .await
        .map_err(image_failure)?;
    runtime
        .give_image(&status.id)
        .await
        .map_err(image_failure)?;
    println!("{}", status.id);
    Ok(())
}

/// Returns the images that commands gave the node, as JSON.
pub fn given(runtime: &Runtime) -> Result<String, Failure> {
    let images: Vec<_> = runtime
        .given_images()
        .into_iter()
        .map(|image| Given {
            id: image.id,
            names: image.names,
            layers: image.layers,
        })
        .collect();
    serde_json::to_string(&images).map_err(failure)
}

/// Says that the registry makes a pull wait: on standard output for the command line of the host, which
/// passes credentials, else on standard error.
fn tell_wait(step: PullProgress, to_host: bool) {
    match step {
        PullProgress::Waiting { text } if to_host => println!("{WAITING}{text}"),
        PullProgress::Waiting { text } => eprintln!("{text}"),
        _ => {}
    }
}

/// Describes an image in the form of `docker image inspect`.
pub fn inspect(runtime: &Runtime, name: &str) -> Result<serde_json::Value, Failure> {
    let content = runtime.image_content(name).map_err(image_failure)?;
    let status = runtime.image_status(&content.id).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&content.config).map_err(failure)?;
    Ok(serde_json::json!({
        "Id": content.id,
        "RepoTags": status.repo_tags,
        "RepoDigests": status.repo_digests,
        "Created": config["created"],
        "Author": config["author"].as_str().unwrap_or_default(),
        "Architecture": config["architecture"],
        "Os": config["os"],
        "Size": status.size,
        "Config": config["config"],
        "RootFS": { "Type": "layers", "Layers": config["rootfs"]["diff_ids"] },
        "History": config["history"],
        "LayerSizes": content.layers.iter().map(|l| l.size).collect::<Vec<_>>(),
    }))
}

/// Prints the images of the node.
pub fn list(runtime: &Runtime, full: bool, output: &Output) {
    let mut images = runtime.list_images();
    images.sort_by(|a, b| a.repo_tags.cmp(&b.repo_tags));
    let value: Vec<serde_json::Value> = images
        .iter()
        .map(|i| {
            let mut value = serde_json::json!({
                "id": i.id, "repoTags": i.repo_tags, "repoDigests": i.repo_digests, "size": i.size.to_string(),
            });
            if full {
                value["created"] = i.created.map(|time| time.as_second()).into();
                value["labels"] = serde_json::json!(i.labels);
            }
            value
        })
        .collect();
    output.result(&value, || {
        let mut rows = vec![
            ["IMAGE", "TAG", "IMAGE ID", "SIZE"]
                .map(str::to_owned)
                .to_vec(),
        ];
        rows.extend(images.iter().flat_map(image_rows));
        table(&rows)
    });
}

/// Returns one row per name; an image without a name is shown as `<none>`.
fn image_rows(image: &ImageStatus) -> Vec<Vec<String>> {
    let size = format!("{:.1} MB", image.size as f64 / 1e6);
    let row = |name: &str, tag: &str| {
        vec![
            name.to_owned(),
            tag.to_owned(),
            short(&image.id),
            size.clone(),
        ]
    };
    if image.repo_tags.is_empty() {
        return vec![row("<none>", "<none>")];
    }
    image
        .repo_tags
        .iter()
        .map(|full| {
            full.rsplit_once(':')
                .map_or_else(|| row(full, ""), |(n, t)| row(n, t))
        })
        .collect()
}
