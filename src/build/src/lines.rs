//! The lines of a Dockerfile: parser directives, comments, continuations and here-documents.

use crate::error::{BuildError, Result};
use crate::lex::Lexer;

/// A here-document of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HereDoc {
    /// The word that ends it.
    pub name: String,
    /// The content as written.
    pub content: String,
    /// Whether variables in it are expanded, because its name was not quoted.
    pub expand: bool,
    /// Whether tabs at the start of its lines are removed.
    pub chomp: bool,
}

impl HereDoc {
    /// Returns the content without the tabs that do not count.
    pub fn text(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        let lines = self.content.split_inclusive('\n');
        lines.map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// An instruction as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// First and last line, from 1.
    pub lines: (usize, usize),
    /// The instruction's name in upper case.
    pub keyword: String,
    /// The words that begin with two dashes before the arguments.
    pub flags: Vec<String>,
    /// The arguments, without continuations and comments.
    pub args: String,
    /// The here-documents.
    pub heredocs: Vec<HereDoc>,
}

/// A Dockerfile as written.
#[derive(Clone, Debug)]
pub struct Source {
    /// The escape character.
    pub escape: char,
    /// The front end that the file asks for (`# syntax=`).
    pub syntax: Option<String>,
    /// The lint checks that the file asks for (`# check=`).
    pub check: Option<String>,
    /// The instructions.
    pub statements: Vec<Statement>,
}

/// Instructions that can have here-documents.
const WITH_HEREDOCS: [&str; 3] = ["ADD", "COPY", "RUN"];

/// Splits a Dockerfile into instructions.
///
/// # Errors
///
/// A message with the lines, if a directive, a flag or a here-document is malformed.
pub fn split(text: &str) -> Result<Source> {
    let text = text.trim_start_matches('\u{feff}');
    let lines: Vec<&str> = text.lines().collect();
    let mut source = directives(&lines)?;
    let mut at = 0;
    while at < lines.len() {
        let start = at + 1;
        let first = lines[at].trim_start();
        at += 1;
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let mut continued = None;
        let mut joined = String::new();
        push(&mut joined, first, source.escape, &mut continued);
        while continued.is_some() && at < lines.len() {
            let line = lines[at];
            at += 1;
            let shown = line.trim_start();
            // Comments and empty lines do not end an instruction.
            if shown.is_empty() || shown.starts_with('#') {
                continue;
            }
            push(&mut joined, line, source.escape, &mut continued);
        }
        let mut statement = statement(&joined, source.escape).map_err(|e| e.at((start, at)))?;
        for mut heredoc in heredocs(&statement, &joined, source.escape) {
            let opened = at;
            loop {
                let Some(line) = lines.get(at) else {
                    return Err(BuildError::new("unterminated heredoc").at((start, opened)));
                };
                at += 1;
                let end = match heredoc.chomp {
                    true => line.trim_start_matches('\t'),
                    false => line,
                };
                if end == heredoc.name {
                    break;
                }
                heredoc.content.push_str(line);
                heredoc.content.push('\n');
            }
            statement.heredocs.push(heredoc);
        }
        statement.lines = (start, at);
        source.statements.push(statement);
    }
    if source.statements.is_empty() {
        return Err(BuildError::new("the Dockerfile has no instructions"));
    }
    Ok(source)
}

/// Appends a line without its continuation. Sets `continued` if there is one.
fn push(joined: &mut String, line: &str, escape: char, continued: &mut Option<()>) {
    match line.trim_end_matches([' ', '\t']).strip_suffix(escape) {
        Some(before) => {
            joined.push_str(before);
            *continued = Some(());
        }
        None => {
            joined.push_str(line);
            *continued = None;
        }
    }
}

/// Reads the parser directives, which precede everything else.
fn directives(lines: &[&str]) -> Result<Source> {
    let mut source = Source {
        escape: '\\',
        syntax: None,
        check: None,
        statements: Vec::new(),
    };
    let mut escape = None;
    for (i, line) in lines.iter().enumerate() {
        let Some((name, value)) = line
            .trim_start()
            .strip_prefix('#')
            .and_then(|rest| rest.split_once('='))
        else {
            break;
        };
        let value = value.trim();
        let seen = match name.trim().to_ascii_lowercase().as_str() {
            "syntax" => source.syntax.replace(value.to_owned()).is_some(),
            "check" => source.check.replace(value.to_owned()).is_some(),
            "escape" => escape.replace(value.to_owned()).is_some(),
            _ => break,
        };
        let failed = |message: String| BuildError::new(message).at((i + 1, i + 1));
        if seen {
            let name = name.trim();
            return Err(failed(format!(
                "only one {name} parser directive can be used"
            )));
        }
        match escape.as_deref() {
            None => {}
            Some("\\") => source.escape = '\\',
            Some("`") => source.escape = '`',
            Some(other) => {
                return Err(failed(format!(
                    "invalid escape token '{other}' does not match ` or \\"
                )));
            }
        }
    }
    Ok(source)
}

/// Splits an instruction into its name, flags and arguments. Also used for triggers of `ONBUILD`.
///
/// # Errors
///
/// A message, if the flags are malformed.
pub fn statement(line: &str, escape: char) -> Result<Statement> {
    let line = line.trim();
    let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (flags, args) = flags(rest, escape)?;
    Ok(Statement {
        lines: (1, 1),
        keyword: keyword.to_ascii_uppercase(),
        flags,
        args,
        heredocs: Vec::new(),
    })
}

/// Splits flags from arguments. Quotes and escapes in flags are removed.
fn flags(rest: &str, escape: char) -> Result<(Vec<String>, String)> {
    let mut flags = Vec::new();
    let mut rest = rest.trim_start();
    while rest.starts_with("--") {
        let mut word = String::new();
        let mut quote = None;
        let mut end = rest.len();
        let mut chars = rest.char_indices();
        while let Some((i, c)) = chars.next() {
            match (quote, c) {
                (None, c) if c.is_whitespace() => {
                    end = i;
                    break;
                }
                (None, '\'' | '"') => quote = Some(c),
                (Some(q), c) if c == q => quote = None,
                (Some('\''), c) => word.push(c),
                (_, c) if c == escape => word.extend(chars.next().map(|(_, c)| c)),
                (_, c) => word.push(c),
            }
        }
        if quote.is_some() {
            return Err(BuildError::new(format!(
                "a quote in {rest:?} is not closed"
            )));
        }
        rest = rest[end..].trim_start();
        if word == "--" {
            break;
        }
        flags.push(word);
    }
    Ok((flags, rest.trim_end().to_owned()))
}

/// Finds the here-documents that an instruction opens.
fn heredocs(statement: &Statement, line: &str, escape: char) -> Vec<HereDoc> {
    let opens = |keyword: &str| WITH_HEREDOCS.contains(&keyword);
    let args = if statement.keyword == "ONBUILD" {
        match self::statement(&statement.args, escape) {
            Ok(inner) if opens(&inner.keyword) => line.to_owned(),
            _ => return Vec::new(),
        }
    } else if opens(&statement.keyword) {
        statement.args.clone()
    } else {
        return Vec::new();
    };
    // The exec form has none.
    if serde_json::from_str::<Vec<String>>(&args).is_ok() {
        return Vec::new();
    }
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        skip_unset: true,
        ..Lexer::new(escape)
    };
    // A malformed shell word opens none either; the shell reports it.
    let words = lexer.expand(&args, &|_| None).map(|e| e.words);
    words
        .unwrap_or_default()
        .iter()
        .filter_map(|word| opening(word, escape))
        .collect()
}

