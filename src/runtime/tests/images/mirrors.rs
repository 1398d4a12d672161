//! Pulls and pushes through mirrors.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rkube_config::registries::{Endpoint, Login, Proxies, Registries, Registry as Settings};
use rkube_runtime::{ImageError, PullProgress, RegistryAuth};

use crate::registry::Registry;
use crate::support::*;

fn app() -> Parts {
    let layer = Tar::default().file("f", b"content").end();
    parts(HOST, &[layer], gzip)
}

fn mirror(address: &str) -> Endpoint {
    Endpoint {
        url: format!("http://{address}/v2"),
        push: false,
        ..Endpoint::default()
    }
}

/// Returns settings with these mirrors of a registry.
fn of(registry: &str, mirrors: Vec<Endpoint>, server: Option<Endpoint>) -> Registries {
    Registries {
        hosts: BTreeMap::from([(registry.to_owned(), Settings { mirrors, server })]),
        ..Registries::default()
    }
}

/// Returns a loopback address at which nothing listens.
fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn requests(registry: &Registry) -> Vec<String> {
    std::mem::take(&mut *registry.requests.lock().unwrap())
}

#[tokio::test]
async fn mirrors_are_asked_in_order_and_the_registry_last() {
    if !is_root() {
        return;
    }
    let parts = app();
    let (own, at_own) = Registry::default().image("app", "v1", &parts, HOST).serve();
    let (empty, at_empty) = Registry::default().serve();
    let failing = Registry {
        fails: true,
        ..Registry::default()
    };
    let (failing, at_failing) = failing.serve();
    let (good, at_good) = Registry::default()
        .image("team/app", "v1", &parts, HOST)
        .serve();
    let dir = tempfile::tempdir().unwrap();
    let with = |last: Endpoint| {
        let all = vec![mirror(&nowhere()), mirror(&empty), mirror(&failing), last];
        of(&own, all, None)
    };
    let rewritten = Endpoint {
        rewrites: vec![("^app$".into(), "team/app".into())],
        ..mirror(&good)
    };
    let name = format!("{own}/app:v1");
    let runtime = open_with(&dir.path().join("a"), with(rewritten)).await;
    let status = runtime.pull_image(&name, &[], |_| {}).await.unwrap();
    // The name is that of the registry, which was not asked.
    assert_eq!(status.repo_tags, std::slice::from_ref(&name));
    assert_eq!(requests(&at_own), Vec::<String>::new());
    assert!(!requests(&at_empty).is_empty() && !requests(&at_failing).is_empty());
    let seen = requests(&at_good);
    let query = format!("?ns={}", own.replace(':', "%3A"));
    assert!(
        seen.iter()
            .all(|r| r.contains("/v2/team/app/") && r.contains(&query)),
        "{seen:?}"
    );
    // Without a mirror that has it, the registry is asked.
    let runtime = open_with(&dir.path().join("b"), with(mirror(&good))).await;
    runtime.pull_image(&name, &[], |_| {}).await.unwrap();
    assert!(!requests(&at_own).is_empty());
    // If nobody has it, the error is that of the registry; what mirrors lack is no news.
    let absent = format!("{own}/app:absent");
    let error = runtime.pull_image(&absent, &[], |_| {}).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    let lost = of("127.0.0.1:1", vec![mirror(&failing)], None);
    let runtime = open_with(&dir.path().join("c"), lost).await;
    let error = runtime.pull_image("127.0.0.1:1/app", &[], |_| {}).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("refused") && error.contains("500"),
        "{error}"
    );
}

#[tokio::test]
async fn a_mirror_that_lies_is_left_for_the_registry() {
    if !is_root() {
        return;
    }
    let parts = app();
    let (own, _) = Registry::default().image("app", "v1", &parts, HOST).serve();
    let mut damaged = Registry::default().image("app", "v1", &parts, HOST);
    let layer = format!("/v2/app/blobs/{}", digest(&parts.layers[0]));
    damaged.content.get_mut(&layer).unwrap().1[0] ^= 1;
    let (address, _) = damaged.serve();
    let dir = tempfile::tempdir().unwrap();
    let runtime = open_with(dir.path(), of(&own, vec![mirror(&address)], None)).await;
    let name = format!("{own}/app:v1");
    runtime.pull_image(&name, &[], |_| {}).await.unwrap();
}

