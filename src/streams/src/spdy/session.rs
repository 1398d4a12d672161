//! Server side of the streams of one connection.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::debug;

use super::frame::{self, Frame};
use super::headers::{self, HeaderDecoder, HeaderEncoder, Headers};
use crate::bounded::{self, Budget};

/// Capacity of a stream's buffer in each direction, in bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Maximum number of received frames that wait for a stream's user. Beyond that, the whole
/// connection stalls.
const MAX_PENDING_FRAMES: usize = 256;
/// Maximum number of received bytes that wait for the users of all streams. Beyond that, the whole
/// connection stalls.
const MAX_PENDING_BYTES: u32 = 16 << 20;
/// Maximum number of streams that are open at a time. A forwarded connection takes two.
const MAX_STREAMS: usize = 4096;
/// Size of read buffers, in bytes.
const CHUNK_BYTES: usize = 32 << 10;
/// Status of a refused stream: its ID is in use or not a client's (odd) ID.
const STATUS_PROTOCOL_ERROR: u32 = 1;
/// Status of a stream that is refused because too many are open.
const STATUS_REFUSED_STREAM: u32 = 3;

/// Error that ends a connection.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Frame(#[from] frame::Malformed),
    #[error(transparent)]
    Headers(#[from] headers::Malformed),
    #[error("the connection is gone")]
    Closed,
}

/// A stream that the client has opened.
pub struct Stream {
    /// Headers with which the client opened the stream.
    pub headers: Headers,
    /// The stream's data. Shutting it down ends the server's direction.
    pub io: DuplexStream,
}

/// Receives streams in the order in which they are opened; `None` once the connection has ended.
pub type Streams = mpsc::Receiver<Stream>;

/// A session whose connection is not yet established.
pub struct PendingSession(mpsc::Sender<Stream>);

/// Returns the receiver of a session's streams before its connection is established.
pub fn prepare() -> (Streams, PendingSession) {
    let (sender, receiver) = mpsc::channel(16);
    (receiver, PendingSession(sender))
}

/// A frame for the client. Replies are encoded by the writer, in order.
enum Outgoing {
    Reply(u32),
    Frame(Frame),
}

impl PendingSession {
    /// Serves SPDY on `io` in a background task.
    ///
    /// The session ends when the client closes the connection or violates the protocol, and when
    /// the receiver of streams is dropped. What was written to streams before is still sent.
    pub fn start(self, io: impl AsyncRead + AsyncWrite + Send + 'static) {
        let (read, write) = tokio::io::split(io);
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(write_all(write, receiver));
        tokio::spawn(async move {
            let mut reader = Reader {
                streams: self.0,
                out: sender,
                open: HashMap::new(),
                budget: Budget::new(MAX_PENDING_BYTES),
                slots: Arc::new(Semaphore::new(MAX_STREAMS)),
            };
            let done = reader.streams.clone();
            tokio::select! {
                ended = reader.run(read) => if let Err(e) = ended {
                    debug!("SPDY: {e}");
                },
                () = done.closed() => {}
            }
        });
    }
}

/// Encodes and writes frames until all senders are dropped or the connection fails.
async fn write_all(mut to: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Outgoing>) {
    let mut encoder = HeaderEncoder::default();
    let mut buffer = BytesMut::new();
    while let Some(outgoing) = frames.recv().await {
        let mut next = Some(outgoing);
        // Write all pending frames at once.
        while let Some(outgoing) = next {
            let frame = match outgoing {
                Outgoing::Frame(frame) => frame,
                Outgoing::Reply(id) => Frame::SynReply {
                    id,
                    fin: false,
                    block: encoder.encode(&Headers::new()).into(),
                },
            };
            frame::encode(&frame, &mut buffer);
            next = if buffer.len() < BUFFER_BYTES {
                frames.try_recv().ok()
            } else {
                None
            };
        }
        if to.write_all(&buffer).await.is_err() || to.flush().await.is_err() {
            return;
        }
        buffer.clear();
    }
    let _ = to.shutdown().await;
}

