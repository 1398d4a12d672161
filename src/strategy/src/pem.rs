//! PEM blocks, and the outline of the certificates and requests in them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A block of a PEM text.
struct Block {
    kind: Vec<u8>,
    has_headers: bool,
    bytes: Vec<u8>,
}

/// The blocks of a text. What is no block is skipped, as Go does.
struct Blocks<'a>(&'a [u8]);

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        const END: &[u8] = b"\n-----END ";
        loop {
            let end = self.0.windows(END.len()).position(|part| part == END)?;
            let before = &self.0[..=end];
            self.0 = &self.0[end + END.len()..];
            if let Some(block) = block(before, self.0) {
                return Some(block);
            }
        }
    }
}

/// Returns the block between its last beginning in `before` and the rest of its end in `after`.
fn block(before: &[u8], after: &[u8]) -> Option<Block> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const DASHES: &[u8] = b"-----";
    let start = before
        .windows(BEGIN.len())
        .rposition(|part| part == BEGIN)?;
    if start > 0 && before[start - 1] != b'\n' {
        return None;
    }
    let mut lines = before[start + BEGIN.len()..]
        .split(|b| *b == b'\n')
        .peekable();
    let kind = lines.next()?.trim_ascii_end().strip_suffix(DASHES)?;
    let end = after.split(|b| *b == b'\n').next()?;
    if end.trim_ascii_end().strip_suffix(DASHES) != Some(kind) {
        return None;
    }
    let mut has_headers = false;
    while lines.next_if(|line| line.contains(&b':')).is_some() {
        has_headers = true;
    }
    let body = lines.flatten().copied();
    let body: Vec<u8> = body.filter(|b| !b" \t\r".contains(b)).collect();
    Some(Block {
        kind: kind.to_vec(),
        has_headers,
        bytes: STANDARD.decode(body).ok()?,
    })
}

/// The tag of sequences in DER.
const SEQUENCE: u8 = 0x30;

/// Splits the first element off DER: its tag, the length of its header, its content and the rest.
fn element(der: &[u8]) -> Option<(u8, usize, &[u8], &[u8])> {
    let (tag, length) = (*der.first()?, *der.get(1)?);
    let (header, length) = match length {
        _ if length < 0x80 => (2, usize::from(length)),
        0x81..=0x84 => {
            let header = 2 + usize::from(length & 0x7f);
            let bytes = der.get(2..header)?.iter();
            (header, bytes.fold(0, |n, b| n << 8 | usize::from(*b)))
        }
        _ => return None,
    };
    let end = header.checked_add(length)?;
    Some((tag, header, der.get(header..end)?, &der[end..]))
}

/// Returns what is wrong with a certificate request (upstream: `ParseCSR`). Only its outline is
/// looked at, not its signature.
pub(crate) fn request_problem(pem: &[u8]) -> Option<String> {
    let block = Blocks(pem).next();
    let Some(block) = block.filter(|block| block.kind == b"CERTIFICATE REQUEST") else {
        return Some("PEM block type must be CERTIFICATE REQUEST".into());
    };
    let wrong = |why: &str| Some(format!("asn1: syntax error: {why}"));
    if block.bytes.is_empty() {
        return wrong("sequence truncated");
    }
    let Some((tag, header, mut content, rest)) = element(&block.bytes) else {
        return wrong("data truncated");
    };
    if tag != SEQUENCE {
        let (class, compound, number) = (tag >> 6, tag & 0x20 != 0, tag & 0x1f);
        let length = content.len();
        return Some(format!(
            "asn1: structure error: tags don't match (16 vs {{class:{class} tag:{number} length:{length} isCompound:{compound}}}) {{optional:false explicit:false application:false private:false defaultValue:<nil> tag:<nil> stringType:0 timeType:0 set:false omitEmpty:false}} certificateRequest @{header}"
        ));
    }
    // The request, the algorithm and the signature.
    for _ in 0..3 {
        if content.is_empty() {
            return wrong("sequence truncated");
        }
        match element(content) {
            Some((_, _, _, rest)) => content = rest,
            None => return wrong("data truncated"),
        }
    }
    match rest {
        [] => None,
        _ => wrong("trailing data"),
    }
}

