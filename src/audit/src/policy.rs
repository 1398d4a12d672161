//! The audit policy (`audit.k8s.io/v1`): how much of each request is logged.

use rkube_auth::UserInfo;
use serde_json::Value;

use rkube_request::RequestInfo;

/// The amount of a request that is logged. Each level includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The request is not logged.
    None,
    /// User, verb, resource and response status, without bodies.
    Metadata,
    /// Also the request's body.
    Request,
    /// Also the response's body.
    RequestResponse,
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "None" => Self::None,
            "Metadata" => Self::Metadata,
            "Request" => Self::Request,
            "RequestResponse" => Self::RequestResponse,
            _ => return None,
        })
    }

    /// Returns the level's name in `audit.k8s.io/v1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// A stage of request handling at which an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The request has been received and not yet handled.
    RequestReceived,
    /// The response headers of a long-running request have been sent; its body follows.
    ResponseStarted,
    /// The response is complete.
    ResponseComplete,
    /// The handler panicked.
    Panic,
}

impl Stage {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "RequestReceived" => Self::RequestReceived,
            "ResponseStarted" => Self::ResponseStarted,
            "ResponseComplete" => Self::ResponseComplete,
            "Panic" => Self::Panic,
            _ => return None,
        })
    }

    /// Returns the stage's name in `audit.k8s.io/v1`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

struct GroupResources {
    group: String,
    resources: Vec<String>,
    names: Vec<String>,
}

struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    paths: Vec<String>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

/// The policy's decision for one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The amount that is logged.
    pub level: Level,
    /// Stages at which no event is written.
    pub omit_stages: Vec<Stage>,
    /// Whether `managedFields` are removed from logged bodies.
    pub omit_managed_fields: bool,
}

/// A parsed `Policy` of `audit.k8s.io/v1`.
pub struct Policy {
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v.as_str().map(str::to_owned))
        .collect()
}

fn stages(value: &Value, at: &str) -> Result<Vec<Stage>, String> {
    texts(value)
        .iter()
        .map(|text| {
            Stage::parse(text).ok_or_else(|| {
                format!(
                    "{at}: {text:?} is no stage; there are RequestReceived, ResponseStarted, ResponseComplete and Panic"
                )
            })
        })
        .collect()
}

impl Policy {
    /// Parses a policy from YAML or JSON.
    ///
    /// # Errors
    ///
    /// Returns a message that names the invalid field, or the parser's error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Value = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
        if policy["kind"] != "Policy" || policy["apiVersion"] != "audit.k8s.io/v1" {
            return Err(format!(
                "it is a {} of {}, not a Policy of audit.k8s.io/v1",
                policy["kind"], policy["apiVersion"]
            ));
        }
        let all = policy["rules"].as_array().filter(|r| !r.is_empty());
        let all = all.ok_or("it has no rules")?;
        let omit_stages = stages(&policy["omitStages"], "omitStages")?;
        let omit_managed_fields = policy["omitManagedFields"] == true;
        let rules = all
            .iter()
            .enumerate()
            .map(|(i, rule)| {
                let at = format!("rules[{i}]");
                let level = rule["level"].as_str().unwrap_or_default();
                let level = Level::parse(level).ok_or_else(|| {
                    format!(
                        "{at}.level: {level:?} is no level; there are None, Metadata, Request and RequestResponse"
                    )
                })?;
                let resources: Vec<GroupResources> = rule["resources"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|r| GroupResources {
                        group: r["group"].as_str().unwrap_or_default().to_owned(),
                        resources: texts(&r["resources"]),
                        names: texts(&r["resourceNames"]),
                    })
                    .collect();
                let namespaces = texts(&rule["namespaces"]);
                let paths = texts(&rule["nonResourceURLs"]);
                let of_resources = !(resources.is_empty() && namespaces.is_empty());
                if of_resources && !paths.is_empty() {
                    return Err(format!(
                        "{at}.nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
                    ));
                }
                for path in &paths {
                    let star = path.find('*').is_some_and(|at| at + 1 != path.len());
                    if path != "*" && (!path.starts_with('/') || star) {
                        return Err(format!(
                            "{at}.nonResourceURLs: {path:?} must begin with a '/', and have a '*' at its end alone"
                        ));
                    }
                }
                let mut own = stages(&rule["omitStages"], &at)?;
                own.extend(omit_stages.iter().copied());
                Ok(Rule {
                    level,
                    users: texts(&rule["users"]),
                    groups: texts(&rule["userGroups"]),
                    verbs: texts(&rule["verbs"]),
                    resources,
                    namespaces,
                    paths,
                    omit_stages: own,
                    omit_managed_fields: rule["omitManagedFields"]
                        .as_bool()
                        .unwrap_or(omit_managed_fields),
                })
            })
            .collect::<Result<_, String>>()?;
        Ok(Self {
            rules,
            omit_stages,
            omit_managed_fields,
        })
    }

    /// Returns the decision of the first rule that matches the request. `user` is `None` for
    /// requests that failed authentication. A request that no rule matches is not logged.
    pub fn judge(&self, user: Option<&UserInfo>, info: &RequestInfo) -> Verdict {
        match self.rules.iter().find(|rule| rule.matches(user, info)) {
            Some(rule) => Verdict {
                level: rule.level,
                omit_stages: rule.omit_stages.clone(),
                omit_managed_fields: rule.omit_managed_fields,
            },
            None => Verdict {
                level: Level::None,
                omit_stages: self.omit_stages.clone(),
                omit_managed_fields: self.omit_managed_fields,
            },
        }
    }
}

