//! Deletes the data of volumes of the built-in provisioner.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolume;

use super::provisioner;
use crate::context::{Context, api_message};

/// The time limit for the node's answer. Nodes move the data away and delete it afterwards, and
/// refuse requests that come later: meanwhile a user may have decided to keep the volume.
const TIMEOUT: Duration = Duration::from_millis(TIMEOUT_MILLIS.unsigned_abs());
const TIMEOUT_MILLIS: i64 = 5000;

/// The place of a provisioned volume's data.
#[derive(Debug, PartialEq, Eq)]
struct DataLocation<'a> {
    node: &'a str,
    directory: &'a str,
}

/// Returns whether a volume is as the provisioner makes them, with its data below `root`.
pub(super) fn has_data_location(volume: &PersistentVolume, root: &Path) -> bool {
    data_location(volume, root).is_some()
}

/// Returns the place of a volume's data, `None` if the volume is not as the provisioner makes
/// them. Users can make volumes with the provisioner's annotation and any path.
fn data_location<'a>(volume: &'a PersistentVolume, root: &Path) -> Option<DataLocation<'a>> {
    let spec = volume.spec.as_ref()?;
    let path = Path::new(&spec.host_path.as_ref()?.path);
    let directory = path.file_name()?.to_str()?;
    let usual = path.parent() == Some(root) && volume.metadata.name.as_deref() == Some(directory);
    let affinity = spec.node_affinity.as_ref()?.required.as_ref()?;
    let [term] = &affinity.node_selector_terms[..] else {
        return None;
    };
    let [wanted] = term.match_expressions.as_deref()? else {
        return None;
    };
    let [node] = wanted.values.as_deref()? else {
        return None;
    };
    let on_node = wanted.key == provisioner::HOSTNAME && wanted.operator == "In";
    (usual && on_node).then_some(DataLocation { node, directory })
}

/// Deletes the data of a volume that the provisioner made. The data of a deleted node is gone with
/// it.
///
/// # Errors
///
/// The reason why the data is still there, or may be.
pub async fn delete_data(
    ctx: &Context,
    client: &kube::Client,
    volume: &PersistentVolume,
) -> Result<(), String> {
    let Some(place) = data_location(volume, &ctx.config.volumes) else {
        return Err("the volume has been changed, and its data cannot be found".into());
    };
    if ctx.informers.nodes.get("", place.node).is_none() {
        return Ok(());
    }
    let deadline = ctx.now().as_millisecond().saturating_add(TIMEOUT_MILLIS);
    let path = format!(
        "/api/v1/nodes/{}/proxy/rkube/volumes/{}?before={deadline}",
        place.node, place.directory
    );
    let request = http::Request::delete(path)
        .body(Vec::new())
        .map_err(|error| error.to_string())?;
    match tokio::time::timeout(TIMEOUT, client.request_text(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("node {}: {}", place.node, api_message(&error))),
        Err(_) => Err(format!("node {} does not answer", place.node)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_directories_of_the_provisioner_are_found() {
        let root = Path::new("/var/lib/rkube/volumes");
        let class = provisioner::default_class();
        let claim = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {},
        }));
        let made = provisioner::volume(&claim.unwrap(), &class, "n1", root);
        let found = data_location(&made, root).unwrap();
        assert_eq!((found.node, found.directory), ("n1", "pvc-u"));
        for path in [
            "/etc",
            "/var/lib/rkube/volumes",
            "/var/lib/rkube/volumes/../pvc-u",
            "/var/lib/rkube/volumes/pvc-other",
        ] {
            let mut changed = made.clone();
            changed
                .spec
                .as_mut()
                .unwrap()
                .host_path
                .as_mut()
                .unwrap()
                .path = path.into();
            assert_eq!(data_location(&changed, root), None, "{path}");
        }
        let mut elsewhere = made;
        elsewhere.spec.as_mut().unwrap().node_affinity = None;
        assert_eq!(data_location(&elsewhere, root), None);
    }
}
