//! Paths in messages.

/// A path in an object, as in messages: `spec.containers[0].name`.
#[derive(Default)]
pub(super) struct Path {
    pub(super) text: String,
}

impl Path {
    /// Steps into a field and returns the argument of [`Path::back`].
    pub(super) fn field(&mut self, name: &str) -> usize {
        let at = self.text.len();
        if at > 0 {
            self.text.push('.');
        }
        self.text.push_str(name);
        at
    }

    /// Steps into an item and returns the argument of [`Path::back`].
    pub(super) fn index(&mut self, index: usize) -> usize {
        use std::fmt::Write as _;
        let at = self.text.len();
        // Writing to a String cannot fail.
        let _ = write!(self.text, "[{index}]");
        at
    }

    /// Goes back to where [`Path::field`] or [`Path::index`] was called.
    pub(super) fn back(&mut self, at: usize) {
        self.text.truncate(at);
    }
}
