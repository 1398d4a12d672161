//! Sets of paths, and their encoding as `fieldsV1`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use serde_json::{Map, Value};

use crate::schema::Type;

use super::field_type::field_type;
use super::path::PathElement;

/// A set of paths, stored as a trie. A node is a path in the set (`member`), the prefix of
/// such paths, or both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<PathElement, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    children: FieldSet,
}

impl FieldSet {
    /// Returns whether the set is empty.
    pub fn is_empty(&self) -> bool {
        // There are no empty nodes.
        self.nodes.is_empty()
    }

    /// Adds a path. The empty path is never in a set.
    pub fn insert(&mut self, path: &[PathElement]) {
        if let Some((first, rest)) = path.split_first() {
            let node = match self.nodes.get_mut(first) {
                Some(node) => node,
                None => self.nodes.entry(first.clone()).or_default(),
            };
            if rest.is_empty() {
                node.member = true;
            } else {
                node.children.insert(rest);
            }
        }
    }

    /// Adds a path of field names.
    pub fn insert_fields(&mut self, names: &[&str]) {
        let path: Vec<PathElement> = names.iter().map(|n| PathElement::field(n)).collect();
        self.insert(&path);
    }

    /// Returns whether the set has a path of one element.
    pub fn has(&self, element: &PathElement) -> bool {
        self.nodes.get(element).is_some_and(|n| n.member)
    }

    /// Returns whether the set has a path.
    pub fn has_path(&self, path: &[PathElement]) -> bool {
        match path.split_first() {
            None => false,
            Some((first, [])) => self.has(first),
            Some((first, rest)) => self
                .nodes
                .get(first)
                .is_some_and(|n| n.children.has_path(rest)),
        }
    }

    /// Returns the remainders of the paths that begin with an element; `None` if there are
    /// none.
    pub fn below(&self, element: &PathElement) -> Option<&FieldSet> {
        self.nodes
            .get(element)
            .map(|n| &n.children)
            .filter(|c| !c.is_empty())
    }

    /// Returns the first elements: each with whether it is in the set, and the remainders
    /// of the paths that begin with it.
    pub fn top(&self) -> impl Iterator<Item = (&PathElement, bool, &FieldSet)> {
        self.nodes
            .iter()
            .map(|(element, node)| (element, node.member, &node.children))
    }

    /// Returns the paths of either set.
    #[must_use]
    pub fn union(mut self, other: &FieldSet) -> Self {
        self.add(other);
        self
    }

