//! `pluginregistration.Registration`: how a plugin says what it is.

/// Method `GetInfo`.
pub const GET_INFO: &str = "/pluginregistration.Registration/GetInfo";
/// Method `NotifyRegistrationStatus`.
pub const NOTIFY: &str = "/pluginregistration.Registration/NotifyRegistrationStatus";

/// Type of device plugins.
pub const DEVICE_PLUGIN: &str = "DevicePlugin";
/// Type of drivers of dynamic resource allocation.
pub const DRA_PLUGIN: &str = "DRAPlugin";

crate::message! {
    /// The kubelet asks what a plugin is.
    struct InfoRequest {}
    /// What a plugin is.
    struct PluginInfo {
        /// Type of the plugin.
        1 => kind: String,
        /// Name of the resource or of the driver.
        2 => name: String,
        /// Socket of the plugin's service; the one that was asked if empty.
        3 => endpoint: String,
        /// Versions of the service.
        4 => supported_versions: Vec<String>,
    }
    /// The kubelet says whether it took a plugin.
    struct RegistrationStatus {
        /// Whether it did.
        1 => plugin_registered: bool,
        /// Why not.
        2 => error: String,
    }
    /// The answer to a status.
    struct RegistrationStatusResponse {}
}
