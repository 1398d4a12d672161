//! `rkube ctl push`: pushes an image that the command line on the host asks for.

use std::io::{self, Write as _};

use rkube_failure::Failure;
use rkube_runtime::{PushProgress, RegistryAuth, Runtime};

use super::{failure, image_failure};
use crate::cli::image::push::{Event, Pushed, Request};

/// Pushes the image that standard input asks for. Writes what happens to standard output.
pub async fn run(runtime: &Runtime) -> Result<(), Failure> {
    let read = tokio::task::spawn_blocking(|| io::read_to_string(io::stdin()));
    let text = read.await.map_err(failure)?.map_err(failure)?;
    // The text of the error could show the credentials.
    let request: Request = serde_json::from_str(&text).map_err(|e| {
        failure(format!(
            "the request is malformed: {:?} in column {}",
            e.classify(),
            e.column()
        ))
    })?;
    let auth: Vec<RegistryAuth> = request
        .credentials
        .into_iter()
        .map(|c| RegistryAuth {
            registry: c.registry,
            username: c.username,
            password: c.password,
            identity_token: c.identity_token,
            registry_token: c.registry_token,
        })
        .collect();
    let target = request.target.as_deref();
    let tell = |step| print(&event(step));
    let pushed = runtime
        .push_image(&request.image, target, &auth, tell)
        .await
        .map_err(image_failure)?;
    print(&Event::Pushed(Pushed {
        name: pushed.name,
        digest: pushed.digest,
        size: pushed.size,
        id: pushed.id,
        same: pushed.same,
    }));
    Ok(())
}

fn print(event: &Event) {
    let mut out = io::stdout().lock();
    // If nobody reads any more, the SSH server ends this process.
    let _ = serde_json::to_writer(&mut out, event)
        .map_err(io::Error::other)
        .and_then(|()| writeln!(out))
        .and_then(|()| out.flush());
}

fn event(step: PushProgress) -> Event {
    match step {
        PushProgress::Begun { layers } => Event::Begun { layers },
        PushProgress::Present { .. } => Event::Present { from: None },
        PushProgress::Mounted { from, .. } => Event::Present { from: Some(from) },
        PushProgress::Layer {
            digest,
            done,
            total,
        } => Event::Layer {
            digest,
            done,
            total,
        },
        PushProgress::Stored { digest, size } => Event::Stored { digest, size },
    }
}
