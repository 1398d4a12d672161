//! Words, lines and blocks of a Corefile.

use super::types::Problem;

/// The words of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The line's number, from 1.
    pub number: usize,
    /// The words without a brace at the end.
    pub words: Vec<String>,
}

/// A plugin in a server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive {
    /// The name and its arguments.
    pub line: Line,
    /// The lines in braces.
    pub body: Vec<Line>,
}

/// A server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    /// Zones and ports.
    pub keys: Line,
    /// The plugins in the order of the file.
    pub directives: Vec<Directive>,
}

struct Word {
    line: usize,
    text: String,
    /// Written in quotes, so that it is no brace.
    quoted: bool,
}

fn words(text: &str) -> Result<Vec<Word>, Problem> {
    let mut words: Vec<Word> = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                let (start, mut text, mut closed) = (line, String::new(), false);
                while let Some(c) = chars.next() {
                    match c {
                        '"' => {
                            closed = true;
                            break;
                        }
                        // Only quotes are escaped; regular expressions have other backslashes.
                        '\\' if chars.peek() == Some(&'"') => text.extend(chars.next()),
                        c => {
                            line += usize::from(c == '\n');
                            text.push(c);
                        }
                    }
                }
                if !closed {
                    return Err(Problem::at(start, "a quotation mark has no counterpart"));
                }
                words.push(Word {
                    line: start,
                    text,
                    quoted: true,
                });
            }
            c => {
                let mut text = c.to_string();
                while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                    text.push(c);
                }
                if text.contains("{$") || text.contains("{%") {
                    let what = format!("environment variables are not available: {text}");
                    return Err(Problem::at(line, what));
                }
                words.push(Word {
                    line,
                    text,
                    quoted: false,
                });
            }
        }
    }
    Ok(words)
}

impl Word {
    fn is(&self, brace: &str) -> bool {
        !self.quoted && self.text == brace
    }
}

/// A line, and whether a brace at its end opens a block, or the line is a closing brace.
enum Step {
    Plain(Line),
    Opens(Line),
    Closes(usize),
}

fn steps(text: &str) -> Result<Vec<Step>, Problem> {
    let mut steps = Vec::new();
    let mut words = words(text)?.into_iter().peekable();
    while let Some(first) = words.next() {
        let number = first.line;
        if first.is("}") {
            steps.push(Step::Closes(number));
            continue;
        }
        let mut line = Line {
            number,
            words: Vec::new(),
        };
        let mut opens = first.is("{");
        if !opens {
            line.words.push(first.text);
        }
        while !opens && let Some(word) = words.next_if(|word| word.line == number) {
            if word.is("}") {
                return Err(Problem::at(number, "'}' must be on a line of its own"));
            }
            opens = word.is("{");
            if !opens {
                line.words.push(word.text);
            }
        }
        steps.push(match opens {
            true => Step::Opens(line),
            false => Step::Plain(line),
        });
    }
    Ok(steps)
}

/// Reads the server blocks of a file.
pub(super) fn read(text: &str) -> Result<Vec<Server>, Problem> {
    let mut servers = Vec::new();
    let mut steps = steps(text)?.into_iter();
    while let Some(step) = steps.next() {
        match step {
            Step::Closes(number) => return Err(Problem::at(number, "Unexpected '}'")),
            Step::Opens(keys) => {
                let directives = directives(&mut steps, Some(keys.number))?;
                servers.push(Server { keys, directives });
            }
            // Braces may be left out if there is one block.
            Step::Plain(keys) if servers.is_empty() => {
                let directives = directives(&mut steps, None)?;
                servers.push(Server { keys, directives });
            }
            Step::Plain(line) => {
                let word = line.words.first().cloned().unwrap_or_default();
                let what = format!("'{{' is missing after '{word}'");
                return Err(Problem::at(line.number, what));
            }
        }
    }
    Ok(servers)
}

/// Reads the plugins of a block, up to its end. `opened` is the line of its brace.
fn directives(
    steps: &mut impl Iterator<Item = Step>,
    opened: Option<usize>,
) -> Result<Vec<Directive>, Problem> {
    let mut found = Vec::new();
    while let Some(step) = steps.next() {
        match step {
            Step::Closes(number) => match opened {
                Some(_) => return Ok(found),
                None => return Err(Problem::at(number, "Unexpected '}'")),
            },
            Step::Plain(line) => found.push(Directive {
                line,
                body: Vec::new(),
            }),
            Step::Opens(line) if line.words.is_empty() => {
                return Err(Problem::at(line.number, "Unexpected '{'"));
            }
            Step::Opens(line) => {
                let body = body(steps, line.number)?;
                found.push(Directive { line, body });
            }
        }
    }
    match opened {
        Some(number) => Err(Problem::at(number, "the '{' of this line is not closed")),
        None => Ok(found),
    }
}

fn body(steps: &mut impl Iterator<Item = Step>, opened: usize) -> Result<Vec<Line>, Problem> {
    let mut lines = Vec::new();
    for step in steps {
        match step {
            Step::Closes(_) => return Ok(lines),
            Step::Plain(line) => lines.push(line),
            Step::Opens(line) => return Err(Problem::at(line.number, "Unexpected '{'")),
        }
    }
    Err(Problem::at(opened, "the '{' of this line is not closed"))
}
