//! Expansion of variables and removal of quotes, as in a shell, in the form that Dockerfiles have.
//!
//! Supported are `$name`, `${name}`, the modifiers `-`, `+` and `?` with and without a colon, `#`
//! and `##`, `%` and `%%`, and `/` and `//`.

use crate::glob::{glob, glob_matches, trim};

/// The variables of an expansion.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The rules by which a text is expanded.
#[derive(Clone, Copy, Debug)]
pub struct Lexer {
    /// The character that takes the meaning from the next one.
    pub escape: char,
    /// Whether quotes stay in the result.
    pub raw_quotes: bool,
    /// Whether escape characters stay in the result.
    pub raw_escapes: bool,
    /// Whether quotes have no meaning, as in here-documents.
    pub skip_quotes: bool,
    /// Whether variables without a value stay as they are.
    pub skip_unset: bool,
}

/// An expanded text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The text as one word.
    pub text: String,
    /// The text split at spaces that are not quoted.
    pub words: Vec<String>,
}

impl Lexer {
    /// Returns a lexer that removes quotes and escapes.
    pub fn new(escape: char) -> Self {
        Self {
            escape,
            raw_quotes: false,
            raw_escapes: false,
            skip_quotes: false,
            skip_unset: false,
        }
    }

    /// Expands `text`.
    ///
    /// # Errors
    ///
    /// The reason, if quotes or braces are not closed, a modifier is unknown, or a variable that
    /// `?` demands has no value.
    pub fn expand(&self, text: &str, env: Lookup<'_>) -> Result<Expanded, String> {
        let mut scan = Scan {
            lexer: *self,
            rest: text.chars().collect(),
            at: 0,
            env,
        };
        scan.until(None, self.raw_escapes)
            .map_err(|e| format!("failed to process {text:?}: {e}"))
    }

    /// Expands `text` to one word.
    ///
    /// # Errors
    ///
    /// As [`Self::expand`].
    pub fn word(&self, text: &str, env: Lookup<'_>) -> Result<String, String> {
        Ok(self.expand(text, env)?.text)
    }
}

struct Scan<'a> {
    lexer: Lexer,
    rest: Vec<char>,
    at: usize,
    env: Lookup<'a>,
}

/// The words found so far.
#[derive(Default)]
struct Words {
    word: String,
    words: Vec<String>,
    inside: bool,
}

