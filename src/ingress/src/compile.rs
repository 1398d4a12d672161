//! Compiles the cluster's objects to a [`Table`]: a pure function.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressServiceBackend,
};
use regex::{Regex, RegexBuilder};
use rustls::sign::CertifiedKey;

use crate::cache::Cache;
use crate::endpoints::{endpoints, external_target, protocol};
use crate::settings::{self, PREFIX, Settings};
use crate::table::{Affinity, Backend, Host, Protocol, Route, Table, normalize};

/// The name of this controller in IngressClasses.
pub const CONTROLLER: &str = "rkube.dev/ingress";
/// A class whose Ingresses are served, too, unless an IngressClass of this name exists.
const WELL_KNOWN: &str = "nginx";
/// The class' name before `spec.ingressClassName`.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// The greatest size in bytes of a compiled pattern.
const PATTERN_LIMIT: usize = 1 << 20;
/// The greatest number of patterns of an Ingress.
const MAX_PATTERNS: usize = 256;

/// The objects that a table depends on.
#[derive(Clone, Default)]
pub struct Objects {
    /// All Ingresses.
    pub ingresses: Vec<Arc<Ingress>>,
    /// All IngressClasses.
    pub classes: Vec<Arc<IngressClass>>,
    /// All services.
    pub services: Vec<Arc<Service>>,
    /// All endpoint slices.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Secrets.
    pub secrets: Vec<Arc<Secret>>,
    /// The certificate for names that have none.
    pub fallback: Option<Arc<CertifiedKey>>,
}

/// Something that a user should know about an Ingress.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Finding {
    /// `NAMESPACE/NAME` of the Ingress.
    pub ingress: Arc<str>,
    /// The reason of the event.
    pub reason: &'static str,
    /// The message of the event.
    pub message: String,
}

/// The result of a compilation.
#[derive(Default)]
pub struct Compiled {
    /// The table.
    pub table: Table,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The Ingresses that belong to this controller.
    pub served: Vec<Arc<Ingress>>,
}

/// Compiles a table.
pub fn compile(objects: &Objects) -> Compiled {
    compile_with(objects, Cache::default()).0
}

/// Compiles a table with what is kept of the previous one. Returns what to keep for the next.
pub fn compile_with(objects: &Objects, mut cache: Cache) -> (Compiled, Cache) {
    cache.turn();
    let mut served: Vec<Arc<Ingress>> = objects
        .ingresses
        .iter()
        .filter(|ingress| is_ours(ingress, &objects.classes))
        .cloned()
        .collect();
    // The oldest has precedence; names break ties.
    served.sort_by_cached_key(|i| {
        let meta = &i.metadata;
        let created = meta.creation_timestamp.as_ref().map(|t| t.0);
        (created, meta.namespace.clone(), meta.name.clone())
    });
    let mut compiler = Compiler::new(objects, cache);
    for ingress in &served {
        compiler.add(ingress);
    }
    // Last, so that a name without a certificate does not keep away another Ingress' one. Without
    // the fallback, a wildcard's certificate would answer.
    if let Some(fallback) = &objects.fallback {
        for host in std::mem::take(&mut compiler.without_certificate) {
            compiler.table.certificates.add(host, fallback);
        }
    }
    let mut seen = HashSet::new();
    compiler.findings.retain(|f| seen.insert(f.clone()));
    let cache = compiler.cache;
    let mut table = compiler.table;
    table.certificates.default = compiler.default_certificate.or(objects.fallback.clone());
    for host in table.hosts_mut() {
        host.patterns
            .sort_by_key(|route| std::cmp::Reverse(route.path.len()));
    }
    let compiled = Compiled {
        table,
        findings: compiler.findings,
        served,
    };
    (compiled, cache)
}

/// Whether an Ingress belongs to this controller.
fn is_ours(ingress: &Ingress, classes: &[Arc<IngressClass>]) -> bool {
    let spec = ingress.spec.as_ref();
    let annotations = ingress.metadata.annotations.as_ref();
    let named = spec.and_then(|s| s.ingress_class_name.as_deref());
    let named = named.or_else(|| annotations?.get(OLD_CLASS).map(String::as_str));
    let ours = |class: &IngressClass| {
        class.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER)
    };
    let Some(name) = named else {
        // It may be older than the class.
        return classes.iter().any(|class| {
            let annotations = class.metadata.annotations.as_ref();
            ours(class)
                && annotations.is_some_and(|a| a.get(DEFAULT_CLASS).is_some_and(|v| v == "true"))
        });
    };
    let class = classes
        .iter()
        .find(|class| class.metadata.name.as_deref() == Some(name));
    match class {
        Some(class) => ours(class),
        None => name == WELL_KNOWN && classes.iter().any(|class| ours(class)),
    }
}

