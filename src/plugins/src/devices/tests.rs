//! The cases of upstream's tests of the device manager: pure decisions, then plugins on sockets.

use std::time::Duration;

use super::state::{Choice, Reusable, State};
use super::*;
use crate::api::device_plugin::{Device as Listed, NumaNode, TopologyInfo};
use crate::testing::{Fake, Running, Sender, until};

const A: &str = "domain1.com/resource1";
const B: &str = "domain2.com/resource2";

fn listed(id: &str, healthy: bool) -> Listed {
    Listed {
        id: id.into(),
        health: if healthy { "Healthy" } else { "Unhealthy" }.into(),
        topology: None,
    }
}

fn ids(list: &[&str]) -> Ids {
    list.iter().map(ToString::to_string).collect()
}

/// Returns a state with healthy devices of one resource.
fn state(devices: &[&str]) -> State {
    let mut state = State::default();
    let connection = state.connect(A, Default::default());
    let devices = devices.iter().map(|id| listed(id, true)).collect();
    state.update(A, connection, devices).unwrap();
    state
}

fn request(container: &str, role: Role, amount: i64) -> Request {
    Request {
        container: container.into(),
        role,
        limits: [(A.to_owned(), amount)].into(),
    }
}

/// Upstream's `TestGetCapacity...` and `TestUpdateCapacityAllocatable`.
#[test]
fn capacity_counts_devices_and_healthy_ones() {
    let mut state = State::default();
    let counts = |state: &State| state.capacity().resources.get(A).copied();
    assert_eq!(counts(&state), None);
    let first = state.connect(A, Default::default());
    state.update(
        A,
        first,
        vec![listed("1", true), listed("2", true), listed("3", false)],
    );
    assert_eq!(counts(&state), Some((3, 2)));
    state.update(
        A,
        first,
        vec![listed("1", false), listed("2", true), listed("3", false)],
    );
    assert_eq!(counts(&state), Some((3, 1)));
    state.update(A, first, vec![listed("3", true)]);
    assert_eq!(counts(&state), Some((1, 1)));
    // A plugin that is replaced says nothing any more.
    let second = state.connect(A, Default::default());
    assert_eq!(state.update(A, first, vec![]), None);
    assert!(!state.disconnect(A, first));
    assert_eq!(counts(&state), Some((1, 1)));
    // It is gone: its devices count, but cannot be used.
    assert!(state.disconnect(A, second));
    assert_eq!(counts(&state), Some((1, 0)));
    assert!(!state.remove(A, first) && state.remove(A, second));
    assert_eq!(counts(&state), None);
}

#[test]
fn choices_and_their_failures() {
    let none = Ids::new();
    let mut state = state(&["a", "b", "c"]);
    let choose = |state: &State, resource: &str, n| state.choose("p", "c", resource, n, &none);
    assert_eq!(
        choose(&state, B, 1).unwrap_err(),
        "cannot allocate unregistered device domain2.com/resource2"
    );
    assert_eq!(choose(&state, A, 2), Ok(Choice::Devices(ids(&["a", "b"]))));
    assert_eq!(choose(&state, A, 0), Ok(Choice::Nothing));
    assert_eq!(
        choose(&state, A, 4).unwrap_err(),
        "requested number of devices unavailable for domain1.com/resource1. Requested: 4, Available: 3"
    );
    // Devices of a choice that is not final are not chosen again.
    state.reserve("q", A, &ids(&["a"]));
    assert_eq!(choose(&state, A, 2), Ok(Choice::Devices(ids(&["b", "c"]))));
    state.release("q", A);
    state.insert("p", "c", A, &ids(&["a"]), Default::default());
    assert_eq!(
        choose(&state, A, 1),
        Ok(Choice::Nothing),
        "it has its device"
    );
    assert_eq!(
        choose(&state, A, 2).unwrap_err(),
        "pod \"p\" container \"c\" changed request for resource \"domain1.com/resource1\" from 1 to 2"
    );
    let connection = state.resource(A).unwrap().connection;
    state.update(A, connection, vec![listed("a", false), listed("b", true)]);
    assert_eq!(
        choose(&state, A, 1).unwrap_err(),
        "previously allocated devices are no longer healthy; cannot allocate unhealthy devices domain1.com/resource1"
    );
    state.update(A, connection, vec![listed("a", false)]);
    assert_eq!(
        choose(&state, A, 1).unwrap_err(),
        "no healthy devices present; cannot allocate unhealthy devices domain1.com/resource1"
    );
    assert!(state.free("p") && !state.free("p"));
}

