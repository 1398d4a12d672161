//! Detection of gzip and zstd streams, and their decompression.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder as Frame};

/// Returns a reader that decompresses `reader` if it begins with the magic number of gzip or zstd,
/// and passes it through otherwise.
pub fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    // Peeking leaves the magic number in the buffer for the decoder.
    let head = peek(&mut reader)?;
    Ok(match head {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(ZstdReader::new(reader)),
        [a, 0x2a, 0x4d, 0x18] if (0x50..=0x5f).contains(&a) => Box::new(ZstdReader::new(reader)),
        _ => Box::new(reader),
    })
}

/// Returns the first four bytes without consuming them. Missing bytes are zero.
fn peek<R: Read>(reader: &mut BufReader<R>) -> io::Result<[u8; 4]> {
    let mut head = [0; 4];
    let available = reader.fill_buf()?;
    if available.len() >= 4 || available.is_empty() {
        let n = available.len().min(4);
        head[..n].copy_from_slice(&available[..n]);
        return Ok(head);
    }
    // Files and pipes return fewer than four bytes only at their end.
    let n = available.len();
    head[..n].copy_from_slice(available);
    Ok(head)
}

/// A decoder of consecutive zstd frames. Skippable frames are skipped.
struct ZstdReader<R> {
    source: R,
    decoder: Frame,
    active: bool,
}

impl<R: BufRead> ZstdReader<R> {
    fn new(source: R) -> Self {
        Self {
            source,
            decoder: FrameDecoder::new(),
            active: false,
        }
    }

    /// Begins the next frame. Returns false at the end of the stream.
    fn next_frame(&mut self) -> io::Result<bool> {
        loop {
            if self.source.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => {
                    self.active = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let skipped = io::copy(
                        &mut (&mut self.source).take(u64::from(length)),
                        &mut io::sink(),
                    )?;
                    if skipped != u64::from(length) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(e) => return Err(io::Error::new(io::ErrorKind::InvalidData, e.to_string())),
            }
        }
    }
}

impl<R: BufRead> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.active && !self.next_frame()? {
                return Ok(0);
            }
            while self.decoder.can_collect() < buffer.len() && !self.decoder.is_finished() {
                let wanted = buffer.len() - self.decoder.can_collect();
                self.decoder
                    .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBytes(wanted))
                    .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e.to_string()))?;
            }
            let n = self.decoder.read(buffer)?;
            if n > 0 {
                return Ok(n);
            }
            if self.decoder.is_finished() {
                self.active = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn reads_every_kind() {
        let text = b"hello ".repeat(10_000);
        assert_eq!(read(&text).unwrap(), text);
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(b"ab").unwrap(), b"ab");

        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        assert_eq!(read(&gzip).unwrap(), text);
        assert!(read(&gzip[..gzip.len() / 2]).is_err());

        let frame = ruzstd::encoding::compress_to_vec(
            &text[..],
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        let mut frames = frame.clone();
        frames.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        frames.extend(&frame);
        assert_eq!(read(&frames).unwrap(), [text.clone(), text].concat());
        assert!(read(&frame[..frame.len() / 2]).is_err());
    }
}
