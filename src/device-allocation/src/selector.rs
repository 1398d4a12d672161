//! CEL expressions that select devices.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute};
use rkube_cel::{DeclField, DeclType, Env, OwnMap, Program, Type, Value};

use crate::state::amount;

/// Highest cost of an expression, estimated when it is written and measured when it is evaluated.
pub const MAX_COST: u64 = 1_000_000;
/// Most attributes and capacities of a device, and most domains of them.
const MAX_PROPERTIES: u64 = 32;
/// Number of expressions that are kept compiled.
const KEPT: usize = 1024;

/// Returns the declared type of `device`.
pub fn device_type() -> &'static Arc<DeclType> {
    static TYPE: OnceLock<Arc<DeclType>> = OnceLock::new();
    TYPE.get_or_init(|| {
        let nested = |value: DeclType| {
            let inner = DeclType::map(Arc::new(value), MAX_PROPERTIES);
            DeclType::map(Arc::new(inner), MAX_PROPERTIES)
        };
        let quantity = Type::object("kubernetes.Quantity");
        let fields = [
            ("driver", DeclType::simple(Type::String, 63, 2)),
            ("attributes", nested(DeclType::simple(Type::Dyn, 64, 1))),
            ("capacity", nested(DeclType::simple(quantity, 0, 8))),
            (
                "allowMultipleAllocations",
                DeclType::simple(Type::Bool, 1, 4),
            ),
        ];
        let fields = fields.map(|(name, ty)| {
            let field = DeclField {
                name: name.to_owned(),
                ty: Arc::new(ty),
                required: false,
                default: None,
            };
            (name.to_owned(), field)
        });
        Arc::new(DeclType::object(
            "kubernetes.DRADevice",
            BTreeMap::from(fields),
        ))
    })
}

/// Returns the environment of the expressions: one variable, `device`.
pub fn environment() -> &'static Env {
    static ENVIRONMENT: OnceLock<Env> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| Env::new().declared("device", device_type()))
}

fn compile(source: &str) -> Result<Program, String> {
    let compiled = environment()
        .compile(source)
        .map_err(|issues| format!("compilation failed: {issues}"))?;
    match compiled.output() {
        Type::Bool | Type::Dyn => compiled
            .program()
            .map_err(|why| format!("program instantiation failed: {why}")),
        other => Err(format!(
            "must evaluate to bool or the unknown type, not {other}"
        )),
    }
}

/// Compiled expressions by source. Clones of the results are cheap.
#[derive(Debug, Default)]
pub struct Selectors {
    known: Mutex<HashMap<String, Result<Program, String>>>,
}

/// Why a selector has no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SelectorError {
    /// The expression does not compile.
    Compile(String),
    /// The evaluation failed.
    Run(String),
}

impl Selectors {
    fn program(&self, source: &str) -> Result<Program, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = known.get(source) {
            return program.clone();
        }
        if known.len() >= KEPT {
            known.clear();
        }
        let program = compile(source);
        known.insert(source.to_owned(), program.clone());
        program
    }

    /// Evaluates an expression for a device of a driver.
    pub(crate) fn matches(
        &self,
        source: &str,
        driver: &str,
        device: &Device,
    ) -> Result<bool, SelectorError> {
        let program = self.program(source).map_err(SelectorError::Compile)?;
        let value = value(driver, device).map_err(SelectorError::Run)?;
        let run = program.run(&[value], MAX_COST);
        match run.outcome {
            Ok(Value::Bool(matches)) => Ok(matches),
            Ok(other) => Err(SelectorError::Run(format!(
                "CEL result of type {} could not be converted to bool: type conversion error from '{0}' to 'bool'",
                other.type_of()
            ))),
            Err(error) => Err(SelectorError::Run(error.message)),
        }
    }
}

/// Groups values by the domain of their names. Every domain exists: those without values are empty.
fn by_domain<'a>(
    driver: &str,
    values: impl Iterator<Item = (&'a String, Value<'static>)>,
) -> Value<'static> {
    let mut domains: BTreeMap<String, Vec<(String, Value<'static>)>> = BTreeMap::new();
    for (name, value) in values {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        let domain = domains.entry(domain.to_owned()).or_default();
        domain.push((id.to_owned(), value));
    }
    let domains = domains
        .into_iter()
        .map(|(domain, values)| (domain, Value::map(OwnMap::of_fields(values, None))));
    let empty = Value::map(OwnMap::default());
    Value::map(OwnMap::of_fields(domains, Some(empty)))
}

fn attribute(name: &str, attribute: &DeviceAttribute) -> Result<Value<'static>, String> {
    let fail = |why: String| format!("attribute {name}: {why}");
    if let Some(int) = attribute.int {
        Ok(Value::Int(int))
    } else if let Some(bool) = attribute.bool {
        Ok(Value::Bool(bool))
    } else if let Some(text) = &attribute.string {
        Ok(Value::text(text.as_str()))
    } else if let Some(version) = &attribute.version {
        Value::version(version).map_err(|why| fail(format!("parse semantic version: {why}")))
    } else {
        Err(fail("unsupported attribute value".to_owned()))
    }
}

fn value(driver: &str, device: &Device) -> Result<Value<'static>, String> {
    let attributes = device.attributes.iter().flatten();
    let attributes: Vec<_> = attributes
        .map(|(name, found)| Ok((name, attribute(name, found)?)))
        .collect::<Result<_, String>>()?;
    let capacity = device.capacity.iter().flatten();
    let capacity =
        capacity.map(|(name, found)| (name, Value::Quantity(Arc::new(amount(&found.value)))));
    let shared = device.allow_multiple_allocations == Some(true);
    let fields = [
        ("driver".to_owned(), Value::text(driver)),
        ("allowMultipleAllocations".to_owned(), Value::Bool(shared)),
        (
            "attributes".to_owned(),
            by_domain(driver, attributes.into_iter()),
        ),
        ("capacity".to_owned(), by_domain(driver, capacity)),
    ];
    Ok(Value::map(OwnMap::of_fields(fields, None)))
}
