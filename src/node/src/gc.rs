//! Removing what nobody needs: unused images when the disk is full, sandboxes of no use.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info, warn};

use crate::agent::Agent;
use crate::recorder::{Severity, node_reference};

/// How often sandboxes are looked at.
const INTERVAL: Duration = Duration::from_secs(300);

pub(crate) async fn run(agent: Arc<Agent>) -> anyhow::Result<()> {
    loop {
        tokio::time::sleep(INTERVAL).await;
        sandboxes(&agent).await;
    }
}

/// Removes unused images until `bytes` are freed; answers how many were.
pub(crate) async fn images(agent: &Agent, bytes: u64) -> u64 {
    let used: HashSet<String> = agent
        .runtime
        .list_containers()
        .into_iter()
        .map(|c| c.image_id)
        .collect();
    let mut unused: Vec<_> = agent
        .runtime
        .list_images()
        .into_iter()
        .filter(|i| !used.contains(&i.id))
        // The binary's own images cost nothing and cannot be pulled again.
        .filter(|i| !i.labels.contains_key(crate::pods::BUILTIN_IMAGE))
        .collect();
    // Large ones first: the fewest are lost that way.
    unused.sort_by_key(|i| std::cmp::Reverse(i.size));
    let mut freed = 0;
    for image in unused {
        if freed >= bytes {
            break;
        }
        match agent.runtime.remove_image(&image.id).await {
            Ok(()) => {
                info!(image = %image.id, bytes = image.size, "removed an unused image");
                freed += image.size;
            }
            Err(e) => debug!("removing image {}: {e}", image.id),
        }
    }
    agent.images.note_change();
    if freed < bytes {
        agent.recorder.record(
            node_reference(&agent.config.name),
            Severity::Warning,
            "FreeDiskSpaceFailed",
            format!(
                "Failed to garbage collect required amount of images. Attempted to free {bytes} bytes, but only found {freed} bytes eligible to free."
            ),
        );
    }
    freed
}

/// Removes stopped sandboxes that hold no container and are not their pod's current one.
async fn sandboxes(agent: &Agent) {
    let current: HashSet<String> = agent
        .pods
        .all()
        .into_iter()
        .filter_map(|p| p.sandbox)
        .collect();
    let holding: HashSet<String> = agent
        .runtime
        .list_containers()
        .into_iter()
        .map(|c| c.sandbox_id)
        .collect();
    for sandbox in agent.runtime.list_sandboxes() {
        let stopped = sandbox.state == rkube_runtime::SandboxState::NotReady;
        if stopped
            && !current.contains(&sandbox.id)
            && !holding.contains(&sandbox.id)
            && let Err(e) = agent.runtime.remove_sandbox(&sandbox.id).await
        {
            warn!("removing sandbox {}: {e}", sandbox.id);
        }
    }
}
