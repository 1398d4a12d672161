//! Deletes bootstrap tokens when they expire.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

use crate::context::{Context, Deletion, Result, optional};
use crate::informers::Key;
use crate::queue::Queue;

/// Returns the time until the token expires, or `None` if it does not expire. An expiration that
/// cannot be parsed counts as expired.
pub fn left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let text = secret.data.as_ref()?.get("expiration")?;
    let text = std::str::from_utf8(&text.0).unwrap_or_default();
    if text.is_empty() {
        return None;
    }
    let Ok(expiration) = text.trim().parse::<Timestamp>() else {
        return Some(Duration::ZERO);
    };
    Some(Duration::try_from(expiration.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Registers event handlers and returns the controller's run loop. Call before the informers start.
pub fn start(ctx: &Context) -> impl Future<Output = ()> + Send + use<> {
    let queue: Queue<Key> = Queue::new();
    let store = ctx.informers.bootstrap_tokens.clone();
    {
        let queue = queue.clone();
        store.on_change(move |change| {
            if !change.is_deletion() {
                queue.add(Key::of(&change.object().metadata));
            }
        });
    }
    let ctx = ctx.clone();
    async move {
        store.synced().await;
        let again = queue.clone();
        let (ctx, store, again) = (&ctx, &store, &again);
        queue
            .work("token-cleaner-controller", 1, |key| async move {
                let Some(secret) = store.by_key(&key) else {
                    return Ok(());
                };
                sync(ctx, again, key, &secret).await
            })
            .await;
    }
}

async fn sync(ctx: &Context, queue: &Queue<Key>, key: Key, secret: &Secret) -> Result<()> {
    match left(secret, ctx.now()) {
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
            queue.add_after(key, left + Duration::from_millis(100));
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
            left(&secret("1970-01-01T00:01:00Z"), at(50)),
            Some(Duration::from_secs(10))
        );
        assert_eq!(
            left(&secret("1970-01-01T00:01:00Z"), at(70)),
            Some(Duration::ZERO)
        );
        assert_eq!(left(&secret("soon"), at(0)), Some(Duration::ZERO));
        assert_eq!(left(&Secret::default(), at(0)), None);
    }
}
