//! Removes comments and white space from the page's sources.
//!
//! Names are kept, so that errors in a browser's console are readable.

/// Whether `code` ends with an operand, after which `/` divides. Otherwise `/` begins a regular
/// expression.
///
/// A regular expression at the start of a statement that follows `)` or `}` is not
/// recognised.
fn ends_operand(code: &str) -> bool {
    /// Keywords that precede an expression.
    const KEYWORDS: [&str; 11] = [
        "return", "typeof", "case", "in", "of", "void", "delete", "throw", "do", "else", "await",
    ];
    let code = code.trim_end();
    let Some(last) = code.chars().next_back() else {
        return false;
    };
    if matches!(last, ')' | ']' | '}' | '"' | '\'' | '`')
        || code.ends_with("++")
        || code.ends_with("--")
    {
        return true;
    }
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    let start = code.trim_end_matches(is_word).len();
    is_word(last) && !KEYWORDS.contains(&&code[start..])
}

/// Returns the length of the string or regular expression that `text` begins with, up
/// to and including `end`.
fn literal_len(text: &str, end: char) -> usize {
    let mut escaped = false;
    let mut in_class = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' if end == '/' => in_class = true,
            ']' => in_class = false,
            '\n' => panic!("a literal has no end: {}", &text[..i]),
            c if c == end && !in_class => return i + 1,
            _ => {}
        }
    }
    panic!("a literal has no end: {text}")
}

/// Returns a JavaScript module without comments and unnecessary white space.
///
/// Line breaks are kept where they can end a statement. Strings, regular expressions and template
/// literals do not change.
///
/// # Panics
///
/// Panics at a literal or comment that has no end.
pub fn javascript(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    // One entry per template literal around `rest`: the number of braces that are open
    // in its current substitution.
    let mut templates: Vec<usize> = Vec::new();
    let mut rest = source;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match c {
            '"' | '\'' => taken = literal_len(rest, c),
            '/' if rest.starts_with("//") => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            '/' if rest.starts_with("/*") => {
                let end = rest.find("*/").expect("a comment has an end") + 2;
                rest = &rest[end..];
                continue;
            }
            '/' if !ends_operand(&out) => taken = literal_len(rest, '/'),
            '`' => taken = template_len(rest, 1, &mut templates),
            '{' => {
                if let Some(open) = templates.last_mut() {
                    *open += 1;
                }
            }
            '}' => match templates.last_mut() {
                Some(0) => {
                    templates.pop();
                    taken = template_len(rest, 1, &mut templates);
                }
                Some(open) => *open -= 1,
                None => {}
            },
            ' ' | '\n' => {
                rest = push_space(&mut out, rest);
                continue;
            }
            _ => {}
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out.truncate(out.trim_end().len());
    out
}

/// Appends the white space at the start of `text` to `out` where it is significant. Returns the
/// rest of `text`.
///
/// A line break is kept unless a neighbouring character rules out that a statement
/// ends there.
fn push_space<'a>(out: &mut String, text: &'a str) -> &'a str {
    /// Excludes `+` and `-`, because `+ +` differs from `++`, and `/`.
    const PUNCTUATION: &str = "{}()[];,:?=<>&|!*";
    let rest = text.trim_start_matches([' ', '\n']);
    let before = out.chars().next_back();
    let after = rest.chars().next();
    let (Some(before), Some(after)) = (before, after) else {
        return rest;
    };
    if text[..text.len() - rest.len()].contains('\n') {
        if !"{([,;:?=&|\n".contains(before) && !"})]:?.&|".contains(after) {
            out.push('\n');
        }
    } else if !before.is_whitespace()
        && !PUNCTUATION.contains(before)
        && !PUNCTUATION.contains(after)
    {
        out.push(' ');
    }
    rest
}

/// Returns the length of the part of a template literal that begins at `start`. It ends with the
/// closing backtick or the next `${`, which adds an entry to `templates`.
fn template_len(text: &str, start: usize, templates: &mut Vec<usize>) -> usize {
    let bytes = text.as_bytes();
    let mut i = start;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' => i += 2,
            b'`' => return i + 1,
            b'$' if bytes.get(i + 1) == Some(&b'{') => {
                templates.push(0);
                return i + 2;
            }
            _ => i += 1,
        }
    }
    panic!("a template literal has no end: {text}")
}

/// Returns a style sheet without comments, indentation and empty lines.
pub fn css(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("/*") {
        out.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, tail)| tail);
    }
    out.push_str(rest);
    let lines: Vec<&str> = out
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines.join("\n")
}
