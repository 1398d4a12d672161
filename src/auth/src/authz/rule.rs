//! RBAC policy rules: matching requests, and comparing sets of rules.

use std::collections::BTreeMap;

use rkube_api::Object;
use serde_json::Map;

use super::types::Attributes;
use crate::tree;

/// A policy rule, parsed from a role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) verbs: Vec<Box<str>>,
    pub(crate) groups: Vec<Box<str>>,
    pub(crate) resources: Vec<Box<str>>,
    pub(crate) names: Vec<Box<str>>,
    pub(crate) urls: Vec<Box<str>>,
}

fn contains(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|w| **w == *word)
}

fn contains_or_all(list: &[Box<str>], word: &str) -> bool {
    list.iter().any(|w| **w == *word || **w == *"*")
}

impl Rule {
    pub(crate) fn from_object(rule: &Object) -> Rule {
        let list = |field| {
            tree::strings(rule, &[field])
                .into_iter()
                .map(Box::from)
                .collect()
        };
        Rule {
            verbs: list("verbs"),
            groups: list("apiGroups"),
            resources: list("resources"),
            names: list("resourceNames"),
            urls: list("nonResourceURLs"),
        }
    }

    /// Parses the rules of a Role or ClusterRole.
    pub(crate) fn of_role(role: &Object) -> Vec<Rule> {
        tree::items(role, &["rules"])
            .iter()
            .map(Rule::from_object)
            .collect()
    }

    /// Returns rules that allow all verbs on all resources and paths.
    pub(crate) fn full_authority() -> Vec<Rule> {
        let all = || vec![Box::from("*")];
        vec![
            Rule {
                verbs: all(),
                groups: all(),
                resources: all(),
                ..Rule::default()
            },
            Rule {
                verbs: all(),
                urls: all(),
                ..Rule::default()
            },
        ]
    }

    pub(crate) fn to_object(&self) -> Object {
        let mut rule = Map::new();
        let list = |words: &[Box<str>]| {
            Object::from(words.iter().map(|w| w.to_string()).collect::<Vec<_>>())
        };
        rule.insert("verbs".into(), list(&self.verbs));
        let lists = [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ];
        for (field, words) in lists {
            if !words.is_empty() {
                rule.insert(field.into(), list(words));
            }
        }
        Object::Object(rule)
    }

    /// Returns whether the rule allows a request.
    pub(crate) fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !contains_or_all(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource_request {
            return self.urls.iter().any(|url| url_covers(url, asked.path));
        }
        contains_or_all(&self.groups, asked.api_group)
            && self
                .resources
                .iter()
                .any(|r| resource_matches(r, asked.resource, asked.subresource))
            && (self.names.is_empty() || contains(&self.names, asked.name))
    }

    /// Splits the rule into rules with one verb, and one path or one group, resource and name.
    fn atoms(&self) -> Vec<Rule> {
        let one = |word: &str| vec![Box::from(word)];
        let mut atoms = Vec::new();
        for group in &self.groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let atom = Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    atoms.extend(self.names.iter().map(|name| Rule {
                        names: one(name),
                        ..atom.clone()
                    }));
                    atoms.extend(self.names.is_empty().then_some(atom));
                }
            }
        }
        for url in &self.urls {
            for verb in &self.verbs {
                atoms.push(Rule {
                    verbs: one(verb),
                    urls: one(url),
                    ..Rule::default()
                });
            }
        }
        atoms
    }

    /// Returns whether the rule allows everything that `atom` allows.
    fn covers(&self, atom: &Rule) -> bool {
        let all = |own: &[Box<str>], other: &[Box<str>]| {
            contains(own, "*") || other.iter().all(|word| contains(own, word))
        };
        let resource = |path: &str| {
            contains(&self.resources, path)
                || path
                    .split_once('/')
                    .is_some_and(|(_, sub)| contains(&self.resources, &format!("*/{sub}")))
        };
        all(&self.verbs, &atom.verbs)
            && all(&self.groups, &atom.groups)
            && (contains(&self.resources, "*") || atom.resources.iter().all(|r| resource(r)))
            && (self.names.is_empty()
                || !atom.names.is_empty() && atom.names.iter().all(|n| contains(&self.names, n)))
            && atom
                .urls
                .iter()
                .all(|url| self.urls.iter().any(|own| url_covers(own, url)))
    }

    /// Formats the rule for messages: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub(crate) fn compact(&self) -> String {
        let parts = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(_, words)| !words.is_empty())
            .map(|(field, words)| format!("{field}:{}", quoted_list(words.iter().map(|w| &**w))))
            .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

/// Formats a list as in upstream's messages: `["a" "b"]`.
pub(crate) fn quoted_list<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|w| format!("{w:?}")).collect();
    format!("[{}]", words.join(" "))
}

