//! Makes the requests of Go's clients readable for hyper.
//!
//! A client that was given a socket's path as its target sends it as `:authority`, for example
//! `%2Fvar%2Flib%2Fkubelet%2Fdevice-plugins%2Fkubelet.sock`. That is no authority of an URI, and the
//! crate `h2` ends such a request with PROTOCOL_ERROR. [`Named`] replaces the values of that field in
//! what is read from a connection. Field names and lengths are all that has to be understood of
//! HPACK (RFC 7541): values are skipped, not decoded.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's first bytes (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Length of a frame's head.
const HEAD: usize = 9;
/// Type of the frames with header fields.
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// Largest frame that is kept until it is whole. Longer ones pass as they are.
const MAX_BLOCK: usize = 16 << 10;
/// Index of `:authority` in the static table.
const AUTHORITY: u64 = 1;

/// A connection whose requests are all for `localhost`.
pub(super) struct Named<S> {
    inner: S,
    rewriter: Rewriter,
    ready: Vec<u8>,
}

impl<S> Named<S> {
    pub(super) fn new(inner: S) -> Self {
        Self {
            inner,
            rewriter: Rewriter::default(),
            ready: Vec::new(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Named<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let mut chunk = [0; 8192];
            let mut read = ReadBuf::new(&mut chunk);
            std::task::ready!(Pin::new(&mut this.inner).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                // The end. What is incomplete is of no use to the reader either.
                return Poll::Ready(Ok(()));
            }
            this.ready = this.rewriter.take(read.filled());
        }
        let length = this.ready.len().min(out.remaining());
        out.put_slice(&this.ready[..length]);
        this.ready.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Named<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }
    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }
    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

/// Rewrites a client's bytes as they come.
#[derive(Default)]
struct Rewriter {
    /// Bytes of the preface that have passed.
    preface: usize,
    /// Bytes of the current frame that still pass.
    passing: usize,
    /// Bytes that are not a whole frame yet.
    held: Vec<u8>,
}

impl Rewriter {
    /// Takes bytes of the client; returns those for the server, which may be none.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(self.held.len());
        loop {
            let pass = if self.preface < PREFACE {
                let pass = (PREFACE - self.preface).min(self.held.len());
                self.preface += pass;
                pass
            } else {
                let pass = self.passing.min(self.held.len());
                self.passing -= pass;
                pass
            };
            out.extend(self.held.drain(..pass));
            if pass > 0 {
                continue;
            }
            let Some(head) = self.held.first_chunk::<HEAD>() else {
                return out;
            };
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if head[3] != HEADERS || head[4] & END_HEADERS == 0 || length > MAX_BLOCK {
                self.passing = HEAD + length;
                continue;
            }
            if self.held.len() < HEAD + length {
                return out;
            }
            let frame: Vec<u8> = self.held.drain(..HEAD + length).collect();
            out.extend(rewritten(&frame).unwrap_or(frame));
        }
    }
}

/// Returns a frame of header fields for `localhost`; `None` if it has no value to replace or is
/// damaged.
fn rewritten(frame: &[u8]) -> Option<Vec<u8>> {
    let (head, payload) = frame.split_at_checked(HEAD)?;
    let mut start = 0;
    let mut padding = 0;
    if head[4] & PADDED != 0 {
        padding = usize::from(*payload.first()?);
        start += 1;
    }
    if head[4] & PRIORITY != 0 {
        start += 5;
    }
    let block = payload.get(start..payload.len().checked_sub(padding)?)?;
    let block = renamed(block)?;
    let mut out = payload[..start].to_vec();
    out.extend(block);
    out.extend(&payload[payload.len() - padding..]);
    let length = u32::try_from(out.len()).ok()?.to_be_bytes();
    let mut whole = vec![length[1], length[2], length[3]];
    whole.extend(&head[3..]);
    whole.extend(out);
    Some(whole)
}

