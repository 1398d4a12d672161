//! Admission attributes: the description of a write that plugins, policies and webhooks receive.

use rkube_admission::{Operation, Request};
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::authz::Authorizer;

use crate::backend::Backend;
use crate::call::Call;
use crate::resources::Resource;

/// A write in the admission chain.
pub struct Admission<'a> {
    /// Store, cache and resources.
    pub backend: &'a Backend,
    /// Authorizes the request's user.
    pub authorizer: &'a Authorizer,
    /// The request.
    pub call: &'a Call,
    /// The resource that is written.
    pub resource: &'a Resource,
    /// The resource in the version of the request, if `resource` is another version of it.
    pub requested: Option<&'a Resource>,
    /// The operation.
    pub operation: Operation,
    /// Whether the write is a dry run.
    pub dry_run: bool,
    /// The options object of the request.
    pub options: &'a Object,
    /// The object posted to a subresource, if it is of another kind than the resource.
    pub part: Option<SubresourceKind<'a>>,
}

/// The kind of a subresource's object where it is another than the resource's (`Binding`,
/// `PodExecOptions`).
#[derive(Clone, Copy)]
pub struct SubresourceKind<'a> {
    /// The kind's group.
    pub group: &'a str,
    /// The kind's version.
    pub version: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// The name of the kind's OpenAPI definition.
    pub definition: &'a str,
}

impl Admission<'_> {
    /// Returns the attributes in the form that the built-in plugins take.
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
            // A deletion concerns the whole object, also if a subresource (eviction) caused it.
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

    /// Returns the same write with its resource in another version.
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

    /// Returns the resource in the version of the request.
    pub fn requested(&self) -> &Resource {
        self.requested.unwrap_or(self.resource)
    }

    /// Returns group, version and kind of the object in the request's version.
    pub fn requested_kind(&self) -> (&str, &str, &str) {
        let resource = self.requested();
        match &self.part {
            Some(_) => self.kind(),
            None => (&resource.group, &resource.version, &resource.kind),
        }
    }

    /// Returns group, version and kind of the object.
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

    /// Returns the name of the object that the request concerns.
    pub fn name(&self, object: Option<&Object>) -> String {
        match object {
            Some(object) if self.part.is_none() || self.call.info.name.is_empty() => {
                meta::name(object).to_owned()
            }
            _ => self.call.info.name.clone(),
        }
    }

    /// Converts the object from the hub version to the version of `resource`.
    pub fn served(&self, object: Object) -> Result<Object, Status> {
        if self.part.is_some() {
            return Ok(object);
        }
        self.resource.served(object)
    }

    /// Returns the namespace of the write. For a namespace object, this is its own name.
    pub fn namespace(&self, object: Option<&Object>) -> String {
        match object {
            _ if self.part.is_some() => self.call.info.namespace.clone(),
            Some(object) if self.resource.is("", "namespaces") => meta::name(object).to_owned(),
            Some(object) => meta::namespace(object).to_owned(),
            None => self.call.info.namespace.clone(),
        }
    }

    /// Returns the name and the namespace of the written object.
    pub fn name_and_namespace(&self, object: &Object) -> (String, String) {
        (self.name(Some(object)), self.namespace(Some(object)))
    }
}
