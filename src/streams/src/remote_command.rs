//! Documents that are exchanged during a remote command, besides the streams' data.

use std::fmt::Display;

use serde_json::{Value, json};

/// Size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Number of columns.
    pub width: u16,
    /// Number of rows.
    pub height: u16,
}

impl TerminalSize {
    /// Parses a resize message: a JSON object with the fields `Width` and `Height`.
    ///
    /// Returns `None` unless both exist and fit into 16 bits.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let field = |name: &str| u16::try_from(value.get(name)?.as_u64()?).ok();
        Some(Self {
            width: field("Width")?,
            height: field("Height")?,
        })
    }
}

/// Returns the `Status` that reports the result of a remote command.
///
/// `result` is the exit code, or the reason why the command could not be executed. Clients read the
/// exit code from the cause with reason `ExitCode`.
pub fn exit_status<E: Display>(result: &Result<i32, E>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(e) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("error executing command in container: {e}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": e.to_string()}]},
            "code": 500,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(width: u16, height: u16) -> TerminalSize {
        TerminalSize { width, height }
    }

    #[test]
    fn statuses_are_upstreams() {
        let ok: Result<i32, String> = Ok(0);
        assert_eq!(exit_status(&ok)["status"], "Success");
        let code: Result<i32, String> = Ok(3);
        let code = exit_status(&code);
        assert_eq!(code["status"], "Failure");
        assert_eq!(code["reason"], "NonZeroExitCode");
        assert_eq!(
            code["message"],
            "command terminated with non-zero exit code: exit status 3"
        );
        assert_eq!(
            code["details"]["causes"],
            json!([{"reason": "ExitCode", "message": "3"}])
        );
        let failed: Result<i32, &str> = Err("no such file");
        let failed = exit_status(&failed);
        assert_eq!(failed["reason"], "InternalError");
        assert_eq!(failed["code"], 500);
        assert_eq!(
            failed["message"],
            "error executing command in container: no such file"
        );
    }

    #[test]
    fn sizes_need_both_fields() {
        for (text, expected) in [
            (r#"{"Width":80,"Height":24}"#, Some(size(80, 24))),
            (r#"{"Height":65535,"Width":0}"#, Some(size(0, 65535))),
            (r#"{"Width":80}"#, None),
            (r#"{"Width":80,"Height":65536}"#, None),
            (r#"{"Width":-1,"Height":24}"#, None),
            (r#"{"width":80,"height":24}"#, None),
            ("{}", None),
            ("", None),
        ] {
            assert_eq!(TerminalSize::parse(text.as_bytes()), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn sizes_round_trip(width: u16, height: u16) {
            let text = json!({"Width": width, "Height": height}).to_string();
            prop_assert_eq!(TerminalSize::parse(text.as_bytes()), Some(size(width, height)));
        }

        #[test]
        fn sizes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = TerminalSize::parse(&bytes);
        }
    }
}
