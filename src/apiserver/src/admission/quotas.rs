//! Access to ResourceQuota objects for the quota plugin.

use futures::future::BoxFuture;
use rkube_admission::QuotaStore;
use rkube_api::status::Status;
use rkube_api::{Object, meta};
use rkube_store::{Expect, StoreError};

use crate::backend::Backend;
use crate::cache::Filter;
use crate::codec::{decode, encode};

/// The quotas in the store.
pub(super) struct StoredQuotas<'a>(pub(super) &'a Backend);

impl QuotaStore for StoredQuotas<'_> {
    fn quotas<'a>(&'a self, namespace: &'a str) -> BoxFuture<'a, Result<Vec<Object>, Status>> {
        Box::pin(async move {
            self.0.cache.consistent().await;
            let Some(cache) = self.0.cache.existing("", "resourcequotas") else {
                return Ok(Vec::new());
            };
            let filter = Filter::new(Some(namespace.to_owned()), None, None, None);
            Ok(cache
                .list(&filter)
                .iter()
                .map(|object| object.parse())
                .collect())
        })
    }

    fn update_status<'a>(&'a self, mut quota: Object) -> BoxFuture<'a, Result<Object, Status>> {
        Box::pin(async move {
            let resource = rkube_api::GroupResource::new("", "resourcequotas");
            let name = meta::name(&quota).to_owned();
            let key = format!(
                "/registry/core/resourcequotas/{}/{name}",
                meta::namespace(&quota)
            );
            let revision: u64 = meta::resource_version(&quota)
                .parse()
                .map_err(|_| Status::modified(&resource, &name))?;
            let bytes = encode(&mut quota)?;
            match self
                .0
                .store
                .put(&key, bytes, Expect::Revision(revision))
                .await
            {
                Ok(kv) => decode(&kv),
                Err(StoreError::Conflict { .. }) => Err(Status::modified(&resource, &name)),
                Err(error) => Err(Status::internal(error)),
            }
        })
    }
}
