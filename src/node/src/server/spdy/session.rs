//! A connection's streams, from the server's side.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::mpsc;
use tracing::debug;

use super::frame::{self, Frame};
use super::headers::{Headers, Packer, Unpacker};

/// Bytes a stream holds between the connection and who uses it.
const BUFFER: usize = 64 << 10;
/// Frames of a stream that may wait for its user before the connection stands still.
const BACKLOG: usize = 256;
const CHUNK: usize = 32 << 10;
/// Why a stream is refused: it is there already, or it cannot be.
const STATUS_PROTOCOL_ERROR: u32 = 1;

/// A stream that the client opened.
pub(crate) struct Stream {
    /// What the client said of it.
    pub headers: Headers,
    /// Its bytes both ways; shutting it down ends our direction.
    pub io: DuplexStream,
}

/// Streams in the order of their opening; `None` once the connection has ended.
pub(crate) type Streams = mpsc::Receiver<Stream>;

/// The other end of [`Streams`], waiting for its connection.
pub(crate) struct Connect(mpsc::Sender<Stream>);

/// Makes the streams of a connection that is still to come.
pub(crate) fn prepare() -> (Streams, Connect) {
    let (sender, receiver) = mpsc::channel(16);
    (receiver, Connect(sender))
}

enum Outgoing {
    Reply(u32),
    Frame(Frame),
}

impl Connect {
    /// Speaks SPDY on `io` until it ends, or until nobody takes streams and all have ended.
    pub(crate) fn start(self, io: impl AsyncRead + AsyncWrite + Send + 'static) {
        let (read, write) = tokio::io::split(io);
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(write_all(write, receiver));
        tokio::spawn(async move {
            let mut reader = Reader {
                streams: self.0,
                out: sender,
                open: HashMap::new(),
            };
            if let Err(e) = reader.run(read).await {
                debug!("SPDY: {e}");
            }
        });
    }
}

async fn write_all(mut to: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Outgoing>) {
    let mut packer = Packer::default();
    let mut buffer = BytesMut::new();
    while let Some(outgoing) = frames.recv().await {
        let mut next = Some(outgoing);
        // What waits goes out together.
        while let Some(outgoing) = next {
            let frame = match outgoing {
                Outgoing::Frame(frame) => frame,
                Outgoing::Reply(id) => Frame::SynReply {
                    id,
                    fin: false,
                    block: packer.block(&Headers::new()).into(),
                },
            };
            frame::encode(&frame, &mut buffer);
            next = if buffer.len() < BUFFER {
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

struct Reader {
    streams: mpsc::Sender<Stream>,
    out: mpsc::Sender<Outgoing>,
    open: HashMap<u32, mpsc::Sender<Bytes>>,
}

impl Reader {
    async fn run(&mut self, mut from: impl AsyncRead + Unpin) -> anyhow::Result<()> {
        let mut unpacker = Unpacker::new()?;
        let mut buffer = BytesMut::with_capacity(CHUNK);
        loop {
            while let Some(frame) = frame::decode(&mut buffer)? {
                self.take(frame, &mut unpacker).await?;
            }
            if from.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn send(&self, outgoing: Outgoing) -> anyhow::Result<()> {
        self.out
            .send(outgoing)
            .await
            .map_err(|_| anyhow::anyhow!("the connection is gone"))
    }

    async fn take(&mut self, frame: Frame, unpacker: &mut Unpacker) -> anyhow::Result<()> {
        match frame {
            Frame::SynStream { id, fin, block } => {
                // Unpacked in any case: later blocks build on it.
                let headers = unpacker.block(&block)?;
                if self.open.contains_key(&id) || id % 2 == 0 {
                    let status = STATUS_PROTOCOL_ERROR;
                    return self.send(Outgoing::Frame(Frame::Rst { id, status })).await;
                }
                let stream = self.open_stream(id, fin, headers);
                self.send(Outgoing::Reply(id)).await?;
                // Nobody takes streams any more: the connection is about to close.
                let _ = self.streams.send(stream).await;
            }
            Frame::Data { id, fin, bytes } => {
                if let Some(to) = self.open.get(&id)
                    && !bytes.is_empty()
                {
                    // Whoever reads it may be gone; the stream's end tells the peer.
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
                unpacker.block(&block)?;
            }
            Frame::Ping { .. } | Frame::GoAway { .. } | Frame::Ignored => {}
        }
        Ok(())
    }

    fn open_stream(&mut self, id: u32, fin: bool, headers: Headers) -> Stream {
        let (mine, io) = tokio::io::duplex(BUFFER);
        let (read, write) = tokio::io::split(mine);
        let (sender, receiver) = mpsc::channel(BACKLOG);
        if !fin {
            self.open.insert(id, sender);
        }
        tokio::spawn(inbound(receiver, write));
        tokio::spawn(outbound(id, read, self.out.clone()));
        Stream { headers, io }
    }
}

/// From the connection to the stream's user.
async fn inbound(mut from: mpsc::Receiver<Bytes>, mut to: WriteHalf<DuplexStream>) {
    while let Some(bytes) = from.recv().await {
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// From the stream's user to the connection; its end is the stream's.
async fn outbound(id: u32, mut from: ReadHalf<DuplexStream>, to: mpsc::Sender<Outgoing>) {
    let mut buffer = vec![0; CHUNK];
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

    /// The client's end, frame by frame.
    struct Client {
        io: DuplexStream,
        packer: Packer,
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
            let block = self.packer.block(&headers).into();
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

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_end() {
        let (mine, theirs) = tokio::io::duplex(1 << 16);
        let (mut streams, connect) = prepare();
        connect.start(theirs);
        let mut client = Client {
            io: mine,
            packer: Packer::default(),
            buffer: BytesMut::new(),
        };
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