impl Words {
    fn add(&mut self, c: char) {
        if !c.is_whitespace() {
            self.add_raw(c);
        } else if self.inside && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    fn add_raw(&mut self, c: char) {
        self.word.push(c);
        self.inside = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

impl Scan<'_> {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    /// Expands up to `stop`, which is consumed, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<Expanded, String> {
        let before = std::mem::replace(&mut self.lexer.raw_escapes, raw_escapes);
        let result = self.collect(stop);
        self.lexer.raw_escapes = before;
        result
    }

    fn collect(&mut self, stop: Option<char>) -> Result<Expanded, String> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.peek() {
            if Some(c) == stop {
                self.at += 1;
                return Ok(Expanded {
                    text,
                    words: words.finish(),
                });
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.add(c));
                    text.push_str(&value);
                }
                '\'' | '"' if !self.lexer.skip_quotes => {
                    let value = if c == '"' {
                        self.double_quoted()?
                    } else {
                        self.single_quoted()?
                    };
                    words.word.push_str(&value);
                    words.inside = true;
                    text.push_str(&value);
                }
                c if c == self.lexer.escape => {
                    self.at += 1;
                    if self.lexer.raw_escapes {
                        words.add_raw(c);
                        text.push(c);
                    }
                    let Some(escaped) = self.next() else { break };
                    words.add_raw(escaped);
                    text.push(escaped);
                }
                c => {
                    self.at += 1;
                    words.add(c);
                    text.push(c);
                }
            }
        }
        match stop {
            Some(stop) => Err(format!(
                "unexpected end of statement while looking for matching {stop}"
            )),
            None => Ok(Expanded {
                text,
                words: words.finish(),
            }),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        let quote = |text: &mut String, raw: bool| {
            if raw {
                text.push('\'');
            }
        };
        self.at += 1;
        quote(&mut text, self.lexer.raw_quotes);
        loop {
            match self.next() {
                None => {
                    return Err(
                        "unexpected end of statement while looking for matching single-quote"
                            .into(),
                    );
                }
                Some('\'') => {
                    quote(&mut text, self.lexer.raw_quotes);
                    return Ok(text);
                }
                Some(c) => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        self.at += 1;
        if self.lexer.raw_quotes {
            text.push('"');
        }
        loop {
            let Some(c) = self.peek() else {
                return Err(
                    "unexpected end of statement while looking for matching double-quote".into(),
                );
            };
            if c == '$' {
                text.push_str(&self.dollar()?);
                continue;
            }
            self.at += 1;
            if c == '"' {
                if self.lexer.raw_quotes {
                    text.push('"');
                }
                return Ok(text);
            }
            if c != self.lexer.escape {
                text.push(c);
                continue;
            }
            if self.lexer.raw_escapes {
                text.push(c);
            }
            match self.peek() {
                // Only these can be escaped; before any other one, the escape is a character.
                Some(next) if next == '"' || next == '$' || next == self.lexer.escape => {
                    self.at += 1;
                    text.push(next);
                }
                Some(_) => text.push(c),
                None => {}
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.peek().filter(char::is_ascii_digit) {
                    self.at += 1;
                    name.push(c);
                }
            }
            Some(c @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                self.at += 1;
                name.push(c);
            }
            _ => {
                while let Some(c) = self.peek().filter(|c| c.is_alphanumeric() || *c == '_') {
                    self.at += 1;
                    name.push(c);
                }
            }
        }
        name
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            let value = (self.env)(&name);
            return Ok(match value {
                None if self.lexer.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            Some(_) => {}
        }
        let name = self.name();
        let value = (self.env)(&name);
        match self.next() {
            Some('}') => Ok(match value {
                None if self.lexer.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => {
                let operator = self.next();
                self.modified(&name, value, operator, true)
            }
            Some('/') => self.replaced(&name, value),
            operator => self.modified(&name, value, operator, false),
        }
    }

    /// Expands the rest of `${name-word}` and the like.
    fn modified(
        &mut self,
        name: &str,
        value: Option<String>,
        operator: Option<char>,
        colon: bool,
    ) -> Result<String, String> {
        let shown = format!(
            "{}{}",
            if colon { ":" } else { "" },
            operator.map_or(String::new(), String::from)
        );
        let Some(operator @ ('+' | '-' | '?' | '#' | '%')) = operator else {
            return Err(format!("unsupported modifier ({shown}) in substitution"));
        };
        let pattern = matches!(operator, '#' | '%');
        let word = self.closed('}', pattern)?;
        if value.is_none() && self.lexer.skip_unset {
            return Ok(format!("${{{name}{shown}{word}}}"));
        }
        let filled = value.clone().filter(|v| !(colon && v.is_empty()));
        match operator {
            '-' => Ok(filled.unwrap_or(word)),
            '+' => Ok(filled.map(|_| word).unwrap_or_default()),
            '?' => filled.ok_or_else(|| {
                let state = if value.is_some() { "empty" } else { "unset" };
                if word.is_empty() {
                    format!("{name}: is not allowed to be {state}")
                } else {
                    format!("{name}: {word}")
                }
            }),
            _ => {
                let (greedy, word) = match word.strip_prefix(operator) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                trim(&value.unwrap_or_default(), word, operator == '#', greedy)
            }
        }
    }

    /// Expands the rest of `${name/pattern/replacement}`.
    fn replaced(&mut self, name: &str, value: Option<String>) -> Result<String, String> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let pattern = self.until(Some('/'), true).map_err(|e| match self.peek() {
            None => "syntax error: missing '/' in ${}".to_owned(),
            Some(_) => e,
        })?;
        let replacement = self.closed('}', true)?;
        let pattern = pattern.text;
        let Some(value) = value else {
            return Ok(match self.lexer.skip_unset {
                true => format!("${{{name}/{pattern}/{replacement}}}"),
                false => String::new(),
            });
        };
        let glob = glob(&pattern)?;
        let text: Vec<char> = value.chars().collect();
        let mut out = String::new();
        let mut at = 0;
        let mut replaced = false;
        while at <= text.len() {
            let found = (all || !replaced)
                .then(|| {
                    (at..=text.len())
                        .rev()
                        .find(|end| glob_matches(&glob, &text[at..*end]))
                })
                .flatten();
            if let Some(end) = found {
                replaced = true;
                out.push_str(&replacement);
                if end > at {
                    at = end;
                    continue;
                }
            }
            out.extend(text.get(at));
            at += 1;
        }
        Ok(out)
    }

    fn closed(&mut self, stop: char, raw_escapes: bool) -> Result<String, String> {
        match self.until(Some(stop), raw_escapes) {
            Ok(expanded) => Ok(expanded.text),
            Err(_) if self.peek().is_none() => Err(format!("syntax error: missing '{stop}'")),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        let value = match name {
            "PWD" => "/home",
            "SHELL" => "bash",
            "KOREAN" => "한국어",
            "NULL" => "",
            "FOO" => "xxyy",
            "PATHS" => "/usr/local/lib/a.tar.gz",
            "1" => "one",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn words_are_expanded_as_docker_does() {
        for (text, expected) in [
            ("hello", "hello"),
            ("he'll'o", "hello"),
            ("he\\'llo", "he'llo"),
            ("he\\\\'ll'o", "he\\llo"),
            ("abc\\tdef", "abctdef"),
            ("\"abc\\tdef\"", "abc\\tdef"),
            ("\"abc\\\\tdef\"", "abc\\tdef"),
            ("'abc\\tdef'", "abc\\tdef"),
            ("hello\\", "hello"),
            ("\"\\$PWD\"", "$PWD"),
            ("'$PWD'", "$PWD"),
            ("\\$PWD", "$PWD"),
            ("$PWD", "/home"),
            ("${PWD}x", "/homex"),
            ("$PWDx", ""),
            ("he$", "he$"),
            ("he$ x", "he$ x"),
            ("he$1x", "heonex"),
            ("he$.", "he$."),
            ("he$KOREAN", "he한국어"),
            ("he${XXX}.", "he."),
            ("he${XXX:-000}xx", "he000xx"),
            ("he${PWD:-000}xx", "he/homexx"),
            ("he${NULL:-000}xx", "he000xx"),
            ("he${NULL-000}xx", "hexx"),
            ("he${XXX:-${PWD}}x", "he/homex"),
            ("he${XXX:-$PWD:}x", "he/home:x"),
            ("he${XXX:-\"a b\"}", "hea b"),
            ("he${PWD:+X}", "heX"),
            ("he${XXX:+X}", "he"),
            ("he${NULL+X}", "heX"),
            ("${PWD:?no}", "/home"),
            ("${NULL?no}", ""),
            ("${FOO#x}", "xyy"),
            ("${FOO##x*}", ""),
            ("${FOO##*x}", "yy"),
            ("${FOO#*x}", "xyy"),
            ("${FOO%y}", "xxy"),
            ("${FOO%%y*}", "xx"),
            ("${PATHS##*/}", "a.tar.gz"),
            ("${PATHS%.gz}", "/usr/local/lib/a.tar"),
            ("${FOO/y/z}", "xxzy"),
            ("${FOO//x/z}", "zzyy"),
            ("${FOO/y*/}", "xx"),
            ("${FOO//[xy]/z}", "xxyy"),
            ("${PWD/\\/home/x}", "x"),
        ] {
            assert_eq!(
                Lexer::new('\\').word(text, &env).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
        for text in [
            "he'llo",
            "he\"llo",
            "${",
            "${}",
            "${:}",
            "${PWD",
            "${PWD:",
            "${PWD:=x}",
            "${XXX?}",
            "${XXX:?gone}",
            "${NULL:?}",
            "${PWD/x}",
            "${PWD#\\a}",
            "${{PWD}}",
        ] {
            assert!(Lexer::new('\\').word(text, &env).is_err(), "{text}");
        }
        let told = Lexer::new('\\').word("${XXX:?gone}", &env).unwrap_err();
        assert!(told.ends_with("XXX: gone"), "{told}");
    }

    #[test]
    fn the_escape_character_can_be_another_one() {
        let lexer = Lexer::new('`');
        assert_eq!(lexer.word("C:\\dir`$PWD", &env).unwrap(), "C:\\dir$PWD");
    }

    #[test]
    fn words_are_split_after_the_expansion() {
        let words = |text: &str| Lexer::new('\\').expand(text, &env).unwrap().words;
        assert_eq!(words("hello  there"), ["hello", "there"]);
        assert_eq!(words("'hello  there' x"), ["hello  there", "x"]);
        assert_eq!(words("${XXX:-a b}"), ["a", "b"]);
        assert_eq!(words("\"${XXX:-a b}\""), ["a b"]);
        assert_eq!(words("a\\ b"), ["a b"]);
        assert!(words("  ").is_empty());
    }

    #[test]
    fn here_documents_keep_their_quotes() {
        let lexer = Lexer {
            skip_quotes: true,
            ..Lexer::new('\\')
        };
        assert_eq!(lexer.word("it's \"$PWD\"", &env).unwrap(), "it's \"/home\"");
    }
}
