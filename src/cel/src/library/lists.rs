//! Functions of lists and sets.

use std::cmp::Ordering;

use rkube_go_regexp::Pattern;

use super::signature::{Run, no_overload};
use super::standard::add_values;
use super::strings;
use crate::ctx::Ctx;
use crate::value::{EvalError, List, Outcome, Value};

/// Functions by name.
pub(crate) const FUNCTIONS: &[(&str, Run)] = &[
    ("isSorted", is_sorted),
    ("sum", sum),
    ("list_uint_sum_uint", sum_uint),
    ("list_double_sum_double", sum_double),
    ("list_duration_sum_duration", sum_duration),
    ("max", max),
    ("min", min),
    ("indexOf", index_of),
    ("lastIndexOf", last_index_of),
    ("slice", slice),
    ("flatten", flatten),
    ("sort", sort),
    ("@sortByAssociatedKeys", sort_by_associated_keys),
    ("lists.range", lists_range),
    ("reverse", reverse),
    ("distinct", distinct),
    ("sets.contains", sets_contains),
    ("sets.equivalent", sets_equivalent),
    ("sets.intersects", sets_intersects),
];

fn is_sorted<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let mut last: Option<Value<'_>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        if let Some(last) = &last
            && last.compare(&item)? == Ordering::Greater
        {
            return Ok(Value::Bool(false));
        }
        last = Some(item);
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    sum_from(Value::Int(0), args)
}

fn sum_uint<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    sum_from(Value::Uint(0), args)
}

fn sum_double<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    sum_from(Value::Double(0.0), args)
}

fn sum_duration<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    sum_from(Value::Duration(0), args)
}

/// Returns the sum of a list; `empty` if it has no elements.
fn sum_from<'a>(empty: Value<'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let mut sum: Option<Value<'_>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        sum = Some(match sum {
            None => item,
            Some(sum) => add_values(&sum, &item)?,
        });
    }
    Ok(sum.unwrap_or(empty))
}

fn max<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    extreme(args, "max", Ordering::Less)
}

fn min<'a>(_: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    extreme(args, "min", Ordering::Greater)
}

fn index_of<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::List(list), item] => position(ctx, list, item, false),
        [Value::String(s), Value::String(part)] => strings::index_of(s, part, None).map(Value::Int),
        [Value::String(s), Value::String(part), Value::Int(from)] => {
            strings::index_of(s, part, Some(*from)).map(Value::Int)
        }
        _ => no_overload(),
    }
}

fn last_index_of<'a>(
    ctx: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [Value::List(list), item] => position(ctx, list, item, true),
        [Value::String(s), Value::String(part)] => {
            strings::last_index_of(s, part, None).map(Value::Int)
        }
        [Value::String(s), Value::String(part), Value::Int(from)] => {
            strings::last_index_of(s, part, Some(*from)).map(Value::Int)
        }
        _ => no_overload(),
    }
}

fn slice<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let [Value::List(list), Value::Int(from), Value::Int(to)] = args else {
        return no_overload();
    };
    let problem = if *from < 0 || *to < 0 {
        "negative indexes not supported".to_owned()
    } else if from > to {
        "start index must be less than or equal to end index".to_owned()
    } else if (list.len() as i64) < *to {
        format!("list is length {}", list.len())
    } else {
        ctx.work((to - from) as u64)?;
        let items = (*from..*to).map_while(|i| list.get(i as usize));
        return Ok(Value::list(items.collect::<Result<_, _>>()?));
    };
    Err(EvalError::new(format!(
        "cannot slice({from}, {to}), {problem}"
    )))
}

fn flatten<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let depth = match args.get(1) {
        None => 1,
        Some(Value::Int(depth)) => *depth,
        Some(_) => return no_overload(),
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut items = Vec::new();
    flatten_into(ctx, list(args)?, depth, &mut items)?;
    Ok(Value::list(items))
}

fn sort<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let list = list(args)?;
    sorted(ctx, list, list)
}

fn sort_by_associated_keys<'a>(
    ctx: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [Value::List(list), Value::List(keys)] => sorted(ctx, list, keys),
        _ => no_overload(),
    }
}

fn lists_range<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    match args {
        [Value::Int(n)] => {
            ctx.work((*n).max(0) as u64)?;
            Ok(Value::list((0..*n).map(Value::Int).collect()))
        }
        _ => no_overload(),
    }
}

