//! The function `format` of strings.

use crate::ast::{Expr, Kind, Literal};
use crate::checker::Checked;
use crate::ctx::Ctx;
use crate::number::{go_fixed, go_quote, go_scientific};
use crate::source::Issues;
use crate::types::Type;
use crate::value::{EvalError, Outcome, Value};

/// Replaces the clauses of a format string by the formatted arguments.
pub(super) fn format<'a>(
    ctx: &mut Ctx<'a, '_>,
    text: &str,
    list: &crate::value::List<'a>,
) -> Outcome<'a> {
    let mut formatter = Values { ctx, list };
    interpolate(text, &mut formatter)
        .map(Value::text)
        .map_err(|e| EvalError::new(e.1))
}

/// A clause of a format string.
#[derive(Clone, Copy)]
enum Clause {
    String,
    Decimal,
    Fixed(usize),
    Scientific(usize),
    Binary,
    Hex(bool),
    Octal,
}

/// Arguments of a format string: values, or expressions to be checked.
trait Arguments {
    fn len(&self) -> usize;
    /// Formats an argument. An error holds the node to report at, if any, and the message.
    fn format(&mut self, at: usize, clause: Clause) -> Result<String, (Option<u32>, String)>;
}

type Problem = (Option<u32>, String);

fn interpolate(format: &str, arguments: &mut dyn Arguments) -> Result<String, Problem> {
    let mut out = String::new();
    let mut rest = format;
    let mut used = 0;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        rest = &rest[percent + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        if used >= arguments.len() {
            return Err((None, format!("index {used} out of range")));
        }
        if rest.is_empty() {
            return Err((None, "unexpected end of string".into()));
        }
        let (clause, after) =
            clause(rest).map_err(|e| (None, format!("could not parse formatting clause: {e}")))?;
        rest = after;
        let text = arguments
            .format(used, clause)
            .map_err(|(id, e)| (id, format!("error during formatting: {e}")))?;
        out.push_str(&text);
        used += 1;
    }
    out.push_str(rest);
    Ok(out)
}

fn clause(text: &str) -> Result<(Clause, &str), String> {
    let (precision, rest) = match text.strip_prefix('.') {
        None => (6, text),
        Some(digits) => {
            let end = digits.find(|c: char| !c.is_ascii_digit()).ok_or(
                "error while parsing precision: could not find end of precision specifier",
            )?;
            let precision: usize = digits[..end].parse().map_err(|_| {
                format!(
                    "error while parsing precision: error while converting precision to integer: \
                     strconv.Atoi: parsing {}: invalid syntax",
                    go_quote(&digits[..end])
                )
            })?;
            (precision.min(1000), &digits[end..])
        }
    };
    let c = rest.chars().next().unwrap_or_default();
    let clause = match c {
        's' => Clause::String,
        'd' => Clause::Decimal,
        'f' => Clause::Fixed(precision),
        'e' => Clause::Scientific(precision),
        'b' => Clause::Binary,
        'x' => Clause::Hex(false),
        'X' => Clause::Hex(true),
        'o' => Clause::Octal,
        c => return Err(format!("unrecognized formatting clause \"{c}\"")),
    };
    Ok((clause, &rest[c.len_utf8()..]))
}

fn unfit(clause: Clause, ty: &str) -> String {
    let what = match clause {
        Clause::String => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, \
             types, durations, and timestamps"
        }
        Clause::Decimal => "decimal clause can only be used on integers",
        Clause::Fixed(_) => "fixed-point clause can only be used on doubles",
        Clause::Scientific(_) => "scientific clause can only be used on doubles",
        Clause::Binary => "only integers and bools can be formatted as binary",
        Clause::Hex(_) => "only integers, byte buffers, and strings can be formatted as hex",
        Clause::Octal => "octal clause can only be used on integers",
    };
    format!("{what}, was given {ty}")
}

struct Values<'v, 'a, 'r> {
    ctx: &'v mut Ctx<'a, 'r>,
    list: &'v crate::value::List<'a>,
}

impl Arguments for Values<'_, '_, '_> {
    fn len(&self) -> usize {
        self.list.len()
    }

    fn format(&mut self, at: usize, clause: Clause) -> Result<String, Problem> {
        let value = match self.list.get(at) {
            Some(Ok(value)) => value,
            Some(Err(e)) => return Err((None, e.message)),
            None => return Err((None, format!("index {at} out of range"))),
        };
        format_value(self.ctx, &value, clause).map_err(|e| (None, e))
    }
}