    fn add(&mut self, other: &FieldSet) {
        for (element, node) in &other.nodes {
            match self.nodes.entry(element.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(node.clone());
                }
                Entry::Occupied(mut entry) => {
                    entry.get_mut().member |= node.member;
                    entry.get_mut().children.add(&node.children);
                }
            }
        }
    }

    /// Returns the paths that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet) -> Self {
        self.combine(other, |mine, theirs| match theirs {
            None => Node::default(),
            Some(theirs) => Node {
                member: mine.member && theirs.member,
                children: mine.children.intersection(&theirs.children),
            },
        })
    }

    /// Returns the paths of this set that are not in the other. Extensions of the other's
    /// paths stay.
    #[must_use]
    pub fn difference(&self, other: &FieldSet) -> Self {
        self.combine(other, |mine, theirs| match theirs {
            None => mine.clone(),
            Some(theirs) => Node {
                member: mine.member && !theirs.member,
                children: mine.children.difference(&theirs.children),
            },
        })
    }

    /// Returns the paths of this set that are neither in the other nor extensions of the
    /// other's paths.
    #[must_use]
    pub fn recursive_difference(&self, other: &FieldSet) -> Self {
        self.combine(other, |mine, theirs| match theirs {
            None => mine.clone(),
            Some(theirs) if theirs.member => Node::default(),
            Some(theirs) => Node {
                member: mine.member,
                children: mine.children.recursive_difference(&theirs.children),
            },
        })
    }

    fn combine(&self, other: &FieldSet, with: impl Fn(&Node, Option<&Node>) -> Node) -> Self {
        let nodes = self.nodes.iter().filter_map(|(element, mine)| {
            let node = with(mine, other.nodes.get(element));
            (node.member || !node.children.is_empty()).then(|| (element.clone(), node))
        });
        Self {
            nodes: nodes.collect(),
        }
    }

    /// Returns the set extended by every declared field that is a prefix of a path.
    #[must_use]
    pub fn with_named_fields(&self, ty: Option<Type<'_>>) -> Self {
        let nodes = self.nodes.iter().map(|(element, node)| {
            let (below, declared) = match element {
                PathElement::Field(name) => field_type(ty, name),
                _ => (ty.and_then(Type::element), false),
            };
            let children = node.children.with_named_fields(below);
            (
                element.clone(),
                Node {
                    member: node.member || declared,
                    children,
                },
            )
        });
        Self {
            nodes: nodes.collect(),
        }
    }

    /// Calls `visit` for every path. As upstream, those that end here come before longer ones.
    pub fn for_each(&self, path: &mut Vec<PathElement>, visit: &mut impl FnMut(&[PathElement])) {
        for (element, _) in self.nodes.iter().filter(|(_, node)| node.member) {
            path.push(element.clone());
            visit(path);
            path.pop();
        }
        for (element, node) in &self.nodes {
            path.push(element.clone());
            node.children.for_each(path, visit);
            path.pop();
        }
    }

    /// Encodes the set as `fieldsV1`.
    pub fn to_fields_v1(&self) -> Value {
        self.encode(false)
    }

    fn encode(&self, member: bool) -> Value {
        let mut map = Map::new();
        if member && !self.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (element, node) in &self.nodes {
            map.insert(element.serialize(), node.children.encode(node.member));
        }
        Value::Object(map)
    }

    /// Decodes `fieldsV1`.
    ///
    /// # Errors
    /// A message when it is malformed.
    pub fn from_fields_v1(value: &Value) -> Result<Self, String> {
        match value {
            Value::Null => Ok(Self::default()),
            value => Ok(Self::decode(value)?.children),
        }
    }

    fn decode(value: &Value) -> Result<Node, String> {
        let Value::Object(map) = value else {
            return Err("expected a map of fields".into());
        };
        let mut node = Node {
            member: map.is_empty(),
            children: Self::default(),
        };
        for (key, value) in map {
            if key == "." {
                node.member = true;
            } else if let Some(element) = PathElement::deserialize(key)? {
                let child = Self::decode(value)?;
                if child.member || !child.children.is_empty() {
                    node.children.nodes.insert(element, child);
                }
            }
        }
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn element() -> impl Strategy<Value = PathElement> {
        prop_oneof![
            "[a-c]".prop_map(PathElement::Field),
            ("[a-b]", 0i64..3).prop_map(|(name, value)| PathElement::Key(vec![
                ("id".into(), value.into()),
                ("name".into(), name.into())
            ])),
            "[a-b]".prop_map(|v| PathElement::Value(v.into())),
            (0i64..3).prop_map(PathElement::Index),
        ]
    }

    fn set() -> impl Strategy<Value = FieldSet> {
        proptest::collection::vec(proptest::collection::vec(element(), 1..4), 0..8).prop_map(
            |paths| {
                let mut set = FieldSet::default();
                paths.iter().for_each(|p| set.insert(p));
                set
            },
        )
    }

    fn paths(set: &FieldSet) -> Vec<String> {
        let mut out = Vec::new();
        set.for_each(&mut Vec::new(), &mut |p| {
            out.push(super::super::path::path_text(p))
        });
        out
    }

    #[test]
    fn encodes_as_upstream() {
        let mut set = FieldSet::default();
        set.insert_fields(&["spec", "replicas"]);
        set.insert_fields(&["metadata", "labels"]);
        set.insert_fields(&["metadata", "labels", "app"]);
        let key = PathElement::Key(vec![
            ("containerPort".into(), 80.into()),
            ("protocol".into(), "TCP".into()),
        ]);
        set.insert(&[PathElement::field("spec"), key.clone()]);
        set.insert(&[PathElement::field("spec"), key, PathElement::field("name")]);
        set.insert(&[PathElement::field("f"), PathElement::Value("x".into())]);
        assert_eq!(
            set.to_fields_v1(),
            json!({
                "f:f": {"v:\"x\"": {}},
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {"f:replicas": {}, r#"k:{"containerPort":80,"protocol":"TCP"}"#: {".": {}, "f:name": {}}},
            })
        );
        assert_eq!(
            FieldSet::from_fields_v1(&json!({"z:1": {}, "f:a": {}}))
                .unwrap()
                .to_fields_v1(),
            json!({"f:a": {}})
        );
        assert!(FieldSet::from_fields_v1(&json!({"f:a": 3})).is_err());
        assert!(FieldSet::from_fields_v1(&json!({"k:[": {}})).is_err());
    }

    proptest! {
        #![proptest_config(crate::testing::config())]

        #[test]
        fn encoding_round_trips(set in set()) {
            prop_assert_eq!(FieldSet::from_fields_v1(&set.to_fields_v1()).unwrap(), set);
        }

        #[test]
        fn algebra_is_that_of_path_sets(a in set(), b in set()) {
            let (pa, pb) = (paths(&a), paths(&b));
            let both: Vec<_> = pa.iter().filter(|p| pb.contains(p)).cloned().collect();
            let left: Vec<_> = pa.iter().filter(|p| !pb.contains(p)).cloned().collect();
            prop_assert_eq!(paths(&a.intersection(&b)), both);
            prop_assert_eq!(paths(&a.difference(&b)), left);
            let all = a.clone().union(&b);
            prop_assert!(pa.iter().chain(&pb).all(|p| paths(&all).contains(p)));
            prop_assert!(a.recursive_difference(&a).is_empty());
        }
    }
}
