//! The events of a YAML document, from libyaml, which go-yaml is a translation of.
//!
//! `serde_yaml` uses the same parser, but tells neither whether a scalar is quoted nor its tag.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// An event, without its position.
#[derive(Debug, PartialEq)]
pub(super) enum Event {
    Alias(String),
    Scalar {
        anchor: Option<String>,
        tag: Option<String>,
        value: String,
        /// Whether the value decides the type: it is plain and has no tag.
        implicit: bool,
    },
    List(Option<String>),
    Map(Option<String>),
    /// The end of a list or a map.
    End,
    /// The end of the document or of the stream.
    Over,
}

/// A parser of one text.
pub(super) struct Events<'a> {
    /// From a box. It is the only pointer to the parser, which has pointers into itself.
    parser: NonNull<unsafe_libyaml::yaml_parser_t>,
    /// The parser has a pointer to the text.
    _text: &'a [u8],
}

impl<'a> Events<'a> {
    /// Creates a parser; `None` if there is no memory for it.
    pub(super) fn new(text: &'a [u8]) -> Option<Self> {
        let parser = Box::new(MaybeUninit::<unsafe_libyaml::yaml_parser_t>::uninit());
        let raw = Box::into_raw(parser).cast();
        let parser = NonNull::new(raw)?;
        // SAFETY: `raw` is valid for writes.
        if unsafe { !unsafe_libyaml::yaml_parser_initialize(raw).ok } {
            // SAFETY: the pointer is that of the box, and not used any more.
            drop(unsafe {
                Box::from_raw(raw.cast::<MaybeUninit<unsafe_libyaml::yaml_parser_t>>())
            });
            return None;
        }
        // SAFETY: the parser is initialised; the text outlives it by the lifetime of `Self`.
        unsafe {
            // Without a set encoding, the parser skips a byte order mark.
            unsafe_libyaml::yaml_parser_set_input_string(raw, text.as_ptr(), text.len() as u64);
        }
        Some(Self {
            parser,
            _text: text,
        })
    }

    /// Returns the next event; `None` if the text is malformed.
    pub(super) fn next(&mut self) -> Option<Event> {
        loop {
            let mut event = MaybeUninit::<unsafe_libyaml::yaml_event_t>::uninit();
            // SAFETY: the parser is initialised, and the event is valid for writes.
            if unsafe {
                !unsafe_libyaml::yaml_parser_parse(self.parser.as_ptr(), event.as_mut_ptr()).ok
            } {
                return None;
            }
            // SAFETY: a successful call has filled the event.
            let mut event = unsafe { event.assume_init() };
            // SAFETY: the event is not deleted yet.
            let read = unsafe { read(&event) };
            // SAFETY: the event is filled, and nothing points into it after this.
            unsafe { unsafe_libyaml::yaml_event_delete(&mut event) };
            if read.is_some() {
                return read;
            }
        }
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        let raw = self.parser.as_ptr();
        // SAFETY: the parser is initialised, and not used any more; the pointer is from a box.
        unsafe {
            unsafe_libyaml::yaml_parser_delete(raw);
            drop(Box::from_raw(
                raw.cast::<MaybeUninit<unsafe_libyaml::yaml_parser_t>>(),
            ));
        }
    }
}

/// Copies an event; `None` for the start of a stream or a document.
///
/// # Safety
/// The parser has filled the event, and it is not deleted.
unsafe fn read(event: &unsafe_libyaml::yaml_event_t) -> Option<Event> {
    // SAFETY: the texts of an event end with a null byte or are null pointers; the type of the
    // event tells which member of the union is filled.
    let text = |at: *const u8| -> Option<String> {
        (!at.is_null()).then(|| {
            // SAFETY: as above.
            let text = unsafe { CStr::from_ptr(at.cast()) };
            text.to_string_lossy().into_owned()
        })
    };
    // SAFETY: as above.
    unsafe {
        Some(match event.type_ {
            unsafe_libyaml::YAML_ALIAS_EVENT => Event::Alias(text(event.data.alias.anchor)?),
            unsafe_libyaml::YAML_SCALAR_EVENT => {
                let scalar = &event.data.scalar;
                let bytes = std::slice::from_raw_parts(scalar.value, scalar.length as usize);
                Event::Scalar {
                    anchor: text(scalar.anchor),
                    tag: text(scalar.tag),
                    value: String::from_utf8_lossy(bytes).into_owned(),
                    implicit: scalar.plain_implicit,
                }
            }
            unsafe_libyaml::YAML_SEQUENCE_START_EVENT => {
                Event::List(text(event.data.sequence_start.anchor))
            }
            unsafe_libyaml::YAML_MAPPING_START_EVENT => {
                Event::Map(text(event.data.mapping_start.anchor))
            }
            unsafe_libyaml::YAML_SEQUENCE_END_EVENT | unsafe_libyaml::YAML_MAPPING_END_EVENT => {
                Event::End
            }
            // There is no event after the end of the stream.
            unsafe_libyaml::YAML_DOCUMENT_END_EVENT
            | unsafe_libyaml::YAML_STREAM_END_EVENT
            | unsafe_libyaml::YAML_NO_EVENT => Event::Over,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_after_the_end() {
        let mut events = Events::new(b"a").unwrap();
        assert!(matches!(events.next(), Some(Event::Scalar { .. })));
        for _ in 0..4 {
            assert_eq!(events.next(), Some(Event::Over));
        }
    }
}
