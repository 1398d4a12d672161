//! Store, API server, controllers and scheduler in one process.
//!
//! Controllers and scheduler use the API server through in-process clients without
//! sockets. Each client has its own user name, which audit and managed fields show. It has
//! the rights that upstream's bootstrap roles give it; each controller has its service
//! account. A controller that can be tricked into a request thus meets RBAC. Only what
//! rkube adds (default objects, labels of node roles) acts as `system:masters`.

mod defaults;
mod ingress;
mod leading;
mod node_roles;
mod renewal;
mod restored;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rkube_apiserver::ApiServer;
use rkube_config::{NodeConfig, paths, ports};
use rkube_store::{EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, Store, StoreError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Opens the embedded store. A damaged one is replaced by an empty one if a snapshot is staged at
/// `restored`. The snapshot's objects replace the content of the store in any case.
fn open_embedded(dir: &Path, restored: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let open = || EmbeddedStore::open(dir, EmbeddedOptions::default());
    match open() {
        Ok(store) => Ok(store),
        Err(error @ StoreError::Corrupt(_)) if restored.exists() => {
            let replaced = rkube_store::embedded::reset(dir, Duration::ZERO)?;
            tracing::error!(
                %error,
                kept = %replaced.kept.display(),
                "the store is replaced, because a snapshot is to be restored"
            );
            Ok(open()?)
        }
        Err(error @ StoreError::Corrupt(_)) => Err(error).context(
            "the objects of the cluster cannot be read; \
             see what is damaged with 'rkube ssh -- rkube ctl store verify', \
             and keep what is intact with 'rkube ssh -- rkube ctl store salvage'",
        ),
        Err(error) => Err(error.into()),
    }
}

/// Opens the store that the profile selects.
///
/// Fails if an external etcd is unreachable; init then restarts the process.
async fn open_store(config: &NodeConfig, pki: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let Some(etcd) = &config.store else {
        return open_embedded(Path::new(paths::STORE), Path::new(paths::RESTORED_OBJECTS));
    };
    let mut options = EtcdOptions::with_files(etcd.endpoints.clone(), etcd.root.clone(), pki);
    options.loopback = config.host_ip.map(Into::into);
    let store = EtcdStore::open(options).await.with_context(|| {
        format!(
            "the store at {} does not respond",
            etcd.endpoints.join(", ")
        )
    })?;
    Ok(store)
}

/// Runs the control plane until one of its parts ends or fails.
pub async fn run(config: NodeConfig) -> anyhow::Result<()> {
    let pki_dir = Path::new(paths::PKI);
    let pki = rkube_apiserver::Pki::read(pki_dir)?;
    // Bound first, so that early connections wait in the backlog instead of failing.
    let port = config.cluster.api_server_port;
    let listener = TcpListener::bind((config.any_address(), port))
        .await
        .with_context(|| format!("cannot listen on port {port}"))?;
    let store = open_store(&config, pki_dir).await?;
    restored::take(&*store).await?;
    let disk = store.clone();
    let cluster = &config.cluster;
    let own_ips = cluster.node_ips(cluster.api_server_ip);
    let own_address = own_ips.first().copied();
    let own_address = own_address.unwrap_or(cluster.api_server_ip.into());
    let server = ApiServer::new(rkube_apiserver::Config {
        store,
        pki,
        version: rkube_config::version(),
        dns_domain: cluster.dns_domain.clone(),
        service_cidrs: cluster.service_cidrs(),
        node_ports: ports::NODE_PORTS,
        advertise_ip: own_address,
        advertise_port: cluster.api_server_port,
        audit: Path::new(paths::AUDIT_POLICY)
            .exists()
            .then(|| rkube_apiserver::audit::Config::new(paths::AUDIT_POLICY, paths::AUDIT_LOG)),
    })
    .await?;

    // Certificates that expired while the cluster was stopped are renewed before the first
    // connection.
    let renewal = renewal::Renewal::read(pki_dir)?;
    let own = server.certificates().clone();
    renewal.renew_own(&own)?;
    let renewing = server.client("system:rkube-certificates", &["system:masters"]);
    tokio::spawn(renewal.run(own, renewing));

    let read = |name: &str| {
        let path = pki_dir.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut controllers =
        rkube_controllers::Config::new(read("ca.crt")?, Some(read("ca.key")?), cluster.pod_cidr);
    controllers.token_key_pem = Some(read("sa.key")?);
    controllers.load_balancers = cluster.load_balancers;
    controllers.node_cidr = cluster.node_cidr;
    controllers.pod_cidrs = cluster.pod_cidrs();
    controllers.api_server_ip = own_address;
    controllers.api_server_port = cluster.api_server_port;
    let roles = node_roles::run(
        server.client("system:rkube-node-roles", &["system:masters"]),
        config.clone(),
    );
    let setup = server.client("system:rkube-defaults", &["system:masters"]);
    let candidate = leading::Candidate::new(&config, &server)?.map(Arc::new);
    let controllers = {
        let (candidate, setup, server) = (candidate.clone(), setup.clone(), server.clone());
        async move {
            let start = || rkube_controllers::run(clients(&server, &setup), controllers.clone());
            leading::run(candidate.as_deref(), "kube-controller-manager", start).await
        }
    };
    let scheduler = {
        let client = server.client("system:kube-scheduler", &[]);
        async move {
            let config = rkube_scheduler::Config::default();
            let start = || rkube_scheduler::run(client.clone(), config.clone());
            leading::run(candidate.as_deref(), "kube-scheduler", start).await
        }
    };
    let defaults = cluster.clone();
    // Runs in the background, because readiness does not depend on it.
    tokio::spawn(async move {
        if let Err(e) = defaults::ensure(&setup, &defaults).await {
            tracing::error!("cannot create the default objects: {e:#}");
        }
    });
    let ingress = ingress::run(server.client("system:rkube-ingress", &["system:masters"]));

    // Controllers and scheduler restart their own parts. If any of these ends nevertheless, or the
    // store's disk fails, the process exits, and init restarts it.
    tokio::select! {
        error = disk.failed() => Err(error).context("the store failed"),
        result = tokio::spawn(server.serve(listener, CancellationToken::new())) =>
            result.context("the API server panicked")?.context("the API server failed"),
        result = tokio::spawn(roles) => result.context("the node role controller panicked")?,
        result = tokio::spawn(ingress) => result.context("the start of the ingress controller panicked")?,
        result = tokio::spawn(controllers) =>
            result.context("a controller panicked")?.context("the controllers failed"),
        result = tokio::spawn(scheduler) =>
            result.context("the scheduler panicked")?.context("the scheduler failed"),
    }
}

/// Returns the identities of the controllers.
fn clients(server: &Arc<ApiServer>, setup: &kube::Client) -> rkube_controllers::Clients {
    let accounts = server.clone();
    rkube_controllers::Clients {
        manager: server.client("system:kube-controller-manager", &[]),
        account: Box::new(move |name| controller_account(&accounts, name)),
        setup: setup.clone(),
    }
}

/// Returns a client with the identity of a controller's service account, as upstream's controller
/// manager uses with `--use-service-account-credentials`.
fn controller_account(server: &Arc<ApiServer>, name: &str) -> kube::Client {
    server.client(
        &format!("system:serviceaccount:kube-system:{name}"),
        &[
            "system:serviceaccounts",
            "system:serviceaccounts:kube-system",
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a store with damage in its only file.
    fn damaged() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        drop(EmbeddedStore::open(dir.path(), EmbeddedOptions::default()).unwrap());
        let log = dir.path().join("log-00000000000000000001");
        let mut bytes = std::fs::read(&log).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&log, bytes).unwrap();
        dir
    }

    #[test]
    fn a_damaged_store_is_an_error_with_advice() {
        let dir = damaged();
        let error = open_embedded(dir.path(), &dir.path().join("none"));
        let error = format!("{:#}", error.err().unwrap());
        assert!(error.contains("rkube ctl store salvage"), "{error}");
        assert!(error.contains("log-00000000000000000001"), "{error}");
    }

    #[test]
    fn a_damaged_store_does_not_keep_a_snapshot_from_being_restored() {
        let dir = damaged();
        let staged = dir.path().join("staged");
        std::fs::write(&staged, "").unwrap();
        let store = open_embedded(dir.path(), &staged).unwrap();
        assert!(store.revision() > 1_000_000);
    }
}
