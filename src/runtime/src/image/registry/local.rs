//! The host's own registry, which has names of its own in the nodes.

use crate::spec::RuntimeConfig;

/// Returns where the node reaches the host's registry, if a registry's name is one of its names.
pub(super) fn address(config: &RuntimeConfig, name: &str) -> Option<String> {
    let (host, given) = name.rsplit_once(':')?;
    if host != rkube_config::REGISTRY_NAME && !super::http::is_loopback(name) {
        return None;
    }
    // Without the file there is no such registry.
    let text = std::fs::read_to_string(config.registry_port.as_ref()?).ok()?;
    let gateway = config.loopback_gateway?;
    let port = text.trim().parse::<u16>().ok()?;
    (given.parse() == Ok(port)).then(|| format!("{gateway}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_of_the_host_has_its_port_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("port");
        let mut config = RuntimeConfig::new("/r", "/i", "/u", "/b");
        config.loopback_gateway = Some([192, 168, 58, 1].into());
        assert_eq!(address(&config, "localhost:5000"), None);
        config.registry_port = Some(file.clone());
        assert_eq!(address(&config, "localhost:5000"), None);
        for text in ["", "x", "70000"] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(address(&config, "localhost:5000"), None, "{text}");
        }
        std::fs::write(&file, "5000\n").unwrap();
        for name in [
            "localhost:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "registry.rkube.internal:5000",
        ] {
            assert_eq!(
                address(&config, name).as_deref(),
                Some("192.168.58.1:5000"),
                "{name}"
            );
        }
        for name in [
            "localhost",
            "localhost:5001",
            "localhost:x",
            "docker.io",
            "example.com:5000",
        ] {
            assert_eq!(address(&config, name), None, "{name}");
        }
    }
}
