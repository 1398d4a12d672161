//! The event recorder of the controllers; see [`rkube_client::events`].

pub use rkube_client::events::{Recorder, Severity};

use rkube_client::events::{Settings, Style};

use crate::context::FIELD_MANAGER;

/// Returns the settings of the controllers' recorder.
pub fn settings() -> Settings {
    Settings {
        style: Style::Counted,
        field_manager: FIELD_MANAGER,
        host: None,
        instance: String::new(),
    }
}
