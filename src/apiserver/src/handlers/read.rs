//! `get` and `list`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Response, StatusCode};
use rkube_api::GroupKind;
use rkube_api::selector::{FieldSelector, LabelSelector};
use rkube_api::status::{FieldError, Status};
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::body::Body;
use crate::cache::{CachedObject, Filter};
use crate::call::Call;
use crate::negotiate::{self, View};
use crate::resources::Resource;
use crate::respond::{self, ListMeta};
use crate::store_error::{store_error, too_large};
use rkube_request::RequestInfo;

/// Serves one object.
pub async fn get(
    backend: &Backend,
    call: &Call,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, resource.media_types())?;
    respond::validate_table_options(call, accepted)?;
    if let Some(View::Metadata(_)) =
        Some(accepted.view).filter(|_| negotiate::asks_for_list(&call.headers))
    {
        return Err(Status::new(
            406,
            "NotAcceptable",
            format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{})",
                resource.internal_type()
            ),
        ));
    }
    let revision = parse_revision(call.info.query.get("resourceVersion"))?;
    match revision {
        None => backend.cache.try_consistent().await?,
        Some(revision) => at_least(backend, revision).await?,
    };
    let object = resource
        .cache
        .get(&resource.namespace_of(&call.info), &call.info.name)
        .ok_or_else(|| Status::not_found(&resource.group_resource(), &call.info.name))?;
    let protobuf = negotiate::Accepted {
        encoding: negotiate::Encoding::Protobuf,
        view: negotiate::View::Whole,
    };
    if accepted == protobuf && resource.serves_storage_version() {
        let body = object.protobuf()?.body.clone();
        return Ok(respond::bytes(call, StatusCode::OK, accepted.encoding, body).await);
    }
    backend
        .object_response(call, resource, StatusCode::OK, accepted, object.json())
        .await
}

/// Returns the filter of a list, watch or deletion of a collection.
///
/// # Errors
///
/// 400 for invalid selectors, and for a field selector that contradicts the name in the path.
pub fn filter(info: &RequestInfo, resource: &Resource) -> Result<Filter, Status> {
    let labels = match info.query.non_empty("labelSelector") {
        Some(text) => Some(LabelSelector::parse(text)?).filter(|s| !s.is_empty()),
        None => None,
    };
    let fields = match info.query.non_empty("fieldSelector") {
        Some(text) => {
            let selector = FieldSelector::parse(text)?;
            for requirement in selector.requirements() {
                resource.check_field(&requirement.field)?;
            }
            let selector = selector.renamed(|field| resource.stored_field(field));
            Some(selector).filter(|s| !s.is_empty())
        }
        None => None,
    };
    // The request was authorized for this name, whether it is in the path or in the selector.
    let name = (!info.name.is_empty()).then(|| info.name.clone());
    if let (Some(name), Some(selector)) = (&name, &fields)
        && selector.exact("metadata.name") != Some(name)
    {
        return Err(Status::bad_request(
            "fieldSelector metadata.name doesn't match requested name",
        ));
    }
    let namespace = resource.namespace_of(info);
    Ok(Filter::new(
        (!namespace.is_empty()).then_some(namespace),
        name,
        labels,
        fields,
    ))
}

/// Parses a `resourceVersion` of a client; `None` if it is not set.
///
/// # Errors
///
/// 500 if it is none: upstream does not expect that of reads and watches of objects.
pub fn parse_revision(text: Option<&str>) -> Result<Option<u64>, Status> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|_| digits)
        .map(Some)
        .ok_or_else(|| {
            let why = match digits {
                true => "value out of range",
                false => "invalid syntax",
            };
            let text = rkube_api::text::quote(text);
            let message = format!(
                "resourceVersion: Invalid value: {text}: strconv.ParseUint: parsing {text}: {why}"
            );
            Status::new(500, "", message)
        })
}

/// Parses the `resourceVersion` of a list.
///
/// # Errors
///
/// 400 if it is none.
fn parse_list_revision(text: Option<&str>) -> Result<Option<u64>, Status> {
    parse_revision(text).map_err(|error| {
        Status::bad_request(format!("invalid resource version: {}", error.message))
    })
}

