//! The listeners: on the loopback, and for the nodes that do not reach it, those of the driver docker.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use rkube_cluster::{Profile, image_cache_listens};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use super::{Server, answer_all};

/// The listeners, by cluster.
#[derive(Default)]
pub struct Gateways(BTreeMap<String, Gateway>);

/// The listener of a cluster at the gateway of its nodes' network.
struct Gateway {
    address: Ipv4Addr,
    nodes: Ipv4Net,
    task: AbortHandle,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Gateways {
    /// Listens for the clusters that need it, and no longer for others. This machine has the address of
    /// a gateway only while the cluster runs, and never if the engine is in a virtual machine.
    pub async fn follow(&mut self, server: &Arc<Server>, port: u16, connections: &Arc<Semaphore>) {
        // A directory that cannot be read now may be readable later.
        let Ok(names) = server.home.profile_names() else {
            return;
        };
        self.0.retain(|name, _| names.contains(name));
        for name in names {
            // It is being created or deleted, or is damaged, which its commands report.
            let Ok(profile) = Profile::load(&server.home, &name) else {
                continue;
            };
            let Some((address, nodes)) = image_cache_listens(&profile) else {
                self.0.remove(&name);
                continue;
            };
            let known = self.0.get(&name);
            if known.is_some_and(|known| (known.address, known.nodes) == (address, nodes)) {
                continue;
            }
            self.0.remove(&name);
            let listener = match TcpListener::bind((address, port)).await {
                Ok(listener) => listener,
                Err(e) if e.kind() == ErrorKind::AddrNotAvailable => continue,
                Err(e) => {
                    tracing::debug!("cannot listen for the cluster {name}: {e}");
                    continue;
                }
            };
            let (server, connections) = (server.clone(), connections.clone());
            let serving = tokio::spawn(async move {
                let admits = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if nodes.contains(&ip));
                accept_all(&server, &listener, &connections, admits).await;
            });
            let gateway = Gateway {
                address,
                nodes,
                task: serving.abort_handle(),
            };
            self.0.insert(name, gateway);
        }
    }
}

/// Answers all connections of clients that are admitted by their addresses. Never returns.
pub async fn accept_all(
    server: &Arc<Server>,
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
    admits: impl Fn(IpAddr) -> bool,
) {
    loop {
        match accept(listener, connections).await {
            Ok((connection, permit)) => {
                let admitted = connection.peer_addr().is_ok_and(|peer| admits(peer.ip()));
                if !admitted {
                    continue;
                }
                let server = server.clone();
                tokio::spawn(async move {
                    answer_all(server, connection).await;
                    drop(permit);
                });
            }
            // Too many open files, for example, which needs time to change.
            Err(e) => {
                tracing::debug!("accept: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Returns the next connection, as soon as there may be another one.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = connections.clone().acquire_owned().await;
    let (connection, _) = listener.accept().await?;
    Ok((connection, permit.map_err(std::io::Error::other)?))
}
