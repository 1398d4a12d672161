//! `rkube version`

use rkube_cluster::Home;
use rkube_failure::Failure;

use super::{Global, Output};

/// The commit that this binary was built from, or `unknown`.
const COMMIT: &str = env!("RKUBE_BUILD_COMMIT");

pub async fn run(_home: &Home, _global: &Global, output: &Output) -> Result<(), Failure> {
    let value = serde_json::json!({
        "rkubeVersion": format!("v{}", env!("CARGO_PKG_VERSION")),
        "commit": COMMIT,
        "kubernetesVersion": rkube_config::KUBERNETES_VERSION,
    });
    output.result(&value, || {
        format!(
            "rkube version: v{}\ncommit: {COMMIT}\nKubernetes version: {}",
            env!("CARGO_PKG_VERSION"),
            rkube_config::KUBERNETES_VERSION
        )
    });
    Ok(())
}