/// Returns whether a rule's resource, which may be `*` or `*/sub`, matches a request.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((of, sub)) => sub == subresource && (of == "*" || of == resource),
        None => false,
    }
}

/// Returns whether a rule's path, which may end with `*`, covers another path.
fn url_covers(own: &str, path: &str) -> bool {
    own == path || own.ends_with('*') && path.starts_with(own.trim_end_matches('*'))
}

/// Returns the parts of `asked` that no rule of `owned` covers, as rules with one verb and one
/// resource or path each.
pub(crate) fn uncovered(owned: &[Rule], asked: &[Rule]) -> Vec<Rule> {
    let atoms = asked.iter().flat_map(Rule::atoms);
    atoms
        .filter(|atom| !owned.iter().any(|own| own.covers(atom)))
        .collect()
}

/// Merges rules that differ only in their verbs.
pub(crate) fn join_verbs(rules: Vec<Rule>) -> Vec<Rule> {
    type Key = (Box<str>, Box<str>, Option<Box<str>>);
    let mut simple: BTreeMap<Key, Rule> = BTreeMap::new();
    let mut joined = Vec::new();
    for rule in rules {
        match (
            &rule.groups[..],
            &rule.resources[..],
            &rule.names[..],
            &rule.urls[..],
        ) {
            ([group], [resource], [] | [_], []) => {
                let key = (group.clone(), resource.clone(), rule.names.first().cloned());
                match simple.get_mut(&key) {
                    Some(same) => same.verbs.extend(rule.verbs),
                    None => {
                        simple.insert(key, rule);
                    }
                }
            }
            _ => joined.push(rule),
        }
    }
    joined.extend(simple.into_values());
    joined
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::UserInfo;

    fn rule(object: Object) -> Rule {
        Rule::from_object(&object)
    }

    #[test]
    fn rules_match_as_upstreams() {
        let user = UserInfo::default();
        let asks = |verb, group, resource: &'static str, name| {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            Attributes {
                name,
                subresource,
                ..Attributes::resource(&user, verb, group, resource)
            }
        };
        let pods = rule(
            json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]}),
        );
        assert!(pods.allows(&asks("get", "", "pods", "x")));
        assert!(pods.allows(&asks("list", "", "pods/log", "")));
        assert!(!pods.allows(&asks("get", "", "pods/exec", "x")));
        assert!(!pods.allows(&asks("delete", "", "pods", "x")));
        assert!(!pods.allows(&asks("get", "apps", "pods", "x")));
        let scale = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]}));
        assert!(scale.allows(&asks("update", "apps", "deployments/scale", "x")));
        assert!(!scale.allows(&asks("update", "apps", "deployments", "x")));
        assert!(!scale.allows(&asks("update", "apps", "deployments/status", "x")));
        let named = rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["*"], "resourceNames": ["a"]}),
        );
        assert!(named.allows(&asks("get", "", "secrets", "a")));
        assert!(named.allows(&asks("get", "", "secrets/any", "a")));
        assert!(!named.allows(&asks("get", "", "secrets", "b")));
        assert!(
            !named.allows(&asks("get", "", "secrets", "")),
            "a list is not of one name"
        );
        let urls = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/healthz/*", "/version"]}));
        for (path, allowed) in [
            ("/healthz/x", true),
            ("/healthz/", true),
            ("/healthz", false),
            ("/version", true),
        ] {
            assert_eq!(
                urls.allows(&Attributes::path(&user, "get", path)),
                allowed,
                "{path}"
            );
        }
        assert!(!urls.allows(&asks("get", "", "pods", "x")));
    }

    #[test]
    fn covering_finds_what_is_missing() {
        let owned = [
            rule(
                json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/scale"]}),
            ),
            rule(
                json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
            ),
            rule(json!({"verbs": ["get"], "nonResourceURLs": ["/api/*"]})),
        ];
        let missing = |asked: Object| {
            let missing = join_verbs(uncovered(&owned, &[rule(asked)]));
            missing
                .iter()
                .map(Rule::compact)
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            missing(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "x/scale"]})),
            ""
        );
        assert_eq!(
            missing(
                json!({"verbs": ["get", "delete", "watch"], "apiGroups": [""], "resources": ["pods"]})
            ),
            r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete" "watch"]}"#
        );
        let secrets = |names: Object| json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": names});
        assert_eq!(missing(secrets(json!(["a"]))), "");
        assert_eq!(
            missing(secrets(json!([]))),
            r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#,
            "any name is more than one"
        );
        assert_eq!(
            missing(json!({"verbs": ["get"], "nonResourceURLs": ["/api/v1", "/api/*"]})),
            ""
        );
        assert_eq!(
            missing(json!({"verbs": ["get"], "nonResourceURLs": ["*"]})),
            r#"{NonResourceURLs:["*"], Verbs:["get"]}"#
        );
        assert!(uncovered(&Rule::full_authority(), &owned).is_empty());
    }
}
