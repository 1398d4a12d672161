//! The control plane's processes, one after the other, and the faults that end them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use kube::Client;
use kube::core::WatchEvent;
use rkube_apiserver::{ApiServer, Config, Pki};
use rkube_store::embedded::{Fault, Random, SimDisk, SteppedStore};
use rkube_store::{EmbeddedOptions, Store};

use crate::api::{self, text};
use crate::check;
use crate::node::Node;
use crate::registers::Registers;
use crate::trace::Trace;
use crate::user::User;

const NODES: usize = 3;
/// The number of the user's requests.
const REQUESTS: usize = 14;
/// Maximum time for the control plane to come to rest, in simulated time.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// For how long nothing may change for it to be at rest.
const QUIET_PERIOD: Duration = Duration::from_secs(30);

/// The certificates of the control plane.
pub struct Authority {
    pki: Pki,
    certificate: String,
    key: String,
}

impl Authority {
    pub fn new() -> Authority {
        use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "ca");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let issuer = Issuer::from_params(&params, &key);
        let sign = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            let signed = params.signed_by(&key, &issuer).expect("a certificate");
            (signed.pem(), key.serialize_pem())
        };
        let (serving_cert, serving_key) = sign("kube-apiserver");
        let (kubelet_cert, kubelet_key) = sign("kubelet-client");
        let tokens = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        Authority {
            pki: Pki {
                ca_cert: certificate.clone().into(),
                serving_cert: serving_cert.into(),
                serving_key: serving_key.into(),
                kubelet_client_cert: kubelet_cert.into(),
                kubelet_client_key: kubelet_key.into(),
                service_account_key: tokens.serialize_pem().into(),
                service_account_pub: tokens.public_key_pem().into(),
                ..Pki::default()
            },
            certificate,
            key: key.serialize_pem(),
        }
    }
}

/// The reason for the end of a process of the control plane.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It is killed; what it wrote is in the system's cache.
    Killed,
    /// Power is lost.
    PowerCut,
    /// The disk failed, and the process gave up.
    DiskFailed,
    /// Everything has come to rest.
    Done,
}

/// The state that outlives the processes.
pub struct Simulation {
    authority: Arc<Authority>,
    disk: SimDisk,
    random: Random,
    trace: RefCell<Trace>,
    user: User,
    nodes: Vec<Node>,
    registers: Registers,
    watched: RefCell<Vec<Watched>>,
}

/// The pods that a watch through the API has shown.
struct Watched {
    /// The revision that it began after.
    after: u64,
    revisions: Vec<u64>,
}

impl Simulation {
    pub fn new(seed: u64, authority: Arc<Authority>) -> Simulation {
        let mut random = Random::new(seed);
        Simulation {
            authority,
            disk: SimDisk::new(random.number()),
            trace: RefCell::default(),
            user: User::new(random.number(), REQUESTS),
            nodes: (1..=NODES)
                .map(|i| Node::new(format!("n{i}"), random.number()))
                .collect(),
            registers: Registers::default(),
            watched: RefCell::default(),
            random,
        }
    }

    /// Runs until everything has come to rest. Returns a digest of all that was written.
    pub fn run(mut self) -> u64 {
        loop {
            // All tasks of a process end with its runtime.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let end = runtime.block_on(self.live());
            drop(runtime);
            self.registers.check();
            self.check_watches();
            self.disk = match end {
                End::Done => return self.trace.borrow().digest,
                End::Killed => self.disk.kill(),
                End::PowerCut | End::DiskFailed => self.disk.restart(),
            };
        }
    }

    /// Runs one process.
    async fn live(&mut self) -> End {
        let options = EmbeddedOptions {
            log_bytes: 256 << 10,
            ..EmbeddedOptions::default()
        };
        let store = SteppedStore::open(&self.disk, &options).expect("a sound store");
        self.trace.get_mut().recover(&store).await;
        let trace = &self.trace;
        let mut changes = store.watch("", store.revision()).await.expect("a watch");
        let follow = async {
            while let Some(batch) = changes.recv().await {
                let batch = batch.expect("the watch keeps up");
                trace.borrow_mut().observe(&batch.changes);
            }
        };
        let mut latency = Random::new(self.random.number());
        let slow = Rc::new(Cell::new(false));
        let slowness = slow.clone();
        let writing = store.run(|| {
            let range = if slowness.get() { 3000 } else { 4 };
            Duration::from_millis(1 + latency.below(range))
        });
        let server = async {
            let server = start(&self.authority, store.clone()).await;
            server.client("tester", &["system:masters"])
        };
        tokio::pin!(follow, writing);
        let client = tokio::select! {
            client = server => client,
            () = &mut follow => unreachable!("the store is open"),
            () = &mut writing => return End::DiskFailed,
        };
        let random = RefCell::new(Random::new(self.random.number()));
        let away: Vec<_> = self
            .nodes
            .iter()
            .map(|node| node.away_until.clone())
            .collect();
        let calm = Cell::new(false);
        let nodes = join_all(self.nodes.iter_mut().map(|node| node.run(client.clone())));
        let faults = faults(&self.disk, &random, &away, &slow, &calm);
        let disk = &self.disk;
        let user = &mut self.user;
        let registers = async {
            tokio::select! {
                () = self.registers.run(&client, &random) => {}
                () = until(&calm) => std::future::pending().await,
            }
        };
        let script = async {
            user.run(&client).await;
            calm.set(true);
            slow.set(false);
            disk.limit(None);
            away.iter().for_each(|away| away.set(Duration::ZERO));
            wait_until_quiet(&client, user, trace).await;
        };
        let watch = watch_pods(&client, &self.watched);
        tokio::select! {
            () = &mut follow => unreachable!("the store is open"),
            () = &mut writing => End::DiskFailed,
            () = script => End::Done,
            _ = nodes => unreachable!("nodes run for ever"),
            end = faults => end,
            () = registers => unreachable!("clients run for ever"),
            () = watch => unreachable!("watches run for ever"),
        }
    }

