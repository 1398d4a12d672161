//! The options of lists, watches and deletions of collections: selectors, revisions and continue
//! tokens.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rkube_api::GroupKind;
use rkube_api::selector::{FieldSelector, LabelSelector};
use rkube_api::status::{FieldError, Status};
use rkube_request::RequestInfo;
use serde::{Deserialize, Serialize};

use crate::cache::Filter;
use crate::call::Call;
use crate::resources::Resource;

/// The version of the token's format.
const VERSION: &str = "meta.k8s.io/v1";

/// The options of a list.
pub struct ListOptions {
    /// The filter, in terms of the requested version.
    pub filter: Filter,
    /// Maximum number of objects of a page; 0 if there is none.
    pub limit: usize,
    /// The requested revision.
    pub revision: Option<u64>,
    /// Whether exactly that revision is requested.
    pub exact: bool,
    /// Where to continue.
    pub token: Option<Continue>,
}

impl ListOptions {
    /// Parses and validates the options of a request.
    ///
    /// # Errors
    ///
    /// 400 or 422.
    pub fn read(call: &Call, resource: &Resource) -> Result<Self, Status> {
        let query = &call.info.query;
        let filter = filter(&call.info, resource)?;
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
        let exact = match matching {
            Some(matching) => matching == "Exact",
            // Without `resourceVersionMatch`, a limited list at a revision means that exact
            // revision, for compatibility.
            None => limit > 0 && revision.is_some_and(|revision| revision > 0),
        };
        Ok(Self {
            filter,
            limit,
            revision,
            exact,
            token: token.map(Continue::decode).transpose()?,
        })
    }
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
    check_numbers_and_match(call)?;
    let token = query.non_empty("continue");
    token.map(Continue::decode).transpose()?;
    parse_list_revision(query.get("resourceVersion"))?;
    Ok(())
}

/// Checks those options of a list that do not depend on how its objects are stored.
///
/// # Errors
///
/// 400 or 422.
pub fn check_numbers_and_match(call: &Call) -> Result<(), Status> {
    let query = &call.info.query;
    number(call, "limit")?;
    number(call, "timeoutSeconds")?;
    validate_match(
        query.non_empty("resourceVersion"),
        query.non_empty("resourceVersionMatch"),
        query.non_empty("continue"),
        false,
        query.get("sendInitialEvents"),
    )
}

/// The content of a continue token.
#[derive(Debug, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Continue {
    v: String,
    rv: i64,
    start: String,
}

impl Continue {
    /// Returns the token of the page after the key `start`, at a revision; without one, of the
    /// current state.
    pub fn after(revision: Option<u64>, start: &str) -> Self {
        Self {
            v: VERSION.into(),
            rv: revision.map_or(-1, |revision| revision as i64),
            start: start.to_owned(),
        }
    }

    /// Returns the revision of the first page; `None` for the current state.
    pub fn revision(&self) -> Option<u64> {
        u64::try_from(self.rv).ok()
    }

    /// Returns the last key that was returned.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// Returns the token as clients send it back.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Self, Status> {
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
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| {
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
        let token = Continue::decode(&Continue::after(Some(42), "ns/name").encode()).unwrap();
        assert_eq!((token.revision(), token.start()), (Some(42), "ns/name"));
        assert_eq!(Continue::decode("xyz").err().unwrap().code, 400);
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
