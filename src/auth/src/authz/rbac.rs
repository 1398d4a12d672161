//! RBAC: an index of bindings by subject, and a cache of parsed roles.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rkube_api::Object;

use super::rule::Rule;
use crate::{ObjectReader, UserInfo, names, tree};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Resolves the rules that apply to a user.
pub(super) struct Rbac {
    reader: Arc<dyn ObjectReader>,
    cluster: Mutex<Index>,
    namespaced: Mutex<Index>,
    roles: Mutex<Roles>,
    cluster_roles: Mutex<Roles>,
}

/// A cache of the rules of roles, by namespace and name.
#[derive(Default)]
struct Roles {
    generation: Option<u64>,
    known: HashMap<(String, String), Compiled>,
}

/// The rules of one role. `source` is set if the reader has no generation: the rules are
/// current while the reader returns the same object.
struct Compiled {
    source: Option<Arc<Object>>,
    rules: Arc<[Rule]>,
}

/// The index of all bindings of one kind.
#[derive(Default)]
struct Index {
    generation: Option<u64>,
    /// The indexed objects, set if the reader has no generation to compare.
    sources: Vec<Arc<Object>>,
    scopes: Arc<HashMap<Box<str>, Scope>>,
}

/// The bindings of one namespace, or of the cluster. `users` and `groups` hold positions in
/// `bindings`.
#[derive(Default)]
struct Scope {
    bindings: Vec<Binding>,
    users: HashMap<Box<str>, Vec<u32>>,
    groups: HashMap<Box<str>, Vec<u32>>,
}

struct Binding {
    name: Box<str>,
    namespace: Box<str>,
    role_kind: Box<str>,
    role: Box<str>,
    subjects: Vec<Subject>,
}

struct Subject {
    kind: Box<str>,
    name: Box<str>,
    /// For a service account, the subject's namespace, or else the binding's.
    namespace: Box<str>,
}

/// The origin of a rule; displayed in the reason of a decision.
pub(super) struct Source<'a> {
    binding: &'a Binding,
    subject: Option<&'a Subject>,
}

/// A callback for each rule that applies, or for the error of a role that was not found. It
/// returns whether to continue.
type Visitor<'a> = dyn FnMut(Result<(&Source<'_>, &Rule), String>) -> bool + 'a;

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.binding;
        if b.namespace.is_empty() {
            write!(f, "ClusterRoleBinding {:?}", b.name)?;
        } else {
            write!(f, "RoleBinding \"{}/{}\"", b.name, b.namespace)?;
        }
        write!(f, " of {} {:?}", b.role_kind, b.role)?;
        match self.subject {
            Some(s) if &*s.kind == "ServiceAccount" => {
                write!(f, " to ServiceAccount \"{}/{}\"", s.name, s.namespace)
            }
            Some(s) => write!(f, " to {} {:?}", s.kind, s.name),
            None => Ok(()),
        }
    }
}

impl Subject {
    fn user(&self) -> Option<String> {
        match &*self.kind {
            "User" => Some(self.name.to_string()),
            "ServiceAccount" if !self.namespace.is_empty() => {
                Some(names::service_account_user(&self.namespace, &self.name))
            }
            _ => None,
        }
    }

    fn applies_to(&self, user: &UserInfo) -> bool {
        match &*self.kind {
            "Group" => user.in_group(&self.name),
            _ => self.user().is_some_and(|name| name == user.name),
        }
    }
}

impl Binding {
    fn from_object(object: &Object) -> Binding {
        let namespace = tree::namespace(object);
        let subject = |s: &Object| {
            let own = tree::text(s, &["namespace"]);
            Subject {
                kind: tree::text(s, &["kind"]).into(),
                name: tree::text(s, &["name"]).into(),
                namespace: if own.is_empty() {
                    namespace.into()
                } else {
                    own.into()
                },
            }
        };
        Binding {
            name: tree::name(object).into(),
            namespace: namespace.into(),
            role_kind: tree::text(object, &["roleRef", "kind"]).into(),
            role: tree::text(object, &["roleRef", "name"]).into(),
            subjects: tree::items(object, &["subjects"])
                .iter()
                .map(subject)
                .collect(),
        }
    }
}

impl Scope {
    fn add(&mut self, binding: Binding) {
        let id = self.bindings.len() as u32;
        for subject in &binding.subjects {
            let (index, key) = match (&*subject.kind, subject.user()) {
                ("Group", _) => (&mut self.groups, subject.name.clone()),
                (_, Some(user)) => (&mut self.users, user.into()),
                _ => continue,
            };
            let ids = index.entry(key).or_default();
            if ids.last() != Some(&id) {
                ids.push(id);
            }
        }
        self.bindings.push(binding);
    }

