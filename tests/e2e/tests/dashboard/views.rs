//! Every view and every kind.

use serde_json::json;

use crate::tour::{HOSTILE, Tour};
use rkube_testing::browser::{CONTROL, DOWN, ENTER, ESCAPE};

/// Checks the overview, lists, the topology and objects.
pub fn all(tour: &Tour<'_>) {
    tour.browser.until(
        "graphs with a line",
        "return document.querySelectorAll('.graph .line[d]').length >= 2",
    );
    tour.picture("overview");
    tour.open(
        "list/core/pods",
        &["Name", "Ready", "Status", "kubia-", "Live"],
    );
    tour.picture("pods");
    // Searches, and filters by labels.
    tour.browser.run(
        "const i = document.querySelector('main input.search'); i.value = 'api-'; i.dispatchEvent(new InputEvent('input'))",
        &[],
    );
    tour.browser.sees(&["1 of "]);
    tour.open("list/core/pods?labels=app%3Dkubia", &[]);
    tour.open("list/core/nodes", &["Version", &tour.cluster.node(2)]);
    tour.open("list/core/pods?labels=app%3Dkubia", &["3 objects"]);
    tour.open("list/test.example/widgets", &["Widget", "No widgets"]);
    tour.open(
        "topology",
        &[
            "Ingresses",
            "shop.example/",
            "Nodes and pods",
            "3/3 endpoints",
        ],
    );
    tour.browser.run(
        "[...document.querySelectorAll('.thing')].find((e) => e.textContent.includes('shop')).click()",
        &[],
    );
    tour.browser
        .sees(&["Request path", "shop.example/api → api:8080", "3 endpoints"]);
    tour.browser.until(
        "lit lines",
        "return document.querySelectorAll('.edges .on').length >= 5",
    );
    tour.picture("topology");
    tour.open(
        "object/networking.k8s.io/ingresses/default/shop",
        &["Rules", "/api", HOSTILE],
    );
    tour.open(
        "object/core/configmaps/default/settings",
        &["app.conf", HOSTILE],
    );
    tour.open(
        "object/apps/deployments/default/api",
        &["Rollout", "complete", "Owns", "Conditions"],
    );
    tour.picture("deployment");
    tour.open(
        "object/apps/deployments/default/api/events",
        &["ScalingReplicaSet"],
    );
    tour.open("object/apps/deployments/default/api/pods", &["api-", "2/2"]);
}

/// Opens the list of every kind in the sidebar.
pub fn every_kind(tour: &Tour<'_>) {
    let browser = &tour.browser;
    let links = browser.run(
        "return [...document.querySelectorAll('.kinds a')].map((a) => a.getAttribute('href'))",
        &[],
    );
    let links: Vec<&str> = links
        .as_array()
        .expect("links")
        .iter()
        .filter_map(serde_json::Value::as_str)
        .collect();
    assert!(links.len() > 40, "{links:?}");
    assert!(links.iter().any(|l| l.ends_with("/test.example/widgets")));
    for link in links {
        browser.run("location.hash = arguments[0]", &[json!(link)]);
        let script = format!(
            "return location.hash === {} && document.querySelector('main .live.live') && document.querySelector('main h1').textContent && (document.querySelector('main .rows .row') || document.querySelector('main .empty h2'))?.textContent",
            json!(link)
        );
        browser.until(&format!("the list {link}"), &script);
        // Opens the first object of the kind, if there is one.
        let opened = browser.run(
            "const a = document.querySelector('main .rows .row .name a'); a?.click(); return !!a",
            &[],
        );
        if opened == json!(true) {
            browser.until(
                &format!("an object of {link}"),
                "return location.hash.includes('/object/') && !!document.querySelector('main [role=tablist]')",
            );
            browser.sees(&["Created", "YAML"]);
        }
        tour.clean();
    }
}

