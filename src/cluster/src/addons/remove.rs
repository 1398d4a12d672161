//! Removes the members of an addon's set.

use std::time::{Duration, Instant};

use kube::Client;
use kube::api::DeleteParams;
use rkube_failure::{Failure, Kind, Source};

use super::applyset::{self, State};
use super::server::{Member, Server, exactly, failure, none_if_missing};
use crate::Progress;

/// Timeout of the removal. Pods have a grace period of 30 seconds.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(120);
/// The period of the checks whether an object is gone.
const CHECK_PERIOD: Duration = Duration::from_millis(50);

/// Disables an addon; returns `None` if it is not enabled. Can be repeated after a failure.
pub(super) async fn disable(
    client: Client,
    addon: &str,
    progress: &dyn Progress,
) -> Result<Option<()>, Failure> {
    let server = Server::new(client).await?;
    let Some((mut parent, uid)) = server.parent(addon).await? else {
        return Ok(None);
    };
    parent.state = State::Changing;
    server.write_parent(&parent).await?;
    let id = applyset::id(addon);
    let found = server.members(&id, &parent.scope.kinds).await?;
    let count = found.len();
    progress.step("remove", &format!("Removing {count} objects of {addon}"));
    members(&server, found, &format!("disable '{addon}' again")).await?;
    // Last, because the parent records the remaining members.
    server.delete_parent(addon, &uid).await?;
    Ok(Some(()))
}

/// Removes members in steps. Waits until the objects of a step are gone. `retry` says how to repeat
/// that.
pub async fn members(
    server: &Server,
    mut members: Vec<Member>,
    retry: &str,
) -> Result<(), Failure> {
    members.sort_by_key(|m| m.step);
    let deadline = Instant::now() + REMOVAL_TIMEOUT;
    for step in members.chunk_by(|a, b| a.step == b.step) {
        for member in step {
            delete(server, member).await?;
        }
        wait_until_gone(server, step, deadline, retry).await?;
    }
    Ok(())
}

async fn delete(server: &Server, member: &Member) -> Result<(), Failure> {
    let api = server.api(&member.resource, member.namespace.as_deref());
    // Its dependents go first.
    let params = DeleteParams::foreground().preconditions(exactly(&member.uid));
    let deleted = api.delete(&member.name, &params).await;
    match none_if_missing(deleted.map(drop)) {
        Ok(_) => Ok(()),
        // The object was replaced or is being deleted; the caller's wait detects both.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(e) => Err(failure(&format!("cannot delete {}", member.title()), e)),
    }
}

async fn wait_until_gone(
    server: &Server,
    members: &[Member],
    deadline: Instant,
    retry: &str,
) -> Result<(), Failure> {
    let mut left: Vec<&Member> = members.iter().collect();
    loop {
        let mut held = Vec::new();
        let mut still = Vec::new();
        for member in left {
            if let Some(finalizers) = presence(server, member).await? {
                held.push(match finalizers.is_empty() {
                    true => member.title(),
                    false => format!("{} (held by {})", member.title(), finalizers.join(", ")),
                });
                still.push(member);
            }
        }
        if still.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Failure::new(
                Source::ControlPlane,
                Kind::Timeout,
                format!("not gone in time: {}", held.join(", ")),
            )
            .advise(format!(
                "see what holds them with kubectl describe, then {retry}"
            )));
        }
        left = still;
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}

/// Returns the finalizers of an object that still exists.
async fn presence(server: &Server, member: &Member) -> Result<Option<Vec<String>>, Failure> {
    let api = server.api(&member.resource, member.namespace.as_deref());
    // The kind may be removed together with its last objects.
    let found = none_if_missing(api.get_metadata(&member.name).await)
        .map_err(|e| failure(&format!("cannot read {}", member.title()), e))?;
    let there = found.filter(|o| o.metadata.uid.as_deref() == Some(&member.uid));
    Ok(there.map(|o| o.metadata.finalizers.unwrap_or_default()))
}
