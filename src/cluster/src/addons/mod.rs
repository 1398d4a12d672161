//! Addons: third-party software that comes as manifests.
//!
//! An addon is a directory with an `addon.yaml` (see `addons/README.md` in the sources). Enabling
//! it applies its objects as one set. The set's parent, a ConfigMap in the cluster, records its
//! members, so that the addon can be updated, and disabled without its directory.

mod applyset;
mod catalogue;
mod description;
mod enable;
mod fetch;
mod ingress;
pub mod objects;
mod remove;
pub mod server;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use kube::Client;
use rkube_failure::{Failure, Kind, Source, command};
use serde::Serialize;

use crate::files::Home;
use crate::profile::Profile;
use crate::{Progress, access, ready};

pub use description::{Addon, Manifest, Origin};
pub use enable::wait_for_definitions;
pub(crate) use fetch::client as http_client;
pub use remove::members as remove_members;

/// The time that the API server may take to respond when addons are listed.
const LIST_TIMEOUT: Duration = Duration::from_secs(3);
/// The time that the API server may take to become ready after a start.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The status of an addon in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All its objects are applied.
    Enabled,
    /// It is not enabled.
    Disabled,
    /// Enabling or disabling it failed; both can be repeated.
    Incomplete,
    /// The cluster is not running or does not exist.
    Unknown,
}

/// An addon, as it is listed.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The addon's name.
    pub name: String,
    /// The addon's description, or why it cannot be used.
    pub description: String,
    /// The version that enabling installs.
    pub version: String,
    /// The version that is installed in the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled_version: Option<String>,
    /// The status in the cluster.
    pub status: Status,
    /// `built-in`, or the addon's directory.
    pub source: String,
    /// URL of the project.
    pub homepage: String,
}

/// Finds an addon by its name or by the path of its directory.
pub fn find(home: &Home, wanted: &str) -> Result<Addon, Failure> {
    catalogue::find(home, wanted)
}

/// Returns the names of all addons that can be enabled.
pub fn names(home: &Home) -> Result<Vec<String>, Failure> {
    let all = catalogue::read_all(home)?;
    Ok(all.into_iter().flatten().map(|addon| addon.name).collect())
}

/// Lists all addons, with their status if a profile is given.
pub async fn list(home: &Home, profile: Option<&Profile>) -> Result<Vec<Entry>, Failure> {
    let parents = match profile {
        Some(profile) => parents(home, profile).await?,
        None => None,
    };
    Ok(entries(catalogue::read_all(home)?, parents.as_deref()))
}

/// Returns the sets in a cluster; `None` if it is not running or does not respond.
async fn parents(home: &Home, profile: &Profile) -> Result<Option<Vec<applyset::Parent>>, Failure> {
    if !is_up(home, profile).await? {
        return Ok(None);
    }
    let client = access::client(home, profile).await?;
    let listed = tokio::time::timeout(LIST_TIMEOUT, server::parents(client)).await;
    Ok(listed.ok().and_then(Result::ok))
}

