//! The objects of a snapshot, put into the store before anybody reads it.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context;
use flate2::read::GzDecoder;
use rkube_config::paths;
use rkube_store::Store;
use rkube_store::dump::{self, Entries, Entry};

/// Makes the store's content that of a snapshot, if there is one to be restored.
/// A process that is killed meanwhile begins again at its next start.
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
        // Was whole when it was sent. The cluster goes on with what it has.
        Err(e) => tracing::error!("the objects of a snapshot cannot be restored: {e}"),
    }
    std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
}