    /// Every watch has shown every change, in order.
    fn check_watches(&self) {
        let trace = self.trace.borrow();
        for Watched { after, revisions } in self.watched.borrow_mut().drain(..) {
            let Some(last) = revisions.last() else {
                continue;
            };
            let all: Vec<u64> = trace
                .pod_changes
                .range(after + 1..=*last)
                .copied()
                .collect();
            assert_eq!(revisions, all, "a watch from {after}");
        }
    }
}

/// Starts API server, controllers and scheduler.
async fn start(authority: &Authority, store: Arc<SteppedStore>) -> Arc<ApiServer> {
    let config = Config {
        store,
        pki: authority.pki.clone(),
        version: "v1.36.0+rkube0.0.0".into(),
        dns_domain: "cluster.local".into(),
        service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
        node_ports: (30000, 32767),
        advertise_ip: "192.168.49.2".parse().expect("an address"),
        advertise_port: 8443,
        audit: None,
    };
    let server = loop {
        match ApiServer::new(config.clone()).await {
            Ok(server) => break server,
            // As init does. The disk may be full.
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    };
    let accounts = server.clone();
    let clients = rkube_controllers::Clients {
        manager: server.client("system:kube-controller-manager", &[]),
        account: Box::new(move |name| {
            let groups = [
                "system:serviceaccounts",
                "system:serviceaccounts:kube-system",
            ];
            accounts.client(
                &format!("system:serviceaccount:kube-system:{name}"),
                &groups,
            )
        }),
        setup: server.client("system:rkube-defaults", &["system:masters"]),
    };
    let range = "10.244.0.0/16".parse().expect("a range");
    let (certificate, key) = (authority.certificate.clone(), authority.key.clone());
    let settings = rkube_controllers::Config::new(certificate, Some(key), range);
    tokio::spawn(rkube_controllers::run(clients, settings));
    let scheduler = server.client("system:kube-scheduler", &[]);
    tokio::spawn(rkube_scheduler::run(
        scheduler,
        rkube_scheduler::Config::default(),
    ));
    server
}

/// Waits until a flag is set.
async fn until(flag: &Cell<bool>) {
    while !flag.get() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Lets things fail until the flag is set. Returns what ends the process.
async fn faults(
    disk: &SimDisk,
    random: &RefCell<Random>,
    away: &[Rc<Cell<Duration>>],
    slow: &Cell<bool>,
    calm: &Cell<bool>,
) -> End {
    let below = |end| random.borrow_mut().below(end);
    loop {
        tokio::time::sleep(Duration::from_secs(5 + below(40))).await;
        if calm.get() {
            std::future::pending::<()>().await;
        }
        match below(7) {
            0 => return End::Killed,
            1 => return End::PowerCut,
            2 => disk.inject(below(5), Fault::CrashWithin),
            3 => {
                let node = &away[below(away.len() as u64) as usize];
                node.set(crate::clock::now() + Duration::from_secs(20 + below(500)));
            }
            4 => crate::clock::jump(Duration::from_secs(below(7200))),
            5 => {
                disk.limit(Some(below(2000) as usize));
                tokio::time::sleep(Duration::from_secs(below(60))).await;
                disk.limit(None);
            }
            _ => {
                slow.set(true);
                tokio::time::sleep(Duration::from_secs(below(60))).await;
                slow.set(false);
            }
        }
    }
}

/// Waits until the user has what was asked for, and nothing changes any more.
async fn wait_until_quiet(client: &Client, user: &User, trace: &RefCell<Trace>) {
    let began = crate::clock::now();
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let quiet_since = trace.borrow().last_change;
        let quiet = crate::clock::now() - quiet_since >= QUIET_PERIOD;
        let settled = check::settled(client, &user.wanted, NODES).await;
        if quiet && settled.is_ok() {
            return;
        }
        assert!(
            crate::clock::now() - began < SETTLE_TIMEOUT,
            "no rest: {settled:?}; last change at {quiet_since:?}"
        );
    }
}

/// Watches pods through the API.
async fn watch_pods(client: &Client, watched: &RefCell<Vec<Watched>>) {
    loop {
        if let Ok((_, after, mut events)) = api::list_and_watch(client, "/api/v1/pods", "").await {
            let revisions = Vec::new();
            watched.borrow_mut().push(Watched { after, revisions });
            while let Some(Ok(event)) = events.next().await {
                let (WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod)) =
                    event
                else {
                    continue;
                };
                let revision = text(&pod, "/metadata/resourceVersion");
                let revision = revision.parse().expect("a revision");
                let mut watched = watched.borrow_mut();
                watched
                    .last_mut()
                    .expect("it was pushed")
                    .revisions
                    .push(revision);
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
