//! The information of the endpoint about itself.

use hyper::Response;
use serde_json::json;

use super::images;
use super::reply::{self, Body, Error};
use super::request;
use super::server::Endpoint;
use crate::cli::image::build::architecture;

/// `docker version`
pub fn version() -> Response<Body> {
    let (newest, oldest) = (
        request::version(request::NEWEST),
        request::version(request::OLDEST),
    );
    let own = env!("CARGO_PKG_VERSION");
    reply::json(&json!({
        "Platform": { "Name": "rkube" },
        "Components": [{
            "Name": "rkube",
            "Version": own,
            "Details": { "ApiVersion": newest, "MinAPIVersion": oldest, "Os": "linux", "Arch": architecture() },
        }],
        "Version": own,
        "ApiVersion": newest,
        "MinAPIVersion": oldest,
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": architecture(),
        "KernelVersion": "",
        "BuildTime": "",
    }))
}

/// `docker info`
pub async fn info(endpoint: &Endpoint) -> Result<Response<Body>, Error> {
    let profile = endpoint.profile()?;
    let node = Endpoint::node(&profile)?;
    let images = images::all(endpoint, &profile).await?;
    let own = env!("CARGO_PKG_VERSION");
    Ok(reply::json(&json!({
        "ID": profile.name,
        "Name": node.name,
        "Images": images.len(),
        "Driver": "rkube",
        "DriverStatus": [],
        "Plugins": { "Volume": [], "Network": [], "Authorization": null, "Log": [] },
        "OperatingSystem": format!("rkube {own}, cluster {}", profile.name),
        "OSType": "linux",
        "OSVersion": "",
        "Architecture": std::env::consts::ARCH,
        "ServerVersion": own,
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": [],
            "IndexConfigs": {},
            "Mirrors": [],
        },
        "Labels": [format!("io.rkube.profile={}", profile.name)],
        "Swarm": { "LocalNodeState": "inactive", "ControlAvailable": false, "RemoteManagers": null },
        "SecurityOptions": [],
        "Warnings": ["Only images, the classic builder and the list of containers are served."],
    })))
}
