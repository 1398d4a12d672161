//! Command lines on a node without a shell: one program and its arguments, quoted as for a
//! shell. A node has none if its driver cannot mount the host's programs.

use std::io;

/// Splits a command line into words as a shell does. Fails for syntax that needs a shell.
pub(crate) fn split(line: &[u8]) -> io::Result<Vec<String>> {
    let line = std::str::from_utf8(line).map_err(|_| refuse("it is not UTF-8"))?;
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                quoted(&mut chars, '\'', word)?;
            }
            '"' => {
                let word = word.get_or_insert_default();
                quoted(&mut chars, '"', word)?;
            }
            '\\' => match chars.next() {
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err(refuse("it ends in a backslash")),
            },
            '|' | '&' | ';' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' | '[' | '\n' => {
                return Err(refuse(&format!("'{}' needs one", c.escape_default())));
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.is_empty() {
        return Err(refuse("there is no command"));
    }
    Ok(words)
}

/// Appends the text up to the closing quote to `word`.
fn quoted(chars: &mut std::str::Chars<'_>, end: char, word: &mut String) -> io::Result<()> {
    while let Some(c) = chars.next() {
        match c {
            c if c == end => return Ok(()),
            '$' | '`' if end == '"' => return Err(refuse(&format!("'{c}' needs one"))),
            '\\' if end == '"' => match chars.next() {
                Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            c => word.push(c),
        }
    }
    Err(refuse("a quote is not closed"))
}

fn refuse(why: &str) -> io::Error {
    io::Error::other(format!(
        "this node has no shell, it runs one program with its arguments ({why}); try: rkube ctl ps"
    ))
}

/// Returns the error for a client that requests a login shell.
pub(crate) fn no_shell() -> io::Error {
    io::Error::other(
        "this node has no shell, because its driver could not lend it this machine's programs; \
         name a program to run, for example: rkube ssh -- rkube ctl ps",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        let split = |line: &str| split(line.as_bytes()).unwrap();
        assert_eq!(split("rkube ctl  ps -a"), ["rkube", "ctl", "ps", "-a"]);
        assert_eq!(split(r#"echo "c \" d""#), ["echo", "c \" d"]);
        assert_eq!(split(r"a 'it'\''s' ''"), ["a", "it's", ""]);
        assert_eq!(split(r#"a "b 'c' \n""#), ["a", r"b 'c' \n"]);
    }

    #[test]
    fn what_only_a_shell_can_do_is_refused() {
        for line in [
            "",
            "  ",
            "a | b",
            "a; b",
            "echo $HOME",
            "a 'b",
            "ls *",
            "\"$x\"",
            "a\\",
        ] {
            let said = split(line.as_bytes()).unwrap_err().to_string();
            assert!(said.contains("no shell"), "{line}: {said}");
        }
        assert!(split(&[0xff]).is_err());
    }
}