/// Parses the opening of a here-document, such as `<<EOF`, `<<-"EOF"` or `3<<EOF`.
pub fn opening(word: &str, escape: char) -> Option<HereDoc> {
    let word = word.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = word.strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let lexer = Lexer {
        skip_unset: true,
        ..Lexer::new(escape)
    };
    let words = lexer.expand(rest, &|_| None).ok()?.words;
    let [name] = words.as_slice() else {
        return None;
    };
    Some(HereDoc {
        name: name.clone(),
        content: String::new(),
        expand: name == rest,
        chomp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keyword, flags, arguments and lines.
    type Parts = (String, Vec<String>, String, (usize, usize));

    fn parts(text: &str) -> Vec<Parts> {
        let statements = split(text).unwrap().statements;
        let part = |s: Statement| (s.keyword, s.flags, s.args, s.lines);
        statements.into_iter().map(part).collect()
    }

    #[test]
    fn lines_are_joined() {
        let text = "\u{feff}# comment\nfrom a AS b\n\nRUN x \\\n  # inside\n\n  && y \\  \n  z\nCMD [\"a\"]\n";
        let found = parts(text);
        assert_eq!(found[0], ("FROM".into(), vec![], "a AS b".into(), (2, 2)));
        assert_eq!(
            found[1],
            ("RUN".into(), vec![], "x   && y   z".into(), (4, 8))
        );
        assert_eq!(found[2].3, (9, 9));
    }

    #[test]
    fn directives_come_first() {
        let source = split("# syntax=docker/dockerfile:1\n# escape=`\nRUN a `\n b\\\n").unwrap();
        assert_eq!(source.escape, '`');
        assert_eq!(source.syntax.as_deref(), Some("docker/dockerfile:1"));
        assert_eq!(source.statements[0].args, "a  b\\");
        let late = split("# note\n# escape=`\nFROM a\n").unwrap();
        assert_eq!(late.escape, '\\');
        assert!(split("# escape=x\nFROM a\n").is_err());
        assert!(split("# escape=`\n# escape=`\nFROM a\n").is_err());
        assert!(split("# only\n").is_err());
    }

    #[test]
    fn flags_are_taken_off() {
        let found = parts(
            "COPY --from=a --chown=\"b c\" --link x y\nRUN --mount=type=bind,source=a -- --b\n",
        );
        assert_eq!(found[0].1, ["--from=a", "--chown=b c", "--link"]);
        assert_eq!(found[0].2, "x y");
        assert_eq!(found[1].2, "--b");
    }

    #[test]
    fn here_documents_are_read() {
        let text = "RUN <<EOF\nif true\n# kept\nEOF\nCOPY <<a.txt <<-\"b\" /d/\nx $y\na.txt\n\tz\n\tb\nCMD x\n";
        let statements = split(text).unwrap().statements;
        assert_eq!(statements[0].heredocs[0].content, "if true\n# kept\n");
        assert!(statements[0].heredocs[0].expand);
        assert_eq!(statements[0].lines, (1, 4));
        let [a, b] = statements[1].heredocs.as_slice() else {
            panic!("{statements:?}");
        };
        assert_eq!((a.name.as_str(), a.text().as_str()), ("a.txt", "x $y\n"));
        assert_eq!(
            (b.name.as_str(), b.text().as_str(), b.expand),
            ("b", "z\n", false)
        );
        assert_eq!(statements[2].lines, (10, 10));
        let error = split("FROM a\nRUN <<EOF\nx\n").unwrap_err();
        assert_eq!(error.lines, Some((2, 2)));
        // Neither the exec form nor other instructions have them.
        assert!(split("FROM a\nRUN [\"cat\", \"<<EOF\"]\nLABEL a=<<EOF\n").is_ok());
    }
}
