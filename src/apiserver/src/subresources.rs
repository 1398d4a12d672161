//! Subresources with behaviour beyond updating a part of their object.

use http::{Response, StatusCode};
use jiff::Timestamp;
use rkube_admission::Operation;
use rkube_api::fields::{self, Validation};
use rkube_api::schema::{Schema, Type};
use rkube_api::status::Status;
use rkube_api::{GroupResource, GroupVersionKind, Object, apply, meta, patch as patches};
use rkube_auth::token::TokenSigner;
use rkube_strategy::Context;
use serde_json::json;

use crate::admission::attributes::{Admission, SubresourceKind};
use crate::backend::Backend;
use crate::body::{self, Body};
use crate::cache::CachedObject;
use crate::call::{Call, Incoming};
use crate::codec;
use crate::handlers::decode::{parse_body, report_fields};
use crate::handlers::metadata::check_name;
use crate::handlers::options::WriteOptions;
use crate::handlers::ownership::{ObjectPart, Ownership};
use crate::handlers::read;
use crate::handlers::write::Writer;
use crate::inprocess::Components;
use crate::kinds::wrong_kind;
use crate::negotiate::{self, Encoding};
use crate::reader::CacheReader;
use crate::resources::Resource;
use crate::respond;
use crate::storage::RestStorage;
use crate::store_error::store_error;

const BINDING: SubresourceKind<'static> = SubresourceKind {
    group: "",
    version: "v1",
    kind: "Binding",
    definition: "io.k8s.api.core.v1.Binding",
};

const SCALE: SubresourceKind<'static> = SubresourceKind {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    definition: "io.k8s.api.autoscaling.v1.Scale",
};

const TOKEN_REQUEST: SubresourceKind<'static> = SubresourceKind {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
    definition: "io.k8s.api.authentication.v1.TokenRequest",
};

/// Decodes a request's body as a built-in kind that is not a resource.
pub async fn body_as(
    call: &Call,
    request: Incoming,
    part: &SubresourceKind<'_>,
    validation: Validation,
) -> Result<Object, Status> {
    let kind = part.kind;
    let encoding = negotiate::content_encoding(&call.headers)?;
    let bytes = body::read(request.body).await?;
    let (mut object, duplicates) = parse_body(&bytes, encoding)?;
    let api_version = rkube_api::gvk::api_version(part.group, part.version);
    if !matches!(meta::kind(&object), k if k.is_empty() || k == kind) {
        let own = GroupVersionKind::new(part.group, part.version, kind);
        let package = match part.group.split('.').next().unwrap_or_default() {
            "" => "core",
            package => package,
        };
        let internal = format!("{package}.{kind}");
        let (version, kind) = (meta::api_version(&object), meta::kind(&object));
        return Err(wrong_kind(&own, &internal, version, kind));
    }
    if let Some(ty) = Schema::builtin().definition(part.definition) {
        let unknown = fields::check(ty, &mut object)?;
        report_fields(call, validation, duplicates, unknown)?;
    }
    if meta::api_version(&object).is_empty() {
        meta::set_type(&mut object, &api_version, kind);
    }
    Ok(object)
}

/// Runs admission for an object that is posted to a subresource.
pub async fn admit(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    part: SubresourceKind<'_>,
    options: &WriteOptions,
    object: &mut Object,
) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    if !namespace.is_empty() && namespace != call.info.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let namespace = call.info.namespace.clone();
    meta::set_namespace(object, &namespace);
    let admission = Admission {
        backend: &storage.backend,
        authorizer: &storage.admission.authorizer,
        call,
        requested: None,
        resource,
        operation: Operation::Create,
        dry_run: options.dry_run,
        options: &options.object,
        // `bindings` is a resource, but its objects are not stored.
        part: Some(part),
    };
    storage.admission.mutate(&admission, object, None).await?;
    storage.admission.validate(&admission, object, None).await
}

/// Returns a `Status` response with status `Success` and the given code.
pub async fn success(call: &Call, code: StatusCode) -> Result<Response<Body>, Status> {
    let encoding = negotiate::accept(&call.headers, negotiate::MediaTypes::Plain)?.encoding;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16()});
    Ok(respond::value(call, code, encoding, &status).await)
}