/// Checks the options of a list that selects objects to delete.
///
/// # Errors
///
/// 400 or 422, as for a list.
pub fn check_list_options(call: &Call) -> Result<(), Status> {
    let query = &call.info.query;
    number(call, "limit")?;
    number(call, "timeoutSeconds")?;
    let token = query.non_empty("continue");
    validate_match(
        query.non_empty("resourceVersion"),
        query.non_empty("resourceVersionMatch"),
        token,
        false,
        query.get("sendInitialEvents"),
    )?;
    token.map(decode_continue).transpose()?;
    parse_list_revision(query.get("resourceVersion"))?;
    Ok(())
}

/// Waits a short time for a revision that the store may not have reached.
///
/// # Errors
///
/// 504 if it is not reached in time.
pub async fn at_least(backend: &Backend, revision: u64) -> Result<u64, Status> {
    if backend.cache.revision() >= revision {
        return Ok(backend.cache.revision());
    }
    let wait = std::time::Duration::from_secs(3);
    match tokio::time::timeout(wait, backend.cache.reached(revision)).await {
        Ok(now) => Ok(now),
        Err(_) => Err(too_large(revision, backend.cache.revision())),
    }
}

/// The content of a continue token.
#[derive(Serialize, Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Continue {
    /// Version of the token's format.
    v: String,
    /// The revision of the first page.
    rv: i64,
    /// The last key that was returned.
    start: String,
}

fn encode_continue(revision: u64, start: &str) -> String {
    let token = Continue {
        v: "meta.k8s.io/v1".into(),
        rv: revision as i64,
        start: start.to_owned(),
    };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_continue(token: &str) -> Result<Continue, Status> {
    const VERSION: &str = "meta.k8s.io/v1";
    let invalid = |why: String| {
        Status::bad_request(format!(
            "invalid continue token: continue key is not valid: {why}"
        ))
    };
    let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|error| {
        let at = match error {
            base64::DecodeError::InvalidByte(at, _)
            | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => token.len() / 4 * 4,
        };
        invalid(format!("illegal base64 data at input byte {at}"))
    })?;
    let token: Continue = serde_json::from_slice(&bytes).map_err(|error| {
        let fault = rkube_api::fields::json_fault(&bytes);
        invalid(fault.unwrap_or_else(|| error.to_string()))
    })?;
    if token.v != VERSION {
        let why = format!("server does not recognize this encoded version {}", token.v);
        return Err(invalid(why));
    }
    if token.rv == 0 {
        let why = format!("incorrect encoded start resourceVersion (version {VERSION})");
        return Err(invalid(why));
    }
    if token.start.is_empty() {
        return Err(invalid(format!(
            "encoded start key empty (version {VERSION})"
        )));
    }
    if token.start.split('/').any(|part| part == "..") {
        return Err(invalid(rkube_api::text::quote(&token.start)));
    }
    Ok(token)
}

fn key_of(object: &CachedObject) -> String {
    if object.namespace.is_empty() {
        object.name.to_string()
    } else {
        format!("{}/{}", object.namespace, object.name)
    }
}

/// Returns a number of the query.
///
/// # Errors
///
/// 400 if it is none.
pub fn number(call: &Call, parameter: &str) -> Result<Option<i64>, Status> {
    let Some(text) = call.info.query.get(parameter) else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let digits = text.trim_start_matches(['-', '+']);
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let why = match is_number {
            true => "value out of range",
            false => "invalid syntax",
        };
        let text = rkube_api::text::quote(text);
        Status::bad_request(format!("strconv.ParseInt: parsing {text}: {why}"))
    })
}

