//! Write options: dry run, field manager and field validation.

use rkube_api::fields::Validation;
use rkube_api::status::{FieldError, Status};
use rkube_api::{GroupKind, Object};
use serde_json::json;

use crate::call::Call;

/// The parsed options of a write.
#[derive(Clone)]
pub struct WriteOptions {
    /// Whether to process the write without storing it.
    pub dry_run: bool,
    /// The field manager under which changes are recorded.
    pub manager: String,
    /// The report of unknown and duplicate fields: as errors, as warnings or not at all.
    pub validation: Validation,
    /// The options object, for admission.
    pub object: Object,
}

impl WriteOptions {
    /// Parses and validates the options in the query. `kind` is `CreateOptions`, `UpdateOptions` or
    /// `PatchOptions`.
    pub fn read(call: &Call, kind: &str) -> Result<Self, Status> {
        let query = &call.info.query;
        let mut errors = Vec::new();
        let dry_run = dry_run_values(&query.all("dryRun").collect::<Vec<_>>(), &mut errors);
        if let Some(manager) = query.non_empty("fieldManager") {
            if manager.chars().count() > 128 {
                errors.push(FieldError::too_long("fieldManager", 128));
            }
            let wrong = manager.char_indices();
            for (at, character) in wrong.filter(|(_, c)| !rkube_api::text::is_printable(*c)) {
                let code = u32::from(character);
                errors.push(FieldError::invalid(
                    "fieldManager",
                    manager,
                    format!("invalid character U+{code:04X} (at position {at})"),
                ));
            }
        }
        let validation = match query.non_empty("fieldValidation") {
            None | Some("Warn") => Validation::Warn,
            Some("Strict") => Validation::Strict,
            Some("Ignore") => Validation::Ignore,
            Some(other) => {
                errors.push(FieldError::not_supported(
                    "fieldValidation",
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                Validation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid(
                &GroupKind::new("meta.k8s.io", kind),
                "",
                errors,
            ));
        }
        let mut object = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if dry_run {
            object["dryRun"] = json!(["All"]);
        }
        for key in ["fieldManager", "fieldValidation"] {
            if let Some(value) = query.non_empty(key) {
                object[key] = value.into();
            }
        }
        Ok(Self {
            dry_run,
            manager: call.field_manager(),
            validation,
            object,
        })
    }
}

/// Returns whether the values of `dryRun` request a dry run. Values other than `All` are an error,
/// which shows all of them.
pub fn dry_run_values(values: &[&str], errors: &mut Vec<FieldError>) -> bool {
    if values.iter().any(|value| *value != "All") {
        let all = json!(values);
        errors.push(FieldError::not_supported("dryRun", all, &["All"]));
    }
    !values.is_empty()
}
