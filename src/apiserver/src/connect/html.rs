//! Rewriting of links in HTML pages that pass through the proxy. Links relative to the peer's root
//! must start with the proxy's path, as in upstream's `util/proxy` transport.
//!
//! Only the values of URL attributes are changed; all other bytes are copied. Tags are recognized
//! as by the HTML standard's tokenizer (<https://html.spec.whatwg.org/#tokenization>), without its
//! error states.

/// The URL attributes of each element (<https://www.w3.org/TR/html401/index/attributes.html>).
const ADDRESSES: &[(&str, &[&str])] = &[
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("command", &["icon"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["longdesc", "src"]),
    ("head", &["profile"]),
    ("html", &["manifest"]),
    ("iframe", &["longdesc", "src"]),
    ("img", &["longdesc", "src", "usemap"]),
    ("input", &["src", "usemap", "formaction"]),
    ("ins", &["cite"]),
    ("link", &["href"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("script", &["src"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

/// Elements whose content is raw text up to their end tag.
const RAW: &[&str] = &[
    "script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes",
];

/// Returns the page with URL attributes replaced for which `replace` returns another value. The
/// value is inserted with or without quotes, as in the page, so it must not need quoting.
pub fn rewrite(page: &[u8], replace: impl Fn(&str) -> Option<String>) -> Vec<u8> {
    let mut scanner = Scanner {
        page,
        at: 0,
        copied: 0,
        out: Vec::with_capacity(page.len() + page.len() / 8),
    };
    while let Some(found) = find(&page[scanner.at..], b"<") {
        scanner.at += found;
        let rest = &page[scanner.at..];
        if rest.starts_with(b"<!--") {
            scanner.skip_past(4, b"-->");
        } else if rest.get(1).is_some_and(u8::is_ascii_alphabetic) {
            scanner.tag(&replace);
        } else if matches!(rest.get(1), Some(b'!' | b'/' | b'?')) {
            scanner.skip_past(2, b">");
        } else {
            scanner.at += 1;
        }
    }
    let Scanner {
        mut out, copied, ..
    } = scanner;
    out.extend_from_slice(&page[copied..]);
    out
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|w| w == what)
}

struct Scanner<'a> {
    page: &'a [u8],
    at: usize,
    /// Bytes before this offset have been written to `out`.
    copied: usize,
    out: Vec<u8>,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.page.get(self.at).copied()
    }

    fn skip_past(&mut self, head: usize, end: &[u8]) {
        let from = (self.at + head).min(self.page.len());
        self.at = find(&self.page[from..], end).map_or(self.page.len(), |i| from + i + end.len());
    }

    /// Advances while `more` is true. Returns the skipped range.
    fn span(&mut self, more: impl Fn(u8) -> bool) -> (usize, usize) {
        let from = self.at;
        while self.peek().is_some_and(&more) {
            self.at += 1;
        }
        (from, self.at)
    }

    fn lower(&self, (from, to): (usize, usize)) -> String {
        String::from_utf8_lossy(&self.page[from..to]).to_ascii_lowercase()
    }

    fn tag(&mut self, replace: &impl Fn(&str) -> Option<String>) {
        self.at += 1;
        let name = self.span(|b| !b.is_ascii_whitespace() && b != b'/' && b != b'>');
        let name = self.lower(name);
        let wanted = ADDRESSES
            .iter()
            .find(|(element, _)| *element == name)
            .map_or(&[][..], |(_, attributes)| attributes);
        loop {
            self.span(|b| b.is_ascii_whitespace() || b == b'/');
            match self.peek() {
                None => return,
                Some(b'>') => {
                    self.at += 1;
                    break;
                }
                Some(_) => self.attribute(wanted, replace),
            }
        }
        if RAW.contains(&name.as_str()) {
            let end = format!("</{name}");
            let rest = &self.page[self.at..];
            let mut places = rest.windows(end.len());
            let place = places.position(|w| w.eq_ignore_ascii_case(end.as_bytes()));
            self.at += place.unwrap_or(rest.len());
        }
    }

    fn attribute(&mut self, wanted: &[&str], replace: &impl Fn(&str) -> Option<String>) {
        let from = self.at;
        // A leading equals sign is part of the attribute's name.
        self.at += 1;
        self.span(|b| !b.is_ascii_whitespace() && !matches!(b, b'=' | b'/' | b'>'));
        let name = self.lower((from, self.at));
        self.span(|b| b.is_ascii_whitespace());
        if self.peek() != Some(b'=') {
            return;
        }
        self.at += 1;
        self.span(|b| b.is_ascii_whitespace());
        let value = match self.peek() {
            Some(quote @ (b'"' | b'\'')) => {
                self.at += 1;
                let value = self.span(|b| b != quote);
                self.at = (self.at + 1).min(self.page.len());
                value
            }
            _ => self.span(|b| !b.is_ascii_whitespace() && b != b'>'),
        };
        if !wanted.contains(&name.as_str()) {
            return;
        }
        let text = std::str::from_utf8(&self.page[value.0..value.1]);
        if let Some(other) = text.ok().and_then(replace) {
            self.out.extend_from_slice(&self.page[self.copied..value.0]);
            self.out.extend_from_slice(other.as_bytes());
            self.copied = value.1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn moved(page: &str) -> String {
        let replace = |link: &str| link.starts_with('/').then(|| format!("/proxy{link}"));
        String::from_utf8(rewrite(page.as_bytes(), replace)).unwrap()
    }

    #[test]
    fn addresses_are_replaced_and_nothing_else() {
        for (page, expected) in [
            (r#"<a href="/x">test</a>"#, r#"<a href="/proxy/x">test</a>"#),
            ("<A HREF=/x>", "<A HREF=/proxy/x>"),
            (
                "<img alt=\"/x\" src='/y' / >",
                "<img alt=\"/x\" src='/proxy/y' / >",
            ),
            ("<p href=\"/x\">", "<p href=\"/x\">"),
            ("<!-- <a href=\"/x\"> -->", "<!-- <a href=\"/x\"> -->"),
            (
                "<script src=/s>a='<a href=\"/x\">'</SCRIPT><a href='/y'>",
                "<script src=/proxy/s>a='<a href=\"/x\">'</SCRIPT><a href='/proxy/y'>",
            ),
            ("1 < 2 <a href = \"/x", "1 < 2 <a href = \"/proxy/x"),
            (
                "<a title='>' href=\"/x\">",
                "<a title='>' href=\"/proxy/x\">",
            ),
            ("", ""),
        ] {
            assert_eq!(moved(page), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_through(page in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(rewrite(&page, |_| None), page);
        }

        #[test]
        fn anything_like_a_page_comes_through(page in "(<|>|/|!--|-->|a|img|script| |=|\"|'|href|src|x){0,60}") {
            prop_assert_eq!(rewrite(page.as_bytes(), |_| None), page.clone().into_bytes());
            rewrite(page.as_bytes(), |link| Some(format!("/p{link}")));
        }
    }
}
