//! Encodes and decodes SPDY frames: an 8-byte header and a body.

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

/// Flag of the last frame that the sender sends on a stream.
const FIN: u8 = 0x01;
/// Length of a frame's header, in bytes.
const HEADER_BYTES: usize = 8;
/// Maximum length of a frame's body, in bytes; frames of clients are far smaller.
const MAX_BODY_BYTES: usize = 4 << 20;

/// A frame. Header blocks are still compressed.
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
    /// SETTINGS, HEADERS and WINDOW_UPDATE frames. They have no effect here: Kubernetes clients
    /// leave flow control to TCP.
    Ignored,
}

/// Error returned for a frame that violates the protocol.
#[derive(Debug, thiserror::Error)]
#[error("malformed SPDY frame: {0}")]
pub(crate) struct Malformed(&'static str);

/// Removes the next frame from `buffer`; returns `None` while it is incomplete.
pub(crate) fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, Malformed> {
    let Some(head) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let flags = head[4];
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > MAX_BODY_BYTES {
        return Err(Malformed("too long"));
    }
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
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

/// Appends a frame to `out`.
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
    fn frames_round_trip_byte_by_byte() {
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
        // Byte by byte, as from a slow peer.
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

    #[test]
    fn invalid_frames_end_in_errors() {
        for (wire, reason) in [
            (&[0, 0, 0, 0, 0, 0, 0, 0][..], "data on stream 0"),
            (&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff], "too long"),
            (&[0x80, 2, 0, 1, 0, 0, 0, 0], "not version 3"),
            (&[0x80, 3, 0, 5, 0, 0, 0, 0], "unknown type"),
            (&[0x80, 3, 0, 6, 0, 0, 0, 0], "too short"),
            (&[0x80, 3, 0, 3, 0, 0, 0, 4, 0, 0, 0, 1], "too short"),
            (
                &[0x80, 3, 0, 1, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                "too short",
            ),
        ] {
            let error = decode(&mut BytesMut::from(wire)).unwrap_err();
            assert_eq!(error.0, reason, "{wire:?}");
        }
    }

    #[test]
    fn frames_without_effect_are_ignored() {
        for kind in [4, 8, 9] {
            let mut buffer = BytesMut::from(&[0x80, 3, 0, kind, 0, 0, 0, 1, 7][..]);
            assert_eq!(decode(&mut buffer).unwrap(), Some(Frame::Ignored));
            assert!(buffer.is_empty());
        }
    }

    fn any_frame() -> impl Strategy<Value = Frame> {
        let id = 1u32..0x8000_0000;
        let bytes = || proptest::collection::vec(any::<u8>(), 0..100).prop_map(Bytes::from);
        prop_oneof![
            (id.clone(), any::<bool>(), bytes()).prop_map(|(id, fin, block)| Frame::SynStream {
                id,
                fin,
                block
            }),
            (id.clone(), any::<bool>(), bytes()).prop_map(|(id, fin, block)| Frame::SynReply {
                id,
                fin,
                block
            }),
            (id.clone(), any::<bool>(), bytes()).prop_map(|(id, fin, bytes)| Frame::Data {
                id,
                fin,
                bytes
            }),
            (id.clone(), 0u32..100).prop_map(|(id, status)| Frame::Rst { id, status }),
            id.clone().prop_map(|id| Frame::Ping { id }),
            (id, 0u32..100).prop_map(|(last, status)| Frame::GoAway { last, status }),
        ]
    }

    proptest! {
        #[test]
        fn any_frame_round_trips(frame in any_frame()) {
            let mut wire = BytesMut::new();
            encode(&frame, &mut wire);
            prop_assert_eq!(decode(&mut wire).unwrap(), Some(frame));
            prop_assert!(wire.is_empty());
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }
}
