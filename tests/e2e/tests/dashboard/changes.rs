//! Changes made through the page.

use serde_json::json;

use crate::tour::Tour;
use rkube_testing::browser::{CONTROL, DOWN, ENTER};

/// Checks editing, scaling, deleting, long lists, filters and nodes.
pub fn all(tour: &Tour<'_>) {
    objects(tour);
    bulk(tour);
    filters(tour);
    thousands(tour);
    nodes(tour);
}

fn objects(tour: &Tour<'_>) {
    let cluster = tour.cluster;
    let browser = &tour.browser;
    let field = |kind: &str, path: &str, wanted: &str| {
        let path = format!("jsonpath={path}");
        cluster.wait_for(&["get", kind, "-o", &path], |t| t == wanted);
    };
    tour.open("object/apps/deployments/default/kubia", &["Scale"]);
    browser.click("Scale");
    browser.run("document.querySelector('dialog input').value = '4'", &[]);
    browser.run("document.querySelector('dialog form').requestSubmit()", &[]);
    field("deployment/kubia", "{.spec.replicas}", "4");
    browser.click("Restart");
    browser.sees(&["replaced one after another"]);
    browser.click("Restart");
    browser.sees(&["Restart under way"]);
    field(
        "deployment/kubia",
        "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}",
        "2",
    );
    browser.until(
        "the dialog's end",
        "return !document.querySelector('dialog')",
    );
    browser.click("Roll back");
    browser.sees(&["Revisions of kubia", "#1", "restartedAt"]);
    browser.click("Roll back");
    field(
        "deployment/kubia",
        "{.metadata.annotations.deployment\\.kubernetes\\.io/revision}",
        "3",
    );
    tour.clean();

    tour.open(
        "object/core/configmaps/default/settings/yaml",
        &["Review and apply"],
    );
    tour.edit("t.value = t.value.replace(/^ +a=1$/m, '    a=42')");
    browser.click("Review and apply");
    browser.sees(&["Changes to settings", "a=42", "tried without storing"]);
    tour.picture("diff");
    browser.click("Apply");
    field("configmap/settings", "{.data.app\\.conf}", "a=42\n");

    tour.open("create", &["Create from YAML"]);
    tour.edit("t.value = 'apiVersion: test.example/v1\\nkind: Widget\\nmetadata:\\n  name: first\\nspec:\\n  color: '");
    browser.run(
        "const t = document.querySelector('main textarea'); t.focus(); t.setSelectionRange(t.value.length, t.value.length)",
        &[],
    );
    browser.keys(&format!("{CONTROL} "));
    browser.until(
        "completion by the schema",
        "return [...document.querySelectorAll('.complete b')].map((e) => e.textContent).join() === 'red,green'",
    );
    browser.keys(&ENTER.to_string());
    browser.click("Review and create");
    browser.sees(&["Review", "Widget first", "new"]);
    browser.click("Create");
    field("widget/first", "{.spec.color}", "red");
    browser.sees(&["first", "Summary"]);
    browser.click("Delete");
    browser.sees(&["What it owns"]);
    browser.click("Delete");
    cluster.wait_for(&["get", "widgets"], |t| !t.contains("first"));
    tour.clean();

    tour.open(
        "object/batch/cronjobs/default/report",
        &["Run now", "Suspend"],
    );
    browser.click("Suspend");
    field("cronjob/report", "{.spec.suspend}", "true");
    browser.click("Resume");
    field("cronjob/report", "{.spec.suspend}", "false");
    browser.click("Run now");
    browser.sees(&["Job", "Run again"]);
    cluster.wait_for(&["get", "jobs", "-o", "name"], |t| t.contains("report-"));
    tour.clean();

    // Changes by other clients appear without a reload.
    tour.open("list/core/configmaps", &["settings", "Live"]);
    cluster
        .kubectl(&["create", "configmap", "made-elsewhere"])
        .ok();
    browser.sees(&["made-elsewhere"]);
    cluster
        .kubectl(&["delete", "configmap", "made-elsewhere"])
        .ok();
    browser.until(
        "the row goes",
        "return !document.body.innerText.includes('made-elsewhere')",
    );
}

