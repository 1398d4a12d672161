//! `FlowSchema` matching: which requests belong to a flow.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use rkube_api::{Object, meta};
use rkube_auth::UserInfo;
use serde_json::Value;

use rkube_request::RequestInfo;

const ALL: &str = "*";

enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

struct ResourceRule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster_scope: bool,
}

struct PathRule {
    verbs: Vec<String>,
    paths: Vec<String>,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

enum Distinguisher {
    None,
    User,
    Namespace,
}

/// A parsed `FlowSchema`.
pub struct Schema {
    /// The schema's name.
    pub name: String,
    /// The name of its priority level.
    pub level: String,
    /// The matching precedence; schemas with lower values are matched first.
    pub precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<String> {
    items(value).map(text).collect()
}

fn contains_or_all(list: &[String], wanted: &str) -> bool {
    list.iter().any(|v| v == ALL || v == wanted)
}

impl Schema {
    /// Parses a `FlowSchema` object.
    pub fn read(object: &Object) -> Self {
        let spec = &object["spec"];
        let subject = |value: &Value| {
            Some(match value["kind"].as_str()? {
                "User" => Subject::User(text(&value["user"]["name"])),
                "Group" => Subject::Group(text(&value["group"]["name"])),
                "ServiceAccount" => Subject::ServiceAccount {
                    namespace: text(&value["serviceAccount"]["namespace"]),
                    name: text(&value["serviceAccount"]["name"]),
                },
                _ => return None,
            })
        };
        let rules = items(&spec["rules"])
            .map(|rule| Rule {
                subjects: items(&rule["subjects"]).filter_map(subject).collect(),
                resources: items(&rule["resourceRules"])
                    .map(|r| ResourceRule {
                        verbs: texts(&r["verbs"]),
                        groups: texts(&r["apiGroups"]),
                        resources: texts(&r["resources"]),
                        namespaces: texts(&r["namespaces"]),
                        cluster_scope: r["clusterScope"] == true,
                    })
                    .collect(),
                paths: items(&rule["nonResourceRules"])
                    .map(|r| PathRule {
                        verbs: texts(&r["verbs"]),
                        paths: texts(&r["nonResourceURLs"]),
                    })
                    .collect(),
            })
            .collect();
        Self {
            name: meta::name(object).to_owned(),
            level: text(&spec["priorityLevelConfiguration"]["name"]),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules,
        }
    }

    /// Returns whether any of the schema's rules matches the request.
    pub fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|s| s.is(user))
                && if info.is_resource {
                    rule.resources.iter().any(|r| r.covers(info))
                } else {
                    rule.paths.iter().any(|r| r.covers(info))
                }
        })
    }

    /// Returns the hash of the request's flow: the schema's name and the flow distinguisher.
    pub fn hash(&self, user: &UserInfo, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        match self.distinguisher {
            Distinguisher::None => {}
            Distinguisher::User => user.name.hash(&mut hasher),
            Distinguisher::Namespace => info.namespace.hash(&mut hasher),
        }
        hasher.finish()
    }
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == ALL || *name == user.name,
            Self::Group(name) => name == ALL || user.in_group(name),
            Self::ServiceAccount { namespace, name } => user
                .name
                .strip_prefix("system:serviceaccount:")
                .and_then(|rest| rest.split_once(':'))
                .is_some_and(|(ns, account)| ns == namespace && (name == ALL || name == account)),
        }
    }
}

impl ResourceRule {
    fn covers(&self, info: &RequestInfo) -> bool {
        let resource = || {
            if contains_or_all(&self.resources, &info.resource) && info.subresource.is_empty() {
                return true;
            }
            self.resources.iter().any(|r| {
                r == ALL
                    || !info.subresource.is_empty()
                        && r.split_once('/')
                            .is_some_and(|(a, b)| a == info.resource && b == info.subresource)
            })
        };
        contains_or_all(&self.verbs, info.verb)
            && contains_or_all(&self.groups, &info.group)
            && resource()
            && if info.namespace.is_empty() {
                self.cluster_scope
            } else {
                contains_or_all(&self.namespaces, &info.namespace)
            }
    }
}

impl PathRule {
    fn covers(&self, info: &RequestInfo) -> bool {
        contains_or_all(&self.verbs, info.verb)
            && self.paths.iter().any(|path| {
                path == ALL
                    || *path == info.path
                    || path
                        .strip_suffix('*')
                        .filter(|prefix| prefix.ends_with('/'))
                        .is_some_and(|prefix| info.path.starts_with(prefix))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;
    use serde_json::json;

    #[test]
    fn rules_match_as_upstreams() {
        let schema = Schema::read(&json!({"metadata": {"name": "s"}, "spec": {
        "matchingPrecedence": 5, "priorityLevelConfiguration": {"name": "l"}, "distinguisherMethod": {"type": "ByNamespace"},
        "rules": [{
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}}],
            "resourceRules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "nodes/status"], "namespaces": ["a"], "clusterScope": true}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz", "/openapi/*"]}],
        }]}}));
        let user = UserInfo::authenticated("system:serviceaccount:kube-system:x", &[]);
        let asks = |method: Method, path: &str| {
            schema.matches(&user, &RequestInfo::parse(&method, path, ""))
        };
        assert!(asks(Method::GET, "/api/v1/namespaces/a/pods"));
        assert!(asks(Method::GET, "/api/v1/pods"));
        assert!(asks(Method::GET, "/api/v1/nodes/n/status"));
        assert!(asks(Method::GET, "/openapi/v2"));
        assert!(!asks(Method::GET, "/api/v1/namespaces/b/pods"));
        assert!(!asks(Method::GET, "/api/v1/namespaces/a/pods/p/log"));
        assert!(!asks(Method::DELETE, "/api/v1/namespaces/a/pods/p"));
        assert!(!asks(Method::GET, "/apis/apps/v1/pods"));
        assert!(!asks(Method::GET, "/livez"));
        let other = UserInfo::authenticated("system:serviceaccount:kube-system2:x", &[]);
        let info = RequestInfo::parse(&Method::GET, "/api/v1/pods", "");
        assert!(!schema.matches(&other, &info));
        let there = RequestInfo::parse(&Method::GET, "/api/v1/namespaces/a/pods", "");
        assert_eq!(schema.hash(&user, &there), schema.hash(&other, &there));
        assert_ne!(schema.hash(&user, &there), schema.hash(&user, &info));
    }
}
