//! Frames: an 8-byte head and what follows it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Types of control frames.
mod kind {
    pub(super) const SYN_STREAM: u16 = 1;
    pub(super) const SYN_REPLY: u16 = 2;
    pub(super) const RST_STREAM: u16 = 3;
    pub(super) const SETTINGS: u16 = 4;
    pub(super) const PING: u16 = 6;
    pub(super) const GOAWAY: u16 = 7;
    pub(super) const HEADERS: u16 = 8;
    pub(super) const WINDOW_UPDATE: u16 = 9;
}

/// The sender has said all that it will on this stream.
const FIN: u8 = 0x01;
const HEAD: usize = 8;
/// A frame may not be larger than this; clients stay far below.
const MAX_LENGTH: usize = 4 << 20;

/// A frame; header blocks are still packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    Rst {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
        status: u32,
    },
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// Settings, later headers and window updates, of which nothing here depends:
    /// the peers of this protocol leave flow control to TCP.
    Ignored,
}

/// A frame that breaks the protocol; the connection ends.
#[derive(Debug, thiserror::Error)]
#[error("malformed SPDY frame: {0}")]
pub(crate) struct Malformed(&'static str);

/// Takes the next frame off `buffer`; `None` while it is incomplete.
pub(crate) fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let Some(head) = buffer.first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let flags = head[4];
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > MAX_LENGTH {
        return Err(Malformed("too long"));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    let mut body = buffer.split_to(length).freeze();
    let fin = flags & FIN != 0;
    if first & 0x8000_0000 == 0 {
        if first == 0 {
            return Err(Malformed("data on stream 0"));
        }
        return Ok(Some(Frame::Data {
            id: first,
            fin,
            bytes: body,
        }));
    }
    if first >> 16 & 0x7fff != 3 {
        return Err(Malformed("not version 3"));
    }
    let number = |body: &mut Bytes| {
        if body.len() < 4 {
            return Err(Malformed("too short"));
        }
        Ok(body.get_u32() & 0x7fff_ffff)
    };
    let kind = u16::try_from(first & 0xffff).map_err(|_| Malformed("type"))?;
    Ok(Some(match kind {
        kind::SYN_STREAM => {
            let id = number(&mut body)?;
            let _associated = number(&mut body)?;
            if body.len() < 2 || id == 0 {
                return Err(Malformed("too short"));
            }
            body.advance(2);
            Frame::SynStream {
                id,
                fin,
                block: body,
            }
        }
        kind::SYN_REPLY => Frame::SynReply {
            id: number(&mut body)?,
            fin,
            block: body,
        },
        kind::RST_STREAM => Frame::Rst {
            id: number(&mut body)?,
            status: number(&mut body)?,
        },
        kind::PING => Frame::Ping {
            id: number(&mut body)?,
        },
        kind::GOAWAY => Frame::GoAway {
            last: number(&mut body)?,
            status: number(&mut body)?,
        },
        kind::SETTINGS | kind::HEADERS | kind::WINDOW_UPDATE => Frame::Ignored,
        _ => return Err(Malformed("unknown type")),
    }))
}

fn control(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    head(flags, length, out);
}

fn head(flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u32(u32::from(flags) << 24 | u32::try_from(length).unwrap_or(0) & 0x00ff_ffff);
}

/// Appends a frame.
pub(crate) fn encode(frame: &Frame, out: &mut BytesMut) {
    let flag = |fin: &bool| if *fin { FIN } else { 0 };
    match frame {
        Frame::SynStream { id, fin, block } => {
            control(kind::SYN_STREAM, flag(fin), block.len() + 10, out);
            out.put_u32(*id);
            out.put_u32(0);
            out.put_u16(0);
            out.put_slice(block);
        }
        Frame::SynReply { id, fin, block } => {
            control(kind::SYN_REPLY, flag(fin), block.len() + 4, out);
            out.put_u32(*id);
            out.put_slice(block);
        }
        Frame::Rst { id, status } => {
            control(kind::RST_STREAM, 0, 8, out);
            out.put_u32(*id);
            out.put_u32(*status);
        }
        Frame::Ping { id } => {
            control(kind::PING, 0, 4, out);
            out.put_u32(*id);
        }
        Frame::GoAway { last, status } => {
            control(kind::GOAWAY, 0, 8, out);
            out.put_u32(*last);
            out.put_u32(*status);
        }
        Frame::Data { id, fin, bytes } => {
            out.put_u32(*id);
            head(flag(fin), bytes.len(), out);
            out.put_slice(bytes);
        }
        Frame::Ignored => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_go_there_and_back() {
        let frames = [
            Frame::SynStream {
                id: 1,
                fin: false,
                block: Bytes::from_static(b"abc"),
            },
            Frame::SynReply {
                id: 1,
                fin: true,
                block: Bytes::new(),
            },
            Frame::Data {
                id: 3,
                fin: true,
                bytes: Bytes::from_static(b"data"),
            },
            Frame::Rst { id: 3, status: 5 },
            Frame::Ping { id: 7 },
            Frame::GoAway { last: 3, status: 0 },
        ];
        let mut wire = BytesMut::new();
        for f in &frames {
            encode(f, &mut wire);
        }
        // Byte by byte, as a slow peer sends it.
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        for byte in wire {
            buffer.put_u8(byte);
            while let Some(f) = decode(&mut buffer).unwrap() {
                seen.push(f);
            }
        }
        assert_eq!(seen, frames);
    }

    proptest! {
        #[test]
        fn hostile_bytes_end_in_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }
}
