//! Parses the query strings of requests.

/// A parsed query string; parameters keep their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// Decodes percent-encoding.
///
/// Invalid escapes are left unchanged; invalid UTF-8 is replaced.
pub(crate) fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes
            .get(i + 1..i + 3)
            .filter(|_| bytes[i] == b'%')
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(b) => {
                out.push(b);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Query {
    /// Parses a query string; no input is invalid.
    pub(crate) fn parse(text: &str) -> Self {
        Self(
            text.split('&')
                .filter(|p| !p.is_empty())
                .map(|p| {
                    let (k, v) = p.split_once('=').unwrap_or((p, ""));
                    let plain = |s: &str| decode(&s.replace('+', " "));
                    (plain(k), plain(v))
                })
                .collect(),
        )
    }

    /// Returns the first value of a parameter.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    /// Returns all values of a parameter.
    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Returns whether any of the parameters is true.
    pub(crate) fn is_set(&self, keys: &[&str]) -> bool {
        keys.iter().any(|k| {
            self.all(k)
                .any(|v| matches!(v, "1" | "true" | "TRUE" | "True"))
        })
    }

    /// Returns a numeric parameter; `None` if it is absent or empty.
    ///
    /// # Errors
    ///
    /// Fails if the value is not a number; the message names the parameter.
    pub(crate) fn number(&self, key: &str) -> Result<Option<i64>, String> {
        match self.get(key) {
            None | Some("") => Ok(None),
            Some(v) => v
                .parse()
                .map(Some)
                .map_err(|_| format!("invalid value for {key}: {v:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_keep_their_order() {
        let q = Query::parse("command=ls&command=-l+a%20b&tty=1&empty=&x");
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["ls", "-l a b"]);
        assert_eq!(q.get("command"), Some("ls"));
        assert_eq!(q.get("x"), Some(""));
        assert_eq!(q.get("y"), None);
    }

    #[test]
    fn booleans() {
        for (text, set) in [
            ("tty=1", true),
            ("tty=true", true),
            ("tty=TRUE", true),
            ("tty=True", true),
            ("tty=0", false),
            ("tty=yes", false),
            ("tty=", false),
            ("tty", false),
            ("stdin=1", false),
            ("tty=0&tty=1", true),
        ] {
            assert_eq!(Query::parse(text).is_set(&["tty"]), set, "{text}");
        }
        assert!(Query::parse("stdin=1").is_set(&["input", "stdin"]));
    }

    #[test]
    fn numbers() {
        for (text, number) in [
            ("", Ok(None)),
            ("n=", Ok(None)),
            ("n=12", Ok(Some(12))),
            ("n=-1", Ok(Some(-1))),
            ("n=1.5", Err("invalid value for n: \"1.5\"".to_owned())),
            ("n=x", Err("invalid value for n: \"x\"".to_owned())),
        ] {
            assert_eq!(Query::parse(text).number("n"), number, "{text}");
        }
    }

    #[test]
    fn invalid_escapes_stay() {
        assert_eq!(decode("%zz%4"), "%zz%4");
        assert_eq!(decode("%41%c3%a9"), "A\u{e9}");
        assert_eq!(decode("%ff"), "\u{fffd}");
    }

    fn encode(text: &str) -> String {
        text.bytes().map(|b| format!("%{b:02x}")).collect()
    }

    proptest! {
        #[test]
        fn encoded_parameters_round_trip(key in ".{1,10}", value in ".*") {
            let q = Query::parse(&format!("a=1&{}={}", encode(&key), encode(&value)));
            prop_assert_eq!(q.all(&key).last(), Some(value.as_str()));
        }

        #[test]
        fn parsing_never_panics(text in ".*") {
            let _ = Query::parse(&text);
        }
    }
}