/// Merges the catalogue with the sets in a cluster.
fn entries(
    catalogue: Vec<Result<Addon, catalogue::Damaged>>,
    parents: Option<&[applyset::Parent]>,
) -> Vec<Entry> {
    let mut entries: Vec<Entry> = catalogue
        .into_iter()
        .map(|found| match found {
            Ok(addon) => Entry {
                source: addon.origin.to_string(),
                name: addon.name,
                description: addon.description,
                version: addon.version,
                enabled_version: None,
                status: Status::Unknown,
                homepage: addon.homepage,
            },
            Err(damaged) => Entry {
                name: damaged.name,
                description: format!("Damaged: {}", damaged.failure.message),
                version: "-".into(),
                enabled_version: None,
                status: Status::Unknown,
                source: "-".into(),
                homepage: String::new(),
            },
        })
        .collect();
    let Some(parents) = parents else {
        return entries;
    };
    for entry in &mut entries {
        entry.status = Status::Disabled;
    }
    for parent in parents {
        let status = match parent.state {
            applyset::State::Enabled => Status::Enabled,
            applyset::State::Changing => Status::Incomplete,
        };
        match entries.iter_mut().find(|e| e.name == parent.name) {
            Some(entry) => {
                entry.status = status;
                entry.enabled_version = Some(parent.version.clone());
            }
            // The directory has been removed since.
            None => entries.push(Entry {
                name: parent.name.clone(),
                description: parent.description.clone(),
                version: parent.version.clone(),
                enabled_version: Some(parent.version.clone()),
                status,
                source: parent.origin.clone(),
                homepage: parent.homepage.clone(),
            }),
        }
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

/// Enables an addon in a cluster or updates it.
pub async fn enable(
    home: &Home,
    profile: &Profile,
    addon: &Addon,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let _lock = home.lock(&profile.name)?;
    let client = running(home, profile).await?;
    let addon = crate::registry::completed(home, profile, addon)?;
    enable::enable(client, &addon, progress)
        .await
        .map_err(|failure| failure.context(format!("the addon '{}'", addon.name)))
}

/// Disables an addon in a cluster and removes all its objects.
pub async fn disable(
    home: &Home,
    profile: &Profile,
    name: &str,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    description::check_name(name)?;
    let _lock = home.lock(&profile.name)?;
    let client = running(home, profile).await?;
    let disabled = remove::disable(client, name, progress).await;
    if disabled
        .map_err(|failure| failure.context(format!("the addon '{name}'")))?
        .is_some()
    {
        return Ok(());
    }
    // An unknown addon is reported as such.
    match find(home, name) {
        Err(e) if e.kind == Kind::NotFound => Err(e),
        _ => Err(Failure::new(
            Source::Program,
            Kind::NotFound,
            format!("the addon '{name}' is not enabled"),
        )
        .advise(format!(
            "list addons with: {}",
            command("addons list", &profile.name)
        ))),
    }
}

/// Returns the names of the images of an addon's workloads, sorted. Downloads its manifests if
/// they are not files.
pub async fn images(addon: &Addon) -> Result<Vec<String>, Failure> {
    let objects = objects::read(&fetch::manifests(addon).await?)?;
    Ok(images_of(&objects))
}

/// Returns the names of the images that objects use, sorted: those of containers and of volumes.
pub fn images_of(objects: &[objects::Object]) -> Vec<String> {
    let mut found = std::collections::BTreeSet::new();
    for object in objects {
        collect_images(&object.content, &mut found);
    }
    found.into_iter().collect()
}

/// Collects the images of all containers and volumes in a part of an object.
fn collect_images(value: &serde_json::Value, found: &mut std::collections::BTreeSet<String>) {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let place = match key.as_str() {
                    "containers" | "initContainers" | "ephemeralContainers" => "/image",
                    "volumes" => "/image/reference",
                    _ => "",
                };
                let list = field.as_array().filter(|_| !place.is_empty());
                let names = list.into_iter().flatten();
                let names = names.filter_map(|item| item.pointer(place)?.as_str());
                found.extend(names.filter(|name| !name.is_empty()).map(str::to_owned));
                collect_images(field, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_images(item, found)),
        _ => {}
    }
}

async fn is_up(home: &Home, profile: &Profile) -> Result<bool, Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    Ok(driver.is_up(&profile.plan(home)).await)
}

/// Returns a client once the API server is ready. Fails if the cluster is not running.
async fn running(home: &Home, profile: &Profile) -> Result<Client, Failure> {
    if !is_up(home, profile).await? {
        return Err(access::not_running(&profile.name));
    }
    crate::pause::refuse(home, profile, profile.control_plane()).await?;
    let client = access::client(home, profile).await?;
    ready::wait_for_api(&client, &profile.name, Instant::now() + READY_TIMEOUT).await?;
    Ok(client)
}