fn reverse<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let list = list(args)?;
    ctx.work(list.len() as u64)?;
    let mut items: Vec<_> = list.iter().collect::<Result<_, _>>()?;
    items.reverse();
    Ok(Value::list(items))
}

fn distinct<'a>(ctx: &mut Ctx<'a, '_>, args: &[Value<'a>], _: Option<&Pattern>) -> Outcome<'a> {
    let mut items: Vec<Value<'_>> = Vec::new();
    'next: for item in list(args)?.iter() {
        let item = item?;
        for seen in &items {
            if ctx.equals(seen, &item)? {
                continue 'next;
            }
        }
        items.push(item);
    }
    Ok(Value::list(items))
}

fn sets_contains<'a>(
    ctx: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [Value::List(list), Value::List(part)] => contains_all(ctx, list, part).map(Value::Bool),
        _ => no_overload(),
    }
}

fn sets_equivalent<'a>(
    ctx: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(
            contains_all(ctx, a, b)? && contains_all(ctx, b, a)?,
        )),
        _ => no_overload(),
    }
}

fn sets_intersects<'a>(
    ctx: &mut Ctx<'a, '_>,
    args: &[Value<'a>],
    _: Option<&Pattern>,
) -> Outcome<'a> {
    match args {
        [Value::List(a), Value::List(b)] => {
            for item in b.iter() {
                if contains(ctx, a, &item?)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        _ => no_overload(),
    }
}

fn list<'v, 'a>(args: &'v [Value<'a>]) -> Result<&'v List<'a>, EvalError> {
    match args.first() {
        Some(Value::List(list)) => Ok(list),
        _ => no_overload(),
    }
}

fn extreme<'a>(args: &[Value<'a>], name: &str, prefer: Ordering) -> Outcome<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(args)?.iter() {
        let item = item?;
        best = Some(match best {
            Some(best) if best.compare(&item)? != prefer => best,
            _ => item,
        });
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn position<'a>(
    ctx: &mut Ctx<'a, '_>,
    list: &List<'a>,
    item: &Value<'a>,
    last: bool,
) -> Outcome<'a> {
    for step in 0..list.len() {
        let at = if last { list.len() - 1 - step } else { step };
        if let Some(found) = list.get(at)
            && ctx.equals(&found?, item)?
        {
            return Ok(Value::Int(at as i64));
        }
    }
    Ok(Value::Int(-1))
}

fn flatten_into<'a>(
    ctx: &mut Ctx<'a, '_>,
    list: &List<'a>,
    depth: i64,
    into: &mut Vec<Value<'a>>,
) -> Result<(), EvalError> {
    for item in list.iter() {
        ctx.work(1)?;
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(ctx, &inner, depth - 1, into)?,
            item => into.push(item),
        }
    }
    Ok(())
}

fn sorted<'a>(ctx: &mut Ctx<'a, '_>, list: &List<'a>, keys: &List<'a>) -> Outcome<'a> {
    if list.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys \
             list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    ctx.work(list.len() as u64)?;
    let mut pairs = Vec::with_capacity(list.len());
    for (item, key) in list.iter().zip(keys.iter()) {
        pairs.push((key?, item?));
    }
    if let Some((first, _)) = pairs.first() {
        let comparable = first.compare(first).is_ok() || matches!(first, Value::Double(_));
        if !comparable {
            return Err(EvalError::new("list elements must be comparable"));
        }
        let ty = first.type_of();
        if pairs.iter().any(|(key, _)| key.type_of() != ty) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    pairs.sort_by(|a, b| a.0.compare(&b.0).unwrap_or(Ordering::Equal));
    Ok(Value::list(
        pairs.into_iter().map(|(_, item)| item).collect(),
    ))
}

fn contains<'a>(
    ctx: &mut Ctx<'a, '_>,
    list: &List<'a>,
    item: &Value<'a>,
) -> Result<bool, EvalError> {
    for own in list.iter() {
        if ctx.equals(&own?, item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn contains_all<'a>(
    ctx: &mut Ctx<'a, '_>,
    list: &List<'a>,
    part: &List<'a>,
) -> Result<bool, EvalError> {
    for item in part.iter() {
        if !contains(ctx, list, &item?)? {
            return Ok(false);
        }
    }
    Ok(true)
}
