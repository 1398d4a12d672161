//! The log format of the CRI (Container Runtime Interface).

/// One entry of a container's log: `<time> <stream> <tags> <content>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogLine<'a> {
    pub time: &'a str,
    pub stream: &'a str,
    /// Whether the line continues in the stream's next entry (tag `P`).
    pub partial: bool,
    pub content: &'a [u8],
}

impl<'a> LogLine<'a> {
    /// Parses an entry without its line break; `None` if it is malformed.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        let mut rest = line;
        let mut word = || {
            let at = rest.iter().position(|b| *b == b' ')?;
            let (word, tail) = rest.split_at(at);
            rest = &tail[1..];
            std::str::from_utf8(word).ok()
        };
        let (time, stream, tags) = (word()?, word()?, word()?);
        if !matches!(stream, "stdout" | "stderr") || time.len() < 20 {
            return None;
        }
        Some(Self {
            time,
            stream,
            partial: tags.split(':').next() == Some("P"),
            content: rest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME: &str = "2016-10-20T18:39:20.57606443Z";

    /// Cases of upstream's `TestParseLog`.
    #[test]
    fn entries_are_parsed() {
        for (raw, stream, partial, content) in [
            (
                "stdout F cri stdout test log",
                "stdout",
                false,
                "cri stdout test log",
            ),
            (
                "stderr F cri stderr test log",
                "stderr",
                false,
                "cri stderr test log",
            ),
            (
                "stdout P cri stdout partial",
                "stdout",
                true,
                "cri stdout partial",
            ),
            ("stdout F:TAG1:TAG2 tagged", "stdout", false, "tagged"),
            ("stdout P:TAG tagged", "stdout", true, "tagged"),
            ("stderr F two  spaces ", "stderr", false, "two  spaces "),
            ("stdout F ", "stdout", false, ""),
        ] {
            let raw = format!("{TIME} {raw}");
            assert_eq!(
                LogLine::parse(raw.as_bytes()),
                Some(LogLine {
                    time: TIME,
                    stream,
                    partial,
                    content: content.as_bytes()
                }),
                "{raw}"
            );
        }
    }

    #[test]
    fn malformed_entries_are_none() {
        for raw in [
            String::new(),
            "no log at all".into(),
            TIME.into(),
            format!("{TIME} stdout"),
            format!("{TIME} stdout F"),
            format!("{TIME} stdin F x"),
            "2016 stdout F x".into(),
        ] {
            assert_eq!(LogLine::parse(raw.as_bytes()), None, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn any_content_round_trips(content in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut raw = format!("{TIME} stderr F ").into_bytes();
            raw.extend_from_slice(&content);
            prop_assert_eq!(LogLine::parse(&raw).map(|l| l.content), Some(&content[..]));
        }

        #[test]
        fn parsing_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = LogLine::parse(&raw);
        }
    }
}