/// Returns header fields with another value of `:authority`.
fn renamed(block: &[u8]) -> Option<Vec<u8>> {
    let mut rest = block;
    let mut out = Vec::with_capacity(block.len());
    let mut found = false;
    while let Some(first) = rest.first() {
        let before = rest;
        // How many bits of the first byte belong to the index, and whether a value follows.
        let (bits, has_value) = match first {
            0x80.. => (7, false),
            0x40.. => (6, true),
            0x20.. => (5, false),
            _ => (4, true),
        };
        let index = integer(&mut rest, bits)?;
        if has_value {
            if index == 0 {
                string(&mut rest)?;
            }
            let name = &before[..before.len() - rest.len()];
            string(&mut rest)?;
            if index == AUTHORITY {
                found = true;
                out.extend(name);
                out.push(b"localhost".len() as u8);
                out.extend(b"localhost");
                continue;
            }
        }
        out.extend(&before[..before.len() - rest.len()]);
    }
    found.then_some(out)
}

/// Reads an integer whose first bits are in the first byte (RFC 7541, 5.1).
fn integer(rest: &mut &[u8], bits: u32) -> Option<u64> {
    let max = (1u64 << bits) - 1;
    let (first, mut tail) = rest.split_first()?;
    let mut value = u64::from(*first) & max;
    if value == max {
        let mut shift = 0;
        loop {
            let (byte, next) = tail.split_first()?;
            tail = next;
            value = value.checked_add(u64::from(byte & 0x7f).checked_shl(shift)?)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
    }
    *rest = tail;
    Some(value)
}

/// Skips a string (RFC 7541, 5.2).
fn string(rest: &mut &[u8]) -> Option<()> {
    let length = integer(rest, 7)?;
    *rest = rest.get(usize::try_from(length).ok()?..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &[u8] = b"%2Fvar%2Flib%2Fkubelet%2Fdevice-plugins%2Fkubelet.sock";

    /// Returns a frame of a type with flags.
    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let head = [length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
        [&head[..], payload].concat()
    }

    fn block(name: &[u8], authority: &[u8]) -> Vec<u8> {
        // `:method: POST`, `:authority`, a literal name and value, a size update, a Huffman value.
        let length = [authority.len() as u8];
        let rest = [&[0x40, 1, b'a', 1, b'b', 0x3f, 0x01, 0x44, 0x82, 0xff, 0xff][..]].concat();
        [&[0x83][..], name, &length, authority, &rest].concat()
    }

    #[test]
    fn authorities_become_localhost() {
        for name in [&[0x41][..], &[0x01], &[0x11]] {
            let renamed = renamed(&block(name, PATH)).unwrap();
            assert_eq!(renamed, block(name, b"localhost"), "{name:?}");
        }
        assert_eq!(renamed(&[0x83, 0x86]), None);
        assert_eq!(renamed(&[0x41, 9, b'x']), None, "cut off");
    }

    #[test]
    fn only_headers_are_changed() {
        let padded = |authority: &[u8]| {
            let block = block(&[0x41], authority);
            [&[2, 0, 0, 0, 0, 0][..], &block, &[0, 0]].concat()
        };
        let stream = |authority: &[u8]| {
            [
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                frame(4, 0, &[]),
                frame(HEADERS, END_HEADERS, &block(&[0x41], authority)),
                frame(0, 1, &block(&[0x41], PATH)),
                frame(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded(authority)),
            ]
            .concat()
        };
        for size in [1, 7, 10_000] {
            let mut rewriter = Rewriter::default();
            let sent = stream(PATH);
            let pieces = sent.chunks(size).flat_map(|piece| rewriter.take(piece));
            assert_eq!(pieces.collect::<Vec<u8>>(), stream(b"localhost"));
        }
    }

    #[test]
    fn damaged_blocks_pass() {
        for damaged in [
            &[0x41, 0x7f][..],
            &[0x3f, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x40],
        ] {
            let frame = frame(HEADERS, END_HEADERS, damaged);
            let mut rewriter = Rewriter {
                preface: PREFACE,
                ..Rewriter::default()
            };
            assert_eq!(rewriter.take(&frame), frame);
        }
    }
}
