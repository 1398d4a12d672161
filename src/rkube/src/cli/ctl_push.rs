//! `rkube ctl push`: pushes an image that the command line on the host asks for.

use std::io::{self, Write as _};

use rkube_failure::Failure;
use rkube_runtime::{PushProgress, RegistryAuth, Runtime};
use serde::de::DeserializeOwned;

use super::{failure, image_failure};
use crate::cli::image::credentials::Credential;
use crate::cli::image::push::{Event, Pushed, Request};

/// Pushes the image that standard input asks for. Writes what happens to standard output.
pub async fn run(runtime: &Runtime) -> Result<(), Failure> {
    let request: Request = read().await?;
    let auth: Vec<RegistryAuth> = request.credentials.into_iter().map(auth).collect();
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

/// Reads a JSON document with credentials from standard input.
pub async fn read<T: DeserializeOwned>() -> Result<T, Failure> {
    let read = tokio::task::spawn_blocking(|| io::read_to_string(io::stdin()));
    let text = read.await.map_err(failure)?.map_err(failure)?;
    // The text of the error could show the credentials.
    serde_json::from_str(&text).map_err(|e| {
        failure(format!(
            "the request is malformed: {:?} in column {}",
            e.classify(),
            e.column()
        ))
    })
}

/// Reads credentials from standard input.
pub async fn credentials() -> Result<Vec<RegistryAuth>, Failure> {
    let found: Vec<Credential> = read().await?;
    Ok(found.into_iter().map(auth).collect())
}

/// Returns credentials as the runtime takes them.
pub fn auth(credential: Credential) -> RegistryAuth {
    RegistryAuth {
        registry: credential.registry,
        username: credential.username,
        password: credential.password,
        identity_token: credential.identity_token,
        registry_token: credential.registry_token,
    }
}

fn print(event: &Event) {
    let mut out = io::stdout().lock();
    // If the reader is gone, the SSH server ends this process.
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
