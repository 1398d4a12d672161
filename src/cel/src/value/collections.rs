//! Lists, maps and objects: access and equality.

use std::collections::HashMap;
use std::sync::Arc;

use super::types::{EvalError, Key, List, Map, Object, Outcome, OwnMap, Str, Value};
use crate::decl::{DeclType, Read};

impl<'a> List<'a> {
    /// Returns the number of items.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(items, _) => items.len(),
            Self::Own(items) | Self::Keyed(items, _) => items.len(),
            Self::Concat(both) => both.2,
        }
    }

    /// Returns the item at an index, `None` if it is out of range.
    pub(crate) fn get(&self, at: usize) -> Option<Outcome<'a>> {
        match self {
            Self::Json(items, decl) => {
                let item = items.get(at)?;
                Some(match decl.and_then(|d| d.element.as_deref()) {
                    Some(decl) => Value::typed(item, decl),
                    None => Ok(Value::json(item)),
                })
            }
            Self::Own(items) | Self::Keyed(items, _) => Some(Ok(items.get(at)?.clone())),
            Self::Concat(both) => {
                let first = both.0.len();
                if at < first {
                    both.0.get(at)
                } else {
                    both.1.get(at - first)
                }
            }
        }
    }

    /// Returns the items in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Outcome<'a>> + '_ {
        (0..self.len()).map_while(|i| self.get(i))
    }

    /// Returns the list type of the schema, which determines equality and concatenation.
    fn correlation(&self) -> &'a Read {
        match self {
            Self::Json(_, Some(decl)) => &decl.read,
            Self::Keyed(_, read) => read,
            _ => &Read::Plain,
        }
    }

    fn keys_of(item: &Value<'_>, keys: &[String]) -> Option<Vec<Key>> {
        let Value::Object(Object::Json(map, _)) = item else {
            return None;
        };
        keys.iter()
            .map(|key| match map.get(key) {
                Some(json) => Key::of(&Value::json(json)),
                None => Some(Key::Bool(false)),
            })
            .collect()
    }

    /// Returns whether two lists are equal; see [`Value::equals`]. Declared sets and maps ignore
    /// the order.
    pub(super) fn equals(&self, other: &List<'_>, work: &mut u64) -> Option<bool> {
        if self.len() != other.len() {
            return Some(false);
        }
        match self.correlation() {
            Read::Set => {
                let scalar = |v: Outcome<'_>| v.ok().and_then(|v| Key::of(&v));
                let mine: Option<std::collections::HashSet<_>> = self.iter().map(scalar).collect();
                if let Some(mine) = mine {
                    *work = work.checked_sub(other.len() as u64)?;
                    return Some(
                        other
                            .iter()
                            .all(|v| scalar(v).is_some_and(|k| mine.contains(&k))),
                    );
                }
            }
            Read::ListMap(keys) => {
                let mut mine = HashMap::new();
                for item in self.iter().flatten() {
                    if let Some(key) = Self::keys_of(&item, keys) {
                        mine.insert(key, item);
                    }
                }
                for item in other.iter() {
                    let Ok(item) = item else { return Some(false) };
                    let same = match Self::keys_of(&item, keys).and_then(|k| mine.get(&k).cloned())
                    {
                        Some(own) => own.equals(&item, work)?,
                        None => false,
                    };
                    if !same {
                        return Some(false);
                    }
                }
                return Some(true);
            }
            _ => {}
        }
        for (a, b) in self.iter().zip(other.iter()) {
            let (Ok(a), Ok(b)) = (a, b) else {
                return Some(false);
            };
            if !a.equals(&b, work)? {
                return Some(false);
            }
        }
        Some(true)
    }

    /// Concatenates two lists; forms the union if this list is declared as a set or map.
    pub(crate) fn concat(self, other: List<'a>, work: &mut u64) -> Result<List<'a>, EvalError> {
        const MAX_COPIED: usize = 1024;
        let read = self.correlation();
        match read {
            Read::Set => {
                let key = |item: &Value<'a>| Key::of(item).map(|k| vec![k]);
                return self.union(other, read, key, false);
            }
            Read::ListMap(keys) => {
                return self.union(other, read, |item| Self::keys_of(item, keys), true);
            }
            _ => {}
        }
        let total = self.len() + other.len();
        if total > MAX_COPIED && !matches!(self, Self::Own(_)) || other.len() > MAX_COPIED {
            return Ok(Self::Concat(Arc::new((self, other, total))));
        }
        *work = work
            .checked_sub(total as u64 / 16)
            .ok_or_else(EvalError::over_limit)?;
        let mut items = match self {
            // An accumulator is not shared, so it is extended in place.
            Self::Own(mut items) => match Arc::get_mut(&mut items) {
                Some(own) => std::mem::take(own),
                None if total > MAX_COPIED => {
                    return Ok(Self::Concat(Arc::new((Self::Own(items), other, total))));
                }
                None => items.to_vec(),
            },
            list => list.iter().collect::<Result<_, _>>()?,
        };
        for item in other.iter() {
            items.push(item?);
        }
        Ok(Self::Own(Arc::new(items)))
    }

    /// Adds the items of `other` whose keys are new. Of a key that exists, the item stays, or
    /// with `replace` gives way.
    fn union(
        self,
        other: List<'a>,
        read: &'a Read,
        key: impl Fn(&Value<'a>) -> Option<Vec<Key>>,
        replace: bool,
    ) -> Result<List<'a>, EvalError> {
        let mut items: Vec<Value<'a>> = self.iter().collect::<Result<_, _>>()?;
        let mut places: HashMap<Vec<Key>, usize> = HashMap::new();
        for (at, item) in items.iter().enumerate() {
            if let Some(key) = key(item) {
                places.insert(key, at);
            }
        }
        for item in other.iter() {
            let item = item?;
            let key = key(&item);
            match key.as_ref().and_then(|k| places.get(k).copied()) {
                Some(at) if replace => items[at] = item,
                Some(_) => {}
                None => {
                    // An item may be repeated in what is added, too. Upstream drops the
                    // repetition from a set, but keeps it in a map.
                    if let Some(key) = key
                        && !replace
                    {
                        places.insert(key, items.len());
                    }
                    items.push(item);
                }
            }
        }
        Ok(Self::Keyed(Arc::new(items), read))
    }
}

