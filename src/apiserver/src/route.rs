//! Decides what serves a request.
//!
//! The decision takes the same attributes that were authorized, and the handlers take its result.
//! So nothing is served under another scope, name or resource than the one that was authorized. As
//! in upstream, a path that exists for no resource is 404, and an existing path without this
//! method is 405.

use std::sync::Arc;

use http::Method;
use rkube_api::status::Status;
use rkube_request::{RequestInfo, is_read};

use crate::ApiServer;
use crate::aggregator::remote::Remote;
use crate::connect;
use crate::kind_handlers::KindHandler;
use crate::resources::Resource;

/// The part of the server that serves a request.
pub enum Route {
    /// An aggregated API server.
    Remote(Arc<Remote>),
    /// A connection to a node agent, pod or service, by a subresource of this resource.
    Connection,
    /// The handler of this resource's objects: the generic one, or that of a kind or subresource.
    Objects(Arc<Resource>, Option<KindHandler>),
    /// A handler of a non-resource path.
    Path,
    /// Nothing: there is no such API group.
    Nothing,
}

impl Route {
    /// Returns what serves a request.
    ///
    /// # Errors
    ///
    /// 404 if nothing serves the path, 405 if nothing serves the method there.
    pub fn of(server: &ApiServer, method: &Method, info: &RequestInfo) -> Result<Self, Status> {
        // The attributes ignore additional leading slashes, but no handler is there.
        if info.path.starts_with("//") && info.is_resource {
            return Err(Status::page_not_found());
        }
        if let Some(remote) = server.aggregator.find(&info.path) {
            return Ok(Self::Remote(remote));
        }
        if !info.is_resource {
            return Ok(Self::Path);
        }
        let resources = &server.backend().resources;
        let found = resources.find(&info.group, &info.version, &info.resource);
        let Some(resource) = found else {
            return match resources.snapshot().has_builtin(&info.group) {
                true => Err(Status::page_not_found()),
                false => Ok(Self::Nothing),
            };
        };
        check_scope(&resource, info)?;
        if info.subresource.is_empty() {
            check_main(&resource, info)?;
        } else {
            check_subresource(&resource, info)?;
            if connect::is_connect(info) {
                return Ok(Self::Connection);
            }
        }
        // Upstream has routes for GET only.
        if *method == Method::HEAD || info.watch_prefix && !is_read(method) {
            return Err(Status::method_not_allowed());
        }
        let own = KindHandler::find(&resource, info);
        Ok(Self::Objects(resource, own))
    }
}

/// Checks that the path has a namespace if and only if the resource is namespaced.
fn check_scope(resource: &Resource, info: &RequestInfo) -> Result<(), Status> {
    if !resource.namespaced {
        // A namespace itself has its own name as its namespace, and is not below one.
        return match info.in_namespace {
            true => Err(Status::page_not_found()),
            false => Ok(()),
        };
    }
    if info.in_namespace {
        return match info.namespace.is_empty() {
            true => Err(Status::page_not_found()),
            false => Ok(()),
        };
    }
    // The objects of all namespaces can only be listed and watched.
    let collection = info.name_in_path().is_empty() && info.subresource.is_empty();
    if !collection || !resource.has_verb("list") {
        return Err(Status::page_not_found());
    }
    if !matches!(info.verb, "list" | "watch") {
        return Err(Status::method_not_allowed());
    }
    Ok(())
}

/// Checks that the resource serves the verb, on the collection or on an object.
fn check_main(resource: &Resource, info: &RequestInfo) -> Result<(), Status> {
    let named = !info.name_in_path().is_empty();
    let fits = match info.verb {
        "list" | "create" | "deletecollection" => !named,
        "get" | "update" | "patch" | "delete" => named,
        _ => true,
    };
    if fits && resource.has_verb(info.verb) {
        return Ok(());
    }
    if info.watch_prefix && !resource.has_verb("watch") {
        return Err(Status::page_not_found());
    }
    let of_objects = ["get", "update", "patch", "delete"];
    if named && !of_objects.iter().any(|verb| resource.has_verb(verb)) {
        return Err(Status::page_not_found());
    }
    Err(Status::method_not_allowed())
}

/// Checks that the resource has the subresource, and that the subresource serves the verb. Only
/// proxies have paths below the subresource.
fn check_subresource(resource: &Resource, info: &RequestInfo) -> Result<(), Status> {
    let exists = !info.watch_prefix && !info.name_in_path().is_empty();
    let subresource = resource
        .subresource(&info.subresource)
        .filter(|_| exists)
        .ok_or_else(Status::page_not_found)?;
    let further = !info.rest.trim_matches('/').is_empty();
    if further && !(connect::is_connect(info) && info.subresource == "proxy") {
        return Err(Status::page_not_found());
    }
    // Connections check the method, as proxies serve every one.
    if !connect::is_connect(info) && !subresource.verbs.contains(&info.verb) {
        return Err(Status::method_not_allowed());
    }
    Ok(())
}
