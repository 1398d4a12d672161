//! A writer of cpio archives in the `newc` format (kernel documentation, "initramfs buffer
//! format").

use std::io::{self, Read, Write};

const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const CHARACTER: u32 = 0o020_000;

/// An archive that is being written. All entries belong to root.
pub struct Archive<W> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// Creates an empty archive.
    pub fn new(out: W) -> Self {
        Self { out, inode: 1 }
    }

    /// Adds a directory. Its parent must have been added before.
    pub fn folder(&mut self, name: &str, mode: u32) -> io::Result<()> {
        self.head(name, FOLDER | mode, 0, (0, 0))
    }

    /// Adds a character device.
    pub fn device(&mut self, name: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
        self.head(name, CHARACTER | mode, 0, (major, minor))
    }

    /// Adds a file with exactly `size` bytes of `content`; fails if `content` is shorter.
    pub fn file(&mut self, name: &str, mode: u32, size: u64, content: impl Read) -> io::Result<()> {
        let short = u32::try_from(size)
            .map_err(|_| io::Error::other(format!("{name} is too big for an initramfs")))?;
        self.head(name, REGULAR | mode, short, (0, 0))?;
        let written = io::copy(&mut content.take(size), &mut self.out)?;
        if written != size {
            return Err(io::Error::other(format!(
                "{name} became shorter while it was read"
            )));
        }
        self.pad(size)
    }

    /// Writes the trailer and returns the underlying writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.head("TRAILER!!!", 0, 0, (0, 0))?;
        Ok(self.out)
    }

    fn head(&mut self, name: &str, mode: u32, size: u32, device: (u32, u32)) -> io::Result<()> {
        let links = if mode & FOLDER != 0 { 2 } else { 1 };
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.inode += 1;
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        // The header of 110 bytes and the name are padded to a multiple of four.
        self.pad(110 + u64::from(name_size))
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let missing = (4 - size % 4) % 4;
        self.out.write_all(&[0; 3][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_the_kernel_reads_them() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("dev", 0o755).unwrap();
        archive.device("dev/console", 0o600, 5, 1).unwrap();
        archive.file("init", 0o755, 5, &b"hello"[..]).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        // The mode is the second of thirteen fields of eight digits.
        assert!(text.starts_with("07070100000001000041ED"), "{text}");
        let at = bytes.windows(4).position(|w| w == b"init").unwrap();
        assert_eq!(&bytes[at - 110..at - 104], b"070701");
        assert_eq!(&bytes[at - 110 + 54..at - 110 + 62], b"00000005");
        // The content starts at a multiple of four after the name's terminating zero.
        let content = (at + 5).next_multiple_of(4);
        assert_eq!(&bytes[content..content + 8], b"hello\0\0\0");
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(archive.file("a", 0o644, 4, &b"abc"[..]).is_err());
    }
}
