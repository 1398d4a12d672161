//! Objects that are posted to a subresource and are of another kind than the resource.

use rkube_api::schema::Schema;
use rkube_api::status::Status;
use rkube_api::{GroupVersionKind, Object, fields, meta};

use super::decode::{parse_body, report_fields};
use super::options::WriteOptions;
use crate::admission::attributes::SubresourceKind;
use crate::body::{self, Body};
use crate::call::Call;
use crate::kinds::wrong_kind;
use crate::negotiate;

/// Reads the options and the object of a request that posts an object of another kind.
///
/// # Errors
///
/// 400, 413, 415 or 422.
pub async fn read(
    call: &Call,
    body: Body,
    part: &SubresourceKind<'_>,
) -> Result<(WriteOptions, Object), Status> {
    let options = WriteOptions::read(call, "CreateOptions")?;
    let object = read_object(call, body, part, &options).await?;
    Ok((options, object))
}

/// Decodes a request's body as a built-in kind that is not a resource.
///
/// # Errors
///
/// 400, 413 or 415.
pub async fn read_object(
    call: &Call,
    body: Body,
    part: &SubresourceKind<'_>,
    options: &WriteOptions,
) -> Result<Object, Status> {
    let kind = part.kind;
    let encoding = negotiate::content_encoding(&call.headers)?;
    let bytes = body::read(body).await?;
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
        report_fields(call, options.validation, duplicates, unknown)?;
    }
    if meta::api_version(&object).is_empty() {
        meta::set_type(&mut object, &api_version, kind);
    }
    Ok(object)
}