/// Upstream's `TestInitContainerDeviceAllocation` and `TestRestartableInitContainerDeviceAllocation`.
#[test]
fn init_containers_pass_their_devices_on() {
    let mut state = state(&["a", "b", "c"]);
    let mut reusable = Reusable::new();
    let mut allocate = |container: &str, role, n: i64| {
        let none = Ids::new();
        let reuse = reusable.get(A).unwrap_or(&none);
        let choice = state.choose("p", container, A, n as usize, reuse).unwrap();
        let Choice::Devices(chosen) = choice else {
            panic!("{choice:?}");
        };
        state.insert("p", container, A, &chosen, Default::default());
        state.pass_on("p", &request(container, role, n), &mut reusable);
        chosen.into_iter().collect::<String>()
    };
    assert_eq!(allocate("init", Role::Init, 2), "ab");
    assert_eq!(allocate("sidecar", Role::Lasting, 1), "a");
    assert_eq!(allocate("init2", Role::Init, 2), "bc");
    assert_eq!(allocate("main", Role::Lasting, 1), "b");
    assert_eq!(allocate("main2", Role::Lasting, 1), "c");
}

/// Upstream's `TestDevicesToAllocateConflictWithUpdateAllocatedDevices` and the preferred devices of
/// its `TestTopologyAlignedAllocation`.
#[test]
fn plugins_that_lie_about_the_best_devices_are_corrected() {
    let state = state(&["a", "b", "c", "d"]);
    let best = |preferred: &[&str]| state.choose_with(A, 2, Ids::new(), &ids(preferred));
    assert_eq!(best(&["d", "c"]), Ok(ids(&["c", "d"])));
    assert_eq!(best(&["d"]), Ok(ids(&["a", "d"])), "too few");
    assert_eq!(best(&["x", "y"]), Ok(ids(&["a", "b"])), "never announced");
    assert_eq!(best(&["a", "b", "c", "d"]).unwrap().len(), 2, "too many");
    assert_eq!(
        state
            .choose_with(A, 5, Ids::new(), &Ids::new())
            .unwrap_err(),
        "unexpectedly allocated less resources than required. Requested: 5, Got: 4"
    );
}

#[test]
fn pods_hear_of_their_devices_only() {
    let mut state = state(&["a", "b"]);
    let connection = state.resource(A).unwrap().connection;
    state.insert("p", "c", A, &ids(&["a"]), Default::default());
    let both = |a, b| vec![listed("a", a), listed("b", b)];
    assert_eq!(
        state.update(A, connection, both(true, false)).unwrap(),
        [""; 0]
    );
    assert_eq!(
        state.update(A, connection, both(false, false)).unwrap(),
        ["p"]
    );
    let health = |state: &State| state.health("p", "c")[0].devices.clone();
    assert_eq!(health(&state), [("a".to_owned(), false)]);
    // Unknown devices are healthy; when they come back, that is news.
    state.update(A, connection, vec![]);
    assert_eq!(health(&state), [("a".to_owned(), true)]);
    assert_eq!(
        state.update(A, connection, both(true, true)).unwrap(),
        ["p"]
    );
}

#[test]
fn topology_is_kept() {
    let mut state = State::default();
    let connection = state.connect(A, Default::default());
    let mut device = listed("a", true);
    let nodes = vec![NumaNode { id: 0 }, NumaNode { id: 1 }];
    device.topology = Some(TopologyInfo { nodes });
    state.update(A, connection, vec![device, listed("b", true)]);
    state.insert("p", "c", A, &ids(&["a", "b"]), Default::default());
    let held: Vec<_> = state.held("p", "c").map(|(_, a)| a.ids.clone()).collect();
    let one = |id: &str| vec![id.to_owned()];
    assert_eq!(
        held,
        [[(NO_NUMA, one("b")), (0, one("a")), (1, one("a"))].into()]
    );
    assert_eq!(
        state.held("p", "c").next().unwrap().1.devices(),
        ids(&["a", "b"])
    );
}

