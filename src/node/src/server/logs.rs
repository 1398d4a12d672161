//! Containers' logs: the CRI's format, and `kubectl logs` on top of it.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use rkube_runtime::ContainerState;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc::{Sender, channel};

use super::answer::{Answer, no_pod, text};
use super::query::Query;
use crate::agent::Agent;
use crate::kinds::*;
use crate::pods::container::log_path;
use crate::pods::instance::Instance;

/// One entry of a log: `<time> <stream> <tags> <content>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// The line goes on in the next entry of the same stream.
    pub partial: bool,
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads an entry without its line break; `None` for what is none.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut rest = line;
        let mut word = || {
            let at = rest.iter().position(|b| *b == b' ')?;
            let (word, tail) = rest.split_at(at);
            rest = &tail[1..];
            std::str::from_utf8(word).ok()
        };
        let (time, stream, tags) = (word()?, word()?, word()?);
        if !matches!(stream, "stdout" | "stderr") || time.len() < 20 {
            return None;
        }
        Some(Self {
            time,
            stream,
            partial: tags.split(':').next() == Some("P"),
            content: rest,
        })
    }
}

/// What is wanted of a log.
#[derive(Clone, Debug, Default)]
struct Wanted {
    follow: bool,
    timestamps: bool,
    tail: Option<u64>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    stream: Option<&'static str>,
}

impl Wanted {
    fn read(query: &Query) -> Result<Self, String> {
        let positive = |key: &str| -> Result<Option<i64>, String> {
            match query.number(key)? {
                Some(n) if n < 0 => Err(format!("{key} must be greater than or equal to 0")),
                n => Ok(n),
            }
        };
        let seconds = positive("sinceSeconds")?
            .map(|s| Timestamp::now() - jiff::SignedDuration::from_secs(s));
        let since = match query.get("sinceTime").filter(|t| !t.is_empty()) {
            Some(time) => Some(
                time.parse()
                    .map_err(|_| format!("invalid value for sinceTime: {time:?}"))?,
            ),
            None => seconds,
        };
        Ok(Self {
            follow: query.is_set(&["follow"]),
            timestamps: query.is_set(&["timestamps"]),
            tail: positive("tailLines")?.and_then(|n| u64::try_from(n).ok()),
            since,
            limit: positive("limitBytes")?.and_then(|n| u64::try_from(n).ok()),
            stream: match query.get("stream") {
                None | Some("" | "All") => None,
                Some("Stdout") => Some("stdout"),
                Some("Stderr") => Some("stderr"),
                Some(other) => return Err(format!("invalid value for stream: {other:?}")),
            },
        })
    }
}

