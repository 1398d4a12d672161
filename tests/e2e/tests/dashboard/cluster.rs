//! Views of the machine: nodes, images, tunnel, profiles.

use serde_json::json;

use crate::tour::Tour;
use rkube_testing::image::Image;
use rkube_testing::{Cluster, eventually, http_get};

/// A second profile in the same home directory, deleted on drop.
struct Second<'a>(&'a Cluster, String);

impl Drop for Second<'_> {
    fn drop(&mut self) {
        // If the test succeeded, the profile no longer exists.
        self.0.rkube(&["-p", &self.1, "delete"]);
    }
}

/// Checks nodes, images, addons, snapshots, the tunnel, profiles, and stopping the cluster.
pub fn all(tour: &Tour<'_>) {
    nodes(tour);
    images(tour);
    addons(tour);
    snapshots(tour);
    tunnel(tour);
    profiles(tour);
    life(tour);
}

/// Clicks on `button` in the row that begins with `name`.
fn in_row(tour: &Tour<'_>, name: &str, button: &str) {
    let script = "
        const row = [...document.querySelectorAll('main tbody tr')].find((r) => r.cells[0].textContent.startsWith(arguments[0]));
        const b = [...(row?.querySelectorAll('button') ?? [])].find((b) => b.textContent.trim() === arguments[1]);
        b?.click();
        return !!b";
    eventually(&format!("{button} of {name}"), || {
        (tour.browser.run(script, &[json!(name), json!(button)]) == json!(true)).then_some(())
    });
}

/// Waits until a command ends without errors, and closes its dialog.
fn finish(tour: &Tour<'_>, title: &str) {
    tour.browser.sees(&[title]);
    tour.browser.until(
        &format!("the end of {title}"),
        "return [...document.querySelectorAll('dialog .buttons button')].some((b) => b.textContent === 'Close')",
    );
    let failed = tour.browser.run(
        "return [...document.querySelectorAll('dialog .steps .error')].map((e) => e.textContent)",
        &[],
    );
    assert_eq!(failed, json!([]), "{title}");
    let steps = tour.browser.run(
        "return document.querySelectorAll('dialog .steps li').length",
        &[],
    );
    assert!(steps.as_u64() > Some(0), "{title} told nothing");
    tour.browser.click("Close");
    tour.browser
        .until("no dialog", "return !document.querySelector('dialog')");
}

fn nodes(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    let (second, third) = (cluster.node(2), cluster.node(3));
    let driver = format!("Driver {}", rkube_testing::driver());
    tour.open("cluster", &[&driver, "control plane", &second]);
    tour.picture("cluster");
    browser.click("Add a node");
    finish(tour, "Adding a node");
    browser.sees(&[&third]);
    cluster.wait_for(&["get", "nodes"], |t| t.matches(" Ready").count() == 3);
    tour.clean();

    in_row(tour, &second, "Stop");
    finish(tour, &format!("Stopping {second}"));
    let state = format!(
        "return [...document.querySelectorAll('main tbody tr')].find((r) => r.textContent.startsWith('{second}'))?.innerText ?? ''"
    );
    browser.until(
        "a stopped node",
        &format!("return (() => {{ {state} }})().includes('Stopped')"),
    );
    in_row(tour, &second, "Start");
    finish(tour, &format!("Starting {second}"));
    browser.until(
        "a running node",
        &format!("return (() => {{ {state} }})().includes('Running')"),
    );
    in_row(tour, &third, "Delete");
    browser.sees(&["moved elsewhere"]);
    browser.click("Delete");
    finish(tour, &format!("Deleting {third}"));
    browser.until(
        "one node less",
        "return document.querySelectorAll('main tbody tr').length === 2",
    );
    let left = cluster.kubectl(&["get", "nodes", "-o", "name"]).ok();
    assert!(!left.contains(&third), "{left}");
    cluster.wait_for(&["get", "nodes"], |t| t.matches(" Ready").count() == 2);
    tour.clean();
}

