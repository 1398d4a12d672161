//! Images: lists, descriptions, names and removal.

use std::collections::BTreeMap;

use hyper::{Response, StatusCode};
use jiff::Timestamp;
use rkube_cluster::{Node, Profile};
use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{self, Body, Error};
use super::request::{self, Query};
use super::server::Endpoint;
use crate::cli::image::push::full_name;
use crate::cli::image::{
    check_name, everywhere, inspect as describe, on_node, remote_failure, running,
};

/// An image of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    /// Its size in bytes, as text.
    size: String,
    /// Seconds since 1970.
    created: Option<i64>,
    labels: BTreeMap<String, String>,
}

/// Returns a name as Docker shows it: `docker.io/library/app:1` is `app:1`.
pub fn familiar(name: &str) -> &str {
    match name.strip_prefix("docker.io/") {
        Some(rest) => rest.strip_prefix("library/").unwrap_or(rest),
        None => name,
    }
}

fn familiar_all(names: &[String]) -> Vec<&str> {
    names.iter().map(|name| familiar(name)).collect()
}

/// Returns the images of a node.
pub async fn all(endpoint: &Endpoint, profile: &Profile) -> Result<Vec<Image>, Failure> {
    let node = Endpoint::node(profile)?;
    let command = "rkube ctl images --full -o json";
    let (code, text, error) = on_node(&endpoint.home, profile, node, command, None).await?;
    if code != 0 {
        return Err(remote_failure(node, code, &error));
    }
    serde_json::from_str(&text).map_err(|e| {
        let message = format!("{}: the list of images is malformed: {e}", node.name);
        Failure::new(Source::Runtime, Kind::Error, message)
    })
}

/// The form of an image's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Name,
    Id,
}

/// Finds the image that a name, an ID or the begin of an ID means. Names precede.
pub fn find<'a>(images: &'a [Image], text: &str) -> Result<(&'a Image, By), Error> {
    let full = full_name(text);
    let named =
        |image: &&Image| image.repo_tags.contains(&full) || image.repo_digests.contains(&full);
    if let Some(image) = images.iter().find(named) {
        return Ok((image, By::Name));
    }
    let missing = || Error::new(StatusCode::NOT_FOUND, format!("No such image: {text}"));
    let hex = text.strip_prefix("sha256:").unwrap_or(text);
    if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(missing());
    }
    let begins = |image: &&Image| {
        let id = image.id.strip_prefix("sha256:").unwrap_or(&image.id);
        id.starts_with(hex)
    };
    let mut found = images.iter().filter(begins);
    match (found.next(), found.next()) {
        (Some(image), None) => Ok((image, By::Id)),
        _ => Err(missing()),
    }
}

/// `docker images`
pub async fn list(endpoint: &Endpoint, query: &Query) -> Result<Response<Body>, Error> {
    let filters = query.filters(&["reference", "dangling", "label"])?;
    let mut images = all(endpoint, &endpoint.profile()?).await?;
    images.retain_mut(|image| {
        let fits = |name: &String| {
            let name = familiar(name);
            let bare = name.rsplit_once(':').map_or(name, |(bare, _)| bare);
            filters.any("reference", |pattern| {
                request::matches(pattern, name) || request::matches(pattern, bare)
            })
        };
        let nameless = image.repo_tags.is_empty();
        image.repo_tags.retain(fits);
        let referred =
            !image.repo_tags.is_empty() || (nameless && filters.any("reference", |_| false));
        referred
            && filters.any("dangling", |value| {
                matches!(value, "true" | "1") == nameless
            })
            && filters.all("label", |label| match label.split_once('=') {
                Some((name, value)) => image.labels.get(name).is_some_and(|v| v == value),
                None => image.labels.contains_key(label),
            })
    });
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let rows: Vec<Value> = images.iter().map(row).collect();
    Ok(reply::json(&rows))
}

fn row(image: &Image) -> Value {
    let size: u64 = image.size.parse().unwrap_or(0);
    json!({
        "Id": image.id,
        "ParentId": "",
        "RepoTags": familiar_all(&image.repo_tags),
        "RepoDigests": familiar_all(&image.repo_digests),
        "Created": image.created.unwrap_or(0),
        "Size": size,
        "VirtualSize": size,
        "SharedSize": -1,
        "Labels": image.labels,
        "Containers": -1,
    })
}

/// Returns the description of an image by the node, and the image.
async fn described(endpoint: &Endpoint, name: &str) -> Result<(Value, Image), Error> {
    let profile = endpoint.profile()?;
    let images = all(endpoint, &profile).await?;
    let (image, _) = find(&images, name)?;
    let value = describe(&endpoint.home, &profile, &image.id).await?;
    Ok((value, image.clone()))
}

