//! Deletes bootstrap tokens when they expire.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use rkube_component_helpers::time::until_time;

use crate::context::{Context, Deletion, Result, optional};
use crate::controller::{Controller, Watches};
use crate::informers::Key;
use crate::queue::Queue;

/// Returns the time until the token expires, or `None` if it does not expire. An expiration that
/// cannot be parsed counts as expired.
pub fn time_to_expiry(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let text = secret.data.as_ref()?.get("expiration")?;
    let text = std::str::from_utf8(&text.0).unwrap_or_default();
    if text.is_empty() {
        return None;
    }
    let Ok(expiration) = text.trim().parse::<Timestamp>() else {
        return Some(Duration::ZERO);
    };
    Some(until_time(expiration, now))
}

/// The controller that deletes expired bootstrap tokens.
pub struct TokenCleaner {
    ctx: Context,
    queue: Queue<Key>,
}

impl TokenCleaner {
    /// Returns the controller.
    pub fn new(ctx: &Context) -> Self {
        Self {
            ctx: ctx.clone(),
            queue: Queue::new(),
        }
    }
}

impl Controller for TokenCleaner {
    type Item = Key;

    fn name(&self) -> &'static str {
        "token-cleaner-controller"
    }

    fn workers(&self) -> usize {
        1
    }

    fn queue(&self) -> &Queue<Key> {
        &self.queue
    }

    fn watch(&self, watches: &mut Watches<Key>) {
        watches.present(&self.ctx.informers.bootstrap_tokens);
    }

    async fn reconcile(&self, key: Key) -> Result<()> {
        let Some(secret) = self.ctx.informers.bootstrap_tokens.by_key(&key) else {
            return Ok(());
        };
        sync(&self.ctx, &self.queue, key, &secret).await
    }
}

async fn sync(ctx: &Context, queue: &Queue<Key>, key: Key, secret: &Secret) -> Result<()> {
    match time_to_expiry(secret, ctx.now()) {
        None => Ok(()),
        Some(left) if left.is_zero() => {
            let store = &ctx.informers.bootstrap_tokens;
            optional(
                ctx.delete(store, &secret.metadata, &Deletion::default())
                    .await,
            )
            .map(drop)
        }
        Some(left) => {
            queue.add_after(key, left.saturating_add(Duration::from_millis(100)));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::pods::testing::at;
    use k8s_openapi::ByteString;

    #[test]
    fn expiry() {
        let secret = |text: &str| Secret {
            data: Some([("expiration".to_owned(), ByteString(text.into()))].into()),
            ..Default::default()
        };
        assert_eq!(
            time_to_expiry(&secret("1970-01-01T00:01:00Z"), at(50)),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            time_to_expiry(&secret("1970-01-01T00:01:00Z"), at(70)),
            Some(Duration::ZERO)
        );
        assert_eq!(time_to_expiry(&secret("soon"), at(0)), Some(Duration::ZERO));
        assert_eq!(time_to_expiry(&Secret::default(), at(0)), None);
    }
}
