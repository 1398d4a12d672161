//! A device plugin and a driver of dynamic resources, to try a node's plugins with.
//!
//! `dongles DIR`, where DIR is `/var/lib/kubelet` of a node, offers two devices of
//! `example.com/dongle` and the driver `dongles.example.com`. Containers with a dongle have
//! `/dev/dongle`, which is `/dev/null`, and the variable `DONGLES`. Claims get the device
//! `example.com/dongle=claimed`, which a file in `/etc/cdi` of the node must describe.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use rkube_plugins::api::{device_plugin, dra, registration};
use rkube_plugins::grpc::{self, Channel, Reply, Service, Status, answer};
use rkube_plugins::wire::Message;

const RESOURCE: &str = "example.com/dongle";
const DRIVER: &str = "dongles.example.com";
const LIMIT: Duration = Duration::from_secs(10);

struct Dongles;

fn read<M: Message>(request: &Bytes) -> M {
    M::decode(request).unwrap_or_default()
}

fn devices() -> Reply {
    let device = |id: &str| device_plugin::Device {
        id: id.into(),
        health: device_plugin::HEALTHY.into(),
        topology: None,
    };
    let list = device_plugin::ListAndWatchResponse {
        devices: vec![device("d1"), device("d2")],
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        if sender.send(Ok(list.encode())).await.is_ok() {
            // Nothing changes until the node ends the stream.
            sender.closed().await;
        }
    });
    Reply::Many(receiver)
}

fn allocated(request: &device_plugin::AllocateRequest) -> device_plugin::AllocateResponse {
    let ids = request
        .container_requests
        .iter()
        .flat_map(|r| r.devices_ids.clone());
    let response = device_plugin::ContainerAllocateResponse {
        envs: [("DONGLES".to_owned(), ids.collect::<Vec<_>>().join(","))].into(),
        devices: vec![device_plugin::DeviceSpec {
            container_path: "/dev/dongle".into(),
            host_path: "/dev/null".into(),
            permissions: "rw".into(),
        }],
        ..Default::default()
    };
    device_plugin::AllocateResponse {
        container_responses: vec![response],
    }
}

fn prepared(request: dra::NodePrepareResourcesRequest) -> dra::NodePrepareResourcesResponse {
    let result = || dra::NodePrepareResourceResponse {
        devices: vec![dra::Device {
            pool_name: "dongles".into(),
            device_name: "claimed".into(),
            cdi_device_ids: vec![format!("{RESOURCE}=claimed")],
            ..Default::default()
        }],
        error: String::new(),
    };
    dra::NodePrepareResourcesResponse {
        claims: request
            .claims
            .into_iter()
            .map(|c| (c.uid, result()))
            .collect(),
    }
}

fn unprepared(request: dra::NodeUnprepareResourcesRequest) -> dra::NodeUnprepareResourcesResponse {
    dra::NodeUnprepareResourcesResponse {
        claims: request
            .claims
            .into_iter()
            .map(|c| (c.uid, Default::default()))
            .collect(),
    }
}

impl Service for Dongles {
    fn call(
        &self,
        method: &str,
        request: Bytes,
    ) -> Option<BoxFuture<'static, Result<Reply, Status>>> {
        println!("{method}");
        let reply = match method {
            device_plugin::GET_OPTIONS => answer(&device_plugin::DevicePluginOptions::default()),
            device_plugin::LIST_AND_WATCH => Ok(devices()),
            device_plugin::ALLOCATE => answer(&allocated(&read(&request))),
            registration::GET_INFO => answer(&registration::PluginInfo {
                kind: registration::DRA_PLUGIN.into(),
                name: DRIVER.into(),
                endpoint: String::new(),
                supported_versions: vec![dra::Service::V1.name().into()],
            }),
            registration::NOTIFY => {
                println!("{:?}", read::<registration::RegistrationStatus>(&request));
                answer(&registration::RegistrationStatusResponse {})
            }
            method if method == dra::Service::V1.prepare() => answer(&prepared(read(&request))),
            method if method == dra::Service::V1.unprepare() => answer(&unprepared(read(&request))),
            _ => return None,
        };
        Some(Box::pin(std::future::ready(reply)))
    }
}

fn serve(socket: PathBuf) -> std::io::Result<()> {
    let listener = grpc::listen(&socket)?;
    tokio::spawn(grpc::serve(listener, Arc::new(Dongles)));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: dongles DIR")?;
    let dir = Path::new(&dir);
    serve(dir.join("device-plugins/dongles.sock"))?;
    serve(dir.join("plugins_registry/dongles.sock"))?;
    let kubelet = Channel::connect(&dir.join("device-plugins/kubelet.sock"), LIMIT).await?;
    let request = device_plugin::RegisterRequest {
        version: device_plugin::VERSION.into(),
        endpoint: "dongles.sock".into(),
        resource_name: RESOURCE.into(),
        options: None,
    };
    let _: device_plugin::Empty = kubelet
        .call(device_plugin::REGISTER, &request, LIMIT)
        .await?;
    std::future::pending().await
}