/// Serves a list, or a page of it.
pub async fn list(
    backend: &Backend,
    call: &Call,
    resource: &Resource,
) -> Result<Response<Body>, Status> {
    let accepted = negotiate::accept(&call.headers, resource.media_types())?;
    respond::validate_table_options(call, accepted)?;
    let query = &call.info.query;
    let wanted = filter(&call.info, resource)?;
    let filter = resource.stored_filter(&wanted);
    let limit = number(call, "limit")?.unwrap_or(0);
    let limit = usize::try_from(limit).unwrap_or(0);
    // It has no effect on a list, but must be a number.
    number(call, "timeoutSeconds")?;
    let revision = parse_list_revision(query.get("resourceVersion"));
    let token = query.non_empty("continue");
    let matching = query.non_empty("resourceVersionMatch");
    validate_match(
        query.non_empty("resourceVersion"),
        matching,
        token,
        false,
        query.get("sendInitialEvents"),
    )?;

    let revision = revision?;
    let request = ListRequest {
        backend,
        call,
        resource,
        accepted,
        filter: wanted,
        limit,
    };
    if let Some(token) = token {
        let token = decode_continue(token)?;
        return next_page(&request, token).await;
    }
    let exact = match (revision, matching) {
        (Some(revision), Some("Exact")) => Some(revision),
        // Without `resourceVersionMatch`, a limited list at a revision means that exact revision,
        // for compatibility.
        (Some(revision), None) if limit > 0 && revision > 0 => Some(revision),
        _ => None,
    };
    if let Some(revision) = exact {
        at_least(backend, revision).await?;
        if backend.compaction.has_compacted(revision) {
            return Err(Status::gone(
                "The resourceVersion for the provided list is too old.",
            ));
        }
        let now = backend.cache.revision();
        if revision == now || resource.cache.last_change() <= revision {
            return request.page(resource.cache.list(&filter), revision).await;
        }
        let items = past(backend, resource, &filter, revision).await?;
        return request.page(items, revision).await;
    }
    match revision {
        None => backend.cache.try_consistent().await?,
        Some(revision) => at_least(backend, revision).await?,
    };
    let (mut items, mut revision) = backend.current(resource, &filter);
    if limit > 0 && items.len() > limit {
        let (all, now) = resource.cache.first_page(backend.cache.revision());
        items = filtered(&all, &filter);
        revision = now;
    }
    request.page(items, revision).await
}

impl Backend {
    /// Returns the current objects and a revision that they include.
    pub fn current(&self, resource: &Resource, filter: &Filter) -> (Vec<Arc<CachedObject>>, u64) {
        // Read the revision first. Changes applied meanwhile have a higher revision; a watch from
        // this one repeats them instead of missing them.
        let revision = self.cache.revision();
        let (items, newest) = resource.cache.list_with_revision(filter);
        (items, revision.max(newest))
    }
}

fn filtered(items: &[Arc<CachedObject>], filter: &Filter) -> Vec<Arc<CachedObject>> {
    items
        .iter()
        .filter(|o| filter.matches(o))
        .cloned()
        .collect()
}

/// Returns the objects of a resource at a past revision, from the store's history.
async fn past(
    backend: &Backend,
    resource: &Resource,
    filter: &Filter,
    revision: u64,
) -> Result<Vec<Arc<CachedObject>>, Status> {
    let options = rkube_store::ListOptions {
        revision: Some(revision),
        ..Default::default()
    };
    let page = backend
        .store
        .list(resource.prefix(), options)
        .await
        .map_err(|e| store_error(resource, "", e))?;
    Ok(page
        .items
        .iter()
        .filter_map(|kv| resource.read(kv))
        .filter(|o| filter.matches(o))
        .map(Arc::new)
        .collect())
}

/// A list request, of which each page is answered in the same way.
struct ListRequest<'a> {
    backend: &'a Backend,
    call: &'a Call,
    resource: &'a Resource,
    accepted: negotiate::Accepted,
    /// The filter of the request, in terms of the requested version.
    filter: Filter,
    /// Maximum number of objects of a page; 0 if there is none.
    limit: usize,
}

impl ListRequest<'_> {
    /// Returns the response with the first of the objects, all of which are of this revision.
    async fn page(
        &self,
        items: Vec<Arc<CachedObject>>,
        revision: u64,
    ) -> Result<Response<Body>, Status> {
        let mut meta = ListMeta {
            revision,
            ..ListMeta::default()
        };
        let limit = self.limit;
        let mut items = self
            .backend
            .select(self.resource, items, &self.filter)
            .await?;
        if limit > 0 && items.len() > limit {
            let remaining = items.len() - limit;
            items.truncate(limit);
            meta.next = items
                .last()
                .map(|last| encode_continue(revision, &key_of(last)))
                .unwrap_or_default();
            if !self.filter.has_selectors() {
                meta.remaining = Some(remaining as u64);
            }
        }
        self.backend
            .list_response(self.call, self.resource, self.accepted, &items, meta)
            .await
    }
}