/// Upstream's `TestPodContainerDeviceToAllocate...`: the first plugin's word counts.
#[test]
fn answers_of_several_plugins_are_combined() {
    let response = |value: &str| api::ContainerAllocateResponse {
        envs: [("K".to_owned(), value.to_owned())].into(),
        devices: vec![api::DeviceSpec {
            container_path: "/dev/x".into(),
            host_path: format!("/dev/{value}"),
            permissions: "rw".into(),
        }],
        mounts: vec![api::Mount {
            container_path: "/m".into(),
            host_path: "/m".into(),
            read_only: true,
        }],
        annotations: [("a".to_owned(), value.to_owned())].into(),
        cdi_devices: vec![api::CdiDevice {
            name: "e.com/c=x".into(),
        }],
    };
    let mut state = state(&["a"]);
    state.insert("p", "c", A, &ids(&["a"]), response("one"));
    state.insert("p", "c", B, &ids(&["b"]), response("two"));
    let options = state.options("p", "c");
    assert_eq!(options.env["K"], "one");
    assert_eq!(
        (options.devices.len(), options.devices[0].host.as_str()),
        (1, "/dev/one")
    );
    assert_eq!((options.mounts.len(), options.cdi.len()), (1, 1));
    assert_eq!(options.annotations["a"], "one");
    assert_eq!(state.options("p", "other"), Options::default());
}

/// A plugin that allocates what it is asked, with a variable of the IDs.
fn plugin(options: api::DevicePluginOptions) -> (Fake, Sender<api::ListAndWatchResponse>) {
    Fake::default()
        .on(api::GET_OPTIONS, move |_: api::Empty| Ok(options.clone()))
        .on(api::GET_PREFERRED, |_: api::PreferredAllocationRequest| {
            let best = vec!["b".to_owned(), "never-announced".to_owned()];
            let response = api::ContainerPreferredAllocationResponse { device_ids: best };
            Ok(api::PreferredAllocationResponse {
                container_responses: vec![response],
            })
        })
        .on(api::ALLOCATE, |request: api::AllocateRequest| {
            let ids = request.container_requests[0].devices_ids.join(",");
            let response = api::ContainerAllocateResponse {
                envs: [("IDS".to_owned(), ids)].into(),
                ..Default::default()
            };
            Ok(api::AllocateResponse {
                container_responses: vec![response],
            })
        })
        .on(api::PRE_START, |_: api::PreStartContainerRequest| {
            Ok(api::PreStartContainerResponse {})
        })
        .streaming(api::LIST_AND_WATCH)
}

struct Node {
    dir: tempfile::TempDir,
    manager: Arc<Manager>,
    affected: mpsc::UnboundedReceiver<String>,
    server: tokio::task::JoinHandle<()>,
}

impl Node {
    fn open(dir: tempfile::TempDir) -> Self {
        let limits = Limits {
            allocate: Duration::from_millis(300),
            pre_start: Duration::from_millis(300),
            grace: Duration::from_millis(100),
        };
        let sockets = dir.path().join("sockets");
        let (manager, affected) = Manager::open(&sockets, dir.path(), limits).unwrap();
        let serving = manager.clone();
        let server = tokio::spawn(async move { serving.serve().await.unwrap() });
        Self {
            dir,
            manager,
            affected,
            server,
        }
    }

    fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    /// Starts a plugin and registers it as plugins do.
    async fn register(&self, plugin: Fake, resource: &str) -> (Running, Result<(), Status>) {
        let running = plugin.listen(&self.dir.path().join("sockets/p.sock"));
        let socket = self.dir.path().join("sockets").join(SOCKET);
        until("the socket", || socket.exists()).await;
        let channel = Channel::connect(&socket, DIAL_LIMIT).await.unwrap();
        let request = api::RegisterRequest {
            version: "v1beta1".into(),
            endpoint: "p.sock".into(),
            resource_name: resource.into(),
            options: None,
        };
        let done: Result<api::Empty, Status> =
            channel.call(api::REGISTER, &request, DIAL_LIMIT).await;
        (running, done.map(|_| ()))
    }

    fn counts(&self, resource: &str) -> Option<(u64, u64)> {
        self.manager.capacity().resources.get(resource).copied()
    }
}

