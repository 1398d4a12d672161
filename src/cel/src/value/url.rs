//! URLs with the semantics of Go's `net/url`.

use percent_encoding::percent_decode_str;

use crate::number::go_quote;

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    opaque: String,
    user: String,
    host: String,
    /// As in the source, without query and fragment.
    path: String,
    query: String,
    fragment: String,
}

impl Url {
    /// Parses an absolute URL or path.
    ///
    /// # Errors
    ///
    /// Returns the message of Go's `url.ParseRequestURI`.
    pub fn parse(raw: &str) -> Result<Self, String> {
        let fail = |why: String| Err(format!("parse {}: {why}", go_quote(raw)));
        if raw.chars().any(|c| (c as u32) < 0x20 || c as u32 == 0x7f) {
            return fail("net/url: invalid control character in URL".into());
        }
        if raw.is_empty() {
            return fail("empty url".into());
        }
        // Validated as a request URI, which has no fragment; then parsed with the fragment.
        Self::split(raw, true).or_else(&fail)?;
        let (rest, fragment) = raw.split_once('#').unwrap_or((raw, ""));
        let mut url = Self::split(rest, false).or_else(fail)?;
        fragment.clone_into(&mut url.fragment);
        Ok(url)
    }

    fn split(raw: &str, request: bool) -> Result<Self, String> {
        let (scheme, rest) = scheme(raw)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = Self {
            scheme: scheme.to_lowercase(),
            opaque: String::new(),
            user: String::new(),
            host: String::new(),
            path: String::new(),
            query: query.to_owned(),
            fragment: String::new(),
        };
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                rest.clone_into(&mut url.opaque);
                return Ok(url);
            }
            if request {
                return Err("invalid URI for request".into());
            }
            if rest.split('/').next().is_some_and(|s| s.contains(':')) {
                return Err("first path segment in URL cannot contain colon".into());
            }
        }
        let mut path = rest;
        if let Some(authority) = rest.strip_prefix("//")
            && (!url.scheme.is_empty() || !request && !rest.starts_with("///"))
        {
            let end = authority.find('/').unwrap_or(authority.len());
            url.authority(&authority[..end])?;
            path = &authority[end..];
        }
        check_escapes(path)?;
        path.clone_into(&mut url.path);
        Ok(url)
    }

    fn authority(&mut self, authority: &str) -> Result<(), String> {
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                let fine = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
                if !user.chars().all(fine) {
                    return Err("net/url: invalid userinfo".into());
                }
                check_escapes(user)?;
                user.clone_into(&mut self.user);
                host
            }
            None => authority,
        };
        let port = if host.starts_with('[') {
            let Some(end) = host.rfind(']') else {
                return Err("missing ']' in host".into());
            };
            &host[end + 1..]
        } else {
            host.rfind(':').map_or("", |at| &host[at..])
        };
        if !(port.is_empty()
            || port.starts_with(':') && port[1..].bytes().all(|b| b.is_ascii_digit()))
        {
            return Err(format!("invalid port {} after host", go_quote(port)));
        }
        check_host(host)?;
        host.clone_into(&mut self.host);
        Ok(())
    }

    /// Returns the scheme; empty if there is none.
    pub(crate) fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns the host with port.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the host without port and brackets.
    pub(crate) fn hostname(&self) -> &str {
        let host = &self.host;
        if let Some(inner) = host.strip_prefix('[') {
            return inner.split_once(']').map_or(inner, |(name, _)| name);
        }
        host.rsplit_once(':').map_or(host, |(name, _)| name)
    }

    /// Returns the port; empty if there is none.
    pub(crate) fn port(&self) -> &str {
        let after = self.host.rfind(']').map_or(0, |at| at + 1);
        self.host[after..]
            .rsplit_once(':')
            .map_or("", |(_, port)| port)
    }

    /// Returns the path with all characters escaped that require it (Go: `EscapedPath`).
    pub(crate) fn escaped_path(&self) -> String {
        let mut out = String::new();
        for b in self.path.bytes() {
            if b.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@!'()*[]%".contains(&b) {
                out.push(b as char);
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
        }
        out
    }

    /// Returns the decoded query parameters, grouped by key.
    pub(crate) fn query(&self) -> Vec<(String, Vec<String>)> {
        let mut all: Vec<(String, Vec<String>)> = Vec::new();
        for pair in self.query.split('&') {
            if pair.is_empty() || pair.contains(';') {
                continue;
            }
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(key), Some(value)) = (unescape(key), unescape(value)) else {
                continue;
            };
            match all.iter_mut().find(|(k, _)| *k == key) {
                Some((_, values)) => values.push(value),
                None => all.push((key, vec![value])),
            }
        }
        all
    }
}

fn scheme(raw: &str) -> Result<(&str, &str), String> {
    for (i, c) in raw.char_indices() {
        match c {
            'a'..='z' | 'A'..='Z' => {}
            '0'..='9' | '+' | '-' | '.' if i > 0 => {}
            ':' if i == 0 => return Err("missing protocol scheme".into()),
            ':' => return Ok((&raw[..i], &raw[i + 1..])),
            _ => return Ok(("", raw)),
        }
    }
    Ok(("", raw))
}

fn check_escapes(text: &str) -> Result<(), String> {
    let bytes = text.as_bytes();
    for (i, b) in bytes.iter().enumerate() {
        if *b != b'%' {
            continue;
        }
        let hex = bytes.get(i + 1..i + 3);
        if !hex.is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)) {
            let end = (i + 3).min(bytes.len());
            let shown = String::from_utf8_lossy(&bytes[i..end]).into_owned();
            return Err(format!("invalid URL escape {}", go_quote(&shown)));
        }
    }
    Ok(())
}

fn check_host(host: &str) -> Result<(), String> {
    check_escapes(host)?;
    for c in host.chars() {
        let fine =
            c.is_ascii_alphanumeric() || !c.is_ascii() || "-_.~!$&'()*+,;=:[]<>\"%".contains(c);
        if !fine {
            return Err(format!(
                "invalid character {} in host name",
                go_quote(&c.to_string())
            ));
        }
    }
    Ok(())
}

/// Decodes a key or value of a query. Returns nothing if an escape is malformed.
fn unescape(text: &str) -> Option<String> {
    check_escapes(text).ok()?;
    let text = text.replace('+', " ");
    Some(percent_decode_str(&text).decode_utf8_lossy().into_owned())
}
