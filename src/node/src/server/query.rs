//! Query strings.

/// A parsed query, in its order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

/// Undoes percent-encoding; what is not UTF-8 afterwards is replaced.
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

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.all(key).next()
    }

    pub(crate) fn all(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| v.as_str())
    }

    /// Whether any of the keys is switched on.
    pub(crate) fn on(&self, keys: &[&str]) -> bool {
        keys.iter().any(|k| {
            self.all(k)
                .any(|v| matches!(v, "1" | "true" | "TRUE" | "True"))
        })
    }

    /// A number; an error names the parameter.
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
    fn decodes() {
        let q = Query::parse("command=ls&command=-l+a%20b&tty=1&empty=&x");
        assert_eq!(q.all("command").collect::<Vec<_>>(), ["ls", "-l a b"]);
        assert!(q.on(&["tty"]) && !q.on(&["stdin"]));
        assert_eq!(q.number("empty"), Ok(None));
        assert!(q.number("command").is_err());
        assert_eq!(decode("%zz%4"), "%zz%4");
    }

    proptest! {
        #[test]
        fn any_query_is_read(text in ".*") {
            let _ = Query::parse(&text);
        }
    }
}
