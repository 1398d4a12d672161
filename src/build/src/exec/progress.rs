//! Events of steps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::mpsc::UnboundedSender;

use crate::error::Result;
use crate::protocol::Event;

/// Sends events. Cheap to clone.
#[derive(Clone)]
pub struct Progress {
    events: UnboundedSender<Event>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    last: usize,
    open: BTreeMap<usize, Instant>,
}

impl Progress {
    pub fn new(events: UnboundedSender<Event>) -> Self {
        Self {
            events,
            state: Arc::default(),
        }
    }

    /// Sends an event. Without a receiver the build is being canceled, which is noticed elsewhere.
    pub fn send(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// Begins a step and returns its number.
    pub fn begin(&self, name: String) -> usize {
        let id = {
            let mut state = self.state.lock();
            state.last += 1;
            let id = state.last;
            state.open.insert(id, Instant::now());
            id
        };
        self.send(Event::Begin { id, name });
        id
    }

    /// Tells a line that a step has written.
    pub fn line(&self, id: usize, text: &str) {
        let since = self.state.lock().open.get(&id).copied();
        self.send(Event::Line {
            id,
            after: since.map_or(0, |s| s.elapsed().as_millis() as u64),
            text: text.to_owned(),
        });
    }

    /// Ends a step whose result was cached.
    pub fn cached(&self, id: usize) {
        self.state.lock().open.remove(&id);
        self.send(Event::Cached { id });
    }

    /// Ends a step with its result.
    pub fn finish<T>(&self, id: usize, result: Result<T>) -> Result<T> {
        let since = self.state.lock().open.remove(&id);
        match &result {
            Ok(_) => self.send(Event::Done {
                id,
                took: since.map_or(0, |s| s.elapsed().as_millis() as u64),
            }),
            Err(e) => self.send(Event::Failed {
                id,
                message: e.message.clone(),
            }),
        }
        result
    }

    /// Ends the steps that were not finished when another one failed.
    pub fn cancel_open(&self) {
        let open = std::mem::take(&mut self.state.lock().open);
        for id in open.into_keys() {
            self.send(Event::Canceled { id });
        }
    }
}
