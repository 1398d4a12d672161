//! Admission of writes: the built-in plugins, then policies, then webhooks, in
//! upstream's order.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_auth::admission::{Operation, QuotaStore, Request};
use rkube_store::{Expect, StoreError};
use serde_json::{Value, json};

use crate::ApiServer;
use crate::cache::Filter;
use crate::call::Call;
use crate::codec::{decode, encode};
use crate::resources::Resource;

/// A write on its way through admission.
pub struct Admission<'a> {
    /// The server.
    pub server: &'a Arc<ApiServer>,
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

/// What mutating policies, or mutating webhooks, did to an object so far. It decides
/// which of them see the object once more (upstream's reinvocation contexts): those that
/// ask for it, when something changed the object after them.
#[derive(Default)]
pub struct Rounds {
    second: bool,
    /// Those that ask for it, and were called since the last change.
    called: BTreeSet<String>,
    /// Those that are to be called in the second round.
    due: BTreeSet<String>,
    changed: bool,
    /// The object as they left it, where one of them asks to see later changes.
    output: Option<Object>,
}

impl Rounds {
    /// Begins with an object; what happened to it since they left it counts as a change.
    pub fn begin(&mut self, object: &Object) {
        if self.output.as_ref().is_some_and(|output| output != object) {
            self.due.append(&mut self.called);
        }
    }

    /// Whether the one with this name is not to be called.
    pub fn skips(&self, name: &str) -> bool {
        self.second && !self.due.contains(name)
    }

    /// Takes in that one was called: whether it changed the object, and whether it asks to
    /// see it again.
    pub fn called(&mut self, name: &str, changed: bool, again: bool) {
        if changed {
            self.changed = true;
            self.due.append(&mut self.called);
        }
        if again {
            self.called.insert(name.to_owned());
        }
    }

    /// Ends with an object.
    pub fn end(&mut self, object: &Object) {
        if !self.second && !self.called.is_empty() {
            self.output = Some(object.clone());
        }
    }

    /// Goes on to the next round; whether there has to be one.
    fn next(&mut self) -> bool {
        !std::mem::replace(&mut self.second, true) && self.changed
    }
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
    fn request<'b>(
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
            server: self.server,
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

    fn name_of(&self, object: &Object) -> (String, String) {
        (self.name(Some(object)), self.namespace(Some(object)))
    }

    /// Lets plugins, policies and webhooks fill in the object. What a policy or webhook
    /// changed goes through all of it once more, so that a container that was put in has
    /// its defaults too.
    pub async fn mutate(&self, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
        let (name, namespace) = self.name_of(object);
        let request = self.request(Some(&mut *object), old, &name, &namespace);
        self.server.plugins.wait_until_ready(&request).await;
        let (mut policies, mut webhooks) = (Rounds::default(), Rounds::default());
        loop {
            let mut request = self.request(Some(&mut *object), old, &name, &namespace);
            let warnings = self.server.plugins.mutate(&mut request)?;
            self.call.warn(warnings);
            let server = self.server;
            server
                .policies
                .mutate(self, object, old, &mut policies)
                .await?;
            server
                .webhooks
                .mutate(self, object, old, &mut webhooks)
                .await?;
            let again = [&mut policies, &mut webhooks].map(Rounds::next);
            if !again.contains(&true) {
                return Ok(());
            }
        }
    }

    /// Lets plugins and webhooks refuse the object.
    pub async fn validate(&self, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
        let (name, namespace) = self.name_of(object);
        let request = self.request(Some(&mut *object), old, &name, &namespace);
        let warnings = self.server.plugins.validate(&request)?;
        self.call.warn(warnings);
        let server = self.server;
        server.policies.validate(self, Some(object), old).await?;
        self.server.webhooks.validate(self, Some(object), old).await
    }

    /// Charges the namespace's quotas; the last step before storing.
    pub async fn charge_quota(
        &self,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        let (name, namespace) = self.name_of(object);
        let request = self.request(Some(object), old, &name, &namespace);
        self.server
            .plugins
            .charge_quota(&request, &Quotas(self.server))
            .await
    }
}

/// Admission of a deletion.
pub async fn delete(admission: &Admission<'_>, old: &Object) -> Result<(), Status> {
    let (name, namespace) = admission.name_of(old);
    let mut request = admission.request(None, Some(old), &name, &namespace);
    let mut warnings = admission.server.plugins.mutate(&mut request)?;
    warnings.extend(admission.server.plugins.validate(&request)?);
    admission.call.warn(warnings);
    admission
        .server
        .policies
        .validate(admission, None, Some(old))
        .await?;
    admission
        .server
        .webhooks
        .validate(admission, None, Some(old))
        .await
}

/// Admission of a connection to something that runs.
pub async fn connect(
    server: &Arc<ApiServer>,
    call: &Call,
    kind: &str,
    operation: Operation,
) -> Result<(), Status> {
    let info = &call.info;
    let Some(resource) = server
        .resources
        .find(&info.group, &info.version, &info.resource)
    else {
        return Err(Status::page_not_found());
    };
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    for key in ["stdin", "stdout", "stderr", "tty"] {
        if info.query.get(key).is_some() {
            options[key] = info.query.is_true(key).into();
        }
    }
    if let Some(container) = info.query.non_empty("container") {
        options["container"] = container.into();
    }
    let command: Vec<&str> = info.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = json!(command);
    }
    let none = Value::Null;
    let definition = format!("io.k8s.api.core.v1.{kind}");
    let admission = Admission {
        server,
        call,
        requested: None,
        resource: &resource,
        operation,
        dry_run: false,
        options: &none,
        part: Some(Part {
            group: "",
            version: "v1",
            kind,
            definition: &definition,
        }),
    };
    admission.mutate(&mut options, None).await?;
    admission.validate(&mut options, None).await
}

/// Nobody may gain rights by writing roles or bindings.
pub fn check_escalation(
    server: &ApiServer,
    call: &Call,
    resource: &Resource,
    new: &Object,
    old: Option<&Object>,
) -> Result<(), Status> {
    if resource.group != "rbac.authorization.k8s.io" {
        return Ok(());
    }
    server
        .authorizer
        .check_escalation(&call.user, &resource.plural, meta::namespace(new), new, old)
}

/// Quotas in the store.
struct Quotas<'a>(&'a Arc<ApiServer>);

impl QuotaStore for Quotas<'_> {
    fn quotas<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Object>, Status>> {
        Box::pin(async move {
            self.0.cache.consistent().await;
            let Some(cache) = self.0.cache.existing("", "resourcequotas") else {
                return Ok(Vec::new());
            };
            let filter = Filter::new(Some(namespace.to_owned()), None, None, None);
            Ok(cache
                .list(&filter)
                .iter()
                .map(|object| object.parse())
                .collect())
        })
    }

    fn update_status<'a>(&'a self, mut quota: Object) -> BoxFuture<'a, Result<Object, Status>> {
        Box::pin(async move {
            let resource = rkube_api::GroupResource::new("", "resourcequotas");
            let name = meta::name(&quota).to_owned();
            let key = format!(
                "/registry/core/resourcequotas/{}/{name}",
                meta::namespace(&quota)
            );
            let revision: u64 = meta::resource_version(&quota)
                .parse()
                .map_err(|_| Status::modified(&resource, &name))?;
            let bytes = encode(&mut quota)?;
            match self
                .0
                .store
                .put(&key, bytes, Expect::Revision(revision))
                .await
            {
                Ok(kv) => decode(&kv),
                Err(StoreError::Conflict { .. }) => Err(Status::modified(&resource, &name)),
                Err(error) => Err(Status::internal(error)),
            }
        })
    }
}
