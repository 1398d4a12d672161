//! Forwards connections to clusters whose addresses the host cannot route to.

use std::net::SocketAddr;
use std::time::Duration;

use rkube_failure::{Failure, Kind, Source};
use tokio::net::TcpListener;

use crate::access;
use crate::files::Home;
use crate::profile::Profile;

/// Why connections are not forwarded.
#[derive(Debug, thiserror::Error)]
enum CarryError {
    /// No node can be reached.
    #[error("{}", .0.message)]
    NoSession(Failure),
    /// The listener cannot be used.
    #[error(transparent)]
    Listener(#[from] std::io::Error),
    /// The session ended.
    #[error(transparent)]
    Ended(#[from] rkube_ssh::SshError),
}

/// Delay before a broken connection to the node is re-established.
const RETRY_PERIOD: Duration = Duration::from_secs(1);

/// A port of the host whose connections are forwarded to an address in the cluster.
pub struct Forward {
    listener: std::net::TcpListener,
    address: SocketAddr,
    target: SocketAddr,
}

impl Forward {
    /// Listens on `local` (on any free port if its port is 0). `target` is an address that every
    /// node can reach.
    pub fn bind(local: SocketAddr, target: SocketAddr) -> Result<Self, Failure> {
        let listen = || -> std::io::Result<(std::net::TcpListener, SocketAddr)> {
            let listener = std::net::TcpListener::bind(local)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) = listen().map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::PermissionDenied => Kind::Permission,
                std::io::ErrorKind::AddrInUse => Kind::Conflict,
                _ => Kind::Error,
            };
            let failure = Failure::new(
                Source::LocalNetwork,
                kind,
                format!("cannot listen at {local}: {e}"),
            );
            match kind {
                Kind::Permission => failure.advise("ports below 1024 need root"),
                Kind::Conflict => failure.advise("end the program that listens there"),
                _ => failure,
            }
        })?;
        Ok(Self {
            listener,
            address,
            target,
        })
    }

    /// Returns the address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards connections until the future is dropped. Re-establishes broken connections to the
    /// node, and reports only the first of consecutive errors to `trouble`.
    pub async fn run(self, home: Home, profile: Profile, mut trouble: impl FnMut(String)) {
        let mut told = false;
        loop {
            match self.carry(&home, &profile, &mut told).await {
                Ok(()) => return,
                Err(e) if !told => {
                    trouble(format!("{} for {}: {e}", self.address, self.target));
                    told = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    async fn carry(
        &self,
        home: &Home,
        profile: &Profile,
        told: &mut bool,
    ) -> Result<(), CarryError> {
        let mut session = access::ssh(home, profile, profile.control_plane()).await;
        // Every node reaches the services of the cluster, so others stand in for the first one.
        for node in profile.nodes.iter().filter(|node| !node.control_plane) {
            if session.is_err()
                && let Ok(other) = access::ssh(home, profile, node).await
            {
                session = Ok(other);
            }
        }
        let session = session.map_err(CarryError::NoSession)?;
        *told = false;
        // A duplicate, because the session takes ownership of the listener.
        let listener = self.listener.try_clone().and_then(TcpListener::from_std)?;
        let host = self.target.ip().to_string();
        Ok(session.forward(listener, &host, self.target.port()).await?)
    }
}
