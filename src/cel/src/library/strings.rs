//! Functions of strings: upstream's extension library in version 2.

use rkube_go_regexp::Pattern;

use super::convert::{text, texts};
use super::signature::{Run, no_overload};
use crate::ctx::Ctx;
use crate::value::{EvalError, Outcome, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("contains", contains),
    ("startsWith", starts_with),
    ("endsWith", ends_with),
    ("charAt", char_at),
    ("lowerAscii", lower_ascii),
    ("upperAscii", upper_ascii),
    ("trim", trim),
    ("replace", replace),
    ("split", split),
    ("substring", substring),
    ("join", join),
    ("strings.quote", quote),
    ("format", format_values),
    ("jsonpatch.escapeKey", escape_key),
];

fn contains<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [s, part] = args else {
        return no_overload();
    };
    Ok(Value::Bool(text(s)?.contains(text(part)?)))
}

fn starts_with<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [s, part] = args else {
        return no_overload();
    };
    Ok(Value::Bool(text(s)?.starts_with(text(part)?)))
}

fn ends_with<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [s, part] = args else {
        return no_overload();
    };
    Ok(Value::Bool(text(s)?.ends_with(text(part)?)))
}

fn char_at<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::String(s), Value::Int(at)] = args else {
        return no_overload();
    };
    let size = s.chars().count() as i64;
    if *at < 0 || *at > size {
        return out_of_range(*at);
    }
    let c = s.chars().nth(*at as usize);
    Ok(Value::text(c.map(String::from).unwrap_or_default()))
}

fn lower_ascii<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::text(text(s)?.to_ascii_lowercase())),
        _ => no_overload(),
    }
}

fn upper_ascii<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::text(text(s)?.to_ascii_uppercase())),
        _ => no_overload(),
    }
}

fn trim<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::text(text(s)?.trim())),
        _ => no_overload(),
    }
}

fn replace<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [s, from, to, rest @ ..] = args else {
        return no_overload();
    };
    let (s, from, to) = (text(s)?, text(from)?, text(to)?);
    let count = match rest {
        [] => -1,
        [Value::Int(n)] => *n,
        _ => return no_overload(),
    };
    // Replacement can make a short string very long, so the length is checked first.
    let found = s.matches(from).count();
    if found.saturating_mul(to.len()) > MAX_TEXT {
        return Err(EvalError::over_limit());
    }
    ctx.work(s.len() as u64 / 16)?;
    Ok(Value::text(match usize::try_from(count) {
        Ok(count) => s.replacen(from, to, count),
        Err(_) => s.replace(from, to),
    }))
}

fn split<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [s, by, rest @ ..] = args else {
        return no_overload();
    };
    let (s, by) = (text(s)?, text(by)?);
    let count = match rest {
        [] => -1,
        [Value::Int(n)] => *n,
        _ => return no_overload(),
    };
    texts(split_text(s, by, count))
}

fn substring<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::String(s), Value::Int(from), rest @ ..] = args else {
        return no_overload();
    };
    let size = s.chars().count() as i64;
    let to = match rest {
        [] => size,
        [Value::Int(to)] => *to,
        _ => return no_overload(),
    };
    if !rest.is_empty() && *from > to {
        return Err(EvalError::new(format!(
            "invalid substring range. start: {from}, end: {to}"
        )));
    }
    if *from < 0 || *from > size {
        return out_of_range(*from);
    }
    if to < 0 || to > size {
        return out_of_range(to);
    }
    let part = s.chars().skip(*from as usize).take((to - from) as usize);
    Ok(Value::text(part.collect::<String>()))
}

fn join<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::List(list), rest @ ..] = args else {
        return no_overload();
    };
    let between = match rest.first() {
        Some(between) => text(between)?,
        None => "",
    };
    let mut joined = String::new();
    for (i, item) in list.iter().enumerate() {
        if i > 0 {
            joined.push_str(between);
        }
        match item? {
            Value::String(s) => {
                ctx.work(1)?;
                if joined.len() + s.len() + between.len() > MAX_TEXT {
                    return Err(EvalError::over_limit());
                }
                joined.push_str(&s);
            }
            other => {
                return Err(EvalError::new(format!(
                    "join: invalid input: {}",
                    other.to_display()
                )));
            }
        }
    }
    Ok(Value::text(joined))
}

fn quote<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::text(quote_text(text(s)?))),
        _ => no_overload(),
    }
}

fn format_values<'a>(
    ctx: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    let [Value::String(s), Value::List(list)] = args else {
        return no_overload();
    };
    super::format::format(ctx, s, list)
}

fn escape_key<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(Value::text(text(s)?.replace('~', "~0").replace('/', "~1"))),
        _ => no_overload(),
    }
}

/// Maximum length in bytes of a string that a function builds. The cost of
/// building a string does not always bound its length.
const MAX_TEXT: usize = 16 << 20;

fn out_of_range<'a>(at: i64) -> Outcome<'a> {
    Err(EvalError::new(format!("index out of range: {at}")))
}

/// Returns the index of the first occurrence at or after `from`, or -1.
pub(super) fn index_of(s: &str, part: &str, from: Option<i64>) -> Result<i64, EvalError> {
    let from = from.unwrap_or(0);
    if part.is_empty() {
        return Ok(from);
    }
    let Ok(start) = usize::try_from(from) else {
        return Err(EvalError::new(format!("index out of range: {from}")));
    };
    let Some((byte, _)) = s.char_indices().nth(start) else {
        return Ok(-1);
    };
    Ok(match s[byte..].find(part) {
        Some(at) => from + s[byte..byte + at].chars().count() as i64,
        None => -1,
    })
}

/// Returns the index of the last occurrence that begins at or before `up_to`,
/// or -1.
pub(super) fn last_index_of(s: &str, part: &str, up_to: Option<i64>) -> Result<i64, EvalError> {
    let size = s.chars().count() as i64;
    if part.is_empty() {
        return Ok(up_to.unwrap_or(size));
    }
    let up_to = match up_to {
        None if s.len() < part.len() => return Ok(-1),
        None => size - 1,
        Some(at) if at < 0 => {
            return Err(EvalError::new(format!("index out of range: {at}")));
        }
        Some(at) if at >= size => return Ok(-1),
        Some(at) => at,
    };
    // The part may begin at `up_to` and reach beyond it.
    let end = (up_to + part.chars().count() as i64).min(size) as usize;
    let end = s.char_indices().nth(end).map_or(s.len(), |(byte, _)| byte);
    Ok(match s[..end].rfind(part) {
        Some(at) => s[..at].chars().count() as i64,
        None => -1,
    })
}

fn split_text(s: &str, by: &str, count: i64) -> Vec<String> {
    if count == 0 {
        return Vec::new();
    }
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    if by.is_empty() {
        let mut parts = Vec::new();
        let mut rest = s;
        while let Some(c) = rest.chars().next() {
            if parts.len() + 1 == most {
                parts.push(rest.to_owned());
                return parts;
            }
            parts.push(c.to_string());
            rest = &rest[c.len_utf8()..];
        }
        return parts;
    }
    s.splitn(most, by).map(str::to_owned).collect()
}

fn quote_text(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
