//! `rkube ctl bundle`: writes an archive of images that the command line on the host asks for.

use std::io::{self, Write as _};

use rkube_failure::Failure;
use rkube_runtime::Runtime;
use rkube_runtime::build::{BundleProgress, Wanted};

use super::{ctl_push, image_failure};
use crate::cli::image::bundle::{Event, Image, Request};

/// Writes the images that standard input asks for to standard output. Writes what happens to standard
/// error.
pub async fn run(runtime: &Runtime) -> Result<(), Failure> {
    let request: Request = ctl_push::read().await?;
    let wanted: Vec<Wanted> = request
        .images
        .into_iter()
        .map(|image| Wanted {
            name: image.name,
            auth: image.credentials.into_iter().map(ctl_push::auth).collect(),
        })
        .collect();
    let written = runtime.write_bundle(&wanted, |step| print(&event(step)), io::stdout());
    let images = written.await.map_err(image_failure)?;
    print(&Event::Written(
        images
            .into_iter()
            .map(|image| Image {
                name: image.name,
                id: image.id,
                digest: image.digest,
                size: image.size,
                fetched: image.fetched,
                same: image.same,
            })
            .collect(),
    ));
    Ok(())
}

fn print(event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else {
        return;
    };
    line.push(b'\n');
    // If the reader is gone, the SSH server ends this process.
    let _ = io::stderr().lock().write_all(&line);
}

fn event(step: BundleProgress) -> Event {
    match step {
        BundleProgress::Fetching { name, done, total } => Event::Fetching { name, done, total },
        BundleProgress::Waiting { text } => Event::Waiting { text },
        BundleProgress::Builtin { name } => Event::Builtin { name },
        BundleProgress::Writing => Event::Writing,
    }
}
