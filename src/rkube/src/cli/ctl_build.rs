//! `rkube ctl build`: runs a build that the command line on the host has sent.

use std::io::{self, BufRead as _, BufReader, Read, Stdin, Write as _};

use rkube_build::exec::{self, Directories};
use rkube_build::protocol::Request;
use rkube_config::{NodeConfig, paths};
use rkube_failure::{Failure, Kind, Source};
use rkube_runtime::Runtime;
use tokio::sync::{mpsc, oneshot};

use super::failure;

/// Returns where builds of this node keep their files.
fn directories() -> Directories {
    Directories {
        state: format!("{}/build", paths::STATE).into(),
        run: format!("{}/build", paths::RUN).into(),
    }
}

/// The archive on standard input. When it was read, the end of the input means that nobody waits
/// for the build any more.
struct Context {
    input: Option<BufReader<Stdin>>,
    ended: Option<oneshot::Sender<()>>,
}

impl Read for Context {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.input {
            Some(input) => input.read(buffer),
            None => Ok(0),
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let (Some(mut input), Some(ended)) = (self.input.take(), self.ended.take()) else {
            return;
        };
        // A separate thread, because the read cannot be interrupted. It ends with the process.
        std::thread::spawn(move || {
            // Whether the input ends or fails is the same.
            let _ = io::copy(&mut input, &mut io::sink());
            let _ = ended.send(());
        });
    }
}

/// Runs the build on standard input. Its events are written to standard output.
pub async fn run(runtime: &Runtime, config: &NodeConfig) -> Result<(), Failure> {
    let read = tokio::task::spawn_blocking(|| {
        let mut input = BufReader::with_capacity(64 << 10, io::stdin());
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line)?;
        let request: Request = serde_json::from_slice(&line).map_err(io::Error::other)?;
        Ok::<_, io::Error>((request, input))
    });
    let (mut request, input) = read
        .await
        .map_err(failure)?
        .map_err(|e| failure(format!("cannot read the request: {e}")))?;
    // They need no declaration, and are no part of the cache's keys.
    for (name, value) in config.registries.proxies.variables(config.host_ip) {
        request.build_args.entry(name).or_insert(value);
    }
    let (ended, canceled) = oneshot::channel();
    let context = Context {
        input: Some(input),
        ended: Some(ended),
    };
    let (events, mut queue) = mpsc::unbounded_channel();
    let printer = tokio::task::spawn_blocking(move || {
        let mut out = io::stdout().lock();
        while let Some(event) = queue.blocking_recv() {
            let line = serde_json::to_string(&event).map_err(io::Error::other)?;
            writeln!(out, "{line}")?;
            out.flush()?;
        }
        Ok::<_, io::Error>(())
    });
    // The SSH server hangs up if the connection is lost.
    let interrupted = crate::cli::interrupted();
    let canceled = async {
        // An error means that the context was never read, which the build reports.
        let ended = async {
            if canceled.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = interrupted => {}
        }
    };
    let result = exec::build(runtime, &directories(), request, context, events, canceled).await;
    printer
        .await
        .map_err(failure)?
        .map_err(|e| failure(format!("cannot write to standard output: {e}")))?;
    result
        .map(drop)
        .map_err(|e| Failure::new(Source::Runtime, Kind::Error, e.message))
}

/// Forgets the steps of earlier builds. Returns their number.
pub async fn prune(runtime: &Runtime) -> Result<usize, Failure> {
    exec::prune(runtime, &directories()).await.map_err(failure)
}
