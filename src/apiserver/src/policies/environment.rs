//! The CEL environment of policies and match conditions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use rkube_cel::{
    Activation, Attributes, Authorizer, Check, Decision, DeclField, DeclType, Env, EvalError,
    Outcome, PER_CALL_LIMIT, Program, Type, TypeProvider, Value as Cel,
};
use serde_json::Value;

use crate::admission::attributes::Admission;
use rkube_auth::{UserInfo, authz};

/// The API group of policies and webhooks.
pub const GROUP: &str = "admissionregistration.k8s.io";

/// The optional variables and types of an environment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// `params`
    pub params: bool,
    /// `authorizer`
    pub authorizer: bool,
    /// `Object{…}` and `JSONPatch{…}`
    pub patches: bool,
}

/// Returns an object type with optional fields.
pub(super) fn structure(name: &str, fields: &[(&str, DeclType)]) -> DeclType {
    let fields: BTreeMap<_, _> = fields
        .iter()
        .map(|(name, ty)| {
            let field = DeclField {
                name: (*name).to_owned(),
                ty: Arc::new(ty.clone()),
                required: false,
                default: None,
            };
            // Reserved words are also available under their escaped names.
            (rkube_cel::escape(name).unwrap_or_default(), field)
        })
        .collect();
    DeclType::object(name, fields)
}

fn text() -> DeclType {
    DeclType::simple(Type::String, 0, 2)
}

fn texts() -> DeclType {
    DeclType::list(Arc::new(text()), 0)
}

fn text_map() -> DeclType {
    DeclType::map(Arc::new(text()), 0)
}

/// Returns the declared type of `request`.
fn request_type() -> &'static Arc<DeclType> {
    static TYPE: OnceLock<Arc<DeclType>> = OnceLock::new();
    TYPE.get_or_init(|| {
        let names = |name: &str, last: &str| {
            structure(
                name,
                &[("group", text()), ("version", text()), (last, text())],
            )
        };
        let kind = names("kubernetes.GroupVersionKind", "kind");
        let resource = names("kubernetes.GroupVersionResource", "resource");
        let user = structure(
            "kubernetes.UserInfo",
            &[
                ("username", text()),
                ("uid", text()),
                ("groups", texts()),
                ("extra", DeclType::map(Arc::new(texts()), 0)),
            ],
        );
        Arc::new(structure(
            "kubernetes.AdmissionRequest",
            &[
                ("kind", kind.clone()),
                ("resource", resource.clone()),
                ("subResource", text()),
                ("requestKind", kind),
                ("requestResource", resource),
                ("requestSubResource", text()),
                ("name", text()),
                ("namespace", text()),
                ("operation", text()),
                ("userInfo", user),
                ("dryRun", DeclType::simple(Type::Bool, 0, 4)),
                ("options", DeclType::any()),
            ],
        ))
    })
}

/// Returns the declared type of `namespaceObject`.
fn namespace_type() -> &'static Arc<DeclType> {
    static TYPE: OnceLock<Arc<DeclType>> = OnceLock::new();
    TYPE.get_or_init(|| {
        let moment = || {
            let mut ty = DeclType::simple(Type::Timestamp, 32, 21);
            ty.read = rkube_cel::Read::DateTime;
            ty
        };
        let number = || DeclType::simple(Type::Int, 0, 1);
        let metadata = structure(
            "kubernetes.NamespaceMetadata",
            &[
                ("name", text()),
                ("generateName", text()),
                ("namespace", text()),
                ("labels", text_map()),
                ("annotations", text_map()),
                ("UID", text()),
                ("creationTimestamp", moment()),
                ("deletionTimestamp", moment()),
                ("deletionGracePeriodSeconds", number()),
                ("generation", number()),
                ("resourceVersion", text()),
                ("finalizers", texts()),
            ],
        );
        Arc::new(structure(
            "kubernetes.Namespace",
            &[
                ("metadata", metadata),
                (
                    "spec",
                    structure("kubernetes.NamespaceSpec", &[("finalizers", texts())]),
                ),
                (
                    "status",
                    structure("kubernetes.NamespaceStatus", &[("phase", text())]),
                ),
            ],
        ))
    })
}

/// Resolves the types of mutations: `Object`, `Object.spec` and so on, and `JSONPatch`.
#[derive(Debug)]
struct PatchTypes;

impl TypeProvider for PatchTypes {
    fn knows(&self, name: &str) -> bool {
        name == "JSONPatch" || name == "Object" || name.starts_with("Object.")
    }

    fn field(&self, name: &str, field: &str) -> Option<Type> {
        if name != "JSONPatch" {
            return Some(Type::Dyn);
        }
        match field {
            "op" | "path" | "from" => Some(Type::String),
            "value" => Some(Type::Dyn),
            _ => None,
        }
    }
}

/// A CEL environment and its variables in order.
#[derive(Clone, Debug)]
pub struct Environment {
    env: Env,
    slots: Vec<&'static str>,
    /// The policy's variables and their types.
    variables: Vec<(String, Type)>,
}

impl Environment {
    /// Creates an environment with the common variables and the requested ones.
    pub fn new(options: Options) -> Self {
        Self::typed(options, None, None)
    }