/// Answers `/containerLogs`.
pub(crate) async fn serve(
    agent: &Arc<Agent>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Answer {
    let wanted = match Wanted::read(query) {
        Ok(wanted) => wanted,
        Err(e) => return text(StatusCode::BAD_REQUEST, e),
    };
    let Some(found) = agent.pods.find(namespace, pod, None) else {
        return no_pod(namespace, pod);
    };
    if found.pod.container(container).is_none() {
        return text(
            StatusCode::NOT_FOUND,
            format!("container {container:?} not found in pod {pod:?}"),
        );
    }
    let attempts = found
        .instances
        .get(container)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let instance = match choose(attempts, query.is_set(&["previous"])) {
        Some(instance) => instance,
        None if query.is_set(&["previous"]) => {
            return text(
                StatusCode::BAD_REQUEST,
                format!("previous terminated container {container:?} in pod {pod:?} not found"),
            );
        }
        None => {
            let reason = waiting_reason(&found.pod, container);
            return text(
                StatusCode::BAD_REQUEST,
                format!("container {container:?} in pod {pod:?} is waiting to start: {reason}"),
            );
        }
    };
    let path = log_path(&found.pod, container, instance.attempt);
    let (sender, receiver) = channel::<Result<Frame<Bytes>, std::io::Error>>(4);
    let reader = Reader {
        agent: agent.clone(),
        id: instance.id.clone(),
        path,
        wanted,
        out: Out {
            sender,
            left: None,
            buffer: BytesMut::new(),
        },
        mid_line: false,
    };
    tokio::spawn(reader.run());
    let frames = futures::stream::unfold(receiver, |mut receiver| async move {
        let frame = receiver.recv().await?;
        Some((frame, receiver))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("text/plain"),
    );
    response
}

/// The attempt that is meant: the latest that ever ran, or the one before.
fn choose(attempts: &[Instance], previous: bool) -> Option<&Instance> {
    let ran = |i: &&Instance| i.state != ContainerState::Created;
    if previous {
        let mut earlier = attempts.iter().rev();
        let last = earlier.next()?;
        // While a container waits to be started again, its last end is the previous one.
        return earlier
            .find(ran)
            .or(None.filter(|_: &&Instance| last.exited()));
    }
    attempts.iter().rev().find(ran)
}

fn waiting_reason(pod: &Pod, container: &str) -> String {
    pod.status
        .iter()
        .flat_map(|s| {
            s.container_statuses
                .iter()
                .chain(&s.init_container_statuses)
                .chain(&s.ephemeral_container_statuses)
                .flatten()
        })
        .find(|s| s.name == container)
        .and_then(|s| s.state.as_ref()?.waiting.as_ref())
        .map(|w| match (&w.reason, &w.message) {
            (Some(r), Some(m)) if matches!(r.as_str(), "ErrImagePull" | "ImagePullBackOff") => {
                format!("trying and failing to pull image: {m}")
            }
            (Some(r), _) => r.clone(),
            _ => "ContainerCreating".into(),
        })
        .unwrap_or_else(|| "ContainerCreating".into())
}

struct Out {
    sender: Sender<Result<Frame<Bytes>, std::io::Error>>,
    left: Option<u64>,
    buffer: BytesMut,
}

impl Out {
    /// Puts bytes in; false when no more are wanted.
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

struct Reader {
    agent: Arc<Agent>,
    id: String,
    path: PathBuf,
    wanted: Wanted,
    out: Out,
    mid_line: bool,
}

impl Reader {
    async fn run(mut self) {
        self.out.left = self.wanted.limit;
        if let Err(e) = self.copy().await
            && e.kind() != std::io::ErrorKind::NotFound
        {
            let _ = self.out.sender.send(Err(e)).await;
        }
        let _ = self.out.flush().await;
    }

    async fn copy(&mut self) -> std::io::Result<()> {
        let mut watch = self
            .wanted
            .follow
            .then(|| Watch::new(&self.path))
            .transpose()?;
        let mut file = match File::open(&self.path).await {
            Ok(file) => file,
            // Nothing was written yet, or it was rotated just now.
            Err(e) if self.wanted.follow && e.kind() == std::io::ErrorKind::NotFound => {
                match self.reopened(&mut watch).await? {
                    Some(file) => file,
                    None => return Ok(()),
                }
            }
            Err(e) => return Err(e),
        };
        if let Some(lines) = self.wanted.tail {
            let at = tail_offset(&mut file, lines).await?;
            file.seek(SeekFrom::Start(at)).await?;
        }
        let mut pending = BytesMut::new();
        let mut chunk = vec![0; 32 << 10];
        loop {
            // Asked before reading: what is written after the answer is read below.
            let ended = !self.running();
            let n = file.read(&mut chunk).await?;
            if n > 0 {
                pending.extend_from_slice(&chunk[..n]);
                while let Some(at) = pending.iter().position(|b| *b == b'\n') {
                    let line = pending.split_to(at + 1);
                    if !self.line(&line[..at]) {
                        return Ok(());
                    }
                }
                if !self.out.flush().await {
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
        self.agent
            .runtime
            .container_status(&self.id)
            .is_some_and(|s| s.state == ContainerState::Running)
    }

    /// Waits for more, for the container's end, or for the client to leave (false).
    async fn wait(&self, watch: &mut Watch) -> bool {
        tokio::select! {
            () = watch.changed() => true,
            _ = self.agent.runtime.wait_container(&self.id) => true,
            () = self.out.sender.closed() => false,
        }
    }

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

    /// Writes one entry out; false when no more are wanted.
    fn line(&mut self, raw: &[u8]) -> bool {
        let Some(line) = Line::parse(raw) else {
            return true;
        };
        if self.wanted.stream.is_some_and(|s| s != line.stream) {
            return true;
        }
        if let Some(since) = self.wanted.since
            && line.time.parse::<Timestamp>().is_ok_and(|t| t < since)
        {
            return true;
        }
        if self.wanted.timestamps && !self.mid_line {
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

/// Where the last `lines` lines begin. Parts of one line count as one.
async fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 16 << 10;
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let mut at = end;
    let mut text: Vec<u8> = Vec::new();
    loop {
        let begin = at.saturating_sub(BLOCK);
        let mut block = vec![0; usize::try_from(at - begin).unwrap_or(0)];
        file.seek(SeekFrom::Start(begin)).await?;
        file.read_exact(&mut block).await?;
        block.extend_from_slice(&text);
        text = block;
        at = begin;
        if let Some(skip) = last_lines(&text, lines, at == 0) {
            return Ok(at + skip as u64);
        }
        if at == 0 {
            return Ok(0);
        }
    }
}

/// The offset of the last `lines` whole lines in `text`, if it holds that many.
fn last_lines(text: &[u8], lines: u64, from_start: bool) -> Option<usize> {
    let mut seen = 0;
    let mut end = text.len();
    if text.last() == Some(&b'\n') {
        end -= 1;
    }
    loop {
        let begin = text[..end].iter().rposition(|b| *b == b'\n').map(|p| p + 1);
        // The first line of a block may be cut off.
        let start = match begin {
            Some(b) => b,
            None if from_start => 0,
            None => return None,
        };
        // A line is counted at its end: the entry that is not partial.
        let whole = Line::parse(&text[start..end]).is_none_or(|l| !l.partial);
        if whole {
            seen += 1;
            if seen > lines {
                return Some((end + 1).min(text.len()));
            }
        }
        if start == 0 {
            return from_start.then_some(0);
        }
        end = start - 1;
    }
}

/// An inotify instance, with the descriptor that readiness is told of.
struct Fd(nix::sys::inotify::Inotify);

impl std::os::fd::AsRawFd for Fd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsFd;
        self.0.as_fd().as_raw_fd()
    }
}

/// Tells when a file changes, without polling.
struct Watch {
    events: tokio::io::unix::AsyncFd<Fd>,
}

impl Watch {
    fn new(path: &Path) -> std::io::Result<Self> {
        use nix::sys::inotify::{AddWatchFlags as F, InitFlags, Inotify};
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        if let Some(dir) = path.parent() {
            inotify.add_watch(dir, F::IN_MOVED_FROM | F::IN_CREATE | F::IN_DELETE)?;
        }
        match inotify.add_watch(path, F::IN_MODIFY) {
            Ok(_) | Err(nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        // SAFETY: `Inotify` owns one descriptor that stays the same until it is dropped,
        // and the `AsyncFd` owns the `Inotify`.
        let events = unsafe { tokio::io::unix::AsyncFd::register(Fd(inotify)) }
            .map_err(std::io::Error::from)?;
        Ok(Self { events })
    }

    async fn changed(&mut self) {
        let Ok(mut guard) = self.events.readable().await else {
            return;
        };
        // What happened is looked up afterwards; here it is only taken note of.
        let _ = guard.get_inner().0.read_events();
        guard.clear_ready();
    }

    /// Whether `path` is another file now than the one that is open.
    async fn replaced(&self, open: &File, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let Ok(mine) = open.metadata().await else {
            return false;
        };
        match tokio::fs::metadata(path).await {
            Ok(now) => (now.dev(), now.ino()) != (mine.dev(), mine.ino()),
            Err(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: &str = "2026-01-02T03:04:05.678901234Z";

    #[test]
    fn entries() {
        let raw = format!("{T} stderr P hello  world");
        let line = Line::parse(raw.as_bytes()).unwrap();
        assert!(line.partial);
        assert_eq!(
            (line.stream, line.content),
            ("stderr", &b"hello  world"[..])
        );
        let raw = format!("{T} stdout F ");
        assert_eq!(Line::parse(raw.as_bytes()).unwrap().content, b"");
        assert!(Line::parse(b"no log at all").is_none());
    }

    proptest! {
        #[test]
        fn any_entry_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..80), lines in 0u64..4) {
            let _ = Line::parse(&bytes);
            let _ = last_lines(&bytes, lines, true);
            let _ = last_lines(&bytes, lines, false);
        }
    }

    #[tokio::test]
    async fn tails_count_whole_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text = format!("{T} stdout F a\n{T} stdout P b\n{T} stdout F c\n{T} stdout F d\n");
        std::fs::write(&path, &text).unwrap();
        let mut file = File::open(&path).await.unwrap();
        let line = |n: u64| n * (text.len() as u64 / 4);
        for (n, want) in [(0, line(4)), (1, line(3)), (2, line(1)), (3, 0), (9, 0)] {
            assert_eq!(tail_offset(&mut file, n).await.unwrap(), want, "{n}");
        }
    }
}