/// `docker image inspect`
pub async fn inspect(endpoint: &Endpoint, name: &str) -> Result<Response<Body>, Error> {
    let (mut value, image) = described(endpoint, name).await?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("History");
        fields.remove("LayerSizes");
        fields.insert("RepoTags".into(), json!(familiar_all(&image.repo_tags)));
        fields.insert(
            "RepoDigests".into(),
            json!(familiar_all(&image.repo_digests)),
        );
        fields.insert("Parent".into(), json!(""));
        fields.insert("Comment".into(), json!(""));
        fields.insert(
            "GraphDriver".into(),
            json!({ "Name": "rkube", "Data": null }),
        );
        fields.insert(
            "VirtualSize".into(),
            fields.get("Size").cloned().unwrap_or_default(),
        );
    }
    Ok(reply::json(&value))
}

/// `docker history`
pub async fn history(endpoint: &Endpoint, name: &str) -> Result<Response<Body>, Error> {
    let (value, image) = described(endpoint, name).await?;
    Ok(reply::json(&steps(&value, &image)))
}

/// Returns the steps of an image, the last one first.
fn steps(value: &Value, image: &Image) -> Vec<Value> {
    let mut sizes = value["LayerSizes"].as_array().into_iter().flatten();
    let mut steps: Vec<Value> = Vec::new();
    for step in value["History"].as_array().into_iter().flatten() {
        let size = match step["empty_layer"].as_bool() {
            Some(true) => 0,
            _ => sizes.next().and_then(Value::as_u64).unwrap_or(0),
        };
        let created = step["created"].as_str().unwrap_or_default();
        let created = created.parse::<Timestamp>().map_or(0, Timestamp::as_second);
        steps.push(json!({
            "Id": "<missing>",
            "Created": created,
            "CreatedBy": step["created_by"].as_str().unwrap_or_default(),
            "Tags": null,
            "Size": size,
            "Comment": step["comment"].as_str().unwrap_or_default(),
        }));
    }
    steps.reverse();
    if let Some(last) = steps.first_mut() {
        last["Id"] = json!(image.id);
        last["Tags"] = json!(familiar_all(&image.repo_tags));
    }
    steps
}

/// Returns the name that `repo` and `tag` of a query make.
fn new_name(query: &Query) -> Result<String, Error> {
    let Some(repo) = query.get("repo") else {
        return Err(Error::new(
            StatusCode::BAD_REQUEST,
            "the parameter repo is missing",
        ));
    };
    let name = match query.get("tag") {
        Some(tag) => format!("{repo}:{tag}"),
        None => repo.to_owned(),
    };
    Ok(check_name(&name)?.to_owned())
}

/// `docker tag`
pub async fn tag(endpoint: &Endpoint, name: &str, query: &Query) -> Result<Response<Body>, Error> {
    let profile = endpoint.profile()?;
    let images = all(endpoint, &profile).await?;
    let (image, _) = find(&images, name)?;
    let new = new_name(query)?;
    let command = format!("rkube ctl tag {} {new}", image.id);
    everywhere(&endpoint.home, &profile, &command).await?;
    Ok(reply::empty(StatusCode::CREATED))
}

/// The effect of a removal.
#[derive(Debug, PartialEq, Eq)]
enum Removal {
    /// Only this name goes.
    Name(String),
    /// The image goes, with all its names.
    Image,
}

/// Decides what the removal of `text`, which means `image`, does.
fn removal(image: &Image, by: By, text: &str, force: bool) -> Result<Removal, Error> {
    match by {
        By::Name if image.repo_tags.len() > 1 => Ok(Removal::Name(full_name(text))),
        By::Name => Ok(Removal::Image),
        By::Id => {
            let repository =
                |name: &String| name.rsplit_once(':').map_or("", |(r, _)| r).to_owned();
            let mut repositories: Vec<String> = image.repo_tags.iter().map(repository).collect();
            repositories.sort();
            repositories.dedup();
            if repositories.len() > 1 && !force {
                let short: String = image
                    .id
                    .trim_start_matches("sha256:")
                    .chars()
                    .take(12)
                    .collect();
                return Err(Error::new(
                    StatusCode::CONFLICT,
                    format!(
                        "conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories"
                    ),
                ));
            }
            Ok(Removal::Image)
        }
    }
}

/// Runs a command on all nodes that run. Nodes where something is missing are fine.
async fn where_present(
    endpoint: &Endpoint,
    profile: &Profile,
    command: &str,
) -> Result<(), Failure> {
    let missing = i32::from(Failure::new(Source::Runtime, Kind::NotFound, "").exit_code());
    let runs = running(profile).map(|node: &Node| async move {
        match on_node(&endpoint.home, profile, node, command, None).await? {
            (0, ..) => Ok(()),
            (code, ..) if code == missing => Ok(()),
            (code, _, error) => Err(remote_failure(node, code, &error)),
        }
    });
    futures::future::join_all(runs).await.into_iter().collect()
}