    /// Creates an environment in which `object` and `params` have the given types.
    pub fn typed(
        options: Options,
        object: Option<&Arc<DeclType>>,
        params: Option<&Arc<DeclType>>,
    ) -> Self {
        let mut env = match object {
            Some(decl) => Env::new()
                .declared("object", decl)
                .declared("oldObject", decl),
            None => Env::new()
                .variable("object", Type::Dyn)
                .variable("oldObject", Type::Dyn),
        };
        env = env
            .declared("namespaceObject", namespace_type())
            .declared("request", request_type());
        let mut slots = vec!["object", "oldObject", "namespaceObject", "request"];
        if options.params {
            env = match params {
                Some(decl) => env.declared("params", decl),
                None => env.variable("params", Type::Dyn),
            };
            slots.push("params");
        }
        if options.authorizer {
            env = env
                .variable(
                    "authorizer",
                    Type::object("kubernetes.authorization.Authorizer"),
                )
                .variable(
                    "authorizer.requestResource",
                    Type::object("kubernetes.authorization.ResourceCheck"),
                );
            slots.extend(["authorizer", "authorizer.requestResource"]);
        }
        if options.patches {
            env = env.provider(Arc::new(PatchTypes)).patches();
        }
        Self {
            env,
            slots,
            variables: Vec::new(),
        }
    }

    /// Adds a variable of the policy, visible to expressions that are compiled afterwards.
    pub fn define(&mut self, name: &str, ty: Type) {
        self.variables.push((name.to_owned(), ty));
    }

    /// Compiles an expression whose result must have one of `types`.
    ///
    /// # Errors
    ///
    /// The problem, in upstream's wording.
    pub fn compile(&self, source: &str, types: &[Type]) -> Result<(Expression, Type), String> {
        let mut env = self.env.clone();
        let mut slots = self.slots.clone();
        if !self.variables.is_empty() {
            let fields: Vec<(&str, DeclType)> = self
                .variables
                .iter()
                .map(|(name, ty)| (name.as_str(), DeclType::simple(ty.clone(), 0, 1)))
                .collect();
            env = env.declared(
                "variables",
                &Arc::new(structure("kubernetes.variables", &fields)),
            );
            slots.push("variables");
        }
        let compiled = env
            .compile(source)
            .map_err(|issues| format!("compilation failed: {issues}"))?;
        let ty = compiled.output().clone();
        if !types.is_empty() && !types.contains(&ty) {
            return Err(match types {
                [one] => format!(
                    "must evaluate to {} but got {}",
                    type_name(one),
                    type_name(&ty)
                ),
                many => {
                    let many: Vec<_> = many.iter().map(type_name).collect();
                    format!(
                        "must evaluate to one of [{}] but got {}",
                        many.join(" "),
                        type_name(&ty)
                    )
                }
            });
        }
        let program = compiled
            .program()
            .map_err(|e| format!("program instantiation failed: {e}"))?;
        Ok((
            Expression {
                source: source.to_owned(),
                program,
                slots,
            },
            ty,
        ))
    }
}

/// Returns the name of a type in Go's notation.
pub(super) fn type_name(ty: &Type) -> String {
    match ty {
        Type::Null => "null_type".into(),
        Type::Duration => "google.protobuf.Duration".into(),
        Type::Timestamp => "google.protobuf.Timestamp".into(),
        ty => ty.to_string(),
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    /// The source text.
    pub source: String,
    program: Program,
    slots: Vec<&'static str>,
}

/// The inputs of an evaluation, and the values computed so far.
pub struct Scope<'a> {
    /// The new object.
    pub object: Option<&'a Value>,
    /// The old object.
    pub old: Option<&'a Value>,
    /// The request, as in an `AdmissionReview`.
    pub request: &'a Value,
    /// The namespace object.
    pub namespace: Option<&'a Value>,
    /// The parameters of the binding.
    pub params: Option<&'a Value>,
    /// Answers `authorizer` checks.
    pub authorizer: &'a AuthorizerBinding<'a>,
    /// The policy's compiled variables.
    pub variables: &'a [(String, Result<Expression, String>)],
    values: Vec<Option<Outcome<'a>>>,
    slots: &'a [&'static str],
    spent: u64,
}

/// The error of an evaluation.
#[derive(Debug)]
pub enum EvaluationError {
    /// The cost budget of the policy's expressions is exhausted.
    OutOfBudget,
    /// The expression fails, with this message.
    Expression(String),
}

impl fmt::Display for EvaluationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfBudget => {
                "validation failed due to running out of cost budget, no further validation rules \
                 will be run"
            }
            Self::Expression(message) => message,
        })
    }
}

impl<'a> Scope<'a> {
    /// Creates a scope in which nothing has been evaluated.
    pub fn new(
        request: &'a Value,
        authorizer: &'a AuthorizerBinding<'a>,
        variables: &'a [(String, Result<Expression, String>)],
    ) -> Self {
        Self {
            object: None,
            old: None,
            request,
            namespace: None,
            params: None,
            authorizer,
            variables,
            values: vec![None; variables.len()],
            slots: &[],
            spent: 0,
        }
    }

