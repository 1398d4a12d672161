//! `rkube ctl pause`: freezes the containers of namespaces, and lets those of all others go on.

use std::path::Path;

use rkube_config::paths;
use rkube_failure::{Failure, Kind, Source};
use rkube_runtime::{ContainerState, Runtime};

/// Makes the node pause exactly these namespaces. Prints how many containers changed.
pub async fn run(runtime: &Runtime, namespaces: &[String]) -> Result<(), Failure> {
    // Written first: the node agent reads it when a container starts and when it probes one.
    write(namespaces).map_err(|e| {
        let message = format!("cannot write {}: {e}", paths::PAUSED_NAMESPACES);
        Failure::new(Source::Guest, Kind::Error, message)
    })?;
    let mut changed = 0;
    for container in runtime.list_containers() {
        if container.state != ContainerState::Running {
            continue;
        }
        let frozen = namespaces
            .iter()
            .any(|namespace| super::label(&container, "pod.namespace") == namespace);
        match runtime.set_container_frozen(&container.id, frozen).await {
            Ok(true) => changed += 1,
            Ok(false) => {}
            // It ended meanwhile.
            Err(_) if runtime.container_cgroup(&container.id).is_err() => {}
            Err(e) => {
                return Err(Failure::new(
                    Source::Guest,
                    Kind::Error,
                    format!("the container {}: {e}", container.id),
                ));
            }
        }
    }
    println!("{changed}");
    Ok(())
}

fn write(namespaces: &[String]) -> std::io::Result<()> {
    let path = Path::new(paths::PAUSED_NAMESPACES);
    if namespaces.is_empty() {
        return match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
    }
    // Readers never see a part of it.
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, namespaces.join("\n") + "\n")?;
    std::fs::rename(&temporary, path)
}
