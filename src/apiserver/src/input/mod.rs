//! What a request asks for, read and checked before its handler runs.
//!
//! This is the only place where headers are negotiated, parameters parsed and bodies read and
//! decoded for objects. Handlers receive the result, and never see the request's bytes.

pub mod decode;
pub mod delete;
pub mod list;
pub mod options;
pub mod patch;
pub mod posted;
pub mod scale;
pub mod watch;

use rkube_api::Object;
use rkube_api::status::Status;

use crate::body::{self, Body};
use crate::cache::Filter;
use crate::call::Call;
use crate::negotiate::{self, Accepted, MediaTypes, View};
use crate::resources::Resource;
use decode::{decode, namespace_of_request};
use delete::DeleteOptions;
use list::ListOptions;
use options::WriteOptions;
use patch::{Change, Configuration, Form, Patch};
use watch::WatchOptions;

/// A request for objects, by its verb.
pub enum Input {
    /// One object, at least as new as the revision.
    Get(Option<u64>),
    /// The objects of a collection.
    List(Box<ListOptions>),
    /// The changes of a collection.
    Watch(Box<WatchOptions>),
    /// A new object, in the request's version.
    Create(WriteOptions, Object),
    /// The new state of an object, in the request's version.
    Update(WriteOptions, Object),
    /// A change of an object.
    Patch(WriteOptions, Change),
    /// The deletion of an object.
    Delete(DeleteOptions),
    /// The deletion of the objects that a filter selects.
    DeleteCollection(DeleteOptions, Filter),
}

impl Input {
    /// Reads a request. Returns it with the form in which the client wants the answer.
    ///
    /// # Errors
    ///
    /// 406 for the answer's form, then 400, 413, 415 or 422 for the request.
    pub async fn read(
        call: &Call,
        resource: &Resource,
        body: Body,
    ) -> Result<(Accepted, Self), Status> {
        let verb = call.info.verb;
        let offer = match verb {
            "watch" => WatchOptions::media_types(call, resource),
            _ => resource.media_types(),
        };
        let accepted = negotiate::accept(&call.headers, offer)?;
        if matches!(verb, "get" | "list" | "watch") {
            check_table_options(call, accepted)?;
        }
        let input = match verb {
            "get" => {
                check_is_single(resource, accepted)?;
                let revision = call.info.query.get("resourceVersion");
                Self::Get(list::parse_revision(revision)?)
            }
            "list" => {
                check_is_list(resource, accepted)?;
                Self::List(Box::new(ListOptions::read(call, resource)?))
            }
            "watch" => Self::Watch(Box::new(WatchOptions::read(call, resource)?)),
            "create" => {
                let (options, object) = read_object(call, resource, body, "CreateOptions").await?;
                Self::Create(options, object)
            }
            "update" => {
                let (options, object) = read_object(call, resource, body, "UpdateOptions").await?;
                Self::Update(options, object)
            }
            "patch" => {
                let (options, change) = read_change(call, resource, body).await?;
                Self::Patch(options, change)
            }
            "delete" => Self::Delete(DeleteOptions::read(call, &body::read(body).await?)?),
            "deletecollection" => {
                let options = DeleteOptions::read(call, &body::read(body).await?)?;
                let filter = list::filter(&call.info, resource)?;
                list::check_list_options(call)?;
                // Upstream refuses the answer only after it has deleted the objects.
                check_is_list(resource, accepted)?;
                Self::DeleteCollection(options, filter)
            }
            other => {
                let resource = resource.group_resource();
                return Err(Status::method_not_supported(&resource, other));
            }
        };
        Ok((accepted, input))
    }
}

/// Reads a request for objects that are computed when they are requested. Returns the form in which
/// the client wants them and, for a list, what it selects: such objects have no revisions and no
/// pages, so that those options have no meaning.
///
/// # Errors
///
/// 406 for the answer's form, then 400 or 422 for the options.
pub fn read_computed(
    call: &Call,
    resource: &Resource,
) -> Result<(Accepted, Option<Filter>), Status> {
    let accepted = negotiate::accept(&call.headers, resource.media_types())?;
    check_table_options(call, accepted)?;
    if call.info.verb == "get" {
        check_is_single(resource, accepted)?;
        return Ok((accepted, None));
    }
    check_is_list(resource, accepted)?;
    let filter = list::filter(&call.info, resource)?;
    list::check_numbers_and_match(call)?;
    Ok((accepted, Some(filter)))
}

/// Returns the form of an answer that is one whole object.
///
/// # Errors
///
/// 406 if the client takes none of its encodings.
pub fn accept_whole(call: &Call) -> Result<Accepted, Status> {
    negotiate::accept(&call.headers, MediaTypes::Plain)
}

/// Reads the object of a request, and gives it the request's namespace.
async fn read_object(
    call: &Call,
    resource: &Resource,
    body: Body,
    options_kind: &'static str,
) -> Result<(WriteOptions, Object), Status> {
    let options = WriteOptions::read(call, options_kind)?;
    let mut object = read_as(call, resource, body, &options).await?;
    namespace_of_request(call, resource, &mut object)?;
    Ok((options, object))
}

/// Reads a body as an object of the resource.
///
/// # Errors
///
/// 415 for its media type, 413 for its size, 400 for its content.
pub async fn read_as(
    call: &Call,
    resource: &Resource,
    body: Body,
    options: &WriteOptions,
) -> Result<Object, Status> {
    let encoding = negotiate::content_encoding(&call.headers)?;
    let bytes = body::read(body).await?;
    decode(call, resource, &bytes, encoding, options.validation)
}

async fn read_change(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> Result<(WriteOptions, Change), Status> {
    let form = Form::of_request(call, resource)?;
    let mut options = WriteOptions::read(call, "PatchOptions")?;
    patch::check_options(call, form)?;
    let bytes = body::read(body).await?;
    let change = match form {
        Form::Apply => {
            let mut configuration = Configuration::read(call, &mut options, &bytes)?;
            patch::check_configuration(call, resource, &mut configuration.object)?;
            Change::Apply(configuration)
        }
        form => Change::Patch(Patch::read(form, &options, &bytes)?),
    };
    Ok((options, change))
}

/// Checks that the client does not ask for the metadata of one object.
fn check_is_list(resource: &Resource, accepted: Accepted) -> Result<(), Status> {
    if !matches!(accepted.view, View::Metadata(_)) {
        return Ok(());
    }
    let list = match resource.crd_version() {
        Some(_) => "unstructured.UnstructuredList".to_owned(),
        None => format!("{}List", resource.internal_type()),
    };
    Err(Status::new(
        406,
        "NotAcceptable",
        format!(
            "you requested PartialObjectMetadata, but the requested object is a list (*{list})"
        ),
    ))
}

/// Checks that the client does not ask for the metadata of a list.
fn check_is_single(resource: &Resource, accepted: Accepted) -> Result<(), Status> {
    if !matches!(accepted.view, View::MetadataList(_)) {
        return Ok(());
    }
    Err(Status::new(
        406,
        "NotAcceptable",
        format!(
            "you requested PartialObjectMetadataList, but the requested object is not a list (*{})",
            resource.internal_type()
        ),
    ))
}

/// Checks the parameter `includeObject`.
fn check_table_options(call: &Call, accepted: Accepted) -> Result<(), Status> {
    match (accepted.view, call.info.query.non_empty("includeObject")) {
        (View::Table(_), Some(other)) if !matches!(other, "None" | "Metadata" | "Object") => {
            let value = rkube_api::text::quote(other);
            Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {value}: must be 'Metadata', 'Object', 'None', or empty"
            )))
        }
        _ => Ok(()),
    }
}