/// Serves `pods/binding` and `bindings`: assigns a pod to a node.
pub async fn bind(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let options = WriteOptions::read(call, "CreateOptions")?;
    let mut binding = body_as(call, request, &BINDING, options.validation).await?;
    let name = if call.info.subresource.is_empty() {
        meta::name(&binding)
    } else {
        &call.info.name
    };
    let name = name.to_owned();
    if !call.info.subresource.is_empty()
        && !meta::name(&binding).is_empty()
        && meta::name(&binding) != name
    {
        return Err(Status::bad_request(
            "name in URL does not match name in Binding object",
        ));
    }
    let pods = storage
        .backend
        .resources
        .find("", "v1", "pods")
        .ok_or_else(Status::page_not_found)?;
    admit(storage, call, resource, BINDING, &options, &mut binding).await?;
    let user = &call.user;
    let revision = meta::resource_version(&binding).to_owned();
    let make = |old: Option<&Object>| -> Result<Object, Status> {
        let mut pod = old
            .cloned()
            .ok_or_else(|| Status::not_found(&pods.group_resource(), &name))?;
        if !revision.is_empty() && revision != meta::resource_version(&pod) {
            return Err(Status::conflict(
                &GroupResource::new("", "pods/binding"),
                &name,
                format!(
                    "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {}",
                    meta::resource_version(&pod)
                ),
            ));
        }
        let ctx = Context {
            now: Timestamp::now(),
            user: &user.name,
            uid: &user.uid,
            groups: &user.groups,
            extra: &user.extra,
        };
        pods.strategy().bind(&ctx, &mut pod, &binding)?;
        Ok(pod)
    };
    update_raw(
        storage,
        &pods,
        &call.info.namespace,
        &name,
        options.dry_run,
        &make,
    )
    .await?;
    success(call, StatusCode::CREATED).await
}

/// Updates an object on the server's own behalf, without strategies and admission.
pub async fn update_raw(
    storage: &RestStorage,
    resource: &Resource,
    namespace: &str,
    name: &str,
    dry_run: bool,
    make: &(dyn Fn(Option<&Object>) -> Result<Object, Status> + Send + Sync),
) -> Result<Object, Status> {
    storage.backend.cache.consistent().await;
    let mut current = resource
        .cache
        .get(namespace, name)
        .map(|object| (object.parse(), object.revision));
    let key = resource.key(namespace, name);
    for _ in 0..16 {
        let Some((old, revision)) = &current else {
            return Err(Status::not_found(&resource.group_resource(), name));
        };
        let mut new = make(Some(old))?;
        let bytes = codec::encode(&mut new)?;
        if dry_run {
            return Ok(new);
        }
        match storage
            .backend
            .store
            .put(&key, bytes, rkube_store::Expect::Revision(*revision))
            .await
        {
            Ok(kv) => return codec::decode(&kv),
            Err(rkube_store::StoreError::Conflict { found }) => {
                current = match found {
                    Some(kv) => Some((codec::decode(&kv)?, kv.mod_revision)),
                    None => None,
                };
            }
            Err(error) => return Err(store_error(resource, name, error)),
        }
    }
    Err(Status::modified(&resource.group_resource(), name))
}

/// Serves `scale`: the replica count of a scalable object.
pub async fn scale(
    storage: &RestStorage,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, negotiate::MediaTypes::Plain)?;
    let info = &call.info;
    let namespace = resource.namespace_of(info);
    let view = |object: &Object| -> Result<Object, Status> {
        resource
            .strategy()
            .scale(object)
            .ok_or_else(|| Status::internal(format!("{} has no scale", resource.group_resource())))
    };
    if info.verb == "get" {
        storage.backend.cache.consistent().await;
        let object = resource
            .cache
            .get(&namespace, &info.name)
            .ok_or_else(|| Status::not_found(&resource.group_resource(), &info.name))?;
        let object = storage.backend.load(resource, object.parse()).await?;
        let object = resource.served(object)?;
        let custom = resource.crd_version();
        if let Some(path) = custom.and_then(|version| version.missing_replicas(&object)) {
            let path = rkube_api::text::quote(path);
            return Err(Status::internal(format!(
                "the spec replicas field {path} does not exist"
            )));
        }
        let scale = view(&object)?;
        return Ok(respond::value(call, StatusCode::OK, accepted.encoding, &scale).await);
    }
    let kind = if info.verb == "update" {
        "UpdateOptions"
    } else {
        "PatchOptions"
    };
    let options = WriteOptions::read(call, kind)?;
    let ty: Type<'_> = Schema::builtin()
        .definition("io.k8s.api.autoscaling.v1.Scale")
        .map(Type::Builtin)
        .ok_or_else(|| Status::internal("the kind Scale is unknown"))?;
    let media = negotiate::media_type(&call.headers).to_owned();
    let validation = options.validation;
    let manager = options.manager.clone();
    let force = info.query.is_true("force");
    let (given, duplicates) = if info.verb == "update" {
        let scale = body_as(call, request, &SCALE, validation).await?;
        check_name(&scale, &info.name)?;
        (scale, Vec::new())
    } else {
        let bytes = body::read(request.body).await?;
        let encoding = if media == "application/apply-patch+yaml" {
            Encoding::Yaml
        } else {
            Encoding::Json
        };
        parse_body(&bytes, encoding)?
    };
    report_fields(call, validation, duplicates, Vec::new())?;
    let make = |old: Option<&Object>| -> Result<Object, Status> {
        let old = old.ok_or_else(|| Status::not_found(&resource.group_resource(), &info.name))?;
        let mut object = resource.served(old.clone())?;
        let live = view(&object)?;
        let mut scale = match info.verb {
            "update" => given.clone(),
            _ => patched_scale(ty, &media, &live, &given, &manager, force)?,
        };
        let unknown = fields::check(ty, &mut scale)?;
        report_fields(call, validation, Vec::new(), unknown)?;
        let revision = meta::resource_version(&scale).to_owned();
        let uid = meta::uid(&scale).to_owned();
        resource.strategy().set_scale(&mut object, &scale)?;
        // Preconditions on the scale apply to the object.
        if !revision.is_empty() && info.verb == "update" {
            meta::set_resource_version(&mut object, &revision);
        }
        if !uid.is_empty() {
            meta::set_uid(&mut object, &uid);
        }
        resource.stored(object)
    };
    let writer = Writer {
        storage,
        call,
        resource,
        part: ObjectPart::Main,
        options,
        ownership: Ownership::Update,
        plan: None,
    };
    let written = writer.update(&namespace, &info.name, &make).await?;
    let object: Object = serde_json::from_slice(&written.json).map_err(Status::internal)?;
    let scale = view(&resource.served(object)?)?;
    Ok(respond::value(call, StatusCode::OK, accepted.encoding, &scale).await)
}

