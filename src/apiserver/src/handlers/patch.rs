//! JSON patch, merge patch and strategic merge patch.

use rkube_api::fields::{self, Validation};
use rkube_api::status::Status;
use rkube_api::{FieldError, GroupKind, Object, meta, patch as patches};

use crate::call::Call;
use crate::input::decode::identified;
use crate::input::patch::{Form, Patch};
use crate::resources::Resource;

impl Patch {
    /// Returns the patched object, in the hub version.
    pub(super) fn applied(
        &self,
        call: &Call,
        resource: &Resource,
        old: Option<&Object>,
    ) -> Result<Object, Status> {
        let Some(old) = old else {
            return Err(Status::not_found(
                &resource.group_resource(),
                &call.info.name,
            ));
        };
        let mut live = resource.served(old.clone())?;
        let mut new = match self.form {
            Form::Strategic => patches::strategic_merge(resource.schema(), &live, &self.value)?,
            Form::Json => {
                // JSON patch paths may point into structs that exist in every Go object, if only
                // with zero values.
                fields::check(resource.schema(), &mut live)?;
                patches::json_patch(&live, &self.value)?
            }
            Form::Merge | Form::Apply => patches::merge_patch(&live, &self.value)?,
        };
        let merged = new.clone();
        match self.form {
            // A strategic merge patch is applied to Go's object, whatever kind it names.
            Form::Strategic => {
                meta::set_type(&mut new, &resource.api_version(), &resource.kind);
            }
            _ => {
                new = identified(new).map_err(|error| self.invalid(&merged, &error.message))?;
                if let Err(error) = resource.check_kind(&mut new) {
                    let handled = format!(" cannot be handled as a {}: ", resource.kind);
                    let why = error.message.split_once(&handled).map(|(_, why)| why);
                    return Err(self.invalid(&merged, why.unwrap_or(&error.message)));
                }
            }
        }
        let unknown = match fields::check(resource.schema(), &mut new) {
            Ok(unknown) => unknown,
            Err(error) => {
                // Of a patch, the message is that of the decoder alone.
                let kind = format!(" cannot be handled as a {}: ", resource.kind);
                let why = error.message.split_once(&kind).map(|(_, why)| why);
                return Err(self.invalid(&merged, why.unwrap_or(&error.message)));
            }
        };
        self.report(call, &merged, unknown)?;
        resource.stored(new)
    }

    /// Reports duplicate and unknown fields according to `fieldValidation`.
    pub(super) fn report(
        &self,
        call: &Call,
        merged: &Object,
        unknown: Vec<String>,
    ) -> Result<(), Status> {
        let mut messages = self.duplicates.clone();
        messages.extend(unknown);
        match self.validation {
            _ if messages.is_empty() => {}
            Validation::Ignore => {}
            Validation::Warn => call.warn(messages),
            Validation::Strict => {
                let why = format!("strict decoding error: {}", messages.join(", "));
                return Err(self.invalid(merged, &why));
            }
        }
        Ok(())
    }

    /// Returns 422: the patch is at fault, not the request's form.
    pub(super) fn invalid(&self, merged: &Object, why: &str) -> Status {
        let shown = match self.form {
            Form::Strategic => rkube_api::text::go_value(&self.value),
            _ => merged.to_string(),
        };
        let error = FieldError::invalid("patch", shown, why);
        Status::invalid(&GroupKind::new("", ""), "", vec![error])
    }
}