impl Table {
    fn hosts_mut(&mut self) -> impl Iterator<Item = &mut Host> {
        let named = self.exact.values_mut().chain(self.wildcard.values_mut());
        named.chain([&mut self.any])
    }

    /// Returns the rules of a host as an Ingress spells it; empty for every host.
    fn host_mut(&mut self, host: &str) -> &mut Host {
        let host = host.to_ascii_lowercase();
        if host.is_empty() {
            return &mut self.any;
        }
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcard.entry(parent.to_owned()).or_default(),
            None => self.exact.entry(host).or_default(),
        }
    }

    /// Returns the rules of a host as an Ingress spells it, if it has any.
    pub(crate) fn known_host(&mut self, host: &str) -> Option<&mut Host> {
        let host = host.to_ascii_lowercase();
        if host.is_empty() {
            return Some(&mut self.any);
        }
        match host.strip_prefix("*.") {
            Some(parent) => self.wildcard.get_mut(parent),
            None => self.exact.get_mut(&host),
        }
    }
}

/// The type of a path.
#[derive(Clone, Copy, PartialEq)]
enum PathType {
    Exact,
    Prefix,
}

pub(crate) struct Compiler<'a> {
    pub(crate) cache: Cache,
    /// The patterns of the Ingress that is being added.
    pattern_count: usize,
    services: HashMap<(&'a str, &'a str), &'a Service>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
    pub(crate) secrets: HashMap<(&'a str, &'a str), &'a Secret>,
    /// Hosts that are listed for TLS without a certificate.
    pub(crate) without_certificate: Vec<&'a str>,
    pub(crate) table: Table,
    findings: Vec<Finding>,
    pub(crate) default_certificate: Option<Arc<CertifiedKey>>,
    /// Backends that exist already, so that routes to one share its turn, and what is wrong with
    /// them.
    backends: HashMap<BackendKey, (Arc<Backend>, Option<String>)>,
    /// Certificates that were read already.
    pub(crate) pairs: HashMap<(&'a str, &'a str), Result<Arc<CertifiedKey>, String>>,
    /// Routes at a host and pattern, which have no map of their own.
    patterns: HashSet<(String, String)>,
    /// Whether the default backend is that of an Ingress without rules.
    default_is_pure: bool,
}

type BackendKey = (String, String, Option<Protocol>, Option<String>);

/// What belongs to the Ingress that is being added.
pub(crate) struct Current<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: Arc<str>,
    settings: Arc<Settings>,
}

impl<'a> Compiler<'a> {
    fn new(objects: &'a Objects, cache: Cache) -> Self {
        let mut slices: HashMap<_, Vec<&EndpointSlice>> = HashMap::new();
        for slice in &objects.slices {
            let labels = slice.metadata.labels.as_ref();
            let service = labels.and_then(|l| l.get("kubernetes.io/service-name"));
            if let (Some(namespace), Some(service)) = (&slice.metadata.namespace, service) {
                let key = (namespace.as_str(), service.as_str());
                slices.entry(key).or_default().push(slice);
            }
        }
        // The order of a watch's objects means nothing; without one, affinity would change.
        for list in slices.values_mut() {
            list.sort_by_key(|slice| slice.metadata.name.as_deref());
        }
        Self {
            cache,
            pattern_count: 0,
            services: by_name(&objects.services),
            secrets: by_name(&objects.secrets),
            slices,
            without_certificate: Vec::new(),
            table: Table::default(),
            findings: Vec::new(),
            default_certificate: None,
            backends: HashMap::new(),
            pairs: HashMap::new(),
            patterns: HashSet::new(),
            default_is_pure: false,
        }
    }

    pub(crate) fn report(
        &mut self,
        ingress: &Arc<str>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.findings.push(Finding {
            ingress: ingress.clone(),
            reason,
            message: message.into(),
        });
    }