/// Applies a patch of the given media type to a scale.
fn patched_scale(
    ty: Type<'_>,
    media: &str,
    live: &Object,
    patch: &Object,
    manager: &str,
    force: bool,
) -> Result<Object, Status> {
    match media {
        "application/json-patch+json" => patches::json_patch(live, patch),
        "application/merge-patch+json" => patches::merge_patch(live, patch),
        "application/strategic-merge-patch+json" => patches::strategic_merge(ty, live, patch),
        "application/apply-patch+yaml" => {
            let now = meta::now_rfc3339();
            let request = apply::Request {
                ty,
                api_version: "autoscaling/v1",
                manager,
                subresource: Some("scale"),
                now: &now,
                versions: None,
                reset_fields: &[],
            };
            apply::apply(&request, Some(live), patch, force)
        }
        _ => Err(Status::unsupported_media_type(&[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ])),
    }
}

/// Serves `serviceaccounts/token`: issues a token for a service account.
pub async fn token(
    storage: &RestStorage,
    signer: &TokenSigner,
    call: &Call,
    resource: &Resource,
    request: Incoming,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, negotiate::MediaTypes::Plain)?;
    let options = WriteOptions::read(call, "CreateOptions")?;
    let mut review = body_as(call, request, &TOKEN_REQUEST, options.validation).await?;
    storage.backend.cache.consistent().await;
    admit(
        storage,
        call,
        resource,
        TOKEN_REQUEST,
        &options,
        &mut review,
    )
    .await?;
    let reader = CacheReader(storage.backend.cache.clone());
    let answer = signer.token_request(
        &reader,
        &call.info.namespace,
        &call.info.name,
        &review,
        Timestamp::now(),
    )?;
    Ok(respond::value(call, StatusCode::CREATED, accepted.encoding, &answer).await)
}

/// Serves the deprecated `componentstatuses`, computed on request.
pub async fn component_statuses(
    backend: &Backend,
    components: &Components,
    call: &Call,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    call.warn(["v1 ComponentStatus is deprecated in v1.19+".to_owned()]);
    let accepted = negotiate::accept(&call.headers, resource.media_types())?;
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
    if call.info.verb == "get" {
        if !parts.contains(&call.info.name.as_str()) {
            return Err(Status::not_found(
                &resource.group_resource(),
                &call.info.name,
            ));
        }
        let object = component(&call.info.name);
        return Ok(backend
            .tree_response(call, resource, StatusCode::OK, accepted, object)
            .await);
    }
    let filter = read::filter(&call.info, resource)?;
    let selected = |object: &Object| {
        let json = object.to_string().into();
        CachedObject::new("", meta::name(object), 0, &json, None)
            .is_some_and(|object| filter.matches(&object))
    };
    let mut objects: Vec<Object> = parts.iter().map(|p| component(p)).collect();
    objects.retain(selected);
    let list = match accepted.view {
        negotiate::View::Table(version) => {
            let rows = objects
                .iter()
                .map(|o| respond::row(call, resource, o, version))
                .collect();
            respond::table(resource, version, json!({}), rows, true)
        }
        _ => {
            json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": objects})
        }
    };
    Ok(respond::value(call, StatusCode::OK, accepted.encoding, &list).await)
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