impl<'a> Map<'a> {
    /// Returns the number of entries.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Json(map, _) => map.len(),
            Self::Own(map) => map.entries.len(),
        }
    }

    /// Returns the value of a key, `None` if it is absent.
    pub(crate) fn get(&self, key: &Value<'_>) -> Option<Outcome<'a>> {
        match (self, key) {
            (Self::Json(..), Value::String(name)) => self.field(name),
            (Self::Json(..), _) => None,
            (Self::Own(map), key) => map.get(key).cloned().map(Ok),
        }
    }

    /// Returns the value of a string key, `None` if it is absent.
    pub(crate) fn field(&self, name: &str) -> Option<Outcome<'a>> {
        match self {
            Self::Json(map, decl) => {
                let json = map.get(name)?;
                Some(match decl.and_then(|d| d.element.as_deref()) {
                    Some(decl) => Value::typed(json, decl),
                    None => Ok(Value::json(json)),
                })
            }
            Self::Own(map) => match map.index.get(&Key::String(name.to_owned())) {
                Some(at) => Some(Ok(map.entries[*at].1.clone())),
                None => map.missing.clone().map(Ok),
            },
        }
    }

    /// Returns whether the map has the key.
    pub(crate) fn has(&self, key: &Value<'_>) -> bool {
        match (self, key) {
            (Self::Json(map, _), Value::String(name)) => map.contains_key(&**name),
            (Self::Json(..), _) => false,
            (Self::Own(map), key) => Key::of(key).is_some_and(|key| map.index.contains_key(&key)),
        }
    }

    /// Returns all keys.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Json(map, _) => map
                .keys()
                .map(|k| Value::String(Str::Borrowed(k)))
                .collect(),
            Self::Own(map) => map.entries.iter().map(|(k, _)| k.clone()).collect(),
        }
    }

    /// Returns whether two maps are equal; see [`Value::equals`].
    pub(super) fn equals(&self, other: &Map<'_>, work: &mut u64) -> Option<bool> {
        if self.len() != other.len() {
            return Some(false);
        }
        for key in self.keys() {
            let (Some(Ok(a)), Some(Ok(b))) = (self.get(&key), other.get(&key)) else {
                return Some(false);
            };
            if !a.equals(&b, work)? {
                return Some(false);
            }
        }
        Some(true)
    }
}

