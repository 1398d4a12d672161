//! The part of Go's templates (`text/template`) that people use with `--format`: text, fields,
//! `if`, `else` and `end`, trimming with dashes, and strings.

use std::fmt::Write as _;

/// A piece of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    /// Text to print as it is.
    Text(String),
    /// A field to print, and whether a line feed follows.
    Field(String, bool),
    /// A field that decides which pieces are printed.
    If {
        field: String,
        negated: bool,
        then: Vec<Piece>,
        other: Vec<Piece>,
    },
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// A part of a template's text.
enum Token {
    Text(String),
    Action(String),
}

impl Template {
    /// Parses a template whose fields are `fields`.
    pub fn parse(text: &str, fields: &[&str]) -> Result<Self, String> {
        let tokens = tokens(text)?;
        let mut rest = tokens.as_slice();
        let (pieces, end) = pieces(&mut rest, fields)?;
        match end {
            None => Ok(Self(pieces)),
            Some(word) => Err(format!("unexpected {{{{{word}}}}}")),
        }
    }

    /// Prints the template with the values that `value` returns for fields.
    pub fn render(&self, value: impl Fn(&str) -> String) -> String {
        let mut text = String::new();
        render(&self.0, &value, &mut text);
        text
    }
}

fn render(pieces: &[Piece], value: &impl Fn(&str) -> String, text: &mut String) {
    for piece in pieces {
        match piece {
            Piece::Text(plain) => text.push_str(plain),
            Piece::Field(field, line_feed) => {
                let end = if *line_feed { "\n" } else { "" };
                // Writing to a string does not fail.
                let _ = write!(text, "{}{end}", value(field));
            }
            Piece::If {
                field,
                negated,
                then,
                other,
            } => {
                let value_of = value(field);
                let is_set = !matches!(value_of.as_str(), "" | "false" | "0");
                let chosen = if is_set == *negated { other } else { then };
                render(chosen, value, text);
            }
        }
    }
}

/// Splits a template into text and actions, and trims text next to dashes.
fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trim = false;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, behind) = after
            .split_once("}}")
            .ok_or_else(|| "an action is not closed with }}".to_owned())?;
        let mut before = if trim { before.trim_start() } else { before };
        let mut action = action;
        if let Some(inner) = action.strip_prefix("- ") {
            action = inner;
            before = before.trim_end();
        }
        trim = false;
        if let Some(inner) = action.strip_suffix(" -") {
            action = inner;
            trim = true;
        }
        if !before.is_empty() {
            tokens.push(Token::Text(before.to_owned()));
        }
        tokens.push(Token::Action(action.trim().to_owned()));
        rest = behind;
    }
    let rest = if trim { rest.trim_start() } else { rest };
    if !rest.is_empty() {
        tokens.push(Token::Text(rest.to_owned()));
    }
    Ok(tokens)
}

/// Parses pieces up to an `else` or `end`, which is returned, too.
fn pieces(
    rest: &mut &[Token],
    fields: &[&str],
) -> Result<(Vec<Piece>, Option<&'static str>), String> {
    let mut found = Vec::new();
    while let Some((token, behind)) = rest.split_first() {
        *rest = behind;
        let action = match token {
            Token::Text(text) => {
                found.push(Piece::Text(text.clone()));
                continue;
            }
            Token::Action(action) => action.as_str(),
        };
        let words: Vec<&str> = action.split_whitespace().collect();
        match words.as_slice() {
            ["end"] => return Ok((found, Some("end"))),
            ["else"] => return Ok((found, Some("else"))),
            ["if", condition @ ..] => found.push(condition_of(condition, rest, fields)?),
            [] => return Err("an action is empty".to_owned()),
            ["println"] => found.push(Piece::Text("\n".to_owned())),
            ["println", field] => found.push(Piece::Field(field_of(field, fields)?, true)),
            ["print" | "printf" | "html" | "js", field] | [field] if field.starts_with('.') => {
                found.push(Piece::Field(field_of(field, fields)?, false));
            }
            _ if action.starts_with("/*") => {}
            _ if action.starts_with(['"', '`']) => found.push(Piece::Text(string(action)?)),
            _ => {
                return Err(format!(
                    "{{{{{action}}}}} is not understood; there are text, {{{{.Field}}}}, and {{{{if .Field}}}} … {{{{else}}}} … {{{{end}}}}"
                ));
            }
        }
    }
    Ok((found, None))
}

/// Parses what follows `if`.
fn condition_of(condition: &[&str], rest: &mut &[Token], fields: &[&str]) -> Result<Piece, String> {
    let (negated, field) = match condition {
        ["not", field] => (true, field),
        [field] => (false, field),
        _ => return Err("a condition is a field, or 'not' and a field".to_owned()),
    };
    let field = field_of(field, fields)?;
    let (then, mut end) = pieces(rest, fields)?;
    let mut other = Vec::new();
    if end == Some("else") {
        (other, end) = pieces(rest, fields)?;
    }
    if end != Some("end") {
        return Err("an {{if}} has no {{end}}".to_owned());
    }
    Ok(Piece::If {
        field,
        negated,
        then,
        other,
    })
}

fn field_of(word: &str, fields: &[&str]) -> Result<String, String> {
    let field = word.strip_prefix('.').unwrap_or_default();
    if fields.contains(&field) {
        return Ok(field.to_owned());
    }
    Err(format!(
        "there is no field '{word}'; there are .{}",
        fields.join(", .")
    ))
}

/// Returns the text of a string in Go's notation.
fn string(text: &str) -> Result<String, String> {
    if let Some(raw) = text.strip_prefix('`').and_then(|t| t.strip_suffix('`')) {
        return Ok(raw.to_owned());
    }
    // The escapes in use are those of JSON.
    serde_json::from_str(text).map_err(|_| format!("{text} is no string"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(template: &str) -> Result<String, String> {
        let template = Template::parse(template, &["Host", "Name", "Empty"])?;
        Ok(template.render(|field| match field {
            "Empty" => String::new(),
            field => field.to_lowercase(),
        }))
    }

    #[test]
    fn templates_print_what_go_prints() {
        let cases = [
            ("{{.Host}}", "host"),
            ("a {{ .Host }}-{{.Name}}\n", "a host-name\n"),
            ("a {{- .Host -}}  b", "ahostb"),
            ("{{if .Empty}}x{{else}}y{{end}}z", "yz"),
            ("{{if .Host}}x{{ if not .Empty }}!{{end}}{{end}}", "x!"),
            ("{{- if .Empty }}\nx: {{.Empty}}\n{{- end }}\n", "\n"),
            (r#"{{.Host}}{{"\n"}}"#, "host\n"),
            ("{{println .Host}}", "host\n"),
            ("no action", "no action"),
        ];
        for (template, expected) in cases {
            assert_eq!(print(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn wrong_templates_are_reported() {
        for (template, part) in [
            ("{{.Hosts}}", "'.Hosts'"),
            ("{{.Host", "not closed"),
            ("{{if .Host}}", "no {{end}}"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{range .Host}}{{end}}", "not understood"),
            ("{{}}", "empty"),
        ] {
            let error = print(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
    }
}