    /// Returns the bindings of `user` and its groups, each once.
    fn bindings_of(&self, user: &UserInfo) -> impl Iterator<Item = &Binding> {
        let mut ids: BTreeSet<u32> = self
            .users
            .get(&*user.name)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for group in &user.groups {
            ids.extend(self.groups.get(group.as_str()).into_iter().flatten());
        }
        ids.into_iter().map(|id| &self.bindings[id as usize])
    }
}

impl Index {
    /// Updates the index if bindings have changed, and returns it.
    fn refresh(
        &mut self,
        reader: &dyn ObjectReader,
        resource: &str,
    ) -> Arc<HashMap<Box<str>, Scope>> {
        let generation = reader.generation(GROUP, resource);
        if generation.is_some() && generation == self.generation {
            return self.scopes.clone();
        }
        let sources = reader.list(GROUP, resource, None);
        let same = generation.is_none()
            && self.sources.len() == sources.len()
            && self
                .sources
                .iter()
                .zip(&sources)
                .all(|(old, new)| Arc::ptr_eq(old, new));
        if !same {
            let mut scopes: HashMap<Box<str>, Scope> = HashMap::new();
            for object in &sources {
                let binding = Binding::from_object(object);
                scopes
                    .entry(binding.namespace.clone())
                    .or_default()
                    .add(binding);
            }
            self.scopes = Arc::new(scopes);
            self.sources = if generation.is_none() {
                sources
            } else {
                Vec::new()
            };
        }
        self.generation = generation;
        self.scopes.clone()
    }
}

impl Rbac {
    pub(super) fn new(reader: Arc<dyn ObjectReader>) -> Rbac {
        Rbac {
            reader,
            cluster: Mutex::default(),
            namespaced: Mutex::default(),
            roles: Mutex::default(),
            cluster_roles: Mutex::default(),
        }
    }

    /// Calls `visit` for each rule that applies to `user` in `namespace`, and for each role
    /// that was not found, until it returns `false`.
    pub(super) fn visit_rules(&self, user: &UserInfo, namespace: &str, visit: &mut Visitor<'_>) {
        let cluster = self
            .cluster
            .lock()
            .refresh(&*self.reader, "clusterrolebindings");
        if !self.visit_scope(cluster.get(""), user, visit) || namespace.is_empty() {
            return;
        }
        let namespaced = self
            .namespaced
            .lock()
            .refresh(&*self.reader, "rolebindings");
        self.visit_scope(namespaced.get(namespace), user, visit);
    }

    /// Visits the bindings of one scope. Returns whether to continue.
    fn visit_scope(&self, scope: Option<&Scope>, user: &UserInfo, visit: &mut Visitor<'_>) -> bool {
        for binding in scope.into_iter().flat_map(|s| s.bindings_of(user)) {
            let rules = match self.rules_of(&binding.role_kind, &binding.role, &binding.namespace) {
                Ok(rules) => rules,
                Err(why) => {
                    if visit(Err(why)) {
                        continue;
                    }
                    return false;
                }
            };
            let subject = binding.subjects.iter().find(|s| s.applies_to(user));
            let source = Source { binding, subject };
            if !rules.iter().all(|rule| visit(Ok((&source, rule)))) {
                return false;
            }
        }
        true
    }

    /// Returns every rule that applies to `user` in `namespace`, and the roles that were not
    /// found.
    pub(super) fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.visit_rules(user, namespace, &mut |found| {
            match found {
                Ok((_, rule)) => rules.push(rule.clone()),
                Err(why) => errors.push(why),
            }
            true
        });
        (rules, errors)
    }

    /// Returns the rules of the role that a binding in `namespace` refers to.
    pub(super) fn rules_of(
        &self,
        kind: &str,
        name: &str,
        namespace: &str,
    ) -> Result<Arc<[Rule]>, String> {
        let (resource, singular, namespace, roles) = match kind {
            "Role" => ("roles", "role", namespace, &self.roles),
            "ClusterRole" => ("clusterroles", "clusterrole", "", &self.cluster_roles),
            other => return Err(format!("unsupported role reference kind: {other:?}")),
        };
        let key = (namespace.to_owned(), name.to_owned());
        let generation = self.reader.generation(GROUP, resource);
        let mut roles = roles.lock();
        if generation.is_some() {
            if roles.generation != generation {
                roles.known.clear();
                roles.generation = generation;
            } else if let Some(known) = roles.known.get(&key) {
                return Ok(known.rules.clone());
            }
        }
        let Some(source) = self.reader.get(GROUP, resource, namespace, name) else {
            roles.known.remove(&key);
            return Err(format!("{singular}.{GROUP} {name:?} not found"));
        };
        if let Some(known) = roles.known.get(&key)
            && known
                .source
                .as_ref()
                .is_some_and(|s| Arc::ptr_eq(s, &source))
        {
            return Ok(known.rules.clone());
        }
        let rules: Arc<[Rule]> = Rule::of_role(&source).into();
        let source = generation.is_none().then_some(source);
        roles.known.insert(
            key,
            Compiled {
                source,
                rules: rules.clone(),
            },
        );
        Ok(rules)
    }
}