fn special(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(d) => Some(*d),
        Value::String(s) => match &**s {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

/// Replaces infinities by `∞`, as upstream's locale-aware number formatter does.
fn for_people(text: String) -> String {
    match text.as_str() {
        "+Inf" => "\u{221e}".into(),
        "-Inf" => "-\u{221e}".into(),
        _ => text,
    }
}

fn format_value(
    ctx: &mut Ctx<'_, '_>,
    value: &Value<'_>,
    clause: Clause,
) -> Result<String, String> {
    let wrong = || unfit(clause, value.type_of().runtime_name());
    Ok(match (clause, value) {
        (Clause::String, value) => plain(ctx, value)?.ok_or_else(wrong)?,
        (Clause::Decimal, Value::Int(i)) => i.to_string(),
        (Clause::Decimal, Value::Uint(u)) => u.to_string(),
        (Clause::Fixed(precision), value) => {
            for_people(go_fixed(special(value).ok_or_else(wrong)?, precision))
        }
        (Clause::Scientific(precision), value) => {
            let text = for_people(go_scientific(special(value).ok_or_else(wrong)?, precision));
            match text.split_once('e') {
                Some((mantissa, exponent)) => {
                    format!("{mantissa}\u{d7}10{}", power(exponent))
                }
                None => text,
            }
        }
        (Clause::Binary, Value::Int(i)) => signed(*i, |n| format!("{n:b}")),
        (Clause::Binary, Value::Uint(u)) => format!("{u:b}"),
        (Clause::Binary, Value::Bool(b)) => u8::from(*b).to_string(),
        (Clause::Hex(upper), Value::Int(i)) => hex(upper, signed(*i, |n| format!("{n:x}"))),
        (Clause::Hex(upper), Value::Uint(u)) => hex(upper, format!("{u:x}")),
        (Clause::Hex(upper), Value::String(s)) => hex(upper, bytes_hex(s.as_bytes())),
        (Clause::Hex(upper), Value::Bytes(b)) => hex(upper, bytes_hex(b)),
        (Clause::Octal, Value::Int(i)) => signed(*i, |n| format!("{n:o}")),
        (Clause::Octal, Value::Uint(u)) => format!("{u:o}"),
        _ => return Err(wrong()),
    })
}

fn superscript(c: char) -> char {
    match c {
        '1' => '\u{b9}',
        '2' => '\u{b2}',
        '3' => '\u{b3}',
        '0' | '4'..='9' => char::from_u32(0x2070 + (c as u32 - '0' as u32)).unwrap_or(c),
        '-' => '\u{207b}',
        c => c,
    }
}

/// Converts an exponent of at least two digits to superscript.
fn power(exponent: &str) -> String {
    exponent
        .trim_start_matches('+')
        .chars()
        .map(superscript)
        .collect()
}

fn signed(i: i64, digits: fn(u64) -> String) -> String {
    let sign = if i < 0 { "-" } else { "" };
    format!("{sign}{}", digits(i.unsigned_abs()))
}

fn bytes_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn hex(upper: bool, text: String) -> String {
    if upper { text.to_uppercase() } else { text }
}

/// Formats a value for `%s`, `None` if the clause does not support it.
fn plain(ctx: &mut Ctx<'_, '_>, value: &Value<'_>) -> Result<Option<String>, String> {
    ctx.work(1).map_err(|e| e.message)?;
    Ok(Some(match value {
        Value::Null => "null".into(),
        Value::List(list) => {
            let mut parts = Vec::new();
            for item in list.iter() {
                parts.push(element(ctx, &item.map_err(|e| e.message)?)?);
            }
            format!("[{}]", parts.join(", "))
        }
        Value::Map(map) => {
            let mut entries = Vec::new();
            for key in map.keys() {
                let shown = match &key {
                    Value::String(s) => go_quote(s),
                    Value::Bool(_) | Value::Int(_) | Value::Uint(_) => key.to_display(),
                    other => {
                        return Err(format!(
                            "no formatting function for map key of type {}",
                            other.type_of().runtime_name()
                        ));
                    }
                };
                if let Some(value) = map.get(&key) {
                    let value = element(ctx, &value.map_err(|e| e.message)?)?;
                    entries.push((shown, value));
                }
            }
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            let entries: Vec<_> = entries
                .into_iter()
                .map(|(key, value)| format!("{key}:{value}"))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
        Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::Bool(_)
        | Value::String(_)
        | Value::Timestamp(_)
        | Value::Bytes(_)
        | Value::Duration(_)
        | Value::Type(_) => value.to_text().map_err(|e| e.message)?,
        _ => return Ok(None),
    }))
}

/// Formats an element of a list or map for `%s`.
fn element(ctx: &mut Ctx<'_, '_>, value: &Value<'_>) -> Result<String, String> {
    Ok(match value {
        Value::String(s) => go_quote(s),
        Value::Bytes(b) => format!("b{}", go_quote(&String::from_utf8_lossy(b))),
        Value::Double(d) if !d.is_finite() => go_quote(&go_fixed(*d, 6)),
        Value::Double(d) => go_fixed(*d, 6),
        Value::Timestamp(_) => {
            format!(
                "timestamp({})",
                go_quote(&value.to_text().map_err(|e| e.message)?)
            )
        }
        Value::Duration(_) => {
            format!(
                "duration({})",
                go_quote(&value.to_text().map_err(|e| e.message)?)
            )
        }
        value => match plain(ctx, value)? {
            Some(text) => text,
            None => {
                return Err(format!(
                    "no formatting function for {}",
                    value.type_of().runtime_name()
                ));
            }
        },
    })
}

struct Expressions<'c> {
    checked: &'c Checked,
    args: &'c [Expr],
    used: usize,
}

impl Arguments for Expressions<'_> {
    fn len(&self) -> usize {
        self.args.len()
    }

    fn format(&mut self, at: usize, clause: Clause) -> Result<String, Problem> {
        self.used += 1;
        let arg = &self.args[at];
        let ty = self.checked.ty(arg);
        let fits = match clause {
            Clause::String => {
                return match self.unshown(arg) {
                    None => Ok(String::new()),
                    Some(bad) => {
                        let ty = self.checked.ty(bad).runtime_name();
                        Err((Some(bad.id), unfit(clause, ty)))
                    }
                };
            }
            Clause::Decimal | Clause::Octal => matches!(ty, Type::Int | Type::Uint),
            Clause::Fixed(_) | Clause::Scientific(_) => {
                matches!(ty, Type::Double | Type::String)
            }
            Clause::Binary => matches!(ty, Type::Int | Type::Uint | Type::Bool),
            Clause::Hex(_) => {
                matches!(ty, Type::Int | Type::Uint | Type::String | Type::Bytes)
            }
        };
        if fits || ty.is_dyn() {
            Ok(String::new())
        } else {
            Err((Some(arg.id), unfit(clause, ty.runtime_name())))
        }
    }
}

impl<'c> Expressions<'c> {
    /// Returns the part of an expression that `%s` does not support.
    fn unshown(&self, e: &'c Expr) -> Option<&'c Expr> {
        let fits = matches!(
            self.checked.ty(e),
            Type::Dyn
                | Type::List(_)
                | Type::Map(_)
                | Type::Int
                | Type::Uint
                | Type::Double
                | Type::Bool
                | Type::String
                | Type::Timestamp
                | Type::Bytes
                | Type::Duration
                | Type::Type(_)
                | Type::Null
        );
        if !fits {
            return Some(e);
        }
        match &e.kind {
            Kind::List { elements, .. } => elements.iter().find_map(|e| self.unshown(e)),
            Kind::Map(entries) => entries
                .iter()
                .find_map(|e| self.unshown(&e.key).or_else(|| self.unshown(&e.value))),
            _ => None,
        }
    }
}

/// Validates a call of `format` whose format string and arguments are literals.
pub(crate) fn check_format(checked: &Checked, e: &Expr, issues: &mut Issues) {
    let Kind::Call {
        target: Some(target),
        function,
        args,
    } = &e.kind
    else {
        return;
    };
    let (Kind::Literal(Literal::String(format)), [list]) = (&target.kind, args.as_slice()) else {
        return;
    };
    let (Kind::List { elements, .. }, "format") = (&list.kind, function.as_str()) else {
        return;
    };
    let mut arguments = Expressions {
        checked,
        args: elements,
        used: 0,
    };
    let place = |id: u32| checked.ast.offsets.get(id as usize).copied();
    match interpolate(format, &mut arguments) {
        Err((id, message)) => issues.report(place(id.unwrap_or(e.id)), message),
        Ok(_) if elements.len() > arguments.used => issues.report(
            place(e.id),
            format!(
                "too many arguments supplied to string.format (expected {}, got {})",
                arguments.used,
                elements.len()
            ),
        ),
        Ok(_) => {}
    }
}