/// Deletes several objects at once.
fn bulk(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    for i in 0..5 {
        cluster
            .kubectl(&["create", "configmap", &format!("many-{i}")])
            .ok();
    }
    tour.open("list/core/configmaps", &["many-4", "Live"]);
    browser.fill("main input.search", "many-");
    browser.sees(&["5 of "]);
    browser.run(
        "document.querySelector('main [aria-label=\"Select all\"]').click()",
        &[],
    );
    browser.sees(&["Delete 5"]);
    // Deselects one object with the keyboard.
    browser.run("document.querySelector('main [role=grid]').focus()", &[]);
    browser.keys(&format!("{DOWN} "));
    browser.sees(&["Delete 4"]);
    browser.click("Delete 4");
    browser.sees(&["Delete 4 ConfigMaps", "with what they own"]);
    browser.click("Delete");
    browser.sees(&["1 of "]);
    cluster.wait_for(&["get", "configmaps", "-o", "name"], |t| {
        t.matches("many-").count() == 1
    });
    browser.sees(&["many-0"]);
    tour.clean();
}

/// Long lists draw only visible rows, and stay sorted while they change.
fn thousands(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    let many = |from: u32, to: u32| {
        let items: Vec<_> = (from..to)
            .map(|i| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("row-{i}"), "labels": { "rows": "many" } } }))
            .collect();
        json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
    };
    cluster
        .kubectl_stdin(&["create", "-f", "-"], &many(0, 300))
        .ok();
    tour.open(
        "list/core/configmaps?labels=rows%3Dmany",
        &["300 objects", "Live"],
    );
    // Adds and deletes objects while the list is open.
    cluster
        .kubectl_stdin(&["create", "-f", "-"], &many(300, 420))
        .ok();
    let gone = ["configmap", "row-7", "row-250", "row-419"];
    cluster
        .kubectl(&[&["delete"], gone.as_slice()].concat())
        .ok();
    browser.sees(&["417 objects"]);
    let wanted: Vec<String> = (0..420)
        .filter(|i| ![7, 250, 419].contains(i))
        .map(|i| format!("row-{i}"))
        .collect();
    let seen = browser.run(
        "const grid = document.querySelector('main .grid');
         const seen = [];
         let most = 0;
         return new Promise((done) => {
           const step = () => {
             const rows = [...document.querySelectorAll('main .rows .row')];
             most = Math.max(most, rows.length, document.querySelectorAll('main .rows *').length / 12);
             for (const row of rows) seen[Number(row.getAttribute('aria-rowindex')) - 2] = row.querySelector('.name').textContent;
             const before = grid.scrollTop;
             grid.scrollTop += 300;
             if (grid.scrollTop === before) done({ seen, most, high: grid.scrollHeight, count: grid.getAttribute('aria-rowcount') });
             else requestAnimationFrame(() => requestAnimationFrame(step));
           };
           grid.scrollTop = 0;
           requestAnimationFrame(() => requestAnimationFrame(step));
         })",
        &[],
    );
    assert_eq!(seen["seen"], json!(wanted), "out of order");
    assert_eq!(seen["count"], json!("418"));
    // A window of 800 pixels has 25 rows of 32 pixels.
    let most = seen["most"].as_f64().expect("a number");
    assert!(most < 60.0, "{most} rows are drawn");
    let high = seen["high"].as_u64().expect("a number");
    assert!(high >= 417 * 32, "it is {high} high");
    // The page keeps only the fields that the list shows.
    let kept = browser.run(
        "return import('/watch.js').then(({ Table }) => new Promise((done) => {
           const kind = { group: '', version: 'v1', kind: 'ConfigMap', name: 'configmaps', namespaced: true, verbs: ['list', 'watch'], short: [], subresources: [] };
           const table = new Table(kind, { namespace: 'default', labels: 'rows=many' });
           const look = () => {
             if (table.rows.size < 417) return setTimeout(look, 20);
             table.follower.stop();
             done(Math.max(...[...table.rows.values()].map((row) => JSON.stringify(row).length)));
           };
           look();
         }))",
        &[],
    );
    assert!(kept.as_u64() < Some(600), "{kept} bytes of a row");
    cluster
        .kubectl(&["delete", "configmaps", "-l", "rows=many"])
        .ok();
    browser.sees(&["No configmaps"]);
    tour.clean();
}

