//! Entry points of fuzz targets (`tests/fuzz`) to the private decoders.

use bytes::BytesMut;

use crate::spdy::Headers;
use crate::spdy::fuzzing::{Frame, HeaderDecoder, HeaderEncoder, decode, encode};

/// Decodes SPDY frames and their header blocks as a session does. What is decoded is encoded and
/// decoded again, and must then be the same.
pub fn spdy_frames(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    let mut headers = HeaderDecoder::new().expect("a decoder");
    while let Ok(Some(frame)) = decode(&mut buffer) {
        if let Frame::SynStream { block, .. } | Frame::SynReply { block, .. } = &frame {
            let Ok(read) = headers.decode(block) else {
                return;
            };
            assert_eq!(
                block_of(&read, &mut HeaderDecoder::new().expect("a decoder")),
                read
            );
        }
        if frame == Frame::Ignored {
            continue;
        }
        let mut wire = BytesMut::new();
        encode(&frame, &mut wire);
        let again = decode(&mut wire).expect("what was encoded can be decoded");
        assert_eq!(again, Some(frame));
        assert!(wire.is_empty());
    }
}

/// Returns the compressed header block that opens a stream with these headers on a new connection.
pub fn spdy_block(headers: &Headers) -> Vec<u8> {
    HeaderEncoder::default().encode(headers)
}

fn block_of(headers: &Headers, decoder: &mut HeaderDecoder) -> Headers {
    let block = spdy_block(headers);
    decoder
        .decode(&block)
        .expect("what was encoded can be decoded")
}