    /// Evaluates an expression and subtracts its cost from a budget.
    ///
    /// # Errors
    ///
    /// The budget is exhausted, or the expression fails.
    pub fn evaluate(
        &mut self,
        expression: &'a Expression,
        budget: &mut u64,
    ) -> Result<Cel<'a>, EvaluationError> {
        let authorizer = self.authorizer;
        self.slots = &expression.slots;
        let run = expression
            .program
            .evaluate(self, authorizer, PER_CALL_LIMIT);
        *budget = budget
            .checked_sub(run.cost)
            .ok_or(EvaluationError::OutOfBudget)?;
        run.outcome.map_err(|e| {
            let source = &expression.source;
            EvaluationError::Expression(format!("expression '{source}' resulted in error: {e}"))
        })
    }

    fn named(&self, name: &str) -> Outcome<'a> {
        let json = |value: Option<&'a Value>| value.map_or(Cel::Null, Cel::json);
        Ok(match name {
            "object" => json(self.object),
            "oldObject" => json(self.old),
            "params" => json(self.params),
            "namespaceObject" => match self.namespace {
                Some(namespace) => Cel::typed(namespace, namespace_type())?,
                None => Cel::Null,
            },
            "request" => Cel::typed(self.request, request_type())?,
            "authorizer" => Cel::Check(Check::start()),
            "authorizer.requestResource" => {
                let text =
                    |field: &str| self.request[field].as_str().unwrap_or_default().to_owned();
                let resource = &self.request["requestResource"];
                Cel::Check(Check::resource(Attributes {
                    group: resource["group"].as_str().unwrap_or_default().to_owned(),
                    resource: resource["resource"].as_str().unwrap_or_default().to_owned(),
                    subresource: text("requestSubResource"),
                    namespace: text("namespace"),
                    name: text("name"),
                    ..Attributes::default()
                }))
            }
            other => {
                return Err(EvalError {
                    message: format!("no such attribute(s): {other}"),
                    fatal: false,
                });
            }
        })
    }
}

impl<'a> Activation<'a> for Scope<'a> {
    fn variable(&mut self, slot: usize) -> Outcome<'a> {
        self.named(self.slots.get(slot).copied().unwrap_or_default())
    }

    fn field(&mut self, slot: usize, name: &str) -> Option<Outcome<'a>> {
        if self.slots.get(slot).copied() != Some("variables") {
            return None;
        }
        let at = self.variables.iter().position(|(n, _)| n == name)?;
        if let Some(value) = &self.values[at] {
            return Some(value.clone());
        }
        let variables = self.variables;
        let outcome = match &variables[at].1 {
            Err(problem) => Err(EvalError {
                message: format!("composited variable \"{name}\" fails to compile: {problem}"),
                fatal: false,
            }),
            Ok(expression) => {
                let authorizer = self.authorizer;
                let before = std::mem::replace(&mut self.slots, &expression.slots);
                let run = expression
                    .program
                    .evaluate(self, authorizer, PER_CALL_LIMIT);
                self.slots = before;
                self.spent += run.cost;
                run.outcome.map_err(|e| EvalError {
                    message: format!("composited variable \"{name}\" fails to evaluate: {e}"),
                    fatal: e.fatal,
                })
            }
        };
        self.values[at] = Some(outcome.clone());
        Some(outcome)
    }

    fn spent(&mut self) -> u64 {
        std::mem::take(&mut self.spent)
    }
}

/// Answers authorization checks of CEL expressions.
pub struct AuthorizerBinding<'a> {
    /// The server's authorizer.
    pub authorizer: &'a authz::Authorizer,
    /// The user who makes the request.
    pub user: &'a UserInfo,
}

impl<'a> AuthorizerBinding<'a> {
    /// Creates an asker for the user who makes a write.
    pub fn of(admission: &'a Admission<'_>) -> Self {
        Self {
            authorizer: admission.authorizer,
            user: &admission.call.user,
        }
    }
}

impl Authorizer for AuthorizerBinding<'_> {
    fn authorize(&self, of: &Attributes) -> Decision {
        use rkube_auth::authz::Attributes as Question;
        let account = of.service_account.as_ref().map(|(namespace, name)| {
            let groups = rkube_auth::names::service_account_groups(namespace);
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            UserInfo::authenticated(
                &rkube_auth::names::service_account_user(namespace, name),
                &groups,
            )
        });
        let user = account.as_ref().unwrap_or(self.user);
        let question = match &of.path {
            Some(path) => Question::path(user, &of.verb, path),
            None => Question {
                api_version: "*",
                subresource: &of.subresource,
                namespace: &of.namespace,
                name: &of.name,
                field_selector: of.field_selector.as_deref().unwrap_or_default(),
                label_selector: of.label_selector.as_deref().unwrap_or_default(),
                ..Question::resource(user, &of.verb, &of.group, &of.resource)
            },
        };
        let decision = self.authorizer.authorize(&question);
        Decision {
            allowed: decision.is_allowed(),
            reason: decision.reason().to_owned(),
            error: None,
        }
    }
}
