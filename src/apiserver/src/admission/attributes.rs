//! A write in the form that admission sees it in.

use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::admission::{Operation, Request};
use rkube_auth::authz::Authorizer;

use crate::backend::Backend;
use crate::call::Call;
use crate::resources::Resource;

/// A write on its way through admission.
pub struct Admission<'a> {
    /// Store, cache and resources.
    pub backend: &'a Backend,
    /// Decides what the request's user may do.
    pub authorizer: &'a Authorizer,
    /// The request.
    pub call: &'a Call,
    /// What is written.
    pub resource: &'a Resource,
    /// The resource that the request names, where it is looked at in another version.
    pub requested: Option<&'a Resource>,
    /// What is done.
    pub operation: Operation,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The options object.
    pub options: &'a Object,
    /// The subresource's own object, where the object is not the resource's.
    pub part: Option<Part<'a>>,
}

/// A subresource with an object of its own kind (`Binding`, `PodExecOptions`).
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// The kind's group.
    pub group: &'a str,
    /// The kind's version.
    pub version: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// The kind's OpenAPI definition.
    pub definition: &'a str,
}

impl Admission<'_> {
    /// Returns the write in the form that plugins take.
    pub fn plugin_request<'b>(
        &'b self,
        object: Option<&'b mut Object>,
        old: Option<&'b Object>,
        name: &'b str,
        namespace: &'b str,
    ) -> Request<'b> {
        let info = &self.call.info;
        Request {
            operation: self.operation,
            group: &self.resource.group,
            version: &self.resource.version,
            resource: &self.resource.plural,
            // A deletion is one of the whole object, whatever led to it.
            subresource: if self.operation == Operation::Delete {
                ""
            } else {
                &info.subresource
            },
            kind: self.part.map_or(&self.resource.kind, |part| part.kind),
            namespace,
            name,
            user: &self.call.user,
            object,
            old,
            dry_run: self.dry_run,
            options: Some(self.options),
        }
    }

    /// The same write in another version of its resource.
    pub fn through<'b>(&'b self, resource: &'b Resource) -> Admission<'b> {
        Admission {
            backend: self.backend,
            authorizer: self.authorizer,
            call: self.call,
            resource,
            requested: Some(self.requested.unwrap_or(self.resource)),
            operation: self.operation,
            dry_run: self.dry_run,
            options: self.options,
            part: self.part,
        }
    }

    /// What the request names.
    pub fn requested(&self) -> &Resource {
        self.requested.unwrap_or(self.resource)
    }

    /// The group, version and kind of the object in the request's version.
    pub fn requested_kind(&self) -> (&str, &str, &str) {
        let resource = self.requested();
        match &self.part {
            Some(_) => self.kind(),
            None => (&resource.group, &resource.version, &resource.kind),
        }
    }

    /// The group, version and kind of the object.
    pub fn kind(&self) -> (&str, &str, &str) {
        match &self.part {
            Some(part) => (part.group, part.version, part.kind),
            None => (
                &self.resource.group,
                &self.resource.version,
                &self.resource.kind,
            ),
        }
    }

    /// The name of what the request is about.
    pub fn name(&self, object: Option<&Object>) -> String {
        match object {
            Some(object) if self.part.is_none() || self.call.info.name.is_empty() => {
                meta::name(object).to_owned()
            }
            _ => self.call.info.name.clone(),
        }
    }

    /// The object in the version that the request is in.
    pub fn served(&self, object: Object) -> Result<Object, Status> {
        if self.part.is_some() {
            return Ok(object);
        }
        self.resource.served(object)
    }

    /// The namespace that a write is in; a namespace is in itself.
    pub fn namespace(&self, object: Option<&Object>) -> String {
        match object {
            _ if self.part.is_some() => self.call.info.namespace.clone(),
            Some(object) if self.resource.is("", "namespaces") => meta::name(object).to_owned(),
            Some(object) => meta::namespace(object).to_owned(),
            None => self.call.info.namespace.clone(),
        }
    }

    /// Returns the name and the namespace of an object that is written.
    pub fn name_and_namespace(&self, object: &Object) -> (String, String) {
        (self.name(Some(object)), self.namespace(Some(object)))
    }
}
