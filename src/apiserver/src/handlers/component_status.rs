//! The deprecated `componentstatuses`, which are computed when they are requested.

use http::StatusCode;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use serde_json::json;

use crate::backend::Backend;
use crate::cache::{CachedObject, Filter};
use crate::call::Call;
use crate::inprocess::Components;
use crate::outcome::Outcome;
use crate::resources::Resource;

/// Returns the state of one component, or of those that `wanted` selects.
pub async fn read(
    backend: &Backend,
    components: &Components,
    call: &Call,
    resource: &Resource,
    wanted: Option<&Filter>,
) -> Result<Outcome, Status> {
    call.warn(["v1 ComponentStatus is deprecated in v1.19+".to_owned()]);
    let parts = ["scheduler", "controller-manager", "etcd-0"];
    let store = ask_store(backend).await;
    let component = |name: &str| {
        let trouble = match name {
            "etcd-0" => store.clone().err(),
            name => (!components.is_alive(&format!("system:kube-{name}")))
                .then(|| "the component does not run".to_owned()),
        };
        let condition = match trouble {
            None => json!({"type": "Healthy", "status": "True", "message": "ok"}),
            Some(error) => json!({"type": "Healthy", "status": "False", "error": error}),
        };
        json!({
            "apiVersion": "v1",
            "kind": "ComponentStatus",
            "metadata": {"name": name},
            "conditions": [condition],
        })
    };
    let Some(filter) = wanted else {
        if !parts.contains(&call.info.name.as_str()) {
            return Err(Status::not_found(
                &resource.group_resource(),
                &call.info.name,
            ));
        }
        let object = component(&call.info.name);
        return Ok(Outcome::Object(StatusCode::OK, object));
    };
    let selected = |object: &Object| {
        let json = object.to_string().into();
        CachedObject::new("", meta::name(object), 0, &json, None)
            .is_some_and(|object| filter.matches(&object))
    };
    let mut objects: Vec<Object> = parts.iter().map(|p| component(p)).collect();
    objects.retain(selected);
    Ok(Outcome::Computed(objects))
}

/// Checks that the store answers a read within a time limit.
async fn ask_store(backend: &Backend) -> Result<(), String> {
    const STORE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
    let asked = backend.store.get("/registry/health");
    match tokio::time::timeout(STORE_TIMEOUT, asked).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the store does not answer".to_owned()),
    }
}