fn both() -> api::ListAndWatchResponse {
    api::ListAndWatchResponse {
        devices: vec![listed("a", true), listed("b", true)],
    }
}

#[tokio::test]
async fn a_plugin_registers_allocates_goes_and_comes_back() {
    let mut node = Node::new();
    let options = api::DevicePluginOptions {
        pre_start_required: true,
        get_preferred_allocation_available: true,
    };
    let (fake, list) = plugin(options);
    let (running, done) = node.register(fake, A).await;
    done.unwrap();
    list.send(both()).await;
    until("two devices", || node.counts(A) == Some((2, 2))).await;
    let requests = [request("c", Role::Lasting, 1)];
    assert!(node.manager.concerns(&requests));
    node.manager.allocate("p", &requests).await.unwrap();
    let options = node.manager.prepare("p", &requests[0]).await.unwrap();
    assert_eq!(options.env["IDS"], "b", "the plugin's preference");
    assert!(
        running
            .calls
            .lock()
            .contains(&"PreStartContainer".to_owned())
    );
    list.send(api::ListAndWatchResponse {
        devices: vec![listed("b", false)],
    })
    .await;
    assert_eq!(node.affected.recv().await.as_deref(), Some("p"));
    // It goes: what it gave stays, and the resource is removed after a while.
    running.stop().await;
    until("no healthy device", || {
        node.counts(A).is_none_or(|c| c.1 == 0)
    })
    .await;
    until("no resource", || {
        node.manager.capacity().removed.contains(A)
    })
    .await;
    assert_eq!(
        node.manager.prepare("p", &requests[0]).await.unwrap_err(),
        format!("endpoint not found in cache for a registered resource: {A}")
    );
    // A new agent knows who has what.
    node.server.abort();
    let node = Node::open(node.dir);
    assert_eq!(node.manager.held("p", "c").len(), 1);
    let (fake, list) = plugin(Default::default());
    let (running, done) = node.register(fake, A).await;
    done.unwrap();
    list.send(both()).await;
    until("two devices again", || node.counts(A) == Some((2, 2))).await;
    let error = node
        .manager
        .allocate("q", &[request("c", Role::Lasting, 2)])
        .await;
    assert!(error.unwrap_err().ends_with("Requested: 2, Available: 1"));
    node.manager.retain(|uid| uid != "p");
    node.manager
        .allocate("q", &[request("c", Role::Lasting, 2)])
        .await
        .unwrap();
    drop(running);
}

/// Upstream's `TestDevicePluginRegistrationErrors`, and plugins that hang or flood.
#[tokio::test]
async fn bad_plugins_are_refused_or_given_up() {
    let node = Node::new();
    let (fake, _list) = plugin(Default::default());
    let (_running, done) = node.register(fake, "kubernetes.io/x").await;
    let status = done.unwrap_err();
    assert_eq!(
        status.to_string(),
        "rpc error: code = Unknown desc = the ResourceName \"kubernetes.io/x\" is invalid"
    );
    assert!(node.manager.validate(A, &["v1beta1".into()]).is_ok());
    assert_eq!(
        node.manager
            .validate(A, &["v2".into(), "v3".into()])
            .unwrap_err(),
        "manager version, v1beta1, is not among plugin supported versions [v2 v3]"
    );
    let (fake, list) = plugin(Default::default());
    let (_running, done) = node.register(fake.hanging(api::ALLOCATE), A).await;
    done.unwrap();
    list.send(both()).await;
    until("two devices", || node.counts(A) == Some((2, 2))).await;
    let error = node
        .manager
        .allocate("p", &[request("c", Role::Lasting, 2)])
        .await;
    assert_eq!(
        error.unwrap_err(),
        "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
    );
    // Nothing is lost.
    let again = node
        .manager
        .allocate("p", &[request("c", Role::Lasting, 2)])
        .await;
    assert!(again.unwrap_err().contains("DeadlineExceeded"));
    let id = "x".repeat(5 << 20);
    list.send(api::ListAndWatchResponse {
        devices: vec![listed(&id, true)],
    })
    .await;
    until("the plugin is given up", || {
        node.counts(A).is_none_or(|c| c.1 == 0)
    })
    .await;
}
