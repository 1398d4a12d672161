//! The cases of upstream's tests of the manager of dynamic resources, with drivers on sockets.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::testing::{Fake, Running, until};

fn claim(name: &str, driver: &str) -> AllocatedClaim {
    AllocatedClaim {
        uid: format!("{name}-uid"),
        name: name.into(),
        namespace: "ns".into(),
        drivers: [driver.to_owned()].into(),
    }
}

fn manager(dir: &Path) -> (Arc<Manager>, Notices) {
    let limits = Limits {
        call: Duration::from_millis(300),
        wiping_delay: Duration::from_millis(200),
    };
    Manager::open(dir, limits).unwrap()
}

fn device() -> api::Device {
    api::Device {
        request_names: vec!["gpu".into()],
        pool_name: "pool".into(),
        device_name: "d0".into(),
        cdi_device_ids: vec!["e.com/class=d0".into()],
        share_id: None,
    }
}

/// A driver of a version that prepares everything.
fn driver(service: api::Service) -> Fake {
    Fake::default()
        .on(
            service.prepare(),
            |request: api::NodePrepareResourcesRequest| {
                let result = || api::NodePrepareResourceResponse {
                    devices: vec![device()],
                    error: String::new(),
                };
                let claims = request.claims.into_iter().map(|c| (c.uid, result()));
                Ok(api::NodePrepareResourcesResponse {
                    claims: claims.collect(),
                })
            },
        )
        .on(
            service.unprepare(),
            |request: api::NodeUnprepareResourcesRequest| {
                let claims = request
                    .claims
                    .into_iter()
                    .map(|c| (c.uid, Default::default()));
                Ok(api::NodeUnprepareResourcesResponse {
                    claims: claims.collect(),
                })
            },
        )
}

fn count(running: &Running, method: &str) -> usize {
    running
        .calls
        .lock()
        .iter()
        .filter(|called| *called == method)
        .count()
}

#[tokio::test]
async fn claims_are_prepared_and_unprepared_in_both_versions() {
    for service in api::Service::ALL {
        let dir = tempfile::tempdir().unwrap();
        let (manager, _notices) = manager(dir.path());
        let socket = dir.path().join("d.sock");
        let running = driver(service).listen(&socket);
        let missing = manager.prepare("p", &[claim("a", "d")]).await;
        assert_eq!(missing.unwrap_err(), "DRA driver d is not registered");
        assert!(!manager.is_used_by("p"), "the pod can be deleted");
        manager
            .register("d", &socket, &[service.name().to_owned()])
            .unwrap();
        let twice = manager.register("d", &socket, &[service.name().to_owned()]);
        assert!(
            twice
                .unwrap_err()
                .ends_with("already registered for DRA driver plugin d")
        );
        manager.prepare("p", &[claim("a", "d")]).await.unwrap();
        manager.prepare("q", &[claim("a", "d")]).await.unwrap();
        assert_eq!(count(&running, "NodePrepareResources"), 1);
        let devices = manager.devices("ns", "a").unwrap();
        assert_eq!(devices[0].1.cdi_device_ids, ["e.com/class=d0"]);
        assert!(devices[0].1.is_for("gpu") && !devices[0].1.is_for("other"));
        manager.unprepare("p").await.unwrap();
        assert_eq!(count(&running, "NodeUnprepareResources"), 0, "q uses it");
        manager.reconcile(|_| false).await;
        assert_eq!(count(&running, "NodeUnprepareResources"), 1);
        assert!(
            manager
                .devices("ns", "a")
                .unwrap_err()
                .starts_with("internal error")
        );
        manager.unprepare("p").await.unwrap();
    }
}

