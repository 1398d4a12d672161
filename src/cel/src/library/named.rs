//! Functions of named formats.

use rkube_go_regexp::Pattern;

use super::convert::{text, texts};
use super::signature::{Run, no_overload};
use crate::ctx::Ctx;
use crate::value::{NamedFormat, Outcome, Value};

fn find_format<'a>(name: &str) -> Outcome<'a> {
    NamedFormat::find(name).map_or_else(no_overload, |f| Ok(Value::Format(f)))
}

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("validate", validate),
    ("format.named", format_named),
    ("format.dns1123Label", format_dns1123_label),
    ("format.dns1123Subdomain", format_dns1123_subdomain),
    ("format.dns1035Label", format_dns1035_label),
    ("format.qualifiedName", format_qualified_name),
    ("format.dns1123LabelPrefix", format_dns1123_label_prefix),
    (
        "format.dns1123SubdomainPrefix",
        format_dns1123_subdomain_prefix,
    ),
    ("format.dns1035LabelPrefix", format_dns1035_label_prefix),
    ("format.labelValue", format_label_value),
    ("format.uri", format_uri),
    ("format.uuid", format_uuid),
    ("format.byte", format_byte),
    ("format.date", format_date),
    ("format.datetime", format_datetime),
];

fn validate<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::Format(format), s] = args else {
        return no_overload();
    };
    let problems = format.check(text(s)?);
    if problems.is_empty() {
        return Ok(Value::Optional(None));
    }
    texts(problems).map(Value::some)
}

fn format_named<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [s] => Ok(match NamedFormat::find(text(s)?) {
            Some(format) => Value::some(Value::Format(format)),
            None => Value::Optional(None),
        }),
        _ => no_overload(),
    }
}

fn format_dns1123_label<'a>(
    _: &mut Ctx<'a, '_>,
    _: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    find_format("dns1123Label")
}

fn format_dns1123_subdomain<'a>(
    _: &mut Ctx<'a, '_>,
    _: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    find_format("dns1123Subdomain")
}

fn format_dns1035_label<'a>(
    _: &mut Ctx<'a, '_>,
    _: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    find_format("dns1035Label")
}

fn format_qualified_name<'a>(
    _: &mut Ctx<'a, '_>,
    _: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    find_format("qualifiedName")
}

fn format_dns1123_label_prefix<'a>(
    _: &mut Ctx<'a, '_>,
    _: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    find_format("dns1123LabelPrefix")
}

fn format_dns1123_subdomain_prefix<'a>(
    _: &mut Ctx<'a, '_>,
    _: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    find_format("dns1123SubdomainPrefix")
}

fn format_dns1035_label_prefix<'a>(
    _: &mut Ctx<'a, '_>,
    _: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    find_format("dns1035LabelPrefix")
}

fn format_label_value<'a>(
    _: &mut Ctx<'a, '_>,
    _: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    find_format("labelValue")
}

fn format_uri<'a>(_: &mut Ctx<'a, '_>, _: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    find_format("uri")
}

fn format_uuid<'a>(_: &mut Ctx<'a, '_>, _: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    find_format("uuid")
}

fn format_byte<'a>(_: &mut Ctx<'a, '_>, _: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    find_format("byte")
}

fn format_date<'a>(_: &mut Ctx<'a, '_>, _: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    find_format("date")
}

fn format_datetime<'a>(_: &mut Ctx<'a, '_>, _: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    find_format("datetime")
}
