//! Finds the last lines of a log.

use std::io::SeekFrom;

use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::log_line::LogLine;

/// Returns the offset of the last `lines` lines. Partial entries of one line count once.
pub(super) async fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const T: &str = "2026-01-02T03:04:05.678901234Z";

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
