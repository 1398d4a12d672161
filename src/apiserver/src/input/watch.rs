//! The options of a watch.

use std::time::Duration;

use rkube_api::status::Status;
use rkube_request::Query;

use super::list::{filter, number, parse_revision, validate_match};
use crate::cache::Filter;
use crate::call::Call;
use crate::negotiate::MediaTypes;
use crate::resources::Resource;

/// Default duration of a watch in seconds. A random time of up to the same length is added, so that
/// watches started together do not end together.
const MIN_TIMEOUT_SECONDS: u64 = 1800;

/// The options of a watch.
pub struct WatchOptions {
    /// The filter, in terms of the requested version.
    pub filter: Filter,
    /// The revision after which the events begin.
    pub revision: Option<u64>,
    /// Whether the client asks for initial events, if it says so.
    pub initial: Option<bool>,
    /// Whether to send bookmarks.
    pub bookmarks: bool,
    /// How long the watch lasts.
    pub duration: Duration,
}

impl WatchOptions {
    /// Returns the media types in which a request can be answered.
    pub fn media_types(call: &Call, resource: &Resource) -> MediaTypes {
        let query = &call.info.query;
        let media_types = resource.media_types();
        match query.is_true("sendInitialEvents") && query.is_true("allowWatchBookmarks") {
            true => media_types.watch_listed(),
            false => media_types.watched(),
        }
    }

    /// Parses and validates the options of a request.
    ///
    /// # Errors
    ///
    /// 400 or 422; 500 for a revision that is none.
    pub fn read(call: &Call, resource: &Resource) -> Result<Self, Status> {
        let query = &call.info.query;
        let filter = filter(&call.info, resource)?;
        let text = query.non_empty("resourceVersion");
        let revision = parse_revision(text);
        let matching = query.non_empty("resourceVersionMatch");
        let initial = query
            .get("sendInitialEvents")
            .map(|_| query.is_true("sendInitialEvents"));
        number(call, "limit")?;
        let token = query.non_empty("continue");
        validate_match(text, matching, token, true, query.get("sendInitialEvents"))?;
        let revision = revision?;
        Ok(Self {
            filter,
            revision,
            initial,
            bookmarks: query.is_true("allowWatchBookmarks"),
            duration: duration(query)?,
        })
    }
}

/// Returns how long a watch lasts: as the client asks, or else a random time.
fn duration(query: &Query) -> Result<Duration, Status> {
    let seconds = match query.non_empty("timeoutSeconds") {
        Some(text) => text.parse::<i64>().map_err(|_| {
            Status::bad_request(format!(
                "strconv.ParseInt: parsing {text:?}: invalid syntax"
            ))
        })?,
        None => 0,
    };
    Ok(Duration::from_secs(match u64::try_from(seconds) {
        Ok(0) => MIN_TIMEOUT_SECONDS + rand::random_range(0..MIN_TIMEOUT_SECONDS),
        Ok(seconds) => seconds,
        // As upstream: such a watch ends at once.
        Err(_) => 0,
    }))
}
