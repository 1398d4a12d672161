//! Admission webhooks: `MutatingWebhookConfiguration` and
//! `ValidatingWebhookConfiguration`.

use rkube_api::Object;
use rkube_api::status::Status;

use crate::admission::Admission;

/// Calls webhooks.
#[derive(Default)]
pub struct Webhooks {}

impl Webhooks {
    /// Lets mutating webhooks change the object.
    pub async fn mutate(
        &self,
        _admission: &Admission<'_>,
        _object: &mut Object,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        Ok(())
    }

    /// Lets validating webhooks refuse the write.
    pub async fn validate(
        &self,
        _admission: &Admission<'_>,
        _object: Option<&Object>,
        _old: Option<&Object>,
    ) -> Result<(), Status> {
        Ok(())
    }
}
