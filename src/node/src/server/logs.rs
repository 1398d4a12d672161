//! Serves container logs for `kubectl logs`.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use jiff::Timestamp;
use rkube_runtime::{ContainerState, Runtime};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc::{Sender, channel};

use super::answer::{Answer, no_pod, text};
use super::query::Query;
use crate::kinds::*;
use crate::log_line::LogLine;
use crate::pods::container_id;
use crate::pods::instance::Instance;
use crate::pods::paths::log_path;
use crate::server::endpoint::Endpoint;

/// Options of a log request (upstream: `PodLogOptions`).
#[derive(Clone, Debug, Default)]
struct LogOptions {
    follow: bool,
    timestamps: bool,
    tail: Option<u64>,
    since: Option<Timestamp>,
    limit: Option<u64>,
    stream: Option<&'static str>,
}

impl LogOptions {
    fn from_query(query: &Query) -> Result<Self, String> {
        let positive = |key: &str| -> Result<Option<i64>, String> {
            match query.number(key)? {
                Some(n) if n < 0 => Err(format!("{key} must be greater than or equal to 0")),
                n => Ok(n),
            }
        };
        let seconds = positive("sinceSeconds")?.map(|s| {
            let age = jiff::SignedDuration::from_secs(s);
            // A time before the first representable one includes everything.
            Timestamp::now().checked_sub(age).unwrap_or(Timestamp::MIN)
        });
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

/// Serves `/containerLogs`. With `follow`, the response ends with the container.
pub(crate) fn serve(
    endpoint: &Endpoint,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Answer {
    let options = match LogOptions::from_query(query) {
        Ok(options) => options,
        Err(e) => return text(StatusCode::BAD_REQUEST, e),
    };
    let Some(found) = endpoint.pods.find(namespace, pod, None) else {
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
    let previous = query.is_set(&["previous"]);
    let instance = if previous {
        ended_before(&found.pod, attempts, container)
    } else {
        latest_started(attempts)
    };
    let instance = match instance {
        Some(instance) => instance,
        None if previous => {
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
        runtime: endpoint.runtime.clone(),
        id: instance.id.clone(),
        path,
        options,
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

/// Returns the latest attempt that was started.
fn latest_started(attempts: &[Instance]) -> Option<&Instance> {
    let started = |i: &&Instance| i.state != ContainerState::Created;
    attempts.iter().rev().find(started)
}

/// Returns the attempt of the container's `lastState`: the latest one that has ended and is not
/// its current state. While the container waits for a restart, that is the latest attempt.
fn ended_before<'a>(pod: &Pod, attempts: &'a [Instance], container: &str) -> Option<&'a Instance> {
    let last = container_status(pod, container)?.last_state.as_ref()?;
    let id = last.terminated.as_ref()?.container_id.as_ref()?;
    attempts.iter().find(|i| container_id(&i.id) == *id)
}

/// Returns the status of an init, main or ephemeral container.
fn container_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .chain(&status.ephemeral_container_statuses)
        .flatten()
        .find(|s| s.name == name)
}

fn waiting_reason(pod: &Pod, container: &str) -> String {
    container_status(pod, container)
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

/// Buffered response body with an optional byte limit.
struct Out {
    sender: Sender<Result<Frame<Bytes>, std::io::Error>>,
    left: Option<u64>,
    buffer: BytesMut,
}

impl Out {
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
struct Reader {
    runtime: Runtime,
    id: String,
    path: PathBuf,
    options: LogOptions,
    out: Out,
    mid_line: bool,
}

impl Reader {
    async fn run(mut self) {
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

/// Returns the offset of the last `lines` lines. Partial entries of one line count once.
async fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 16 << 10;
    let end = file.seek(SeekFrom::End(0)).await?;
    if lines == 0 {
        return Ok(end);
    }
    let mut tail = Tail::new(end, lines);
    let mut at = end;
    let mut block = Vec::new();
    loop {
        let begin = at.saturating_sub(BLOCK);
        block.resize(usize::try_from(at - begin).unwrap_or(0), 0);
        file.seek(SeekFrom::Start(begin)).await?;
        file.read_exact(&mut block).await?;
        if let Some(offset) = tail.add(begin, &block) {
            return Ok(offset);
        }
        at = begin;
    }
}

/// Finds the last lines of a log that is read backwards, in blocks.
struct Tail {
    /// Number of lines to find.
    lines: u64,
    /// Number of lines found.
    seen: u64,
    /// Length of the log.
    end: u64,
    /// Offset of the entry that was looked at last.
    next: u64,
    /// Beginning of the block that was added last.
    after: Vec<u8>,
}

impl Tail {
    /// Number of bytes of an entry that are looked at: more than its time, stream and tags need.
    const HEAD_BYTES: usize = 256;

    fn new(end: u64, lines: u64) -> Self {
        Self {
            lines,
            seen: 0,
            end,
            next: end,
            after: Vec::new(),
        }
    }

    /// Adds the block before the earlier ones; `begin` is its offset. Returns the offset of the
    /// last lines once they are found; the first block of the log ends the search.
    fn add(&mut self, begin: u64, block: &[u8]) -> Option<u64> {
        for (i, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let start = begin + i as u64 + 1;
            // Nothing follows the log's last line break.
            if start == self.end {
                continue;
            }
            if let Some(offset) = self.entry(start, &block[i + 1..]) {
                return Some(offset);
            }
        }
        if begin == 0 {
            return Some(self.entry(0, block).unwrap_or(0));
        }
        let head = block.iter().chain(&self.after).take(Self::HEAD_BYTES);
        self.after = head.copied().collect();
        None
    }

    /// Looks at the entry at `start`, which begins with `bytes`.
    fn entry(&mut self, start: u64, bytes: &[u8]) -> Option<u64> {
        let head: Vec<u8> = bytes
            .iter()
            .chain(&self.after)
            .take(Self::HEAD_BYTES)
            .take_while(|b| **b != b'\n')
            .copied()
            .collect();
        // A line is counted at its last entry: one that is not partial, or the end of the log.
        let last = self.next == self.end;
        if last || LogLine::parse(&head).is_none_or(|l| !l.partial) {
            self.seen += 1;
            if self.seen > self.lines {
                return Some(self.next);
            }
        }
        self.next = start;
        None
    }
}

/// An inotify instance as an `AsRawFd`, for [`tokio::io::unix::AsyncFd`].
struct Fd(nix::sys::inotify::Inotify);

impl std::os::fd::AsRawFd for Fd {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        use std::os::fd::AsFd;
        self.0.as_fd().as_raw_fd()
    }
}

/// Waits for changes of a log file with inotify.
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
        // SAFETY: `Inotify` owns a descriptor that does not change until it is dropped, and the
        // `AsyncFd` owns the `Inotify`.
        let events = unsafe { tokio::io::unix::AsyncFd::register(Fd(inotify)) }
            .map_err(std::io::Error::from)?;
        Ok(Self { events })
    }

    async fn changed(&mut self) {
        let Ok(mut guard) = self.events.readable().await else {
            return;
        };
        // The events are only drained; the caller checks the file itself.
        let _ = guard.get_inner().0.read_events();
        guard.clear_ready();
    }

    /// Returns whether `path` no longer refers to the open file.
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

    fn options(query: &str) -> Result<LogOptions, String> {
        LogOptions::from_query(&Query::parse(query))
    }

    #[test]
    fn options_are_read() {
        let o =
            options("follow=true&timestamps=1&tailLines=5&limitBytes=10&stream=Stderr").unwrap();
        assert!(o.follow && o.timestamps);
        assert_eq!(
            (o.tail, o.limit, o.stream),
            (Some(5), Some(10), Some("stderr"))
        );
        let o = options("stream=All").unwrap();
        assert!(!o.follow && !o.timestamps && o.since.is_none());
        assert_eq!((o.tail, o.limit, o.stream), (None, None, None));
        let o = options("sinceTime=2026-01-02T03:04:05Z&sinceSeconds=5").unwrap();
        assert_eq!(o.since, Some("2026-01-02T03:04:05Z".parse().unwrap()));
        let since = options("sinceSeconds=60").unwrap().since.unwrap();
        let age = Timestamp::now().duration_since(since).as_secs();
        assert!((59..=61).contains(&age), "{age}");
    }

    #[test]
    fn any_age_is_possible() {
        for seconds in [0, i64::MAX] {
            let o = options(&format!("sinceSeconds={seconds}")).unwrap();
            assert!(o.since.is_some(), "{seconds}");
        }
        let o = options(&format!("sinceSeconds={}", i64::MAX)).unwrap();
        assert_eq!(o.since, Some(Timestamp::MIN));
    }

    #[test]
    fn invalid_options_are_refused() {
        for (query, message) in [
            (
                "tailLines=-1",
                "tailLines must be greater than or equal to 0",
            ),
            ("limitBytes=x", "invalid value for limitBytes: \"x\""),
            (
                "sinceTime=yesterday",
                "invalid value for sinceTime: \"yesterday\"",
            ),
            ("stream=stdout", "invalid value for stream: \"stdout\""),
        ] {
            assert_eq!(options(query).unwrap_err(), message, "{query}");
        }
    }

    fn attempts(states: &[ContainerState]) -> Vec<Instance> {
        states
            .iter()
            .zip(0..)
            .map(|(state, attempt)| Instance {
                attempt,
                ..crate::pods::instance::testing::instance("c", "s", *state, 0)
            })
            .collect()
    }

    #[test]
    fn the_latest_attempt_that_ran_is_shown() {
        use ContainerState::{Created, Exited, Running};
        for (states, attempt) in [
            (&[][..], None),
            (&[Created], None),
            (&[Running], Some(0)),
            (&[Exited, Running], Some(1)),
            (&[Exited, Created], Some(0)),
        ] {
            let attempts = attempts(states);
            let shown = latest_started(&attempts).map(|i| i.attempt);
            assert_eq!(shown, attempt, "{states:?}");
        }
    }

    #[test]
    fn the_previous_attempt_is_that_of_the_last_state() {
        use ContainerState::{Exited, Running};
        let pod = |last: Option<&str>| {
            let terminated = last.map(|id| ContainerStateTerminated {
                container_id: Some(container_id(id)),
                ..Default::default()
            });
            Pod {
                status: Some(PodStatus {
                    container_statuses: Some(vec![ContainerStatus {
                        name: "c".into(),
                        last_state: Some(k8s_openapi::api::core::v1::ContainerState {
                            terminated,
                            ..Default::default()
                        }),
                        ..Default::default()
                    }]),
                    ..Default::default()
                }),
                ..Default::default()
            }
        };
        let mut attempts = attempts(&[Exited, Running]);
        attempts[1].id = "second".into();
        let shown = |pod: &Pod| ended_before(pod, &attempts, "c").map(|i| i.attempt);
        assert_eq!(shown(&pod(Some("c-id"))), Some(0));
        // Waiting for a restart: the attempt that ended last.
        assert_eq!(shown(&pod(Some("second"))), Some(1));
        assert_eq!(shown(&pod(Some("collected"))), None);
        assert_eq!(shown(&pod(None)), None);
        assert_eq!(shown(&Pod::default()), None);
    }

    #[test]
    fn waiting_containers_have_a_reason() {
        let pod = |reason: &str, message: Option<&str>| Pod {
            status: Some(PodStatus {
                container_statuses: Some(vec![ContainerStatus {
                    name: "c".into(),
                    state: Some(k8s_openapi::api::core::v1::ContainerState {
                        waiting: Some(ContainerStateWaiting {
                            reason: Some(reason.into()),
                            message: message.map(Into::into),
                        }),
                        ..Default::default()
                    }),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(waiting_reason(&Pod::default(), "c"), "ContainerCreating");
        let crashed = pod("CrashLoopBackOff", Some("back-off"));
        assert_eq!(waiting_reason(&crashed, "c"), "CrashLoopBackOff");
        assert_eq!(waiting_reason(&crashed, "d"), "ContainerCreating");
        assert_eq!(
            waiting_reason(&pod("ErrImagePull", Some("not found")), "c"),
            "trying and failing to pull image: not found"
        );
    }

    #[test]
    fn output_is_limited() {
        let (sender, _receiver) = channel(1);
        let mut out = Out {
            sender,
            left: Some(5),
            buffer: BytesMut::new(),
        };
        assert!(out.put(b"abc"));
        assert!(!out.put(b"def"));
        assert_eq!(&out.buffer[..], b"abcde");
        out.left = None;
        assert!(out.put(b"more"));
    }

    /// Returns the offset of the last lines of a text that is read in blocks of this size.
    fn tail_of(text: &[u8], lines: u64, block: usize) -> u64 {
        let mut tail = Tail::new(text.len() as u64, lines);
        let mut at = text.len();
        loop {
            let begin = at.saturating_sub(block);
            if let Some(offset) = tail.add(begin as u64, &text[begin..at]) {
                return offset;
            }
            at = begin;
        }
    }

    proptest! {
        #[test]
        fn the_block_size_does_not_matter(
            entries in proptest::collection::vec(("[FP]", "[a-z]{0,20}"), 0..12),
            rest in "[a-z]{0,5}", lines in 1u64..5, block in 1usize..40) {
            let text: String = entries.iter()
                .map(|(tag, words)| format!("{T} stdout {tag} {words}\n"))
                .chain([rest]).collect();
            let whole = tail_of(text.as_bytes(), lines, text.len().max(1));
            prop_assert_eq!(tail_of(text.as_bytes(), lines, block), whole);
        }

        #[test]
        fn offsets_are_within_the_text(
            bytes in proptest::collection::vec(any::<u8>(), 0..80), lines in 1u64..4) {
            prop_assert!(tail_of(&bytes, lines, 7) <= bytes.len() as u64);
        }
    }

    #[test]
    fn an_unfinished_line_counts() {
        let entry = |tag: &str| format!("{T} stdout {tag} x\n");
        let one = entry("F").len() as u64;
        let log = format!("{}{}{}", entry("F"), entry("F"), entry("P"));
        for (lines, offset) in [(1, 2 * one), (2, one), (3, 0), (4, 0)] {
            assert_eq!(tail_of(log.as_bytes(), lines, 9), offset, "{lines}");
        }
        // The parts of an unfinished line count once, too.
        let log = format!("{}{}{}", entry("F"), entry("P"), entry("P"));
        assert_eq!(tail_of(log.as_bytes(), 1, 1000), one);
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