impl<'a> Object<'a> {
    /// Returns a field by its escaped name, `None` if it is absent.
    pub(crate) fn field(&self, name: &str) -> Option<Outcome<'a>> {
        match self {
            Self::Json(map, decl) => {
                let field = decl
                    .fields
                    .get(name)
                    .or_else(|| decl.fields.get(&format!("__{name}__")))?;
                // As upstream, a field that is null counts as absent.
                map.get(&field.name)
                    .filter(|json| !json.is_null())
                    .map(|json| Value::typed(json, &field.ty))
            }
            Self::Own(made) => made
                .fields
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| Ok(v.clone())),
        }
    }

    /// Returns whether two objects are equal; see [`Value::equals`].
    pub(super) fn equals(&self, other: &Object<'_>, work: &mut u64) -> Option<bool> {
        match (self, other) {
            (Self::Json(a, decl), Object::Json(b, other)) => {
                if a.len() != b.len() {
                    return Some(false);
                }
                for (key, value) in *a {
                    let Some(theirs) = b.get(key) else {
                        return Some(false);
                    };
                    let field = |d: &'_ DeclType| {
                        d.fields
                            .values()
                            .find(|f| f.name == *key)
                            .map(|f| f.ty.clone())
                    };
                    let same = match (field(decl), field(other)) {
                        (Some(mine), Some(its)) => {
                            match (Value::typed(value, &mine), Value::typed(theirs, &its)) {
                                (Ok(a), Ok(b)) => a.equals(&b, work)?,
                                _ => false,
                            }
                        }
                        _ => Value::json(value).equals(&Value::json(theirs), work)?,
                    };
                    if !same {
                        return Some(false);
                    }
                }
                Some(true)
            }
            (Self::Own(a), Object::Own(b)) => {
                if a.name != b.name || a.fields.len() != b.fields.len() {
                    return Some(false);
                }
                for (name, value) in &a.fields {
                    let Some((_, theirs)) = b.fields.iter().find(|(n, _)| n == name) else {
                        return Some(false);
                    };
                    if !value.equals(theirs, work)? {
                        return Some(false);
                    }
                }
                Some(true)
            }
            _ => Some(false),
        }
    }
}

impl<'a> OwnMap<'a> {
    /// Adds an entry with a new key.
    ///
    /// # Errors
    ///
    /// The key exists already or is of a type that cannot be a key.
    pub(crate) fn try_insert(&mut self, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
        let shown = key.to_display();
        match self.insert(key, value) {
            Some(true) => Ok(()),
            Some(false) => Err(EvalError::new(format!(
                "insert failed: key {shown} already exists"
            ))),
            None => Err(EvalError::new(format!("unsupported key type: {shown}"))),
        }
    }

    /// Adds the entries of another map, whose keys must be new.
    ///
    /// # Errors
    ///
    /// As [`OwnMap::try_insert`], or an entry of the other map is invalid.
    pub(crate) fn insert_all(&mut self, more: &Map<'a>) -> Result<(), EvalError> {
        for key in more.keys() {
            if let Some(value) = more.get(&key) {
                self.try_insert(key, value?)?;
            }
        }
        Ok(())
    }
}