/// Server-side filters, sorting by columns, and namespaces.
fn filters(tour: &Tour<'_>) {
    let browser = &tour.browser;
    let names = "return [...document.querySelectorAll('main .rows .name')].map((n) => n.textContent).join(' ')";
    tour.open("list/core/pods", &["kubia-", "broken-", "Live"]);
    browser.click("Filters");
    browser.fill(
        "main .tools label.inline:nth-of-type(1) input",
        "app in (api)",
    );
    browser.until(
        "labels to count",
        "const n = [...document.querySelectorAll('main .rows .name')]; return n.length === 1 && n[0].textContent.startsWith('api-')",
    );
    browser.fill("main .tools label.inline:nth-of-type(1) input", "");
    browser.fill(
        "main .tools label.inline:nth-of-type(2) input",
        &format!("spec.nodeName={}", tour.cluster.node(2)),
    );
    let on_second = tour.cluster.kubectl(&[
        "get",
        "pods",
        "-A",
        "--field-selector",
        &format!("spec.nodeName={}", tour.cluster.node(2)),
        "-o",
        "name",
    ]);
    let wanted = on_second.ok().lines().count();
    browser.until(
        "fields to count",
        &format!("return document.querySelectorAll('main .rows .row').length === {wanted}"),
    );
    browser.fill("main .tools label.inline:nth-of-type(2) input", "");
    // A second click on a column reverses the order.
    browser.sees(&["kubia-"]);
    browser.until(
        "all of them",
        "return document.querySelectorAll('main .rows .row').length >= 5",
    );
    let sort = "[...document.querySelectorAll('main .sort')].find((b) => b.textContent.startsWith('Name')).click()";
    browser.run(sort, &[]);
    let up = browser.run(names, &[]);
    browser.run(sort, &[]);
    let down = browser.run(names, &[]);
    let reversed: Vec<&str> = up.as_str().expect("names").split(' ').rev().collect();
    assert_eq!(down, json!(reversed.join(" ")));
    let state = "return document.querySelector('main [aria-sort=descending]').textContent";
    assert_eq!(browser.run(state, &[]), json!("Name ↓"));
    browser.run(
        "const s = document.querySelector('.namespace select'); s.value = 'kube-system'; s.dispatchEvent(new Event('change'))",
        &[],
    );
    browser.sees(&["No pods in kube-system"]);
    browser.run(
        "const s = document.querySelector('.namespace select'); s.value = ''; s.dispatchEvent(new Event('change'))",
        &[],
    );
    browser.sees(&["kubia-"]);
    // An error of the server is shown with its message.
    browser.fill(
        "main .tools label.inline:nth-of-type(2) input",
        "spec.colour=red",
    );
    browser.sees(&["Cannot be listed", "spec.colour"]);
    browser.complaints();
    tour.open("list/core/pods", &[]);
}

fn nodes(tour: &Tour<'_>) {
    let (cluster, browser) = (tour.cluster, &tour.browser);
    let node = cluster.node(2);
    let page = format!("object/core/nodes/-/{node}");
    tour.open(&page, &["Allocatable", "MemoryPressure", "Drain"]);
    browser.click("Drain");
    browser.sees(&["takes no new pods"]);
    // Records every state of the progress display.
    browser.run(
        "window.told = new Set(); new MutationObserver(() => { const p = document.querySelector('dialog .progress'); if (p) window.told.add(p.innerText); }).observe(document.querySelector('dialog'), { subtree: true, childList: true, characterData: true })",
        &[],
    );
    browser.click("Drain");
    browser.sees(&["is drained"]);
    let told = browser.run("return [...window.told].join('|')", &[]);
    let told = told.as_str().expect("text");
    assert!(
        told.contains("asked to leave") || told.contains("ending"),
        "{told}"
    );
    assert!(told.contains(" gone"), "{told}");
    let selector = format!("spec.nodeName={node}");
    let left = cluster
        .kubectl(&[
            "get",
            "pods",
            "-A",
            "--field-selector",
            &selector,
            "-o",
            "name",
        ])
        .ok();
    assert_eq!(left, "");
    browser.click("Close");
    browser.click("Uncordon");
    cluster.wait_for(
        &["get", "node", &node, "-o", "jsonpath={.spec.unschedulable}"],
        str::is_empty,
    );
    tour.clean();
    tour.open(&format!("{page}/terminal"), &["Shell"]);
    browser.until(
        "a prompt",
        "return document.querySelector('.termlines')?.textContent.includes('# ')",
    );
    browser.run("document.querySelector('.terminput').focus()", &[]);
    browser.keys(&format!("hostname; tty{ENTER}"));
    browser.until(
        "a terminal",
        "return document.querySelector('.termlines').textContent.includes('/dev/pts/')",
    );
    tour.clean();
}
