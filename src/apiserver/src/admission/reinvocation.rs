//! Which mutating policies and webhooks are called a second time.

use std::collections::BTreeSet;

use rkube_api::Object;

/// What mutating policies, or mutating webhooks, did to an object so far. It decides
/// which of them see the object once more (upstream's reinvocation contexts): those that
/// ask for it, when something changed the object after them.
#[derive(Default)]
pub struct Reinvocation {
    second: bool,
    /// Those that ask for it, and were called since the last change.
    called: BTreeSet<String>,
    /// Those that are to be called in the second round.
    due: BTreeSet<String>,
    changed: bool,
    /// The object as they left it, where one of them asks to see later changes.
    output: Option<Object>,
}

impl Reinvocation {
    /// Begins with an object; what happened to it since they left it counts as a change.
    pub fn begin(&mut self, object: &Object) {
        if self.output.as_ref().is_some_and(|output| output != object) {
            self.due.append(&mut self.called);
        }
    }

    /// Whether the one with this name is not to be called.
    pub fn skips(&self, name: &str) -> bool {
        self.second && !self.due.contains(name)
    }

    /// Takes in that one was called: whether it changed the object, and whether it asks to
    /// see it again.
    pub fn called(&mut self, name: &str, changed: bool, again: bool) {
        if changed {
            self.changed = true;
            self.due.append(&mut self.called);
        }
        if again {
            self.called.insert(name.to_owned());
        }
    }

    /// Ends with an object.
    pub fn end(&mut self, object: &Object) {
        if !self.second && !self.called.is_empty() {
            self.output = Some(object.clone());
        }
    }

    /// Goes on to the next round; whether there has to be one.
    pub fn next(&mut self) -> bool {
        !std::mem::replace(&mut self.second, true) && self.changed
    }
}
