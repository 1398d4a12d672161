//! Reinvocation of mutating policies and webhooks.

use std::collections::BTreeSet;

use rkube_api::Object;

/// The reinvocation state of mutating policies or of mutating webhooks (upstream: reinvocation
/// context). A hook with reinvocation policy `IfNeeded` is called again if the object was changed
/// after its call.
#[derive(Default)]
pub struct Reinvocation {
    second: bool,
    /// Hooks with policy `IfNeeded` that were called since the last change.
    called: BTreeSet<String>,
    /// Hooks to be called in the second round.
    due: BTreeSet<String>,
    changed: bool,
    /// The object at the end of the first round, if a hook has policy `IfNeeded`.
    output: Option<Object>,
}

impl Reinvocation {
    /// Starts a round. If the object differs from the previous round's output, the hooks called
    /// before become due.
    pub fn begin(&mut self, object: &Object) {
        if self.output.as_ref().is_some_and(|output| output != object) {
            self.due.append(&mut self.called);
        }
    }

    /// Returns whether the hook `name` is skipped in this round.
    pub fn skips(&self, name: &str) -> bool {
        self.second && !self.due.contains(name)
    }

    /// Records a call: whether the hook changed the object, and whether it has policy `IfNeeded`.
    pub fn called(&mut self, name: &str, changed: bool, again: bool) {
        if changed {
            self.changed = true;
            self.due.append(&mut self.called);
        }
        if again {
            self.called.insert(name.to_owned());
        }
    }

    /// Ends a round.
    pub fn end(&mut self, object: &Object) {
        if !self.second && !self.called.is_empty() {
            self.output = Some(object.clone());
        }
    }

    /// Starts the next round. Returns whether one is needed.
    pub fn next(&mut self) -> bool {
        !std::mem::replace(&mut self.second, true) && self.changed
    }
}
