//! Saves a bundle: a node writes it, and this machine keeps it under its name when it is complete.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rkube_cluster::{Home, Profile, Progress as _};
use rkube_failure::{Failure, Kind, Source};
use tokio::io::{AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};

use super::{Event, Image, Request, Wanted};
use crate::cli::Output;
use crate::cli::image::transfer::Target;
use crate::cli::image::{credentials, mib, push, remote_failure};

/// Size of the buffer between the connection and what reads the messages.
const PIPE_BYTES: usize = 64 << 10;

/// Returns a request for images, with the credentials of this machine for their registries.
async fn request(names: Vec<String>) -> Result<Request, Failure> {
    let mut images = Vec::new();
    for name in names {
        let credentials = credentials::find(&push::registry(&name)).await?;
        images.push(Wanted { name, credentials });
    }
    Ok(Request { images })
}

/// Saves images to a file, or to standard output (`-`).
pub async fn run(
    home: &Home,
    profile: &Profile,
    names: Vec<String>,
    to: &str,
    output: &Output,
) -> Result<(), Failure> {
    let request = request(names).await?;
    let title = match request.images.len() {
        1 => "Saving an image".to_owned(),
        count => format!("Saving {count} images"),
    };
    output.step("bundle", &title);
    let count = Arc::new(AtomicU64::new(0));
    let (images, target) = if to == "-" {
        let stdout = Counting(tokio::io::stdout(), count.clone());
        (
            on_node(home, profile, &request, stdout, (&title, &count, output)).await?,
            None,
        )
    } else {
        let target = Target::create(Path::new(to))?;
        let file = Counting(target.file()?, count.clone());
        let images = on_node(home, profile, &request, file, (&title, &count, output)).await?;
        (images, Some(target))
    };
    for image in images.iter().filter(|image| !image.same) {
        output.warn(&format!(
            "{} has the ID {} in the archive, because its layers are no longer known as they were distributed",
            image.name, image.id
        ));
    }
    output.finish();
    let Some(target) = target else {
        return Ok(());
    };
    target.keep()?;
    let bytes = count.load(Ordering::Relaxed);
    let result = serde_json::json!({ "file": to, "bytes": bytes, "images": images });
    output.result(&result, || {
        let names: Vec<&str> = images.iter().map(|image| image.name.as_str()).collect();
        format!(
            "Saved to {to} ({:.1} MiB): {}",
            mib(bytes),
            names.join(", ")
        )
    });
    Ok(())
}

/// Lets the control-plane node write the archive. Shows what it says, and returns what the archive has.
async fn on_node(
    home: &Home,
    profile: &Profile,
    request: &Request,
    archive: impl AsyncWrite + Unpin,
    (title, count, output): (&str, &AtomicU64, &Output),
) -> Result<Vec<Image>, Failure> {
    let node = profile.node(None)?;
    let input = serde_json::to_vec(request)
        .map_err(|e| Failure::new(Source::Program, Kind::Error, e.to_string()))?;
    let (printed, messages) = tokio::io::duplex(PIPE_BYTES);
    let writing = async {
        let (mut archive, printed) = (archive, printed);
        let input = Some(std::io::Cursor::new(input));
        let command = "rkube ctl bundle";
        let outputs = (&mut archive, printed);
        let code = rkube_cluster::stream_on_node(home, profile, node, command, input, outputs);
        let code = code.await?;
        archive.flush().await.map_err(|e| {
            let message = format!("cannot write the archive: {e}");
            Failure::new(Source::Host, Kind::Error, message)
        })?;
        Ok::<_, Failure>(code)
    };
    let reading = async {
        let (mut written, mut rest) = (None, String::new());
        let mut lines = BufReader::new(messages).lines();
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(200));
        let mut begun = false;
        loop {
            let line = tokio::select! {
                line = lines.next_line() => line,
                _ = tick.tick(), if begun => {
                    let bytes = count.load(Ordering::Relaxed);
                    output.update(&format!("{title}: {:.1} MiB written", mib(bytes)));
                    continue;
                }
            };
            // A failure of the connection is that of the command.
            let Ok(Some(line)) = line else { break };
            match serde_json::from_str(&line) {
                Ok(Event::Written(images)) => written = Some(images),
                Ok(Event::Writing) => begun = true,
                Ok(event) => show(&event, title, output),
                // What is no message is the error.
                Err(_) => rest = rest + &line + "\n",
            }
        }
        (written, rest)
    };
    let (code, (written, rest)) = tokio::join!(writing, reading);
    match (code?, written) {
        (0, Some(images)) => Ok(images),
        (0, None) => Err(Failure::new(
            Source::Runtime,
            Kind::Error,
            format!("{}: the bundle has no result", node.name),
        )),
        (code, _) => {
            let failure = remote_failure(node, code, &rkube_cluster::error_message(&rest));
            Err(advise(failure))
        }
    }
}

/// Says what to do about an image that is nowhere.
fn advise(failure: Failure) -> Failure {
    match (failure.kind, &failure.advice) {
        (Kind::NotFound | Kind::Unavailable, None) => failure.advise(
            "an image that no registry has must be on the control-plane node: load or build it first",
        ),
        _ => failure,
    }
}

fn show(event: &Event, title: &str, output: &Output) {
    match event {
        Event::Fetching { name, done, total } => output.update(&format!(
            "{title}: {name}, {:.1} of {:.1} MiB",
            mib(*done),
            mib(*total)
        )),
        Event::Waiting { text } => output.warn(text),
        Event::Builtin { name } => output.warn(&format!(
            "{name} is part of every node, so the archive does without it"
        )),
        Event::Writing | Event::Written(_) => {}
    }
}

/// A writer that counts bytes.
struct Counting<W>(W, Arc<AtomicU64>);

impl<W: AsyncWrite + Unpin> AsyncWrite for Counting<W> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let written = std::pin::Pin::new(&mut self.0).poll_write(context, bytes);
        if let std::task::Poll::Ready(Ok(count)) = &written {
            self.1.fetch_add(*count as u64, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.0).poll_shutdown(context)
    }
}
