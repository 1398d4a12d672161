//! A small controller against an embedded API server: it gives each ConfigMap with the label
//! `copy-to` a copy in the namespace that the label names, and keeps the copy up to date.
//!
//! ```console
//! $ cargo run -p rkube-apiserver --example controller
//! ```

mod common;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt as _};
use kube_runtime::controller::{Action, Controller};
use kube_runtime::wait::await_condition;
use kube_runtime::watcher;
use serde_json::json;

const LABEL: &str = "copy-to";

/// Makes the world look as one object wants it. Called after every change of the object, and again
/// after a failure, so it must be right to call it twice.
async fn reconcile(map: Arc<ConfigMap>, client: Arc<Client>) -> Result<Action, kube::Error> {
    let namespace = &map.labels()[LABEL];
    let copies: Api<ConfigMap> = Api::namespaced((*client).clone(), namespace);
    let name = map.name_any();
    // Server-side apply creates the copy or updates it, and takes back what the controller had set
    // before and no longer sets.
    let copy = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "annotations": {"copied-from": map.namespace()}},
        "data": map.data,
    });
    let manager = PatchParams::apply("copier").force();
    copies.patch(&name, &manager, &Patch::Apply(copy)).await?;
    println!("copied {name} to {namespace}");
    Ok(Action::await_change())
}

/// Decides when to try again after a failure.
fn retry(map: Arc<ConfigMap>, error: &kube::Error, _: Arc<Client>) -> Action {
    println!("{} was not copied: {error}", map.name_any());
    Action::requeue(Duration::from_secs(1))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = common::Cluster::start().await?;
    let client = cluster.client().await?;
    println!("The API server listens on {}", cluster.url);

    // The controller watches the labelled ConfigMaps of all namespaces.
    let watched = watcher::Config::default().labels(LABEL);
    let controller = Controller::new(Api::<ConfigMap>::all(client.clone()), watched)
        .run(reconcile, retry, Arc::new(client.clone()))
        .for_each(|_| std::future::ready(()));
    let controller = tokio::spawn(controller);

    // An object appears, and later changes; the copy follows.
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let copies: Api<ConfigMap> = Api::namespaced(client, "kube-public");
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "settings", "labels": {LABEL: "kube-public"}},
        "data": {"color": "red"},
    }))?;
    maps.create(&PostParams::default(), &map).await?;
    wait_for(&copies, "red").await?;
    let change = json!({"data": {"color": "blue"}});
    let params = PatchParams::default();
    maps.patch("settings", &params, &Patch::Merge(change))
        .await?;
    wait_for(&copies, "blue").await?;

    controller.abort();
    cluster.stop().await
}

/// Waits until the copy has this color.
async fn wait_for(copies: &Api<ConfigMap>, color: &str) -> Result<(), Box<dyn Error>> {
    let has_color = |map: Option<&ConfigMap>| {
        let data = map.and_then(|map| map.data.as_ref());
        data.and_then(|data| data.get("color"))
            .is_some_and(|found| found == color)
    };
    let waiting = await_condition(copies.clone(), "settings", has_color);
    tokio::time::timeout(Duration::from_secs(30), waiting).await??;
    println!("the copy is {color}");
    Ok(())
}
