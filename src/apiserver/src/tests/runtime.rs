//! kube-rs' reflector and controller with an in-process client.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Resource as _, ResourceExt as _};
use kube_runtime::controller::{Action, Controller};
use kube_runtime::{WatchStreamExt as _, reflector, watcher};

use super::support::start;

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

/// Polls until `good` returns true.
async fn wait_until(what: &str, mut good: impl AsyncFnMut() -> bool) {
    let tries = async {
        while !good().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(WAIT_TIMEOUT, tries)
        .await
        .unwrap_or_else(|_| panic!("{what} takes too long"));
}

#[tokio::test]
async fn a_reflector_follows() {
    let t = start().await;
    let maps: Api<ConfigMap> =
        Api::namespaced(t.server.client("admin", &["system:masters"]), "default");
    maps.create(&PostParams::default(), &map("before"))
        .await
        .unwrap();
    for config in [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
        watcher::Config::default().page_size(1),
    ] {
        let (store, writer) = reflector::store();
        let stream = watcher(maps.clone(), config)
            .default_backoff()
            .reflect(writer)
            .applied_objects()
            .boxed();
        let follow = tokio::spawn(stream.try_for_each(|_| futures::future::ok(())));
        store.wait_until_ready().await.unwrap();
        let names = || -> Vec<String> {
            let mut names: Vec<_> = store.state().iter().map(|m| m.name_any()).collect();
            names.sort_unstable();
            names
        };
        assert!(names().contains(&"before".to_owned()));
        maps.create(&PostParams::default(), &map("after"))
            .await
            .unwrap();
        wait_until("the reflector to see it", async || {
            names().contains(&"after".to_owned())
        })
        .await;
        maps.delete("after", &DeleteParams::default())
            .await
            .unwrap();
        wait_until("the reflector to forget it", async || {
            !names().contains(&"after".to_owned())
        })
        .await;
        follow.abort();
    }
}

struct Context {
    secrets: Api<Secret>,
}

/// Applies a secret of the same name for each config map.
async fn reconcile(map: Arc<ConfigMap>, context: Arc<Context>) -> Result<Action, kube::Error> {
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(map.name_any()),
            owner_references: map.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        string_data: map.data.clone(),
        ..Secret::default()
    };
    context
        .secrets
        .patch(
            &map.name_any(),
            &PatchParams::apply("test-controller").force(),
            &Patch::Apply(&secret),
        )
        .await?;
    Ok(Action::await_change())
}

#[tokio::test]
async fn a_controller_reconciles() {
    let t = start().await;
    let client = t.server.client("admin", &["system:masters"]);
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let secrets: Api<Secret> = Api::namespaced(client, "default");
    let context = Arc::new(Context {
        secrets: secrets.clone(),
    });
    let controller = Controller::new(maps.clone(), watcher::Config::default())
        .owns(secrets.clone(), watcher::Config::default())
        .run(
            reconcile,
            |_, _, _| Action::requeue(Duration::from_millis(50)),
            context,
        );
    let run = tokio::spawn(controller.for_each(|_| futures::future::ready(())));
    let mut one = map("wanted");
    one.data = Some([("k".to_owned(), "v".to_owned())].into());
    maps.create(&PostParams::default(), &one).await.unwrap();
    let value = async || {
        let secret = secrets.get_opt("wanted").await.unwrap()?;
        Some(secret.data?.get("k")?.0.clone())
    };
    wait_until("the secret", async || {
        value().await.as_deref() == Some(b"v")
    })
    .await;
    // A deleted owned object is recreated.
    secrets
        .delete("wanted", &DeleteParams::default())
        .await
        .unwrap();
    wait_until("the secret to be back", async || value().await.is_some()).await;
    run.abort();
}
