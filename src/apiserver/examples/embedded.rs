//! Runs the API server inside a program, creates an object in it, reads it back, and stops.
//!
//! ```console
//! $ cargo run -p rkube-apiserver --example embedded
//! ```
//!
//! There are no nodes and no controllers: objects are validated, stored and watched as on a real
//! cluster, but pods do not run. That is enough to test a client or a controller without a cluster.

mod common;

use std::error::Error;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ListParams, PostParams};
use serde_json::json;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // `common` makes the certificates and a store in a temporary directory, and listens on a free
    // port. The store is empty: the server has written the namespaces, roles and flow schemas that
    // every cluster begins with.
    let cluster = common::Cluster::start().await?;
    println!("The API server listens on {}", cluster.url);

    // From here on it is an API server as any other. The client of the crate `kube` finds it by a
    // kubeconfig; kubectl could, too.
    let client = cluster.client().await?;
    println!("It is {}", client.apiserver_version().await?.git_version);

    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let map: ConfigMap = serde_json::from_value(json!({
        "metadata": {"name": "greeting", "labels": {"example": "embedded"}},
        "data": {"text": "hello"},
    }))?;
    maps.create(&PostParams::default(), &map).await?;

    // The answer has the fields that a server adds: a uid, a resource version, the time, and the
    // owners of fields.
    let found = maps.get("greeting").await?;
    println!("{}", serde_json::to_string_pretty(&found)?);

    // Objects that a real cluster refuses are refused here.
    let mut wrong = map;
    wrong.metadata.name = Some("Not_A_Name".into());
    match maps.create(&PostParams::default(), &wrong).await {
        Err(kube::Error::Api(status)) => println!("Refused: {}", status.message),
        other => return Err(format!("an invalid name was accepted: {other:?}").into()),
    }
    let labelled = ListParams::default().labels("example=embedded");
    println!("{} object(s)", maps.list(&labelled).await?.items.len());

    cluster.stop().await
}