/// Reads frames from the connection and dispatches them to streams.
struct Reader {
    streams: mpsc::Sender<Stream>,
    out: mpsc::Sender<Outgoing>,
    open: HashMap<u32, bounded::Sender>,
    budget: Budget,
    /// One permit for each further stream that may be open.
    slots: Arc<Semaphore>,
}

impl Reader {
    async fn run(&mut self, mut from: impl AsyncRead + Unpin) -> Result<(), SessionError> {
        let mut decoder = HeaderDecoder::new()?;
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES);
        loop {
            while let Some(frame) = frame::decode(&mut buffer)? {
                self.handle(frame, &mut decoder).await?;
            }
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn send(&self, outgoing: Outgoing) -> Result<(), SessionError> {
        self.out
            .send(outgoing)
            .await
            .map_err(|_| SessionError::Closed)
    }

    async fn handle(
        &mut self,
        frame: Frame,
        decoder: &mut HeaderDecoder,
    ) -> Result<(), SessionError> {
        match frame {
            Frame::SynStream { id, fin, block } => {
                // Decoded even if the stream is refused: later blocks depend on the decoder's
                // state.
                let headers = decoder.decode(&block)?;
                if self.open.contains_key(&id) || id % 2 == 0 {
                    let status = STATUS_PROTOCOL_ERROR;
                    return self.send(Outgoing::Frame(Frame::Rst { id, status })).await;
                }
                let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                    let status = STATUS_REFUSED_STREAM;
                    return self.send(Outgoing::Frame(Frame::Rst { id, status })).await;
                };
                let stream = self.open_stream(id, fin, headers, slot);
                self.send(Outgoing::Reply(id)).await?;
                // The receiver may have been dropped; the stream then ends at once.
                let _ = self.streams.send(stream).await;
            }
            Frame::Data { id, fin, bytes } => {
                if let Some(to) = self.open.get(&id)
                    && !bytes.is_empty()
                {
                    // The user may have dropped the stream; the client learns that from the
                    // server's end of it.
                    let _ = to.send(bytes).await;
                }
                if fin {
                    self.open.remove(&id);
                }
            }
            Frame::Rst { id, .. } => {
                self.open.remove(&id);
            }
            Frame::Ping { id } if id % 2 == 1 => {
                self.send(Outgoing::Frame(Frame::Ping { id })).await?;
            }
            Frame::SynReply { block, .. } => {
                decoder.decode(&block)?;
            }
            Frame::Ping { .. } | Frame::GoAway { .. } | Frame::Ignored => {}
        }
        Ok(())
    }

    fn open_stream(
        &mut self,
        id: u32,
        fin: bool,
        headers: Headers,
        slot: OwnedSemaphorePermit,
    ) -> Stream {
        let (near, io) = tokio::io::duplex(BUFFER_BYTES);
        let (read, write) = tokio::io::split(near);
        let (sender, receiver) = self.budget.queue(MAX_PENDING_FRAMES);
        if !fin {
            self.open.insert(id, sender);
        }
        let out = self.out.clone();
        tokio::spawn(async move {
            tokio::join!(inbound(receiver, write), outbound(id, read, out));
            drop(slot);
        });
        Stream { headers, io }
    }
}

