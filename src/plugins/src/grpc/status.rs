//! Results of calls: codes, messages, and their form in trailers.

use http::HeaderMap;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What `grpc-message` cannot have as it is.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// Why a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of gRPC's documentation")]
pub enum Code {
    Ok = 0,
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    const ALL: [Self; 17] = [
        Self::Ok,
        Self::Canceled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    fn from_number(number: usize) -> Self {
        Self::ALL.get(number).copied().unwrap_or(Self::Unknown)
    }
}

/// The failure of a call. It reads as in Go's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code.
    pub code: Code,
    /// The server's message, or why there is none.
    pub message: String,
}

impl Status {
    /// Returns a failure.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Returns the failure of a call that took too long.
    pub(super) fn late() -> Self {
        Self::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    /// Returns the failure of a call whose connection cannot be made or broke.
    pub(super) fn unavailable(why: impl std::fmt::Display) -> Self {
        Self::new(
            Code::Unavailable,
            format!("connection error: desc = \"transport: {why}\""),
        )
    }

    /// Returns the result that headers or trailers carry; `None` if they have none.
    pub(super) fn of(headers: &HeaderMap) -> Option<Result<(), Self>> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let code = text("grpc-status")?
            .parse()
            .map_or(Code::Unknown, Code::from_number);
        if code == Code::Ok {
            return Some(Ok(()));
        }
        let message = percent_decode_str(text("grpc-message").unwrap_or_default());
        Some(Err(Self::new(code, message.decode_utf8_lossy())))
    }

    /// Returns the trailers of a result.
    pub(super) fn trailers(result: &Result<(), Self>) -> HeaderMap {
        let mut trailers = HeaderMap::new();
        let (code, message) = match result {
            Ok(()) => (Code::Ok, ""),
            Err(status) => (status.code, status.message.as_str()),
        };
        trailers.insert("grpc-status", (code as u16).into());
        let message = utf8_percent_encode(message, ESCAPED).to_string();
        if let Ok(message) = message.parse()
            && code != Code::Ok
        {
            trailers.insert("grpc-message", message);
        }
        trailers
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "rpc error: code = {:?} desc = {}",
            self.code, self.message
        )
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_back() {
        for result in [
            Ok(()),
            Err(Status::new(Code::NotFound, "no 100% “device”\nhere")),
            Err(Status::new(Code::Unauthenticated, "")),
        ] {
            assert_eq!(Status::of(&Status::trailers(&result)), Some(result));
        }
        assert_eq!(Status::of(&HeaderMap::new()), None);
        let mut odd = HeaderMap::new();
        odd.insert("grpc-status", 99.into());
        assert_eq!(
            Status::of(&odd).unwrap().unwrap_err().to_string(),
            "rpc error: code = Unknown desc = "
        );
    }
}