/// `docker rmi`
pub async fn remove(
    endpoint: &Endpoint,
    name: &str,
    query: &Query,
) -> Result<Response<Body>, Error> {
    let profile = endpoint.profile()?;
    let images = all(endpoint, &profile).await?;
    let (image, by) = find(&images, name)?;
    let mut done = Vec::new();
    match removal(image, by, name, query.flag("force"))? {
        Removal::Name(name) => {
            let command = format!("rkube ctl untag {}", check_name(&name)?);
            where_present(endpoint, &profile, &command).await?;
            done.push(json!({ "Untagged": familiar(&name) }));
        }
        Removal::Image => {
            let command = format!("rkube ctl rmi {}", image.id);
            where_present(endpoint, &profile, &command).await?;
            let names = image.repo_tags.iter().chain(&image.repo_digests);
            done.extend(names.map(|name| json!({ "Untagged": familiar(name) })));
            done.push(json!({ "Deleted": image.id }));
        }
    }
    Ok(reply::json(&done))
}

/// `docker image prune`
pub async fn prune(endpoint: &Endpoint, query: &Query) -> Result<Response<Body>, Error> {
    let filters = query.filters(&["dangling"])?;
    if !filters.any("dangling", |value| matches!(value, "true" | "1")) {
        return Err(Error::unsupported(
            "rkube removes only images without names: other ones are removed by name",
        ));
    }
    let profile = endpoint.profile()?;
    let (mut deleted, mut bytes) = (Vec::new(), 0u64);
    for image in all(endpoint, &profile).await? {
        if !image.repo_tags.is_empty() || !image.repo_digests.is_empty() {
            continue;
        }
        let command = format!("rkube ctl rmi {}", image.id);
        match where_present(endpoint, &profile, &command).await {
            Ok(()) => {
                deleted.push(json!({ "Deleted": image.id }));
                bytes += image.size.parse().unwrap_or(0);
            }
            // A container uses it.
            Err(e) if e.kind == Kind::Conflict => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(reply::json(
        &json!({ "ImagesDeleted": deleted, "SpaceReclaimed": bytes }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tags: &[&str]) -> Image {
        Image {
            id: format!("sha256:{id}"),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..Image::default()
        }
    }

    #[test]
    fn images_are_found_by_name_and_id() {
        let images = [
            image("abc1", &["docker.io/library/app:1", "r.example/app:1"]),
            image("abd2", &["docker.io/library/beef:latest"]),
        ];
        for (text, id, by) in [
            ("app:1", "sha256:abc1", By::Name),
            ("docker.io/library/app:1", "sha256:abc1", By::Name),
            ("r.example/app:1", "sha256:abc1", By::Name),
            ("sha256:abd2", "sha256:abd2", By::Id),
            ("abc", "sha256:abc1", By::Id),
            // A name that could be an ID.
            ("beef", "sha256:abd2", By::Name),
        ] {
            let (found, how) = find(&images, text).unwrap();
            assert_eq!((found.id.as_str(), how), (id, by), "{text}");
        }
        for text in ["app", "ab", "xyz", ""] {
            let error = find(&images, text).unwrap_err();
            assert_eq!(error.status, StatusCode::NOT_FOUND);
            assert_eq!(error.message, format!("No such image: {text}"));
        }
    }

    #[test]
    fn a_name_goes_before_the_image_does() {
        let two = image("a", &["docker.io/library/app:1", "docker.io/library/app:2"]);
        let one = image("a", &["docker.io/library/app:1"]);
        let apart = image("a", &["docker.io/library/app:1", "r.example/app:1"]);
        let name = Removal::Name("docker.io/library/app:1".to_owned());
        for (image, by, force, expected) in [
            (&two, By::Name, false, Some(name)),
            (&one, By::Name, false, Some(Removal::Image)),
            (&two, By::Id, false, Some(Removal::Image)),
            (&apart, By::Id, true, Some(Removal::Image)),
            (&apart, By::Id, false, None),
        ] {
            assert_eq!(removal(image, by, "app:1", force).ok(), expected);
        }
    }

    #[test]
    fn names_are_short_where_docker_shortens_them() {
        for (name, expected) in [
            ("docker.io/library/app:1", "app:1"),
            ("docker.io/team/app:1", "team/app:1"),
            ("r.example/library/app:1", "r.example/library/app:1"),
        ] {
            assert_eq!(familiar(name), expected);
        }
    }

    #[test]
    fn the_last_step_comes_first() {
        let value = json!({
            "History": [
                {"created": "1970-01-01T00:00:05Z", "created_by": "ADD"},
                {"created_by": "CMD", "empty_layer": true},
            ],
            "LayerSizes": [7],
        });
        let steps = steps(&value, &image("a", &["docker.io/library/app:1"]));
        assert_eq!(steps[0]["Id"], "sha256:a");
        assert_eq!(steps[0]["Tags"][0], "app:1");
        assert_eq!(steps[0]["Size"], 0);
        assert_eq!(steps[1]["Size"], 7);
        assert_eq!(steps[1]["Created"], 5);
    }
}