async fn next_page(request: &ListRequest<'_>, token: Continue) -> Result<Response<Body>, Status> {
    let ListRequest {
        backend,
        call,
        resource,
        accepted,
        ..
    } = *request;
    let filter = &resource.stored_filter(&request.filter);
    let (mut items, revision) = match u64::try_from(token.rv) {
        // A token without a revision continues with the current state.
        Err(_) => {
            backend.cache.try_consistent().await?;
            backend.current(resource, filter)
        }
        Ok(revision) => {
            if backend.compaction.has_compacted(revision) {
                return Ok(expired(call, accepted, token).await);
            }
            if let Some(all) = resource.cache.further_page(revision) {
                let rest = all.partition_point(|item| key_of(item) <= token.start);
                (filtered(&all[rest..], filter), revision)
            } else if resource.cache.last_change() <= revision {
                (resource.cache.list(filter), revision)
            } else {
                match past(backend, resource, filter, revision).await {
                    Ok(items) => (items, revision),
                    Err(status) if status.code == 410 => {
                        return Ok(expired(call, accepted, token).await);
                    }
                    Err(status) => return Err(status),
                }
            }
        }
    };
    items.retain(|item| key_of(item) > token.start);
    request.page(items, revision).await
}

/// Returns the 410 response for a continue token whose revision is gone, with a token that continues
/// with the current state.
async fn expired(call: &Call, accepted: negotiate::Accepted, token: Continue) -> Response<Body> {
    let status = Status::gone(
        "The provided continue parameter is too old to display a consistent list result. \
         You can start a new list without the continue parameter, or use the continue token \
         in this response to retrieve the remainder of the results. Continuing with the \
         provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may \
         show up in the list.",
    );
    let fresh = Continue {
        v: token.v,
        rv: -1,
        start: token.start,
    };
    let fresh = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&fresh).unwrap_or_default());
    let mut value = status.to_value();
    value["metadata"] = serde_json::json!({"continue": fresh});
    respond::value(call, StatusCode::GONE, accepted.encoding, &value).await
}

/// Validates the combination of `resourceVersionMatch`, `continue` and `sendInitialEvents`.
pub fn validate_match(
    revision: Option<&str>,
    matching: Option<&str>,
    token: Option<&str>,
    watch: bool,
    send_initial_events: Option<&str>,
) -> Result<(), Status> {
    let mut errors = Vec::new();
    let forbidden = |detail: &str| FieldError::forbidden("resourceVersionMatch", detail);
    if watch {
        if send_initial_events.is_some() && matching != Some("NotOlderThan") {
            errors.push(forbidden(
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        if let Some(matching) = matching {
            if send_initial_events.is_none() {
                errors.push(forbidden(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
            if matching != "NotOlderThan" {
                errors.push(FieldError::not_supported(
                    "resourceVersionMatch",
                    matching,
                    &["NotOlderThan"],
                ));
            }
            if token.is_some() {
                errors.push(forbidden(
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
        }
    } else {
        if send_initial_events.is_some() {
            errors.push(FieldError::forbidden(
                "sendInitialEvents",
                "sendInitialEvents is forbidden for list",
            ));
        }
        if let Some(matching) = matching {
            if revision.is_none() {
                errors.push(forbidden(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if token.is_some() {
                errors.push(forbidden(
                    "resourceVersionMatch is forbidden when continue is provided",
                ));
            }
            match matching {
                "NotOlderThan" => {}
                "Exact" if revision == Some("0") => {
                    errors.push(forbidden(
                        "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
                "Exact" => {}
                other => errors.push(FieldError::not_supported(
                    "resourceVersionMatch",
                    other,
                    &["Exact", "NotOlderThan", ""],
                )),
            }
        }
    }
    if !watch && token.is_some() && revision.is_some_and(|r| r != "0") && matching.is_none() {
        return Err(Status::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(
        &GroupKind::new("meta.k8s.io", "ListOptions"),
        "",
        errors,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_round_trip() {
        let token = decode_continue(&encode_continue(42, "ns/name")).unwrap();
        assert_eq!((token.rv, &*token.start), (42, "ns/name"));
        assert_eq!(decode_continue("xyz").err().unwrap().code, 400);
    }

    #[test]
    fn match_rules() {
        assert!(validate_match(None, None, None, false, None).is_ok());
        assert!(validate_match(Some("5"), Some("Exact"), None, false, None).is_ok());
        assert!(validate_match(Some("0"), Some("Exact"), None, false, None).is_err());
        assert!(validate_match(None, Some("NotOlderThan"), None, false, None).is_err());
        assert!(validate_match(None, Some("NotOlderThan"), None, true, Some("true")).is_ok());
        assert!(validate_match(None, None, None, true, Some("true")).is_err());
    }
}
