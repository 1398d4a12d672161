//! Options of log requests.

use jiff::Timestamp;

use super::super::query::Query;

/// Options of a log request (upstream: `PodLogOptions`).
#[derive(Clone, Debug, Default)]
pub(super) struct LogOptions {
    pub follow: bool,
    pub timestamps: bool,
    pub tail: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit: Option<u64>,
    pub stream: Option<&'static str>,
}

impl LogOptions {
    pub(super) fn from_query(query: &Query) -> Result<Self, String> {
        let positive = |key: &str| -> Result<Option<i64>, String> {
            match query.number(key)? {
                Some(n) if n < 0 => Err(format!("{key} must be greater than or equal to 0")),
                n => Ok(n),
            }
        };
        let seconds = positive("sinceSeconds")?.map(|s| {
            let age = jiff::SignedDuration::from_secs(s);
            // A time before the first representable one includes everything.
            Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN)
        });
        let since = match query.get("sinceTime").filter(|t| !t.is_empty()) {
            Some(time) => Some(
                time.parse()
                    .map_err(|_| format!("invalid value for sinceTime: {time:?}"))?,
            ),
            None => seconds,
        };
        Ok(Self {
            follow: query.is_set(&["follow"]),
            timestamps: query.is_set(&["timestamps"]),
            tail: positive("tailLines")?.and_then(|n| u64::try_from(n).ok()),
            since,
            limit: positive("limitBytes")?.and_then(|n| u64::try_from(n).ok()),
            stream: match query.get("stream") {
                None | Some("" | "All") => None,
                Some("Stdout") => Some("stdout"),
                Some("Stderr") => Some("stderr"),
                Some(other) => return Err(format!("invalid value for stream: {other:?}")),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(query: &str) -> Result<LogOptions, String> {
        LogOptions::from_query(&Query::parse(query))
    }

    #[test]
    fn options_are_read() {
        let o =
            options("follow=true&timestamps=1&tailLines=5&limitBytes=10&stream=Stderr").unwrap();
        assert!(o.follow && o.timestamps);
        assert_eq!(
            (o.tail, o.limit, o.stream),
            (Some(5), Some(10), Some("stderr"))
        );
        let o = options("stream=All").unwrap();
        assert!(!o.follow && !o.timestamps && o.since.is_none());
        assert_eq!((o.tail, o.limit, o.stream), (None, None, None));
        let o = options("sinceTime=2026-01-02T03:04:05Z&sinceSeconds=5").unwrap();
        assert_eq!(o.since, Some("2026-01-02T03:04:05Z".parse().unwrap()));
        let since = options("sinceSeconds=60").unwrap().since.unwrap();
        let age = Timestamp::now().duration_since(since).as_secs();
        assert!((59..=61).contains(&age), "{age}");
    }

    #[test]
    fn any_age_is_possible() {
        for seconds in [0, i64::MAX] {
            let o = options(&format!("sinceSeconds={seconds}")).unwrap();
            assert!(o.since.is_some(), "{seconds}");
        }
        let o = options(&format!("sinceSeconds={}", i64::MAX)).unwrap();
        assert_eq!(o.since, Some(Timestamp::MIN));
    }

    #[test]
    fn invalid_options_are_refused() {
        for (query, message) in [
            (
                "tailLines=-1",
                "tailLines must be greater than or equal to 0",
            ),
            ("limitBytes=x", "invalid value for limitBytes: \"x\""),
            (
                "sinceTime=yesterday",
                "invalid value for sinceTime: \"yesterday\"",
            ),
            ("stream=stdout", "invalid value for stream: \"stdout\""),
        ] {
            assert_eq!(options(query).unwrap_err(), message, "{query}");
        }
    }
}