fn images(tour: &Tour<'_>) {
    let browser = &tour.browser;
    tour.open("cluster", &[]);
    browser.click("Images");
    browser.sees(&["rkube/kubia", "test/dashboard:1", "MiB"]);
    let image = Image::busybox("test/uploaded:2").expect("busybox is there");
    let archive = tour.cluster.path("uploaded.tar");
    std::fs::write(&archive, image.docker_archive()).expect("an archive");
    browser.upload(&archive);
    finish(tour, "Loading uploaded.tar");
    browser.sees(&["test/uploaded:2"]);
    let everywhere = |there: bool| {
        for node in [tour.cluster.node(1), tour.cluster.node(2)] {
            let list = tour.cluster.rkube(&["image", "ls", "-n", &node]).ok();
            assert_eq!(list.contains("test/uploaded"), there, "{list}");
        }
    };
    everywhere(true);
    in_row(tour, "docker.io/test/uploaded", "Remove");
    browser.sees(&["removed from every node"]);
    browser.click("Remove");
    finish(tour, "Removing docker.io/test/uploaded:2");
    browser.until(
        "the image's end",
        "return !document.body.innerText.includes('test/uploaded')",
    );
    everywhere(false);
    // The command's error for an invalid archive is shown.
    let wrong = tour.cluster.path("wrong.tar");
    std::fs::write(&wrong, "this is no archive").expect("a file");
    browser.upload(&wrong);
    browser.until(
        "an error",
        "return !!document.querySelector('dialog .steps .error')",
    );
    browser.click("Close");
    tour.clean();
    browser.click("Pull");
    browser.sees(&["Pull an image on every node"]);
    browser.fill("dialog input", "127.0.0.1:1/nothing/here:1");
    browser.run("document.querySelector('dialog form').requestSubmit()", &[]);
    browser.until(
        "a refusal",
        "return !!document.querySelector('dialog .steps .error')",
    );
    browser.click("Close");
    tour.clean();
    browser.click("Logs");
    browser.sees(&["==> "]);
    tour.clean();
}

/// Waits until the row that begins with `name` contains `state`.
fn row_says(tour: &Tour<'_>, name: &str, state: &str) {
    let script = "
        const row = [...document.querySelectorAll('main tbody tr')].find((r) => r.cells[0].textContent.startsWith(arguments[0]));
        return !!row && row.innerText.includes(arguments[1])";
    eventually(&format!("{state} of {name}"), || {
        let says = tour.browser.run(script, &[json!(name), json!(state)]);
        (says == json!(true)).then_some(())
    });
}

fn addons(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    tour.open("cluster", &[]);
    browser.click("Addons");
    browser.sees(&["cert-manager", "Issues and renews certificates"]);
    row_says(tour, "demo", "Disabled");
    in_row(tour, "demo", "Enable");
    finish(tour, "Enabling demo");
    row_says(tour, "demo", "Enabled");
    let status = ["rollout", "status", "deployment/kubia", "-n", "rkube-demo"];
    let timeout = rkube_testing::timeout();
    cluster
        .kubectl(&[&status[..], &[timeout.as_str()]].concat())
        .ok();
    tour.clean();
    in_row(tour, "demo", "Disable");
    browser.sees(&["Everything that it brought is removed"]);
    browser.click("Disable the addon");
    finish(tour, "Disabling demo");
    row_says(tour, "demo", "Disabled");
    let left = cluster.kubectl(&["get", "namespaces", "-o", "name"]).ok();
    assert!(!left.contains("rkube-demo"), "{left}");
    tour.clean();
}

fn snapshots(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    let open = || {
        tour.open("cluster", &[]);
        browser.click("Snapshots");
        browser.sees(&["Objects and volumes as they were"]);
    };
    open();
    browser.sees(&["There are no snapshots yet"]);
    browser.click("Save a snapshot");
    browser.fill("dialog input", "No Label");
    browser.run("document.querySelector('dialog form').requestSubmit()", &[]);
    let good = "return document.querySelector('dialog input').validity.patternMismatch";
    assert_eq!(browser.run(good, &[]), json!(true));
    browser.fill("dialog input", "before");
    browser.run("document.querySelector('dialog form').requestSubmit()", &[]);
    finish(tour, "Saving before");
    row_says(tour, "before", &cluster.node(2));
    row_says(tour, "before", "iB");
    let listed = cluster.rkube(&["snapshot", "list"]).ok();
    assert!(listed.contains("before"), "{listed}");
    tour.clean();

    // Restoring removes objects that were created after the snapshot.
    cluster.kubectl(&["create", "configmap", "made-since"]).ok();
    in_row(tour, "before", "Restore");
    browser.sees(&["What was made since is lost"]);
    browser.click("Restore the snapshot");
    finish(tour, "Restoring before");
    // Requests are expected to fail while the cluster restarts.
    browser.complaints();
    cluster.wait_for(&["get", "nodes"], |t| t.matches(" Ready").count() == 2);
    let config = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    assert!(!config.contains("made-since"), "{config}");
    assert!(config.contains("settings"), "{config}");
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "deployment/kubia",
            &rkube_testing::timeout(),
        ])
        .ok();

    open();
    in_row(tour, "before", "Delete");
    browser.sees(&["the cluster stays as it is"]);
    browser.click("Delete the snapshot");
    finish(tour, "Deleting before");
    browser.sees(&["There are no snapshots yet"]);
    browser.complaints();
}

