//! Authentication and authorization of the endpoint's clients.
//!
//! As in the kubelet's modes `Webhook`, the API server knows the user of a token (TokenReview) and
//! the user's permissions (SubjectAccessReview).

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use tracing::warn;

use super::answer::{Answer, text};
use super::identity::Identity;

/// Lifetime of the cached owner of a token (`authentication.webhook.cacheTTL`).
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// Lifetime of a cached permission (`authorization.webhook.cacheAuthorizedTTL`).
const ALLOWED_TTL: Duration = Duration::from_secs(300);
/// Lifetime of a cached refusal (`authorization.webhook.cacheUnauthorizedTTL`).
const REFUSED_TTL: Duration = Duration::from_secs(30);
/// Maximum number of remembered answers of a kind. Anybody can ask with any token.
const MAX_REMEMBERED: usize = 1000;

/// A user as the API server knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

/// A request of a user: a verb on a part of the node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    user: User,
    verb: &'static str,
    subresource: &'static str,
}

/// Answers that are valid for a while.
struct TtlCache<K, V>(HashMap<K, (V, Instant)>);

impl<K: Eq + Hash, V: Clone> TtlCache<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<V> {
        let (value, until) = self.0.get(key)?;
        (now < *until).then(|| value.clone())
    }

    fn put(&mut self, key: K, value: V, until: Instant, now: Instant) {
        if self.0.len() >= MAX_REMEMBERED {
            self.0.retain(|_, (_, until)| now < *until);
        }
        // Too many are valid: all are asked for again.
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        self.0.insert(key, (value, until));
    }
}

/// Admits requests.
pub(crate) struct Access {
    node: String,
    tokens: Api<TokenReview>,
    permissions: Api<SubjectAccessReview>,
    /// Owners of tokens by the token's hash; `None` for tokens that are not valid.
    users: Mutex<TtlCache<Vec<u8>, Option<User>>>,
    decisions: Mutex<TtlCache<Question, bool>>,
}

impl Access {
    /// Asks the API server as `client`, the node itself.
    pub(crate) fn new(client: kube::Client, node: &str) -> Self {
        Self {
            node: node.to_owned(),
            tokens: Api::all(client.clone()),
            permissions: Api::all(client),
            users: Mutex::new(TtlCache(HashMap::new())),
            decisions: Mutex::new(TtlCache(HashMap::new())),
        }
    }

    /// Checks whether a client may make a request.
    ///
    /// # Errors
    ///
    /// The response for a client that may not: 401 if it is unknown, 403 if it lacks the
    /// permission, 500 if the API server does not answer.
    pub(super) async fn admit(
        &self,
        identity: &Identity,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Answer> {
        let unauthorized = || text(StatusCode::UNAUTHORIZED, "Unauthorized");
        let user = match identity {
            Identity::Trusted => return Ok(()),
            Identity::User(user) => user.clone(),
            Identity::Anonymous => {
                let token = bearer(headers).ok_or_else(unauthorized)?;
                match self.owner(token).await {
                    Ok(user) => user.ok_or_else(unauthorized)?,
                    Err(e) => {
                        warn!("cannot review a token: {e}");
                        return Err(unauthorized());
                    }
                }
            }
        };
        let (verb, subresources) = attributes(method, path);
        let about = format!(
            "(user={}, verb={verb}, resource=nodes, subresource(s)=[{}])",
            user.name,
            subresources.join(" ")
        );
        for subresource in subresources {
            let question = Question {
                user: user.clone(),
                verb,
                subresource,
            };
            match self.allows(question).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(e) => {
                    warn!("cannot review an access: {e}");
                    let message = format!("Authorization error {about}");
                    return Err(text(StatusCode::INTERNAL_SERVER_ERROR, message));
                }
            }
        }
        Err(text(StatusCode::FORBIDDEN, format!("Forbidden {about}")))
    }

    async fn owner(&self, token: &str) -> kube::Result<Option<User>> {
        let key = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let key = key.as_ref().to_vec();
        let now = Instant::now();
        if let Some(user) = self.users.lock().get(&key, now) {
            return Ok(user);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                ..TokenReviewSpec::default()
            },
            ..TokenReview::default()
        };
        let review = self.tokens.create(&PostParams::default(), &review).await?;
        let status = review.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true));
        let user = user.map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        let mut users = self.users.lock();
        users.put(key, user.clone(), now + TOKEN_TTL, now);
        Ok(user)
    }

    async fn allows(&self, question: Question) -> kube::Result<bool> {
        let now = Instant::now();
        if let Some(allowed) = self.decisions.lock().get(&question, now) {
            return Ok(allowed);
        }
        let user = question.user.clone();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name),
                uid: Some(user.uid).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups),
                extra: Some(user.extra),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(question.verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(question.subresource.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let params = PostParams::default();
        let review = self.permissions.create(&params, &review).await?;
        let allowed = review.status.is_some_and(|status| status.allowed);
        let ttl = if allowed { ALLOWED_TTL } else { REFUSED_TTL };
        self.decisions.lock().put(question, allowed, now + ttl, now);
        Ok(allowed)
    }
}

/// Returns the token of the header `Authorization`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Returns the verb of a request and the subresources of `nodes` of which one must be permitted.
///
/// Source: `pkg/kubelet/server/auth.go` with the gate KubeletFineGrainedAuthz.
fn attributes(method: &Method, path: &str) -> (&'static str, &'static [&'static str]) {
    let verb = match method.as_str() {
        "POST" => "create",
        "GET" => "get",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    };
    let first = path.trim_start_matches('/').split('/').next();
    let subresources: &[&str] = match first.unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    };
    (verb, subresources)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_about_parts_of_the_node() {
        for (method, path, verb, subresources) in [
            ("GET", "/metrics", "get", &["metrics"][..]),
            ("GET", "/metrics/cadvisor", "get", &["metrics"]),
            ("GET", "/metricsx", "get", &["proxy"]),
            ("GET", "/stats/summary", "get", &["stats"]),
            ("GET", "/logs/", "get", &["log"]),
            ("GET", "/pods", "get", &["pods", "proxy"]),
            ("GET", "/configz", "get", &["configz", "proxy"]),
            ("GET", "/containerLogs/a/b/c", "get", &["proxy"]),
            ("POST", "/exec/a/b/c", "create", &["proxy"]),
            ("DELETE", "/rkube/volumes/pvc-1", "delete", &["proxy"]),
            ("GET", "/", "get", &["proxy"]),
        ] {
            let method = method.parse().unwrap();
            assert_eq!(attributes(&method, path), (verb, subresources), "{path}");
        }
    }

    #[test]
    fn tokens_are_those_of_bearers() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, text.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        for none in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn answers_are_remembered_for_a_while_and_in_number() {
        let mut answers = TtlCache(HashMap::new());
        let start = Instant::now();
        let soon = start + REFUSED_TTL;
        answers.put(0, true, soon, start);
        assert_eq!(answers.get(&0, start), Some(true));
        assert_eq!(answers.get(&0, soon), None);
        for n in 0..2 * MAX_REMEMBERED {
            answers.put(n, true, soon, start);
            assert!(answers.0.len() <= MAX_REMEMBERED);
        }
    }
}
