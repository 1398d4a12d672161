//! Go's messages about malformed JSON.

/// The role of a value in the value that contains it.
#[derive(Clone, Copy, PartialEq)]
enum JsonRole {
    Key,
    Value,
    Item,
}

/// Returns the message of Go's scanner about the first fault of a JSON text; `None` if it has no
/// fault.
pub fn json_fault(bytes: &[u8]) -> Option<String> {
    let mut scanner = Scanner { bytes, at: 0 };
    scanner.document().err()
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Scanned = Result<(), String>;

impl Scanner<'_> {
    fn skip_space(&mut self) {
        while self.peek().is_some_and(|b| b" \t\r\n".contains(&b)) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Returns the message about the next byte.
    fn fault(&self, context: &str) -> String {
        match self.peek() {
            None => "unexpected end of JSON input".into(),
            Some(byte) => format!("invalid character {} {context}", quoted(byte)),
        }
    }

    fn document(&mut self) -> Scanned {
        // Open lists and objects, innermost last; recursion would follow hostile input.
        let mut open: Vec<JsonRole> = Vec::new();
        loop {
            self.begin(&mut open)?;
            // A value is complete: go on with what contains it.
            loop {
                self.skip_space();
                let Some(part) = open.last_mut() else {
                    return match self.peek() {
                        None => Ok(()),
                        Some(_) => Err(self.fault("after top-level value")),
                    };
                };
                match (*part, self.peek()) {
                    (JsonRole::Key, Some(b':')) => {
                        *part = JsonRole::Value;
                        self.at += 1;
                        break;
                    }
                    (JsonRole::Value, Some(b',')) => {
                        *part = JsonRole::Key;
                        self.at += 1;
                        self.key()?;
                        break;
                    }
                    (JsonRole::Item, Some(b',')) => {
                        self.at += 1;
                        break;
                    }
                    (JsonRole::Value, Some(b'}')) | (JsonRole::Item, Some(b']')) => {
                        self.at += 1;
                        open.pop();
                    }
                    (JsonRole::Key, _) => return Err(self.fault("after object key")),
                    (JsonRole::Value, _) => return Err(self.fault("after object key:value pair")),
                    (JsonRole::Item, _) => return Err(self.fault("after array element")),
                }
            }
        }
    }

    /// Requires that a key begins.
    fn key(&mut self) -> Scanned {
        self.skip_space();
        match self.peek() {
            Some(b'"') => Ok(()),
            _ => Err(self.fault("looking for beginning of object key string")),
        }
    }

    /// Reads a scalar or an empty list or object, after the beginnings of those that contain it.
    fn begin(&mut self, open: &mut Vec<JsonRole>) -> Scanned {
        loop {
            self.skip_space();
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    self.skip_space();
                    match self.peek() {
                        Some(b'}') => {
                            self.at += 1;
                            return Ok(());
                        }
                        Some(b'"') => open.push(JsonRole::Key),
                        _ => return Err(self.fault("looking for beginning of object key string")),
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    self.skip_space();
                    if self.peek() == Some(b']') {
                        self.at += 1;
                        return Ok(());
                    }
                    open.push(JsonRole::Item);
                }
                Some(b'"') => return self.string(),
                Some(b'-' | b'0'..=b'9') => return self.number(),
                Some(b't') => return self.word("true"),
                Some(b'f') => return self.word("false"),
                Some(b'n') => return self.word("null"),
                _ => return Err(self.fault("looking for beginning of value")),
            }
        }
    }

    fn word(&mut self, word: &str) -> Scanned {
        for (index, expected) in word.bytes().enumerate() {
            if self.peek() != Some(expected) {
                let context = format!("in literal {word} (expecting {})", quoted(expected));
                debug_assert!(index > 0, "the first letter chose the word");
                return Err(self.fault(&context));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Scanned {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(0..=0x1f) | None => return Err(self.fault("in string literal")),
                Some(_) => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Scanned {
        match self.peek() {
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                        return Err(self.fault("in \\u hexadecimal character escape"));
                    }
                    self.at += 1;
                }
                Ok(())
            }
            Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => {
                self.at += 1;
                Ok(())
            }
            _ => Err(self.fault("in string escape code")),
        }
    }

    fn number(&mut self) -> Scanned {
        if self.peek() == Some(b'-') {
            self.at += 1;
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return Err(self.fault("in numeric literal"));
            }
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits(),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return Err(self.fault("after decimal point in numeric literal"));
            }
            self.digits();
        }
        if self.peek().is_some_and(|b| b"eE".contains(&b)) {
            self.at += 1;
            if self.peek().is_some_and(|b| b"+-".contains(&b)) {
                self.at += 1;
            }
            if !self.peek().is_some_and(|b| b.is_ascii_digit()) {
                return Err(self.fault("in exponent of numeric literal"));
            }
            self.digits();
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
    }
}

/// Quotes a byte, as a character of Latin-1.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".into(),
        b'"' => "'\"'".into(),
        byte => {
            let text = crate::text::quote(&char::from(byte).to_string());
            format!("'{}'", &text[1..text.len() - 1])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::json_fault;

    #[test]
    fn faults_are_reported_as_by_go() {
        for (text, fault) in [
            ("", "unexpected end of JSON input"),
            (" ", "unexpected end of JSON input"),
            ("{", "unexpected end of JSON input"),
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{} x", "invalid character 'x' after top-level value"),
            ("{}{}", "invalid character '{' after top-level value"),
            (r#"{"a"}"#, "invalid character '}' after object key"),
            (
                r#"{"a":}"#,
                "invalid character '}' looking for beginning of value",
            ),
            (
                r#"{"a":1,}"#,
                "invalid character '}' looking for beginning of object key string",
            ),
            (
                "{'a':1}",
                "invalid character '\\'' looking for beginning of object key string",
            ),
            (
                r#"{"a":1 "b"}"#,
                "invalid character '\"' after object key:value pair",
            ),
            ("[1 2]", "invalid character '2' after array element"),
            (
                "[1,]",
                "invalid character ']' looking for beginning of value",
            ),
            (
                "{\"a\":\"b\nc\"}",
                "invalid character '\\n' in string literal",
            ),
            (r#"["\x"]"#, "invalid character 'x' in string escape code"),
            (
                r#"["\u12g4"]"#,
                "invalid character 'g' in \\u hexadecimal character escape",
            ),
            ("[01]", "invalid character '1' after array element"),
            (
                "[1.]",
                "invalid character ']' after decimal point in numeric literal",
            ),
            ("[-]", "invalid character ']' in numeric literal"),
            (
                "[1e]",
                "invalid character ']' in exponent of numeric literal",
            ),
            (
                "[nul]",
                "invalid character ']' in literal null (expecting 'l')",
            ),
            (
                "\u{feff}{}",
                "invalid character 'ï' looking for beginning of value",
            ),
        ] {
            assert_eq!(
                json_fault(text.as_bytes()).as_deref(),
                Some(fault),
                "{text}"
            );
        }
        for text in [
            "null",
            " {\"a\": [1, -2.5e+3, \"\\u00e9\\n\", {}, []]} \n",
            "[[[]]]",
        ] {
            assert_eq!(json_fault(text.as_bytes()), None, "{text}");
        }
    }
}
