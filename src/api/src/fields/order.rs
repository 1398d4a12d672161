//! The order of messages about fields.

use std::collections::HashMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::path::Path;

/// Sorts messages about unknown and duplicate fields as Go's decoder reports them: in the order in
/// which they are in the JSON document, a duplicate field where it is repeated.
pub fn in_document_order(json: &[u8], messages: &mut [String]) {
    if messages.len() < 2 {
        return;
    }
    let mut places = Places {
        wanted: HashMap::new(),
        path: Path::default(),
        next: 0,
        budget: json.len().saturating_mul(10).saturating_add(10_000),
    };
    for message in messages.iter() {
        if let Some((_, path)) = message.split_once(" field ") {
            places.wanted.insert(path.to_owned(), Vec::new());
        }
    }
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    // Text that cannot be parsed to its end has no messages; those found so far keep their order.
    let _ = Walk(&mut places).deserialize(&mut deserializer);
    messages.sort_by_cached_key(|message| {
        let (what, path) = message.split_once(" field ").unwrap_or_default();
        let found = places.wanted.get(path).map_or(&[][..], Vec::as_slice);
        let at = if what == "duplicate" { 1 } else { 0 };
        found.get(at).copied().unwrap_or(usize::MAX)
    });
}

struct Places {
    /// The positions at which each quoted path occurs.
    wanted: HashMap<String, Vec<usize>>,
    path: Path,
    next: usize,
    /// Number of bytes of paths that may still be compared. Hostile documents have many long ones.
    budget: usize,
}

impl Places {
    fn visit(&mut self) {
        self.next += 1;
        match self.budget.checked_sub(self.path.text.len()) {
            Some(left) => self.budget = left,
            None => return,
        }
        if let Some(found) = self.wanted.get_mut(&crate::text::quote(&self.path.text)) {
            found.push(self.next);
        }
    }
}

struct Walk<'p>(&'p mut Places);

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for i in 0.. {
            let at = self.0.path.index(i);
            let item = items.next_element_seed(Walk(&mut *self.0))?;
            self.0.path.back(at);
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<String>()? {
            let at = self.0.path.field(&key);
            self.0.visit();
            entries.next_value_seed(Walk(&mut *self.0))?;
            self.0.path.back(at);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_follow_the_document() {
        let json = br#"{"z": 1, "spec": [{"y": 2, "b": {}, "y": 3}], "a": 4, "z": 5}"#;
        let mut messages = [
            "unknown field \"a\"",
            "unknown field \"spec[0].b\"",
            "unknown field \"z\"",
            "duplicate field \"spec[0].y\"",
            "duplicate field \"z\"",
        ]
        .map(String::from);
        in_document_order(json, &mut messages);
        assert_eq!(
            messages,
            [
                "unknown field \"z\"",
                "unknown field \"spec[0].b\"",
                "duplicate field \"spec[0].y\"",
                "unknown field \"a\"",
                "duplicate field \"z\"",
            ]
        );
    }
}