fn tunnel(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    cluster
        .kubectl(&[
            "expose",
            "deployment",
            "kubia",
            "--name=outside",
            "--type=LoadBalancer",
            "--port=80",
            "--target-port=8080",
        ])
        .ok();
    tour.open("cluster", &[]);
    browser.click("Tunnel");
    browser.sees(&["Active", "No tunnel is needed"]);
    let address = cluster.wait_for(
        &[
            "get",
            "service",
            "outside",
            "-o",
            "jsonpath={.status.loadBalancer.ingress[0].ip}",
        ],
        |t| !t.is_empty(),
    );
    let answer = eventually("the service", || http_get(&format!("{address}:80")));
    assert!(answer.contains("kubia"), "{answer}");
    cluster.kubectl(&["delete", "service", "outside"]).ok();
    tour.clean();
}

fn profiles(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    let name = format!("{}b", cluster.profile);
    let second = Second(cluster, name.clone());
    // In a range of its own.
    let mut start = cluster.rkube_command(&["-p", &name, "start", "--nodes", "1"]);
    let started = start.env_remove("RKUBE_SUBNET").status();
    assert!(started.expect("rkube runs").success());
    let context = format!("--context={name}");
    cluster
        .kubectl(&[&context, "create", "configmap", "only-in-the-second"])
        .ok();
    // A reload of the page lists the new profile.
    tour.open("overview", &["2/2"]);
    browser.run("location.reload()", &[]);
    browser.sees(&["Overview", "2/2"]);
    browser.run(
        "const s = document.querySelector('.brand select'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))",
        &[json!(name)],
    );
    browser.sees(&["1/1", "Overview"]);
    browser.run(
        "location.hash = arguments[0]",
        &[json!(format!("#/{name}/list/core/configmaps"))],
    );
    browser.sees(&["only-in-the-second", "Live"]);
    tour.open("list/core/configmaps", &["settings", "Live"]);
    assert!(!browser.text().contains("only-in-the-second"));
    tour.open("cluster", &[]);
    browser.click("Profiles");
    browser.sees(&[&name, "shown here"]);
    browser.click("Show");
    browser.sees(&["1/1", "Overview"]);
    tour.clean();
    // Deletes the profile through the page, which then shows the other one.
    browser.run(
        "location.hash = arguments[0]",
        &[json!(format!("#/{name}/cluster"))],
    );
    browser.sees(&["Add a node"]);
    browser.click("Delete");
    browser.sees(&["cannot be undone"]);
    browser.click("Delete the cluster");
    finish(tour, "Deleting");
    browser.sees(&["Overview", "2/2"]);
    let list = cluster.rkube(&["profile", "list"]).ok();
    assert!(!list.contains(&name), "{list}");
    browser.complaints();
    drop(second);
}

/// Stops and starts the whole cluster while the page is open.
fn life(tour: &Tour<'_>) {
    let browser = &tour.browser;
    tour.open("cluster", &["Add a node"]);
    // Each node also has a button with that label.
    browser.run(
        "[...document.querySelectorAll('main .tools button')].find((b) => b.textContent.trim() === 'Stop').click()",
        &[],
    );
    browser.sees(&["Its pods stop"]);
    // The page's button behind the dialog has the same label.
    browser.run(
        "document.querySelector('dialog button.danger').click()",
        &[],
    );
    finish(tour, "Stopping");
    browser.sees(&["Start"]);
    browser.run(
        "location.hash = arguments[0]",
        &[json!(format!("#/{}/overview", tour.cluster.profile))],
    );
    browser.sees(&["does not answer", "Try again"]);
    // The browser reports failed requests, as expected.
    browser.complaints();
    browser.click("Cluster");
    browser.click("Start");
    finish(tour, "Starting");
    browser.sees(&["Add a node"]);
    browser.complaints();
    tour.open("overview", &["2/2", "kubia"]);
    tour.clean();
}