/// Checks the dark theme, keys, the palette and narrow screens.
pub fn small_and_dark(tour: &Tour<'_>) {
    let browser = &tour.browser;
    tour.open("overview", &["Overview"]);
    browser.keys(&format!("{CONTROL}k"));
    browser.until(
        "the palette",
        "return !!document.querySelector('.palette input:focus')",
    );
    browser.keys("deployment");
    browser.until(
        "a result",
        "return document.querySelector('.results li')?.textContent.includes('Deployment')",
    );
    tour.picture("palette");
    browser.keys(&ENTER.to_string());
    browser.sees(&["Up-to-date"]);
    // Keys without a modifier work until the user switches them off.
    browser.keys("gt");
    browser.sees(&["Topology", "Services"]);
    browser.keys("?");
    browser.sees(&["Keys", "Everything by typing"]);
    browser.run("document.querySelector('dialog input').click()", &[]);
    browser.keys(&ESCAPE.to_string());
    browser.until("no dialog", "return !document.querySelector('dialog')");
    browser.keys("go");
    let script = "return location.hash.split('/').pop()";
    assert_eq!(browser.run(script, &[]), json!("topology"));
    browser.run("localStorage.removeItem('shortcuts')", &[]);
    browser.keys("go");
    browser.sees(&["Overview", "What changed last"]);
    // In the palette, arrow keys select and Escape closes.
    browser.keys(&format!("{CONTROL}k"));
    browser.keys("kubia");
    browser.until("objects among the results", "return [...document.querySelectorAll('.results li')].some((l) => l.textContent.includes('Deployment'))");
    browser.keys(&DOWN.to_string());
    browser.until("the second result", "return document.querySelector('.palette input').getAttribute('aria-activedescendant') === 'result-1' && document.getElementById('result-1').getAttribute('aria-selected') === 'true'");
    browser.keys(&ESCAPE.to_string());
    browser.until("no palette", "return !document.querySelector('dialog')");
    browser.run(
        "document.querySelector('.topbar button[aria-label$=theme]').click()",
        &[],
    );
    tour.open("topology", &["Nodes and pods", "shop"]);
    tour.picture("dark");
    let pod = tour.cluster.pods("api").remove(0);
    // WCAG's criterion "reflow" requires 320 pixels.
    for wide in [360, 320] {
        browser.narrow(wide);
        for view in [
            "overview".to_owned(),
            "list/core/pods".into(),
            "object/apps/deployments/default/api".into(),
            "object/apps/deployments/default/api/yaml".into(),
            format!("object/core/pods/default/{pod}"),
            format!("object/core/pods/default/{pod}/logs"),
            "cluster".into(),
            "topology".into(),
            "create".into(),
        ] {
            tour.open(&view, &[]);
            browser.until(
                &format!("a heading of {view}"),
                "return document.querySelector('main h1')?.textContent",
            );
            let width = browser.run("return document.documentElement.scrollWidth", &[]);
            assert_eq!(width, json!(wide), "{view} is wider than the screen");
            // No control is beyond the right edge of the page, except in areas that scroll.
            let lost = browser.run(
                "return [...document.querySelectorAll('main button, main h1, main input')].filter((e) => e.getClientRects().length && !e.closest('.grid, .topology, table, .editor, .tabs') && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 120))",
                &[],
            );
            assert_eq!(lost, json!([]), "{view}");
            tour.clean();
        }
        // The menu button opens the list of kinds.
        browser.run("document.querySelector('.topbar .menu').click()", &[]);
        browser.until("the menu", "return getComputedStyle(document.querySelector('.sidebar')).visibility === 'visible' && document.querySelector('.sidebar').getBoundingClientRect().left === 0");
        browser.run("document.querySelector('.sidebar a').click()", &[]);
        browser.until(
            "the menu's end",
            "return !document.querySelector('.sidebar.open')",
        );
    }
    browser.narrow(360);
    tour.open("overview", &["2/2"]);
    tour.picture("phone");
}
