//! Restores the objects of a snapshot before the store is used.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context;
use flate2::read::GzDecoder;
use rkube_config::paths;
use rkube_store::Store;
use rkube_store::dump::{self, Entries, Entry};

/// Replaces the content of the store with the objects of a staged snapshot, if there is one.
///
/// The file is removed last: if the process is killed before, the restore is repeated at its next
/// start. An invalid snapshot is dropped with an error in the log.
pub async fn take(store: &dyn Store) -> anyhow::Result<()> {
    let path = Path::new(paths::RESTORED_OBJECTS);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let entries: Result<Vec<Entry>, _> =
        Entries::new(BufReader::new(GzDecoder::new(file))).and_then(Iterator::collect);
    match entries {
        Ok(entries) => {
            let writes = dump::restore(store, rkube_apiserver::STORE_PREFIX, entries).await?;
            tracing::info!(writes, "the objects of a snapshot are restored");
        }
        // The file was complete when it was staged, so a retry would not help. The cluster keeps
        // its objects.
        Err(e) => tracing::error!("the objects of a snapshot cannot be restored: {e}"),
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    // Before anything is acknowledged: a power cut must not bring the file back, or the restore
    // would be repeated and undo what was written since.
    path.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
        .with_context(|| format!("cannot write the removal of {} to disk", path.display()))
}
