//! The event recorder of the controllers; see [`rkube_client::events`].

pub use rkube_client::events::{Recorder, Severity};

use rkube_client::events::{Settings, Style};

/// Field manager of all writes, the same as upstream's.
pub const FIELD_MANAGER: &str = "kube-controller-manager";

/// Returns the settings of the controllers' recorder.
pub fn settings() -> Settings {
    Settings {
        style: Style::Counted,
        field_manager: FIELD_MANAGER,
        host: None,
        instance: String::new(),
    }
}
