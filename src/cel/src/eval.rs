//! Evaluator.
//!
//! Functions are kept small and out of line: deep expressions recurse, and the size of the frames
//! determines the stack usage.

use std::sync::Arc;

use crate::ctx::Ctx;
use crate::plan::{Call, Fold, Index, Mode, Node, Select, Struct};
use crate::runtime_cost;
use crate::value::{ConstructedObject, EvalError, Key, List, Map, Object, Outcome, OwnMap, Value};

impl<'a> Ctx<'a, '_> {
    /// Evaluates a node.
    pub(crate) fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Var(_) | Node::Local(_) | Node::Select(_) | Node::Index(_) => {
                self.attribute(node, true)
            }
            Node::Call(call) => self.call(call),
            Node::And(terms) => self.logic(&terms.0, &terms.1, false),
            Node::Or(terms) => self.logic(&terms.0, &terms.1, true),
            Node::Cond(parts) => self.conditional(&parts.0, &parts.1, &parts.2),
            Node::List(nodes) => self.list(nodes),
            Node::Map(nodes) => self.map(nodes),
            Node::Struct(what) => self.structure(what),
            Node::Fold(fold) => self.fold(fold),
            Node::Among(parts) => self.among(&parts.0, &parts.1),
            Node::OptionalOr(parts) => self.optional_or(&parts.0, &parts.1, false),
            Node::OptionalOrValue(parts) => self.optional_or(&parts.0, &parts.1, true),
        }
    }

    /// Evaluates a chain of selections, starting with its operand. Charges for the operand only
    /// if `base` is true: upstream does not charge for it in a branch of a conditional.
    #[inline(never)]
    fn attribute(&mut self, node: &'a Node, base: bool) -> Outcome<'a> {
        match node {
            Node::Var(slot) => {
                self.charge(u64::from(base))?;
                self.variables.variable(*slot)
            }
            Node::Local(at) => {
                self.charge(u64::from(base))?;
                Ok(self.locals[*at].clone())
            }
            Node::Select(select) => self.select(select, base),
            Node::Index(index) => self.index(index, base),
            Node::Cond(_) => self.eval(node),
            _ => {
                let value = self.eval(node)?;
                self.charge(u64::from(base))?;
                Ok(value)
            }
        }
    }

    #[inline(never)]
    fn select(&mut self, select: &'a Select, base: bool) -> Outcome<'a> {
        let presence = select.mode == Mode::Presence;
        if let Node::Var(slot) = &select.operand
            && let Some(outcome) = self.variables.field(*slot, &select.field)
        {
            let spent = self.variables.spent();
            self.charge(spent + 1 + u64::from(base && !presence))?;
            let value = outcome?;
            return Ok(match select.mode {
                Mode::Value => value,
                Mode::Optional => Value::some(value),
                Mode::Presence => Value::Bool(true),
            });
        }
        let operand = self.attribute(&select.operand, base && !presence)?;
        let (operand, through) = match operand {
            Value::Optional(None) => {
                return Ok(if presence {
                    Value::Bool(false)
                } else {
                    Value::Optional(None)
                });
            }
            Value::Optional(Some(value)) => ((*value).clone(), true),
            value => (value, false),
        };
        let found = find_field(&operand, &select.field);
        // An absent optional field costs nothing.
        let absent = matches!(found, Ok(None)) && (through || select.mode == Mode::Optional);
        self.charge(u64::from(!absent))?;
        let found = found?;
        Ok(match (select.mode, found) {
            (Mode::Presence, found) => Value::Bool(found.is_some()),
            (Mode::Optional, Some(value)) => Value::some(value?),
            (Mode::Optional, None) => Value::Optional(None),
            (Mode::Value, Some(value)) if through => Value::some(value?),
            (Mode::Value, None) if through => Value::Optional(None),
            (Mode::Value, Some(value)) => value?,
            (Mode::Value, None) => {
                return Err(EvalError::new(format!("no such key: {}", select.field)));
            }
        })
    }

    #[inline(never)]
    fn index(&mut self, index: &'a Index, base: bool) -> Outcome<'a> {
        let operand = self.attribute(&index.operand, base)?;
        let key = match &index.index {
            node @ (Node::Var(_) | Node::Local(_) | Node::Select(_) | Node::Index(_)) => {
                self.attribute(node, false)?
            }
            node => self.eval(node)?,
        };
        let (operand, optional) = match operand {
            Value::Optional(None) => return Ok(Value::Optional(None)),
            Value::Optional(Some(value)) => ((*value).clone(), true),
            value => (value, index.optional),
        };
        let found = find_element(&operand, &key);
        let absent = optional && !matches!(found, Ok(Some(_)));
        self.charge(u64::from(!absent))?;
        match (found, optional) {
            (Ok(Some(value)), true) => Ok(Value::some(value?)),
            (Ok(None) | Err(_), true) => Ok(Value::Optional(None)),
            (Ok(Some(value)), false) => value,
            (Ok(None), false) => Err(EvalError::new(match operand {
                Value::List(_) => format!("index out of bounds: {}", key.to_display()),
                _ => format!("no such key: {}", key.to_display()),
            })),
            (Err(error), false) => Err(error),
        }
    }

    #[inline(never)]
    fn call(&mut self, call: &'a Call) -> Outcome<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        let mut failed = None;
        for (i, node) in call.args.iter().enumerate() {
            let value = match (call.takes, i) {
                (Some(_), 0) => self.charge(1).map(|()| Value::Null),
                _ => self.eval(node),
            };
            match value {
                Ok(value) => args.push(value),
                Err(error) if error.fatal || call.args.len() > 2 => return Err(error),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            self.charge(1)?;
            return Err(error);
        }
        if let Some(at) = call.takes {
            // The accumulator is not read before the step's result replaces it.
            args[0] = std::mem::replace(&mut self.locals[at], Value::Null);
            if let Some(result) = self.extend(&mut args) {
                let cost = runtime_cost::cost_of_call(call, &args, self);
                self.charge(cost)?;
                return result;
            }
        }
        let cost = runtime_cost::cost_of_call(call, &args, self);
        self.charge(cost)?;
        let result = (call.run)(self, &args, call.regex.as_ref())?;
        let more = runtime_cost::of_result(call, &result);
        self.charge(more)?;
        Ok(result)
    }

    /// Extends the accumulator in place, `None` if the arguments require the regular function.
    fn extend(&mut self, args: &mut [Value<'a>]) -> Option<Outcome<'a>> {
        match args {
            [Value::List(list), Value::List(more)] => {
                let list = std::mem::replace(list, List::Json(&[], None));
                Some(list.concat(more.clone(), &mut self.work).map(Value::List))
            }
            [Value::Map(Map::Own(map)), key, value] => {
                let mut map = std::mem::take(map);
                let own = Arc::make_mut(&mut map);
                Some(
                    own.try_insert(key.clone(), value.clone())
                        .map(|()| Value::Map(Map::Own(map))),
                )
            }
            [Value::Map(Map::Own(map)), Value::Map(more)] => {
                let mut map = std::mem::take(map);
                let own = Arc::make_mut(&mut map);
                Some(own.insert_all(more).map(|()| Value::Map(Map::Own(map))))
            }
            _ => None,
        }
    }

    #[inline(never)]
    fn logic(&mut self, left: &'a Node, right: &'a Node, ends: bool) -> Outcome<'a> {
        let first = self.eval(left);
        match &first {
            Ok(Value::Bool(b)) if *b == ends => return first,
            Err(e) if e.fatal => return first,
            _ => {}
        }
        let second = self.eval(right);
        match (first, second) {
            (_, Ok(Value::Bool(b))) if b == ends => Ok(Value::Bool(ends)),
            (_, Err(e)) if e.fatal => Err(e),
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!ends)),
            (Err(e), _) => Err(e),
            (Ok(Value::Bool(_)), Err(e)) => Err(e),
            _ => Err(EvalError::no_overload()),
        }
    }

    #[inline(never)]
    fn conditional(&mut self, condition: &'a Node, yes: &'a Node, no: &'a Node) -> Outcome<'a> {
        let branch = match self.eval(condition)? {
            Value::Bool(true) => yes,
            Value::Bool(false) => no,
            _ => return Err(EvalError::no_overload()),
        };
        match branch {
            Node::Var(_) | Node::Local(_) | Node::Select(_) | Node::Index(_) => {
                self.attribute(branch, false)
            }
            _ => self.eval(branch),
        }
    }

    #[inline(never)]
    fn list(&mut self, nodes: &'a [(Node, bool)]) -> Outcome<'a> {
        let mut items = Vec::with_capacity(nodes.len());
        for (node, optional) in nodes {
            let value = self.eval(node)?;
            match (value, optional) {
                (Value::Optional(Some(value)), true) => items.push((*value).clone()),
                (Value::Optional(None), true) => {}
                (value, true) => {
                    return Err(EvalError::new(format!(
                        "cannot initialize optional list element from non-optional value {}",
                        value.to_display()
                    )));
                }
                (value, false) => items.push(value),
            }
        }
        self.charge(10)?;
        Ok(Value::list(items))
    }

    #[inline(never)]
    fn map(&mut self, nodes: &'a [(Node, Node, bool)]) -> Outcome<'a> {
        let mut map = OwnMap::default();
        for (key, value, optional) in nodes {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            // As in cel-go, the last value of a repeated key counts.
            match (value, optional) {
                (Value::Optional(Some(value)), true) => map.set(key, (*value).clone())?,
                (Value::Optional(None), true) => map.remove(&key)?,
                (value, true) => return Err(not_optional(&key.to_display(), &value)),
                (value, false) => map.set(key, value)?,
            }
        }
        self.charge(30)?;
        Ok(Value::Map(Map::Own(map.into())))
    }

    #[inline(never)]
    fn structure(&mut self, what: &'a Struct) -> Outcome<'a> {
        let mut fields = Vec::with_capacity(what.fields.len());
        for (name, node, optional) in &what.fields {
            let value = self.eval(node)?;
            let value = match (value, optional) {
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (Value::Optional(None), true) => continue,
                (value, true) => return Err(not_optional(name, &value)),
                (value, false) => value,
            };
            fields.push((name.clone(), value));
        }
        self.charge(40)?;
        Ok(Value::Object(Object::Own(Arc::new(ConstructedObject {
            name: what.name.clone(),
            fields,
        }))))
    }

    #[inline(never)]
    fn fold(&mut self, fold: &'a Fold) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let base = self.locals.len();
        self.locals.push(init);
        let outcome = self.iterate(fold, range, base);
        self.locals.truncate(base);
        outcome
    }

    fn iterate(&mut self, fold: &'a Fold, range: Value<'a>, base: usize) -> Outcome<'a> {
        let mut pending = None;
        match range {
            Value::List(list) => {
                for i in 0..list.len() {
                    let Some(item) = list.get(i) else { break };
                    let item = item?;
                    let vars = if fold.two {
                        (Value::Int(i as i64), Some(item))
                    } else {
                        (item, None)
                    };
                    if !self.step(fold, vars, base, &mut pending)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                self.work(map.len() as u64)?;
                for key in map.keys() {
                    let value = match fold.two {
                        true => match map.get(&key) {
                            Some(value) => Some(value?),
                            None => continue,
                        },
                        false => None,
                    };
                    if !self.step(fold, (key, value), base, &mut pending)? {
                        break;
                    }
                }
            }
            other => {
                let name = other.type_of().runtime_name().to_owned();
                let name = name.rsplit('.').next().unwrap_or_default();
                let (first, rest) = name.split_at(name.len().min(1));
                return Err(EvalError::new(format!(
                    "got 'types.{}{rest}', expected iterable type",
                    first.to_uppercase()
                )));
            }
        }
        match pending {
            Some(error) => Err(error),
            None => self.eval(&fold.result),
        }
    }

    /// Runs one iteration; returns false if the loop ends. An error of the step is the
    /// comprehension's result unless a later iteration of `all` or `exists` absorbs it.
    fn step(
        &mut self,
        fold: &'a Fold,
        vars: (Value<'a>, Option<Value<'a>>),
        base: usize,
        pending: &mut Option<EvalError>,
    ) -> Result<bool, EvalError> {
        self.locals.truncate(base + 1);
        self.locals.push(vars.0);
        self.locals.extend(vars.1);
        if pending.is_none() {
            match self.eval(&fold.condition)? {
                Value::Bool(true) => {}
                _ => return Ok(false),
            }
        } else {
            // `@not_strictly_false` is true for an error.
            self.charge(if matches!(fold.step, Node::Or(_)) {
                3
            } else {
                2
            })?;
        }
        let result = match (&fold.step, pending.take()) {
            (Node::And(terms), Some(error)) => self.make_up(&terms.1, error, false),
            (Node::Or(terms), Some(error)) => self.make_up(&terms.1, error, true),
            (_, Some(error)) => Err(error),
            (step, None) => self.eval(step),
        };
        match result {
            Ok(value) => self.locals[base] = value,
            Err(error) if error.fatal => return Err(error),
            Err(error) => *pending = Some(error),
        }
        Ok(true)
    }

    fn make_up(&mut self, node: &'a Node, error: EvalError, ends: bool) -> Outcome<'a> {
        self.charge(1)?;
        match self.eval(node) {
            Ok(Value::Bool(b)) if b == ends => Ok(Value::Bool(b)),
            Err(e) if e.fatal => Err(e),
            _ => Err(error),
        }
    }

    fn among(&mut self, node: &'a Node, keys: &std::collections::HashSet<Key>) -> Outcome<'a> {
        let value = self.eval(node)?;
        Ok(Value::Bool(
            Key::of(&value).is_some_and(|key| keys.contains(&key)),
        ))
    }

    fn optional_or(&mut self, left: &'a Node, right: &'a Node, unwrap: bool) -> Outcome<'a> {
        match self.eval(left)? {
            Value::Optional(Some(value)) if unwrap => Ok((*value).clone()),
            Value::Optional(None) => self.eval(right),
            value => Ok(value),
        }
    }
}

fn not_optional(name: &str, value: &Value<'_>) -> EvalError {
    EvalError::new(format!(
        "cannot initialize optional entry '{name}' from non-optional value {}",
        value.to_display()
    ))
}

/// Returns a field of a value, `None` if it is absent.
fn find_field<'a>(value: &Value<'a>, name: &str) -> Result<Option<Outcome<'a>>, EvalError> {
    match value {
        Value::Map(map) => Ok(map.field(name)),
        Value::Object(object) => Ok(object.field(name)),
        Value::List(_) => Err(EvalError::new(
            "unsupported index type 'string' in list".to_owned(),
        )),
        _ => Err(EvalError::new(format!("no such key: {name}"))),
    }
}

/// Returns an element of a list or an entry of a map, `None` if it is absent.
fn find_element<'a>(value: &Value<'a>, key: &Value<'_>) -> Result<Option<Outcome<'a>>, EvalError> {
    match (value, key) {
        (Value::List(list), Value::Int(i)) => {
            Ok(usize::try_from(*i).ok().and_then(|i| list.get(i)))
        }
        (Value::List(list), Value::Uint(i)) => {
            Ok(usize::try_from(*i).ok().and_then(|i| list.get(i)))
        }
        (Value::List(list), Value::Double(d)) if d.fract() == 0.0 && *d >= 0.0 && *d < 9e15 => {
            Ok(list.get(*d as usize))
        }
        (Value::List(_), Value::Double(d)) => Err(EvalError::new(format!(
            "unsupported index value {} in list",
            crate::number::go_general(*d)
        ))),
        (Value::List(_), other) => Err(EvalError::new(format!(
            "unsupported index type '{}' in list",
            other.type_of().runtime_name()
        ))),
        (Value::Map(map), key) => Ok(map.get(key)),
        (Value::Object(object), Value::String(name)) => Ok(object.field(name)),
        (_, key) => Err(EvalError::new(format!("no such key: {}", key.to_display()))),
    }
}