/// Copies data from the connection to the stream's user.
async fn inbound(mut from: bounded::Receiver, mut to: WriteHalf<DuplexStream>) {
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// Copies data from the stream's user to the connection, then ends the server's direction.
async fn outbound(id: u32, mut from: ReadHalf<DuplexStream>, to: mpsc::Sender<Outgoing>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..n]);
        let data = Frame::Data {
            id,
            fin: false,
            bytes,
        };
        if to.send(Outgoing::Frame(data)).await.is_err() {
            return;
        }
    }
    let end = Frame::Data {
        id,
        fin: true,
        bytes: Bytes::new(),
    };
    let _ = to.send(Outgoing::Frame(end)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that sends and receives individual frames.
    struct Client {
        io: DuplexStream,
        encoder: HeaderEncoder,
        buffer: BytesMut,
    }

    impl Client {
        async fn send(&mut self, frame: Frame) {
            let mut wire = BytesMut::new();
            frame::encode(&frame, &mut wire);
            self.io.write_all(&wire).await.unwrap();
        }

        async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
            let headers: Headers = headers
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect();
            let block = self.encoder.encode(&headers).into();
            self.send(Frame::SynStream {
                id,
                fin: false,
                block,
            })
            .await;
        }

        async fn next(&mut self) -> Frame {
            loop {
                if let Some(frame) = frame::decode(&mut self.buffer).unwrap() {
                    return frame;
                }
                assert!(self.io.read_buf(&mut self.buffer).await.unwrap() > 0);
            }
        }
    }

    /// Returns a session with its client.
    fn connected() -> (Streams, Client) {
        let (mine, theirs) = tokio::io::duplex(1 << 16);
        let (streams, connect) = prepare();
        connect.start(theirs);
        let client = Client {
            io: mine,
            encoder: HeaderEncoder::default(),
            buffer: BytesMut::new(),
        };
        (streams, client)
    }

    #[tokio::test]
    async fn a_session_ends_with_its_receiver() {
        let (mut streams, mut client) = connected();
        client.open(1, &[("streamtype", "error")]).await;
        assert!(matches!(client.next().await, Frame::SynReply { id: 1, .. }));
        let mut error = streams.recv().await.unwrap();
        error.io.write_all(b"done").await.unwrap();
        drop((error, streams));
        // The client does not close, but reads what was written and then the end.
        let mut rest = Vec::new();
        client.io.read_to_end(&mut rest).await.unwrap();
        let mut rest = BytesMut::from(&rest[..]);
        let mut text = Vec::new();
        while let Some(frame) = frame::decode(&mut rest).unwrap() {
            if let Frame::Data { bytes, .. } = frame {
                text.extend_from_slice(&bytes);
            }
        }
        assert_eq!(text, b"done");
    }

    #[tokio::test]
    async fn streams_are_limited() {
        let (mut streams, mut client) = connected();
        let ids: Vec<u32> = (0..=MAX_STREAMS as u32).map(|i| 2 * i + 1).collect();
        let mut held = Vec::new();
        for id in &ids[..MAX_STREAMS] {
            client.open(*id, &[]).await;
            assert!(matches!(client.next().await, Frame::SynReply { .. }));
            held.push(streams.recv().await.unwrap());
        }
        let last = ids[MAX_STREAMS];
        client.open(last, &[]).await;
        let refused = Frame::Rst {
            id: last,
            status: STATUS_REFUSED_STREAM,
        };
        assert_eq!(client.next().await, refused);
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_end() {
        let (mut streams, mut client) = connected();
        client.open(1, &[("streamtype", "data")]).await;
        assert!(matches!(client.next().await, Frame::SynReply { id: 1, .. }));
        let mut stream = streams.recv().await.unwrap();
        assert_eq!(stream.headers["streamtype"], "data");
        client
            .send(Frame::Data {
                id: 1,
                fin: true,
                bytes: Bytes::from_static(b"ping"),
            })
            .await;
        let mut text = String::new();
        stream.io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ping");
        stream.io.write_all(b"pong").await.unwrap();
        drop(stream);
        let pong = Frame::Data {
            id: 1,
            fin: false,
            bytes: Bytes::from_static(b"pong"),
        };
        assert_eq!(client.next().await, pong);
        assert!(matches!(
            client.next().await,
            Frame::Data {
                id: 1,
                fin: true,
                ..
            }
        ));
        client.send(Frame::Ping { id: 3 }).await;
        assert_eq!(client.next().await, Frame::Ping { id: 3 });
        drop(client);
        assert!(streams.recv().await.is_none());
    }
}