/// Returns what is wrong with certificates (upstream: `validateCertificate`). Only their outline
/// is looked at.
pub(crate) fn certificates_problem(pem: &[u8]) -> Option<String> {
    if pem.is_empty() {
        return None;
    }
    let mut found = false;
    for block in Blocks(pem) {
        if block.kind != b"CERTIFICATE" {
            let kind = String::from_utf8_lossy(&block.kind);
            let kind = rkube_api::text::quote(&kind);
            return Some(format!(
                "only CERTIFICATE PEM blocks are allowed, found {kind}"
            ));
        }
        if block.has_headers {
            return Some("no PEM block headers are permitted".into());
        }
        found = true;
        let mut der = block.bytes.as_slice();
        if der.is_empty() {
            return Some("found CERTIFICATE PEM block containing 0 certificates".into());
        }
        while !der.is_empty() {
            let Some((SEQUENCE, _, content, rest)) = element(der) else {
                return Some("x509: malformed certificate".into());
            };
            if !matches!(element(content), Some((SEQUENCE, ..))) {
                return Some("x509: malformed tbs certificate".into());
            }
            der = rest;
        }
    }
    (!found).then(|| "must contain at least one CERTIFICATE PEM block".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(kind: &str, body: &str) -> String {
        format!("-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n")
    }

    #[test]
    fn requests_are_looked_at() {
        const KIND: &str = "CERTIFICATE REQUEST";
        let none = "PEM block type must be CERTIFICATE REQUEST";
        let tags = "asn1: structure error: tags don't match (16 vs {class:0 tag:0 length:0 isCompound:false}) {optional:false explicit:false application:false private:false defaultValue:<nil> tag:<nil> stringType:0 timeType:0 set:false omitEmpty:false} certificateRequest @2";
        let truncated = "asn1: syntax error: sequence truncated";
        for (text, why) in [
            (pem(KIND, "MAYwADAAAwA="), None),
            (format!("junk\n{}", pem(KIND, "MAYw\r\n ADAAAwA=")), None),
            ("x -----BEGIN CERTIFICATE REQUEST-----".into(), Some(none)),
            (String::new(), Some(none)),
            (pem("X", "MAYwADAAAwA="), Some(none)),
            (pem(KIND, "AAAA"), Some(tags)),
            (pem(KIND, "MAA="), Some(truncated)),
            (pem(KIND, "MAAA"), Some(truncated)),
            (pem(KIND, "").replace("\n\n", "\n"), Some(truncated)),
            (
                pem(KIND, "MAU="),
                Some("asn1: syntax error: data truncated"),
            ),
            (
                pem(KIND, "MAYwADAAAwAA"),
                Some("asn1: syntax error: trailing data"),
            ),
        ] {
            assert_eq!(request_problem(text.as_bytes()).as_deref(), why, "{text}");
        }
    }

    #[test]
    fn certificates_are_looked_at() {
        const KIND: &str = "CERTIFICATE";
        let good = pem(KIND, "MAIwAA==");
        for (text, why) in [
            (String::new(), None),
            (good.clone(), None),
            (format!("{good}junk\n{good}"), None),
            (
                "x".into(),
                Some("must contain at least one CERTIFICATE PEM block"),
            ),
            (
                good.clone() + &pem("CERTIFICATE REQUEST", "MAA="),
                Some("only CERTIFICATE PEM blocks are allowed, found \"CERTIFICATE REQUEST\""),
            ),
            (
                pem(KIND, "a: b\n\nMAIwAA=="),
                Some("no PEM block headers are permitted"),
            ),
            (
                pem(KIND, ""),
                Some("found CERTIFICATE PEM block containing 0 certificates"),
            ),
            (pem(KIND, "AAAA"), Some("x509: malformed certificate")),
            (pem(KIND, "MAU="), Some("x509: malformed certificate")),
            (pem(KIND, "MAA="), Some("x509: malformed tbs certificate")),
        ] {
            let found = certificates_problem(text.as_bytes());
            assert_eq!(found.as_deref(), why, "{text}");
        }
    }
}