#[tokio::test]
async fn credentials_go_where_they_belong() {
    if !is_root() {
        return;
    }
    let parts = app();
    let locked = || Registry {
        login: Some("basic"),
        ..Registry::default()
    };
    let (own, _) = locked().image("app", "v1", &parts, HOST).serve();
    let (other, _) = locked().image("app", "v1", &parts, HOST).serve();
    let name = format!("{own}/app:v1");
    let login = Login {
        username: "user".into(),
        password: "pass".into(),
        ..Login::default()
    };
    let with_login = |endpoint: Endpoint| Endpoint {
        login: Some(login.clone()),
        ..endpoint
    };
    let secret = |registry: &str| RegistryAuth {
        registry: registry.into(),
        username: "user".into(),
        password: "pass".into(),
        ..RegistryAuth::default()
    };
    let server = with_login(Endpoint::default());
    let dead = mirror(&nowhere());
    for (case, registries, auth, works) in [
        (
            "of the mirror",
            of(&own, vec![with_login(mirror(&other))], None),
            vec![],
            true,
        ),
        (
            "of the registry",
            of(&own, vec![dead.clone()], Some(server)),
            vec![],
            true,
        ),
        (
            "a secret for the mirror",
            of(&own, vec![mirror(&other)], None),
            vec![secret(&other)],
            true,
        ),
        (
            "a secret for the registry",
            of(&own, vec![dead], None),
            vec![secret(&own)],
            true,
        ),
        ("none", of(&own, vec![mirror(&other)], None), vec![], false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let runtime = open_with(dir.path(), registries).await;
        let pulled = runtime.pull_image(&name, &auth, |_| {}).await;
        assert_eq!(pulled.is_ok(), works, "{case}: {pulled:?}");
    }
}

#[tokio::test]
async fn limits_of_the_rate_are_waited_for() {
    if !is_root() {
        return;
    }
    let parts = app();
    let limited = |delay| Registry {
        limited: Mutex::new(vec!["manifests/v1".into()]),
        delay,
        ..Registry::default()
    };
    let (address, _) = limited("1").image("app", "v1", &parts, HOST).serve();
    let dir = tempfile::tempdir().unwrap();
    let runtime = open(dir.path()).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let tell = move |step| {
        if let PullProgress::Waiting { text } = step {
            seen.lock().unwrap().push(text);
        }
    };
    let begun = Instant::now();
    let name = format!("{address}/app:v1");
    runtime.pull_image(&name, &[], tell).await.unwrap();
    assert!(begun.elapsed().as_millis() >= 1000);
    let told = told.lock().unwrap().join("\n");
    assert!(told.contains("asks to wait for 1 second"), "{told}");
    // A time in the past is no reason to ask again and again at once.
    let (address, at) = limited("0").image("app", "v1", &parts, HOST).serve();
    let begun = Instant::now();
    let name = format!("{address}/app:v1");
    runtime.pull_image(&name, &[], |_| {}).await.unwrap();
    assert!(begun.elapsed().as_millis() >= 1000);
    assert!(requests(&at).len() < 10);
    // A mirror is not waited for.
    let (mirrored, _) = limited("7200").image("app", "v1", &parts, HOST).serve();
    let (own, _) = Registry::default().image("app", "v1", &parts, HOST).serve();
    let place = dir.path().join("mirror");
    let other = open_with(&place, of(&own, vec![mirror(&mirrored)], None)).await;
    let begun = Instant::now();
    let name = format!("{own}/app:v1");
    other.pull_image(&name, &[], |_| {}).await.unwrap();
    assert!(begun.elapsed().as_secs() < 5);
    // Nobody waits for hours.
    let (address, _) = limited("7200").image("app", "v1", &parts, HOST).serve();
    let name = format!("{address}/app:v1");
    let error = runtime.pull_image(&name, &[], |_| {}).await.unwrap_err();
    assert!(
        error.to_string().contains("try again in 2 hours"),
        "{error}"
    );
}

#[tokio::test]
async fn proxies_are_used_unless_excluded() {
    if !is_root() {
        return;
    }
    let parts = app();
    // A proxy gets whole URLs.
    let mut proxy = Registry::default();
    let inner = Registry::default().image("app", "v1", &parts, HOST);
    for (path, content) in inner.content {
        proxy
            .content
            .insert(format!("http://registry.invalid:5000{path}"), content);
    }
    let (address, at_proxy) = proxy.serve();
    let dir = tempfile::tempdir().unwrap();
    let open = async |place: &Path, no_proxy: &str| {
        let mut registries = of(
            "registry.invalid:5000",
            Vec::new(),
            Some(Endpoint {
                url: "http://registry.invalid:5000/v2".into(),
                ..Endpoint::default()
            }),
        );
        registries.proxies = Proxies {
            http: format!("http://{address}"),
            no_proxy: no_proxy.into(),
            ..Proxies::default()
        };
        open_with(place, registries).await
    };
    let name = "registry.invalid:5000/app:v1";
    let runtime = open(&dir.path().join("a"), "10.0.0.0/8,.cluster.local").await;
    runtime.pull_image(name, &[], |_| {}).await.unwrap();
    assert!(!requests(&at_proxy).is_empty());
    let runtime = open(&dir.path().join("b"), ".invalid").await;
    assert!(runtime.pull_image(name, &[], |_| {}).await.is_err());
    assert_eq!(requests(&at_proxy), Vec::<String>::new());
}

/// A registry with TLS, of Debian's package.
#[tokio::test]
async fn certificates_of_endpoints() {
    if !is_root() {
        return;
    }
    if Command::new("docker-registry")
        .arg("--help")
        .output()
        .is_err()
    {
        rkube_testing::skipped("docker-registry is not installed");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (address, ca, _server) = crate::pushes::tls_registry(dir.path());
    let parts = app();
    let (plain, _) = Registry::default().image("app", "v1", &parts, HOST).serve();
    let runtime = open(&dir.path().join("plain")).await;
    let name = format!("{plain}/app:v1");
    runtime.pull_image(&name, &[], |_| {}).await.unwrap();
    drop(runtime);
    let target = format!("{address}/app:v1");
    for (case, endpoint, roots, works) in [
        ("not trusted", Endpoint::default(), vec![], false),
        (
            "a certificate of the endpoint",
            Endpoint {
                ca: vec![ca.clone()],
                ..Endpoint::default()
            },
            vec![],
            true,
        ),
        (
            "a certificate for all",
            Endpoint::default(),
            vec![ca.clone()],
            true,
        ),
        (
            "not verified",
            Endpoint {
                skip_verify: true,
                ..Endpoint::default()
            },
            vec![],
            true,
        ),
    ] {
        let server = Some(Endpoint {
            url: format!("https://{address}/v2"),
            ..endpoint
        });
        let mut registries = of(&address, Vec::new(), server);
        registries.roots = roots;
        let runtime = open_with(&dir.path().join("plain"), registries).await;
        let pushed = runtime.push_image(&name, Some(&target), &[], |_| {}).await;
        assert_eq!(pushed.is_ok(), works, "{case}: {pushed:?}");
    }
}
