//! Lexer.

use crate::source::Issues;

/// The kind of a token, with its text where needed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tok {
    /// An operator or bracket.
    Op(&'static str),
    Ident(String),
    /// A field name in backquotes, without the quotes.
    EscIdent(String),
    Int(String),
    Uint(String),
    Float(String),
    Str(String),
    Bytes(String),
    True,
    False,
    Null,
    In,
    Eof,
}

/// A token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// Kind.
    pub tok: Tok,
    /// Character offset in the source.
    pub offset: u32,
    /// Text in the source.
    pub text: String,
}

const OPS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!",
    "?", ":", "+", "*", "/", "%",
];

/// Splits a source into tokens, ending with [`Tok::Eof`]. Reports and skips invalid characters.
pub(crate) fn lex(source: &str, issues: &mut Issues) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let c = chars[at];
        if matches!(c, '\t' | ' ' | '\r' | '\n' | '\u{c}') {
            at += 1;
            continue;
        }
        if c == '/' && chars.get(at + 1) == Some(&'/') {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
            continue;
        }
        match token(&chars, at) {
            Ok((tok, end)) => {
                tokens.push(Token {
                    tok,
                    offset: at as u32,
                    text: chars[at..end].iter().collect(),
                });
                at = end;
            }
            Err(end) => {
                let text: String = chars[at..end].iter().collect();
                let shown = text
                    .replace('\n', "\\n")
                    .replace('\r', "\\r")
                    .replace('\t', "\\t");
                issues.report(
                    Some(at as u32),
                    format!("Syntax error: token recognition error at: '{shown}'"),
                );
                at = end;
            }
        }
    }
    tokens.push(Token {
        tok: Tok::Eof,
        offset: chars.len() as u32,
        text: "<EOF>".into(),
    });
    tokens
}

/// Returns the longest token at a position and its end, or the end of the invalid text.
fn token(chars: &[char], at: usize) -> Result<(Tok, usize), usize> {
    let c = chars[at];
    let next = chars.get(at + 1).copied().unwrap_or('\0');
    if c.is_ascii_digit() || (c == '.' && next.is_ascii_digit()) {
        return Ok(number(chars, at));
    }
    if let Some(result) = string(chars, at) {
        return result;
    }
    if c.is_ascii_alphabetic() || c == '_' {
        let mut end = at;
        while end < chars.len() && (chars[end].is_ascii_alphanumeric() || chars[end] == '_') {
            end += 1;
        }
        let text: String = chars[at..end].iter().collect();
        let tok = match text.as_str() {
            "true" => Tok::True,
            "false" => Tok::False,
            "null" => Tok::Null,
            "in" => Tok::In,
            _ => Tok::Ident(text),
        };
        return Ok((tok, end));
    }
    if c == '`' {
        let mut end = at + 1;
        while end < chars.len()
            && (chars[end].is_ascii_alphanumeric()
                || matches!(chars[end], '_' | '.' | '-' | '/' | ' '))
        {
            end += 1;
        }
        if end > at + 1 && chars.get(end) == Some(&'`') {
            let text = chars[at + 1..end].iter().collect();
            return Ok((Tok::EscIdent(text), end + 1));
        }
        return Err((end + 1).min(chars.len()));
    }
    for op in OPS {
        if op
            .chars()
            .enumerate()
            .all(|(i, o)| chars.get(at + i) == Some(&o))
        {
            return Ok((Tok::Op(op), at + op.len()));
        }
    }
    // A lone `&`, `|` or `=` is reported together with the following character, as upstream does.
    let alone = !matches!(c, '&' | '|' | '=');
    Err(if alone {
        at + 1
    } else {
        (at + 2).min(chars.len())
    })
}

fn digits(chars: &[char], mut at: usize) -> usize {
    while chars.get(at).is_some_and(char::is_ascii_digit) {
        at += 1;
    }
    at
}

fn number(chars: &[char], at: usize) -> (Tok, usize) {
    let text = |end: usize| chars[at..end].iter().collect::<String>();
    let is_u = |i: usize| matches!(chars.get(i), Some('u' | 'U'));
    if chars[at] == '0' && chars.get(at + 1) == Some(&'x') {
        let mut end = at + 2;
        while chars.get(end).is_some_and(char::is_ascii_hexdigit) {
            end += 1;
        }
        if end > at + 2 {
            return if is_u(end) {
                (Tok::Uint(text(end)), end + 1)
            } else {
                (Tok::Int(text(end)), end)
            };
        }
    }
    let mut end = digits(chars, at);
    let mut float = false;
    if chars.get(end) == Some(&'.') && chars.get(end + 1).is_some_and(char::is_ascii_digit) {
        end = digits(chars, end + 1);
        float = true;
    }
    if matches!(chars.get(end), Some('e' | 'E')) {
        let sign = usize::from(matches!(chars.get(end + 1), Some('+' | '-')));
        let exponent = digits(chars, end + 1 + sign);
        if exponent > end + 1 + sign {
            end = exponent;
            float = true;
        }
    }
    if float {
        (Tok::Float(text(end)), end)
    } else if is_u(end) {
        (Tok::Uint(text(end)), end + 1)
    } else {
        (Tok::Int(text(end)), end)
    }
}

