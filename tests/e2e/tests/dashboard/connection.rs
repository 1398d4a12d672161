//! Failures and recovery of the connection to the dashboard, of the API server and of the
//! dashboard. The connection passes through another port, as with `ssh -L`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::tour::{Tour, dashboard};
use rkube_testing::browser::Browser;
use rkube_testing::{Cluster, eventually};

/// Forwards connections from its port to another until it is cut.
struct Relay {
    port: u16,
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

/// Carries bytes between two connections, in both directions.
fn join(one: &TcpStream, other: &TcpStream) {
    for (from, to) in [(one, other), (other, one)] {
        if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
            std::thread::spawn(move || carry(from, to));
        }
    }
}

impl Relay {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        let relay = Self {
            port,
            cut: Arc::default(),
            open: Arc::default(),
        };
        let (cut, open) = (relay.cut.clone(), relay.open.clone());
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(onward) = TcpStream::connect(("127.0.0.1", target)) else {
                    continue;
                };
                join(&connection, &onward);
                open.lock().expect("a lock").extend([connection, onward]);
            }
        });
        relay
    }

    /// Closes all connections and refuses new ones, or accepts them again.
    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::SeqCst);
        for connection in self.open.lock().expect("a lock").drain(..) {
            // The connection may already be closed.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Returns the port in `http://127.0.0.1:PORT/…`.
fn port_of(link: &str) -> u16 {
    let rest = link.strip_prefix("http://127.0.0.1:").expect("a link");
    rest.split('/')
        .next()
        .and_then(|p| p.parse().ok())
        .expect("a port")
}

/// Checks the page through a relay that is cut, with a cluster that restarts, and with a
/// dashboard that restarts.
pub fn all(cluster: &Cluster) {
    let (server, link) = dashboard(cluster, &[]);
    let port = port_of(&link);
    let relay = Relay::to(port);
    let tour = Tour {
        cluster,
        browser: Browser::open(1280, 800),
    };
    let forwarded = link.replace(&format!(":{port}/"), &format!(":{}/", relay.port));
    tour.browser.go(&forwarded);
    tour.browser.sees(&["Overview", "2/2", "Live"]);
    tour.clean();
    a_page_that_loads_in_parts(&tour);
    through_another_port(&tour);
    a_broken_way(&tour, &relay);
    an_api_server_that_restarts(&tour);

    // A new dashboard on the same port does not accept the session of this page.
    tour.open("list/core/pods", &["kubia-", "Live"]);
    assert_eq!(server.interrupt(), 0);
    tour.browser.sees(&["The dashboard does not answer"]);
    let (next, link) = eventually("the port again", || {
        // Connections of the old dashboard may block the port for a moment.
        let wanted = port.to_string();
        let (server, link) = dashboard(cluster, &["--port", &wanted]);
        (!link.is_empty()).then_some((server, link))
    });
    tour.browser.sees(&["Another dashboard answers here now"]);
    tour.browser
        .go(&link.replace(&format!(":{port}/"), &format!(":{}/", relay.port)));
    tour.browser.sees(&["kubia"]);
    tour.browser.complaints();
    tour.open("list/core/pods", &["kubia-", "Live"]);
    assert_eq!(next.interrupt(), 0);
}

/// Browsers abort requests when an interface of the host appears. Modules, style sheets and
/// requests of the page are loaded again.
fn a_page_that_loads_in_parts(tour: &Tour<'_>) {
    let browser = &tour.browser;
    let block = |urls: &[&str]| {
        browser.command("Network.enable", &json!({}));
        browser.command("Network.setBlockedURLs", &json!({ "urls": urls }));
    };
    for part in ["*/format.js", "*/main.js", "*/style.css", "*/rkube/session"] {
        tour.open("overview", &["2/2", "Live"]);
        block(&[part]);
        browser.run("location.reload()", &[]);
        std::thread::sleep(std::time::Duration::from_millis(300));
        block(&[]);
        browser.sees(&["Overview", "2/2", "Live"]);
        browser.until(
            "the style sheet",
            // A sheet that was not loaded has no rules that can be read.
            "try { return document.styleSheets[0].cssRules.length > 9 } catch { return false }",
        );
        // The browser reported what was blocked.
        browser.complaints();
    }
}

/// The page's functions work through `ssh -L`.
fn through_another_port(tour: &Tour<'_>) {
    let browser = &tour.browser;
    let pod = tour.cluster.pods("kubia").remove(0);
    tour.open(&format!("object/core/pods/default/{pod}"), &["Forward"]);
    browser.click("Forward");
    browser.until(
        "a link",
        "return document.querySelector('.forwards a')?.href",
    );
    // The port is on the other machine and must be forwarded too.
    browser.sees(&["Forward them as well", "ssh -L "]);
    browser.click("Close");
    let pod = tour.cluster.pods("api").remove(0);
    tour.open(&format!("object/core/pods/default/{pod}/terminal"), &[]);
    browser.until(
        "a prompt",
        "return document.querySelector('.termlines')?.textContent.includes(' # ')",
    );
    tour.clean();
}

fn a_broken_way(tour: &Tour<'_>, relay: &Relay) {
    let browser = &tour.browser;
    tour.open("list/core/configmaps", &["settings", "Live"]);
    relay.cut(true);
    browser.sees(&[
        "The dashboard does not answer",
        "what you see is behind",
        "Behind",
        "settings",
    ]);
    tour.cluster
        .kubectl(&["create", "configmap", "made-meanwhile"])
        .ok();
    assert!(!browser.text().contains("made-meanwhile"));
    relay.cut(false);
    browser.sees(&["made-meanwhile", "Live"]);
    browser.until(
        "no warning",
        "return !document.body.innerText.includes('does not answer')",
    );
    // The list is live, not just reloaded once.
    tour.cluster
        .kubectl(&["delete", "configmap", "made-meanwhile"])
        .ok();
    browser.until(
        "the row's end",
        "return !document.body.innerText.includes('made-meanwhile')",
    );
    // Unsaved text in the editor is preserved.
    tour.open(
        "object/core/configmaps/default/settings/yaml",
        &["Review and apply", "Live"],
    );
    tour.edit("t.value += '# my thoughts'");
    relay.cut(true);
    browser.sees(&["what you see is behind", "Behind"]);
    relay.cut(false);
    browser.sees(&["Live"]);
    let text = browser.run("return document.querySelector('main textarea').value", &[]);
    assert!(text.to_string().contains("# my thoughts"), "{text}");
    // The browser reported the requests that failed during the interruption.
    browser.complaints();
    assert!(browser.run("return window.hacked", &[]).is_null());
}

fn an_api_server_that_restarts(tour: &Tour<'_>) {
    let browser = &tour.browser;
    tour.open("list/core/configmaps", &["settings", "Live"]);
    tour.cluster.rkube(&["stop"]).ok();
    browser.sees(&["Behind", "settings"]);
    tour.cluster.rkube(&["start"]).ok();
    browser.sees(&["Live"]);
    tour.cluster
        .kubectl(&["create", "configmap", "after-the-restart"])
        .ok();
    browser.sees(&["after-the-restart"]);
    let marks = browser.run(
        "return document.querySelectorAll('.live.behind').length",
        &[],
    );
    assert_eq!(marks, json!(0));
    browser.complaints();
}