    fn add(&mut self, ingress: &'a Ingress) {
        let meta = &ingress.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let name: Arc<str> =
            format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default()).into();
        let none = BTreeMap::new();
        let annotations = meta.annotations.as_ref().unwrap_or(&none);
        if annotations
            .get(&format!("{PREFIX}canary"))
            .map(String::as_str)
            == Some("true")
        {
            self.report(
                &name,
                "Rejected",
                "canary Ingresses are not supported; all requests go to the main Ingress",
            );
            return;
        }
        let (settings, problems) = settings::read(annotations);
        for problem in problems {
            self.report(&name, "Annotation", problem);
        }
        let current = Current {
            namespace,
            name,
            settings: Arc::new(settings),
        };
        let Some(spec) = &ingress.spec else {
            return;
        };
        let rules = spec.rules.as_deref().unwrap_or_default();
        self.pattern_count = 0;
        let mut hosts: Vec<&'a str> = Vec::new();
        for rule in rules {
            let host = rule.host.as_deref().unwrap_or_default();
            hosts.push(host);
            let paths = rule.http.iter().flat_map(|http| &http.paths);
            for path in paths {
                self.add_path(&current, host, path);
            }
        }
        if let Some(backend) = &spec.default_backend {
            self.add_default(&current, &hosts, backend);
        }
        self.add_tls(&current, &hosts, ingress);
        self.add_tls_names(&current, &hosts, ingress);
    }

    fn add_path(&mut self, current: &Current<'_>, host: &str, path: &HTTPIngressPath) {
        let Some(backend) = self.backend(current, &path.backend) else {
            return;
        };
        let text = path
            .path
            .as_deref()
            .filter(|p| !p.is_empty())
            .unwrap_or("/");
        let kind = match path.path_type.as_str() {
            "Exact" => PathType::Exact,
            _ => PathType::Prefix,
        };
        let special = text.contains(|c| "()[]{}*+?|^$\\".contains(c));
        let wanted = current.settings.use_regex && special && kind == PathType::Prefix;
        self.pattern_count += usize::from(wanted);
        if self.pattern_count > MAX_PATTERNS && wanted {
            let message = format!("the path {text} is left out: more than {MAX_PATTERNS} patterns");
            return self.report(&current.name, "Rejected", message);
        }
        let pattern = wanted.then(|| self.cache.patterns.get(text.to_owned(), || pattern(text)));
        let pattern = match pattern.transpose() {
            Ok(pattern) => pattern,
            Err(why) => {
                let message = format!("the path {text} is no regular expression: {why}");
                return self.report(&current.name, "Rejected", message);
            }
        };
        let route = Arc::new(Route {
            ingress: current.name.clone(),
            path: text.into(),
            settings: current.settings.clone(),
            pattern,
            backend,
        });
        let taken = self.place(host, text, kind, route);
        if let Some(other) = taken.filter(|other| *other != current.name) {
            let host = if host.is_empty() { "*" } else { host };
            let message = format!("{host}{text} belongs to the older Ingress {other}");
            self.report(&current.name, "Conflict", message);
        }
    }

    /// Adds a route unless there is one. Returns the Ingress of the one that was there.
    fn place(
        &mut self,
        host: &str,
        text: &str,
        kind: PathType,
        route: Arc<Route>,
    ) -> Option<Arc<str>> {
        let rules = self.table.host_mut(host);
        if route.pattern.is_some() {
            if self.patterns.insert((host.to_owned(), text.to_owned())) {
                rules.patterns.push(route);
                return None;
            }
            let other = rules.patterns.iter().find(|r| *r.path == *text);
            return other.map(|other| other.ingress.clone());
        }
        let plain = normalize(text).unwrap_or(text.into());
        let (map, key) = match kind {
            PathType::Exact => (&mut rules.exact, plain.as_ref()),
            PathType::Prefix => (&mut rules.prefixes, plain.trim_end_matches('/')),
        };
        if let Some(other) = map.get(key) {
            return Some(other.ingress.clone());
        }
        map.insert(key.to_owned(), route);
        None
    }

    fn add_default(&mut self, current: &Current<'_>, hosts: &[&str], backend: &IngressBackend) {
        let Some(backend) = self.backend(current, backend) else {
            return;
        };
        let route = Arc::new(Route {
            ingress: current.name.clone(),
            path: "".into(),
            settings: current.settings.clone(),
            pattern: None,
            backend,
        });
        for host in hosts {
            let rules = self.table.host_mut(host);
            rules.fallback.get_or_insert_with(|| route.clone());
        }
        // One without rules is meant for everything, so it goes before one that has its own hosts.
        let pure = hosts.is_empty();
        if self.table.default.is_none() || (pure && !self.default_is_pure) {
            self.table.default = Some(route);
            self.default_is_pure = pure;
        }
    }

    /// Returns the backend that a path names. Reports why there is none.
    fn backend(&mut self, current: &Current<'_>, backend: &IngressBackend) -> Option<Arc<Backend>> {
        let Some(wanted) = &backend.service else {
            let resource = backend.resource.as_ref();
            let what = resource.map_or_else(String::new, |r| format!(" {} {}", r.kind, r.name));
            let message = format!("the resource backend{what} is not supported; use a service");
            self.report(&current.name, "Rejected", message);
            return None;
        };
        let port = wanted.port.as_ref();
        let number = port.and_then(|p| p.number).filter(|n| *n != 0);
        let port = match (number, port.and_then(|p| p.name.clone())) {
            (Some(number), _) => number.to_string(),
            (None, name) => name.unwrap_or_default(),
        };
        let key: BackendKey = (
            format!("{}/{}", current.namespace, wanted.name),
            port.clone(),
            current.settings.protocol,
            current.settings.cookie.clone(),
        );
        let (made, problem) = match self.backends.get(&key) {
            Some(known) => known.clone(),
            None => {
                let (made, problem) = match self.resolve(current, wanted, number, &port) {
                    Ok(backend) => (backend, None),
                    Err(why) => {
                        let name = log_name(current.namespace, &wanted.name, &port);
                        let none = Backend::new(name, Protocol::Http, Vec::new(), Affinity::None);
                        (none, Some(why))
                    }
                };
                let both = (Arc::new(made), problem);
                self.backends.insert(key, both.clone());
                both
            }
        };
        // Each Ingress with it hears of it.
        if let Some(why) = problem {
            self.report(&current.name, "Backend", why);
        }
        Some(made)
    }

    fn resolve(
        &self,
        current: &Current<'_>,
        wanted: &IngressServiceBackend,
        number: Option<i32>,
        port: &str,
    ) -> Result<Backend, String> {
        let at = (current.namespace, wanted.name.as_str());
        let service = self.services.get(&at);
        let service =
            service.ok_or_else(|| format!("the service {} does not exist", wanted.name))?;
        let spec = service.spec.clone().unwrap_or_default();
        let ports = spec.ports.unwrap_or_default();
        let found = ports.iter().find(|p| match number {
            Some(number) => p.port == number,
            None => p.name.as_deref() == Some(port),
        });
        let settings = &current.settings;
        let name = log_name(at.0, at.1, port);
        let protocol = settings
            .protocol
            .unwrap_or_else(|| protocol(found.and_then(|p| p.app_protocol.as_deref())));
        let affinity = match (&settings.cookie, spec.session_affinity.as_deref()) {
            (Some(cookie), _) => Affinity::Cookie(cookie.as_str().into()),
            (None, Some("ClientIP")) => Affinity::ClientIp,
            _ => Affinity::None,
        };
        let missing = || format!("the service {} has no port {port}", wanted.name);
        let endpoints = if spec.type_.as_deref() == Some("ExternalName") {
            let number = found.map(|p| p.port).or(number).ok_or_else(missing)?;
            let external = spec.external_name.unwrap_or_default();
            vec![external_target(&external, number)?]
        } else {
            let found = found.ok_or_else(missing)?;
            let slices = self.slices.get(&at).map(Vec::as_slice).unwrap_or_default();
            endpoints(slices, found)
        };
        Ok(Backend::new(name, protocol, endpoints, affinity))
    }
}

fn by_name<K: kube::Resource>(objects: &[Arc<K>]) -> HashMap<(&str, &str), &K> {
    let keyed = objects.iter().filter_map(|object| {
        let meta = object.meta();
        Some((
            (meta.namespace.as_deref()?, meta.name.as_deref()?),
            &**object,
        ))
    });
    keyed.collect()
}

fn log_name(namespace: &str, service: &str, port: &str) -> Arc<str> {
    format!("{namespace}-{service}-{port}").into()
}

/// Compiles the path of an Ingress: it matches at the beginning, without regard to case, as in
/// ingress-nginx.
fn pattern(path: &str) -> Result<Regex, String> {
    RegexBuilder::new(&format!("^(?:{path})"))
        .case_insensitive(true)
        .size_limit(PATTERN_LIMIT)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it is too large".into(),
            error => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_owned()
            }
        })
}
