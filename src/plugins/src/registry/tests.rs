//! Plans, and plugins on sockets.

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::plan::Identity;
use super::*;
use crate::api::device_plugin as devices_api;
use crate::grpc::Status as Failure;
use crate::testing::{Fake, until};

fn identity(inode: u64) -> Identity {
    Identity { inode, changed: 0 }
}

/// Upstream's tests of the reconciler.
#[test]
fn plans_follow_the_sockets() {
    let now = std::time::Instant::now();
    let path = PathBuf::from("/r/a.sock");
    let found = |inode| Sockets::from([(path.clone(), identity(inode))]);
    let plugin = || Registered {
        kind: api::DEVICE_PLUGIN.into(),
        name: "e.com/a".into(),
        endpoint: path.clone(),
    };
    let known = |state| BTreeMap::from([(path.clone(), state)]);
    let registered = || {
        known(Known::Registered {
            identity: identity(1),
            plugin: plugin(),
        })
    };
    let registering = || {
        known(Known::Registering {
            identity: identity(1),
            failures: 0,
        })
    };
    let failed = |failures| known(Known::failed(identity(1), failures, now));
    let (register, unregister, forget) = (
        Action::Register(path.clone()),
        Action::Unregister(path.clone()),
        Action::Forget(path.clone()),
    );
    let later = now + Duration::from_millis(500);
    let none = Sockets::new();
    for (found, known, at, actions) in [
        (found(1), BTreeMap::new(), now, vec![register.clone()]),
        (found(1), registered(), now, vec![]),
        (
            found(2),
            registered(),
            now,
            vec![unregister.clone(), register.clone()],
        ),
        (none.clone(), registered(), now, vec![unregister]),
        (found(1), registering(), now, vec![]),
        (found(2), registering(), now, vec![]),
        (none.clone(), registering(), now, vec![forget.clone()]),
        (found(1), failed(1), now, vec![]),
        (found(1), failed(1), later, vec![register.clone()]),
        (found(1), failed(2), later, vec![]),
        (found(2), failed(9), now, vec![forget.clone(), register]),
        (none, failed(1), now, vec![forget]),
    ] {
        assert_eq!(plan(&found, &known, at), actions, "{found:?} {known:?}");
    }
    let due = |failures| Known::failed(identity(1), failures, now).due().unwrap() - now;
    assert_eq!(due(3), Duration::from_secs(2));
    assert_eq!(due(100), Duration::from_secs(122));
}

/// A plugin with this type and name; what it is told about its registration is sent.
fn plugin(
    kind: &str,
    name: &str,
    version: &str,
) -> (Fake, mpsc::UnboundedReceiver<api::RegistrationStatus>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let info = api::PluginInfo {
        kind: kind.into(),
        name: name.into(),
        endpoint: String::new(),
        supported_versions: vec![version.into()],
    };
    let sender = Mutex::new(sender);
    let fake = Fake::default()
        .on(api::GET_INFO, move |_: api::InfoRequest| Ok(info.clone()))
        .on(api::NOTIFY, move |status: api::RegistrationStatus| {
            sender
                .lock()
                .send(status)
                .map_err(|e| Failure::new(crate::grpc::Code::Unknown, e.to_string()))?;
            Ok(api::RegistrationStatusResponse {})
        });
    (fake, receiver)
}

#[tokio::test]
async fn plugins_are_registered_and_unregistered() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let (devices, _affected) = devices::Manager::open(
        &place("device-plugins"),
        &place("state"),
        Default::default(),
    )
    .unwrap();
    let (claims, _notices) = claims::Manager::open(&place("state"), Default::default()).unwrap();
    let handlers = Handlers {
        devices: devices.clone(),
        claims: claims.clone(),
    };
    let watched = place("registry");
    let running = tokio::spawn(async move { run(&watched, handlers).await });
    until("the directory", || place("registry").exists()).await;

    let (fake, mut told) = plugin("CSIPlugin", "csi", "1.0.0");
    let _csi = fake.listen(&place("registry/csi.sock"));
    let status = told.recv().await.unwrap();
    assert!(!status.plugin_registered);
    assert!(status.error.starts_with(
        "RegisterPlugin error -- no handler registered for plugin type: CSIPlugin at socket "
    ));

    let (fake, mut told) = plugin("DRAPlugin", "d", "v1alpha1");
    let _old = fake.listen(&place("registry/old.sock"));
    assert!(
        told.recv()
            .await
            .unwrap()
            .error
            .contains("none of services supported by the plugin")
    );

    // In a directory that is made later, and a name that begins with a dot.
    let (fake, mut told) = plugin("DRAPlugin", "d", "v1.DRAPlugin");
    let _hidden = plugin("DRAPlugin", "hidden", "v1.DRAPlugin")
        .0
        .listen(&place("registry/.h.sock"));
    let driver = fake.listen(&place("registry/deep/er/d.sock"));
    assert!(told.recv().await.unwrap().plugin_registered);
    until("the driver", || claims_has(&claims, "d")).await;
    assert!(!claims_has(&claims, "hidden"));
    std::fs::remove_file(place("registry/deep/er/d.sock")).unwrap();
    until("no driver", || !claims_has(&claims, "d")).await;
    driver.stop().await;

    let (fake, mut told) = plugin("DevicePlugin", "e.com/a", "v1beta1");
    let fake = fake.on(devices_api::GET_OPTIONS, |_: devices_api::Empty| {
        Ok(devices_api::DevicePluginOptions::default())
    });
    let (fake, list) = fake.streaming(devices_api::LIST_AND_WATCH);
    let _device = fake.listen(&place("registry/a.sock"));
    assert!(told.recv().await.unwrap().plugin_registered);
    let device = devices_api::Device {
        id: "1".into(),
        health: "Healthy".into(),
        topology: None,
    };
    list.send(devices_api::ListAndWatchResponse {
        devices: vec![device],
    })
    .await;
    let counts = |n| devices.capacity().resources.get("e.com/a") == Some(&n);
    until("a device", || counts((1, 1))).await;
    std::fs::remove_file(place("registry/a.sock")).unwrap();
    until("no healthy device", || counts((1, 0))).await;
    assert!(!running.is_finished());
    running.abort();
}

fn claims_has(claims: &claims::Manager, driver: &str) -> bool {
    claims.has_driver(driver)
}
