//! Patterns of `${name#pattern}` and the like.

/// A part of a shell pattern, which has no bracket expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glob {
    /// Any characters.
    Any,
    /// One character.
    One,
    /// This character.
    Is(char),
}

/// Compiles a shell pattern.
///
/// # Errors
///
/// A message, if an escape is malformed.
pub fn glob(pattern: &str) -> Result<Vec<Glob>, String> {
    let mut out = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        out.push(match c {
            '*' => Glob::Any,
            '?' => Glob::One,
            '\\' => match chars.peek() {
                // The escape of what ends a pattern is no part of it.
                Some('}' | '/') => continue,
                Some(&next @ ('*' | '?' | '\\')) => {
                    chars.next();
                    Glob::Is(next)
                }
                other => {
                    return Err(format!(
                        "invalid pattern ({pattern}) in substitution: invalid escape '\\{}'",
                        other.map_or(String::new(), |c| c.to_string())
                    ));
                }
            },
            c => Glob::Is(c),
        });
    }
    Ok(out)
}

/// Returns whether the whole text matches, in time proportional to the product of the lengths.
pub fn glob_matches(glob: &[Glob], text: &[char]) -> bool {
    let (mut g, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match glob.get(g) {
            None if t == text.len() => return true,
            Some(Glob::Any) => {
                retry = Some((g, t));
                g += 1;
                continue;
            }
            Some(Glob::One) if t < text.len() => {
                (g, t) = (g + 1, t + 1);
                continue;
            }
            Some(Glob::Is(c)) if text.get(t) == Some(c) => {
                (g, t) = (g + 1, t + 1);
                continue;
            }
            _ => {}
        }
        match retry {
            Some((star, from)) if from < text.len() => {
                retry = Some((star, from + 1));
                (g, t) = (star + 1, from + 1);
            }
            _ => return false,
        }
    }
}

/// Removes the shortest or the longest match at the start or at the end.
pub fn trim(value: &str, pattern: &str, start: bool, longest: bool) -> Result<String, String> {
    let mut glob = glob(pattern)?;
    let mut text: Vec<char> = value.chars().collect();
    if !start {
        glob.reverse();
        text.reverse();
    }
    let mut lengths: Vec<usize> = (0..=text.len()).collect();
    if longest {
        lengths.reverse();
    }
    let cut = lengths
        .into_iter()
        .find(|n| glob_matches(&glob, &text[..*n]))
        .unwrap_or(0);
    let mut rest = text.split_off(cut);
    if !start {
        rest.reverse();
    }
    Ok(rest.into_iter().collect())
}
