//! The parts of a request: path, API version, query and filters.

use std::collections::BTreeMap;

use hyper::StatusCode;
use percent_encoding::percent_decode_str;

use super::reply::Error;

/// The newest version of the Docker Engine API that is spoken.
pub const NEWEST: (u32, u32) = (1, 44);
/// The oldest one.
pub const OLDEST: (u32, u32) = (1, 24);

/// Returns a version as clients write it.
pub fn version((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// Decodes a part of a URL.
fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Takes the version off a path (`/v1.44/images/json`) and decodes the rest.
///
/// # Errors
/// Fails with Docker's words if the version is not spoken.
pub fn path(text: &str) -> Result<String, Error> {
    let bad = |message: String| Err(Error::new(StatusCode::BAD_REQUEST, message));
    let versioned = text.strip_prefix("/v").and_then(|rest| {
        let (version, _) = rest.split_once('/')?;
        let (major, minor) = version.split_once('.')?;
        Some((version.len(), (major.parse().ok()?, minor.parse().ok()?)))
    });
    let Some((length, asked)) = versioned else {
        return Ok(decode(text));
    };
    if asked > NEWEST {
        return bad(format!(
            "client version {} is too new. Maximum supported API version is {}",
            version(asked),
            version(NEWEST)
        ));
    }
    if asked < OLDEST {
        return bad(format!(
            "client version {} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            version(asked),
            version(OLDEST)
        ));
    }
    Ok(decode(&text["/v".len() + length..]))
}

/// The query of a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URL after the question mark.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(&value.replace('+', " ")))
        });
        Self(pairs.collect())
    }

    /// Returns the value of a parameter, if it has one that is not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(key, _)| key == name);
        named
            .find(|(_, value)| !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// Returns the values of a parameter that are not empty.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(key, _)| key == name);
        named
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    /// Returns a switch as Docker reads it.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default().trim().to_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// Returns a parameter that is JSON; its default if it is absent or null.
    pub fn json<T: serde::de::DeserializeOwned + Default>(&self, name: &str) -> Result<T, Error> {
        let Some(text) = self.get(name) else {
            return Ok(T::default());
        };
        let read: Result<Option<T>, _> = serde_json::from_str(text);
        let value = read.map_err(|e| {
            let message = format!("the parameter {name} is malformed: {e}");
            Error::new(StatusCode::BAD_REQUEST, message)
        })?;
        Ok(value.unwrap_or_default())
    }

    /// Returns the filters of a list. Refuses those that are not in `known`.
    pub fn filters(&self, known: &[&str]) -> Result<Filters, Error> {
        let written: BTreeMap<String, Written> = self.json("filters")?;
        let mut filters = Filters::default();
        for (name, values) in written {
            if !known.contains(&name.as_str()) {
                let message = format!("invalid filter '{name}'");
                return Err(Error::new(StatusCode::BAD_REQUEST, message));
            }
            let values = match values {
                Written::List(values) => values,
                Written::Map(values) => {
                    let on = values.into_iter().filter(|(_, on)| *on);
                    on.map(|(value, _)| value).collect()
                }
            };
            filters.0.insert(name, values);
        }
        Ok(filters)
    }
}

/// The two forms of a filter's values.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Written {
    Map(BTreeMap<String, bool>),
    List(Vec<String>),
}

/// The filters of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Whether one of a filter's values fits. A filter without values lets everything pass.
    pub fn any(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        match self.0.get(name) {
            Some(values) if !values.is_empty() => values.iter().any(|value| fits(value)),
            _ => true,
        }
    }

    /// Whether all of a filter's values fit.
    pub fn all(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.0
            .get(name)
            .is_none_or(|values| values.iter().all(|value| fits(value)))
    }
}

/// Whether a name fits a pattern of Go's `path.Match`, without its bracket expressions.
pub fn matches(pattern: &str, name: &str) -> bool {
    let mut letters = pattern.chars();
    match letters.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = letters.as_str();
            // It stands for no slash.
            let ends = name
                .char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .take_while(|at| !name[..*at].contains('/'));
            ends.into_iter().any(|at| matches(rest, &name[at..]))
        }
        Some(wanted) => {
            let mut rest = name.chars();
            match rest.next() {
                Some(c) if c == wanted || (wanted == '?' && c != '/') => {
                    matches(letters.as_str(), rest.as_str())
                }
                _ => false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_off_paths() {
        for (text, expected) in [
            ("/_ping", "/_ping"),
            ("/v1.44/images/json", "/images/json"),
            ("/v1.24/images/a%2Fb:1/json", "/images/a/b:1/json"),
            ("/version", "/version"),
        ] {
            assert_eq!(path(text).unwrap(), expected);
        }
        for (text, words) in [
            (
                "/v1.99/info",
                "is too new. Maximum supported API version is 1.44",
            ),
            (
                "/v1.2/info",
                "is too old. Minimum supported API version is 1.24",
            ),
        ] {
            let error = path(text).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            assert!(error.message.contains(words), "{}", error.message);
        }
    }

    #[test]
    fn queries_are_read_as_docker_reads_them() {
        let query = Query::parse(
            "t=a%3A1&t=b&t=&rm=1&q=False&nocache=true&l=%7B%22a%22%3A%22b+c%22%7D&n=null",
        );
        assert_eq!(query.all("t").collect::<Vec<_>>(), ["a:1", "b"]);
        assert!(query.flag("rm") && query.flag("nocache"));
        assert!(!query.flag("q") && !query.flag("pull"));
        let labels: BTreeMap<String, String> = query.json("l").unwrap();
        assert_eq!(labels["a"], "b c");
        assert_eq!(
            query.json::<Vec<String>>("n").unwrap(),
            Vec::<String>::new()
        );
        assert!(query.json::<Vec<String>>("t").is_err());
    }

    #[test]
    fn filters_have_two_forms() {
        for text in [
            r#"filters={"reference":{"a*":true,"b":false}}"#,
            r#"filters={"reference":["a*"]}"#,
        ] {
            let filters = Query::parse(text).filters(&["reference"]).unwrap();
            assert!(filters.any("reference", |value| value == "a*"), "{text}");
            assert!(!filters.any("reference", |value| value == "b"), "{text}");
            assert!(filters.any("dangling", |_| false), "{text}");
            assert!(Query::parse(text).filters(&[]).is_err());
        }
        let bad = Query::parse("filters={").filters(&[]).unwrap_err();
        assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn patterns_do_not_cross_slashes() {
        for (pattern, name, expected) in [
            ("app", "app", true),
            ("app*", "app:1", true),
            ("*", "team/app", false),
            ("*/*", "team/app", true),
            ("a?p", "app", true),
            ("a?p", "a/p", false),
            ("*p", "app", true),
            ("app", "app:1", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