/// The failures of upstream's `TestPrepareResources` and `TestUnprepareResources`.
#[tokio::test]
async fn failures_of_drivers_are_told() {
    type Change = fn(&mut api::NodePrepareResourcesResponse);
    let cases: [(Change, &str); 3] = [
        (
            |r| r.claims.get_mut("a-uid").unwrap().error = "no power".into(),
            "NodePrepareResources failed for ResourceClaim a: no power",
        ),
        (
            |r| r.claims.clear(),
            "NodePrepareResources skipped 1 ResourceClaims",
        ),
        (
            |r| {
                r.claims.insert("zzz".into(), Default::default());
            },
            "NodePrepareResources returned result for unknown claim UID zzz",
        ),
    ];
    for (change, message) in cases {
        let dir = tempfile::tempdir().unwrap();
        let (manager, _notices) = manager(dir.path());
        let socket = dir.path().join("d.sock");
        let service = api::Service::V1;
        let fake = driver(service).on(
            service.prepare(),
            move |_: api::NodePrepareResourcesRequest| {
                let mut answer = api::NodePrepareResourcesResponse {
                    claims: [("a-uid".to_owned(), Default::default())].into(),
                };
                change(&mut answer);
                Ok(answer)
            },
        );
        let _running = fake.listen(&socket);
        manager
            .register("d", &socket, &["v1.DRAPlugin".into()])
            .unwrap();
        assert_eq!(
            manager.prepare("p", &[claim("a", "d")]).await.unwrap_err(),
            message
        );
        assert!(manager.is_used_by("p"), "the driver may have prepared it");
    }
}

#[tokio::test]
async fn a_driver_that_hangs_is_given_up_and_one_that_is_gone_loses_its_slices() {
    let dir = tempfile::tempdir().unwrap();
    let (manager, mut notices) = manager(dir.path());
    let socket = dir.path().join("d.sock");
    let running = driver(api::Service::V1)
        .hanging(api::Service::V1.prepare())
        .listen(&socket);
    manager
        .register("d", &socket, &["v1.DRAPlugin".into()])
        .unwrap();
    let error = manager.prepare("p", &[claim("a", "d")]).await.unwrap_err();
    assert!(
        error.starts_with("NodePrepareResources: rpc error: code = DeadlineExceeded"),
        "{error}"
    );
    assert!(notices.wipes.try_recv().is_err(), "it is there");
    running.stop().await;
    assert_eq!(notices.wipes.recv().await.as_deref(), Some("d"));
    let error = manager.unprepare("p").await.unwrap_err();
    assert!(
        error.starts_with("NodeUnprepareResources: rpc error: code = Unavailable"),
        "{error}"
    );
    manager.deregister("d", &socket);
    assert_eq!(
        manager.unprepare("p").await.unwrap_err(),
        "DRA driver d is not registered"
    );
}

#[tokio::test]
async fn pods_hear_of_the_health_of_their_devices() {
    let dir = tempfile::tempdir().unwrap();
    let (manager, mut notices) = manager(dir.path());
    let socket = dir.path().join("d.sock");
    let (fake, health) = driver(api::Service::V1).streaming(api::WATCH_HEALTH);
    let _running = fake.listen(&socket);
    manager
        .register("d", &socket, &["v1.DRAPlugin".into()])
        .unwrap();
    manager.prepare("p", &[claim("a", "d")]).await.unwrap();
    assert_eq!(manager.health("ns", "a", "")[0].health, Health::Unknown);
    let report = api::DeviceHealth {
        device: Some(api::DeviceIdentifier {
            pool_name: "pool".into(),
            device_name: "d0".into(),
        }),
        health: 2,
        message: "too hot".into(),
        ..Default::default()
    };
    health
        .send(api::NodeWatchResourcesResponse {
            devices: vec![report],
        })
        .await;
    assert_eq!(notices.affected.recv().await.as_deref(), Some("p"));
    let now = &manager.health("ns", "a", "gpu/alternative")[0];
    assert_eq!(
        (now.id.as_str(), now.health),
        ("e.com/class=d0", Health::Unhealthy)
    );
    assert_eq!(now.message, "too hot");
    assert!(manager.health("ns", "a", "other").is_empty());
    drop(health);
    let is_forgotten = AtomicBool::new(false);
    until("the stream's end", || {
        let unknown = manager.health("ns", "a", "")[0].health == Health::Unknown;
        is_forgotten.fetch_or(unknown, Ordering::Relaxed) || unknown
    })
    .await;
}