/// Lexes a string or bytes literal with prefix and quotes, `None` if there is none.
fn string(chars: &[char], at: usize) -> Option<Result<(Tok, usize), usize>> {
    let mut i = at;
    let mut bytes = false;
    let mut raw = false;
    if matches!(chars.get(i), Some('b' | 'B')) {
        bytes = true;
        i += 1;
    }
    if matches!(chars.get(i), Some('r' | 'R')) {
        raw = true;
        i += 1;
    }
    let quote = *chars.get(i)?;
    if quote != '"' && quote != '\'' {
        return None;
    }
    let start = if bytes { at + 1 } else { at };
    let triple = chars.get(i + 1) == Some(&quote) && chars.get(i + 2) == Some(&quote);
    let found = if triple {
        // Without closing quotes it is an empty string followed by other tokens.
        body(chars, i + 3, quote, true, raw).or_else(|_| Ok(i + 2))
    } else {
        body(chars, i + 1, quote, false, raw)
    };
    Some(found.map(|end| {
        let text: String = chars[start..end].iter().collect();
        let tok = if bytes {
            Tok::Bytes(text)
        } else {
            Tok::Str(text)
        };
        (tok, end)
    }))
}

/// Returns the position after the closing quote, or where an invalid literal ends.
fn body(
    chars: &[char],
    mut i: usize,
    quote: char,
    triple: bool,
    raw: bool,
) -> Result<usize, usize> {
    loop {
        match chars.get(i) {
            None => return Err(chars.len()),
            Some('\n' | '\r') if !triple => return Err(i + 1),
            Some('\\') if !raw => {
                let len = escape_len(chars, i).ok_or((i + 2).min(chars.len()))?;
                i += len;
            }
            Some(&c) if c == quote => {
                if !triple {
                    return Ok(i + 1);
                }
                if chars.get(i + 1) == Some(&quote) && chars.get(i + 2) == Some(&quote) {
                    return Ok(i + 3);
                }
                i += 1;
            }
            Some(_) => i += 1,
        }
    }
}

/// Returns the length of the escape sequence at a position, `None` if it is invalid.
fn escape_len(chars: &[char], at: usize) -> Option<usize> {
    let hex = |n: usize| {
        (0..n)
            .all(|k| chars.get(at + 2 + k).is_some_and(char::is_ascii_hexdigit))
            .then_some(2 + n)
    };
    let octal = |k: usize| matches!(chars.get(at + k), Some('0'..='7'));
    match chars.get(at + 1)? {
        'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`' => Some(2),
        'x' | 'X' => hex(2),
        'u' => hex(4),
        'U' => hex(8),
        '0'..='3' => (octal(2) && octal(3)).then_some(4),
        _ => None,
    }
}

/// Decodes a string or bytes literal with quotes.
///
/// # Errors
///
/// Returns upstream's message for an invalid escape sequence.
pub(crate) fn unescape(text: &str, is_bytes: bool) -> Result<Vec<u8>, &'static str> {
    const BAD: &str = "unable to unescape string";
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let (raw, text) = match text.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, text.as_str()),
    };
    let long = text.len() >= 6 && (text.starts_with("'''") || text.starts_with("\"\"\""));
    let quotes = if long { 3 } else { 1 };
    let inner = text.get(quotes..text.len() - quotes).ok_or(BAD)?;
    if raw || !inner.contains('\\') {
        return Ok(inner.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(c) = rest.chars().next() {
        if c != '\\' {
            let mut buffer = [0; 4];
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let kind = rest[1..].chars().next().ok_or(BAD)?;
        let mut code = |from: usize, len: usize, radix: u32, unicode: bool| {
            let digits = rest.get(from..from + len).ok_or(BAD)?;
            let value = u32::from_str_radix(digits, radix).map_err(|_| BAD)?;
            if is_bytes {
                if unicode {
                    return Err(BAD);
                }
                out.push(value as u8);
            } else {
                let c = char::from_u32(value).ok_or("invalid unicode code point")?;
                let mut buffer = [0; 4];
                out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
            }
            Ok(from + len)
        };
        let used = match kind {
            'x' | 'X' => code(2, 2, 16, false)?,
            'u' => code(2, 4, 16, true)?,
            'U' => code(2, 8, 16, true)?,
            '0'..='3' => code(1, 3, 8, false)?,
            _ => {
                out.push(match kind {
                    'a' => 7,
                    'b' => 8,
                    'f' => 12,
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    'v' => 11,
                    '"' | '\'' | '\\' | '?' | '`' => kind as u8,
                    _ => return Err(BAD),
                });
                2
            }
        };
        rest = &rest[used..];
    }
    Ok(out)
}