impl Rule {
    fn matches(&self, user: Option<&UserInfo>, info: &RequestInfo) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|v| v == wanted);
        if !self.users.is_empty() && !user.is_some_and(|u| has(&self.users, &u.name)) {
            return false;
        }
        if !self.groups.is_empty()
            && !user.is_some_and(|u| u.groups.iter().any(|g| has(&self.groups, g)))
        {
            return false;
        }
        if !self.verbs.is_empty() && !has(&self.verbs, info.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &info.namespace))
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.covers(info)));
        }
        if !self.paths.is_empty() {
            return !info.is_resource
                && self.paths.iter().any(|path| {
                    path == "*"
                        || *path == info.path
                        || path
                            .strip_suffix('*')
                            .is_some_and(|prefix| info.path.starts_with(prefix))
                });
        }
        true
    }
}

impl GroupResources {
    fn covers(&self, info: &RequestInfo) -> bool {
        if self.group != info.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.names.is_empty() && !self.names.contains(&info.name) {
            return false;
        }
        let combined = if info.subresource.is_empty() {
            info.resource.clone()
        } else {
            format!("{}/{}", info.resource, info.subresource)
        };
        self.resources.iter().any(|pattern| {
            *pattern == combined
                || pattern == "*"
                || (!info.subresource.is_empty()
                    && pattern.strip_prefix("*/") == Some(&*info.subresource))
                || pattern.strip_suffix("/*") == Some(&*info.resource)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Method;

    const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  users: ["system:kube-proxy"]
  verbs: [watch]
- level: None
  userGroups: ["system:authenticated"]
  nonResourceURLs: ["/api*", "/version"]
- level: Request
  resources: [{group: "", resources: [configmaps], resourceNames: [mine]}]
  namespaces: [kube-system]
- level: RequestResponse
  omitManagedFields: false
  resources: [{group: apps, resources: ["*/scale", "deployments/*"]}]
- level: Metadata
  omitStages: [ResponseStarted]
  resources: [{group: ""}]
"#;

    fn level(user: &str, method: Method, path: &str, query: &str) -> Level {
        let user = UserInfo::authenticated(user, &[]);
        let info = RequestInfo::parse(&method, path, query);
        let policy = Policy::parse(POLICY).unwrap();
        policy.judge(Some(&user), &info).level
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        use Level::{Metadata, None, Request, RequestResponse};
        let get = Method::GET;
        for (user, path, query, expected) in [
            ("system:kube-proxy", "/api/v1/services", "watch=1", None),
            ("system:kube-proxy", "/api/v1/services", "", Metadata),
            ("jane", "/apis", "", None),
            ("jane", "/version", "", None),
            ("jane", "/healthz", "", None),
            (
                "jane",
                "/api/v1/namespaces/kube-system/configmaps/mine",
                "",
                Request,
            ),
            (
                "jane",
                "/api/v1/namespaces/default/configmaps/mine",
                "",
                Metadata,
            ),
            (
                "jane",
                "/apis/apps/v1/namespaces/a/statefulsets/s/scale",
                "",
                RequestResponse,
            ),
            (
                "jane",
                "/apis/apps/v1/namespaces/a/deployments/d",
                "",
                RequestResponse,
            ),
            ("jane", "/apis/batch/v1/jobs", "", None),
        ] {
            assert_eq!(
                level(user, get.clone(), path, query),
                expected,
                "{user} {path}"
            );
        }
        let policy = Policy::parse(POLICY).unwrap();
        let info = RequestInfo::parse(&get, "/api/v1/pods", "");
        let verdict = policy.judge(Option::None, &info);
        assert_eq!(
            verdict.omit_stages,
            [Stage::ResponseStarted, Stage::RequestReceived]
        );
        assert!(verdict.omit_managed_fields);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            (
                "kind: Policy\napiVersion: v1\nrules: [{level: None}]",
                "not a Policy",
            ),
            ("kind: Policy\napiVersion: audit.k8s.io/v1", "no rules"),
            (
                "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: Some}]",
                "rules[0].level",
            ),
            (
                "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, omitStages: [Never]}]",
                "no stage",
            ),
            (
                "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, nonResourceURLs: [x]}]",
                "must begin with",
            ),
        ] {
            let error = Policy::parse(text).err().unwrap();
            assert!(error.contains(why), "{error}");
        }
    }
}
