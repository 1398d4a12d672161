//! Copies a log to a response: filters entries, follows the container and the file's rotations.

use std::io::SeekFrom;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Frame;
use jiff::Timestamp;
use rkube_runtime::{ContainerState, Runtime};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc::Sender;

use super::options::LogOptions;
use super::tail::tail_offset;
use super::watch::Watch;
use crate::log_line::LogLine;

/// Buffered response body with an optional byte limit.
pub(super) struct Out {
    sender: Sender<Result<Frame<Bytes>, std::io::Error>>,
    left: Option<u64>,
    buffer: BytesMut,
}

impl Out {
    /// Returns an empty body without a limit.
    pub(super) fn new(sender: Sender<Result<Frame<Bytes>, std::io::Error>>) -> Self {
        Self {
            sender,
            left: None,
            buffer: BytesMut::new(),
        }
    }

    /// Buffers bytes; returns false once the byte limit is reached.
    fn put(&mut self, bytes: &[u8]) -> bool {
        let take = match &mut self.left {
            Some(left) => {
                let take = bytes
                    .len()
                    .min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= take as u64;
                take
            }
            None => bytes.len(),
        };
        self.buffer.extend_from_slice(&bytes[..take]);
        self.left != Some(0)
    }

    async fn flush(&mut self) -> bool {
        if self.buffer.is_empty() {
            return true;
        }
        let bytes = self.buffer.split().freeze();
        self.sender.send(Ok(Frame::data(bytes))).await.is_ok()
    }
}

/// Copies one log file to a response.
pub(super) struct Reader {
    pub runtime: Runtime,
    /// ID of the container.
    pub id: String,
    pub path: PathBuf,
    pub options: LogOptions,
    pub out: Out,
    /// Whether the last entry did not end its line.
    pub mid_line: bool,
}

impl Reader {
    pub(super) async fn run(mut self) {
        self.out.left = self.options.limit;
        if let Err(e) = self.copy().await
            && e.kind() != std::io::ErrorKind::NotFound
        {
            let _ = self.out.sender.send(Err(e)).await;
        }
        let _ = self.out.flush().await;
    }

    async fn copy(&mut self) -> std::io::Result<()> {
        let mut watch = self
            .options
            .follow
            .then(|| Watch::new(&self.path))
            .transpose()?;
        let mut file = match File::open(&self.path).await {
            Ok(file) => file,
            // Nothing has been written yet, or the log was just rotated.
            Err(e) if self.options.follow && e.kind() == std::io::ErrorKind::NotFound => {
                match self.reopened(&mut watch).await? {
                    Some(file) => file,
                    None => return Ok(()),
                }
            }
            Err(e) => return Err(e),
        };
        if let Some(lines) = self.options.tail {
            let at = tail_offset(&mut file, lines).await?;
            file.seek(SeekFrom::Start(at)).await?;
        }
        let mut pending = BytesMut::new();
        let mut chunk = vec![0; 32 << 10];
        loop {
            // Checked before reading, so that everything written before the exit is read.
            let ended = !self.running();
            let n = file.read(&mut chunk).await?;
            if n > 0 {
                pending.extend_from_slice(&chunk[..n]);
                if !self.lines(&mut pending) || !self.out.flush().await {
                    return Ok(());
                }
                continue;
            }
            let Some(w) = &mut watch else {
                return Ok(());
            };
            if w.replaced(&file, &self.path).await {
                if let Some(next) = self.reopened(&mut watch).await? {
                    file = next;
                    continue;
                }
                return Ok(());
            }
            if ended {
                return Ok(());
            }
            if !self.wait(w).await {
                return Ok(());
            }
        }
    }

    fn running(&self) -> bool {
        self.runtime
            .container_status(&self.id)
            .is_some_and(|s| s.state == ContainerState::Running)
    }

    /// Waits for new output or the container's exit; returns false if the client disconnects first.
    async fn wait(&self, watch: &mut Watch) -> bool {
        tokio::select! {
            () = watch.changed() => true,
            _ = self.runtime.wait_container(&self.id) => true,
            () = self.out.sender.closed() => false,
        }
    }

    /// Waits until the log file exists and opens it; `None` if the container exits first.
    async fn reopened(&self, watch: &mut Option<Watch>) -> std::io::Result<Option<File>> {
        loop {
            match File::open(&self.path).await {
                Ok(file) => {
                    *watch = Some(Watch::new(&self.path)?);
                    return Ok(Some(file));
                }
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                    if !self.running() {
                        return Ok(None);
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes all complete entries from `pending` and writes them to the response; returns false
    /// once the byte limit is reached.
    fn lines(&mut self, pending: &mut BytesMut) -> bool {
        while let Some(at) = pending.iter().position(|b| *b == b'\n') {
            let line = pending.split_to(at + 1);
            if !self.line(&line[..at]) {
                return false;
            }
        }
        true
    }

    /// Writes one log entry to the response; returns false once the byte limit is reached.
    fn line(&mut self, raw: &[u8]) -> bool {
        let Some(line) = LogLine::parse(raw) else {
            return true;
        };
        if self.options.stream.is_some_and(|s| s != line.stream) {
            return true;
        }
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return true;
        }
        if self.options.timestamps && !self.mid_line {
            let stamp = format!("{} ", line.time);
            if !self.out.put(stamp.as_bytes()) {
                return false;
            }
        }
        self.mid_line = line.partial;
        if !self.out.put(line.content) {
            return false;
        }
        line.partial || self.out.put(b"\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc::channel;

    #[test]
    fn output_is_limited() {
        let (sender, _receiver) = channel(1);
        let mut out = Out::new(sender);
        out.left = Some(5);
        assert!(out.put(b"abc"));
        assert!(!out.put(b"def"));
        assert_eq!(&out.buffer[..], b"abcde");
        out.left = None;
        assert!(out.put(b"more"));
    }
}
