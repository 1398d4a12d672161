//! The WCAG 2.2 AA criteria that a program can check: `access.js` checks a view, `focus.js`
//! the focused element.

use serde_json::{Value, json};

use crate::tour::Tour;
use rkube_testing::browser::{CONTROL, ENTER, ESCAPE, TAB};

const LOOK: &str = include_str!("access.js");
const FOCUS: &str = include_str!("focus.js");

/// Checks all views and dialogs in both themes, the narrow screen and the keyboard. Reports
/// all findings at once.
pub fn all(tour: &Tour<'_>) {
    let browser = &tour.browser;
    let mut findings = Vec::new();
    // Checks both themes with reduced motion.
    for theme in ["light", "dark"] {
        browser.prefers(&[
            ("prefers-color-scheme", theme),
            ("prefers-reduced-motion", "reduce"),
        ]);
        views(tour, theme, &mut findings);
        dialogs(tour, theme, &mut findings);
    }
    browser.narrow(360);
    views(tour, "narrow", &mut findings);
    browser.command("Emulation.clearDeviceMetricsOverride", &json!({}));
    keyboard(tour, &mut findings);
    findings.sort();
    findings.dedup();
    assert!(
        findings.is_empty(),
        "{}:\n{}",
        findings.len(),
        findings.join("\n")
    );
    tour.clean();
}

fn look(tour: &Tour<'_>, place: &str, findings: &mut Vec<String>) {
    let found = tour.browser.run(LOOK, &[]);
    for finding in found.as_array().expect("a list") {
        findings.push(format!("{place}: {}", finding.as_str().unwrap_or_default()));
    }
}

/// Returns every view with a text to wait for.
fn places(tour: &Tour<'_>) -> Vec<(String, &'static str)> {
    let kubia = format!("object/core/pods/default/{}", tour.cluster.pods("kubia")[0]);
    let api = format!("object/core/pods/default/{}", tour.cluster.pods("api")[0]);
    let node = format!("object/core/nodes/-/{}", tour.cluster.node(2));
    let deployment = "object/apps/deployments/default/kubia";
    vec![
        ("overview".into(), "What changed last"),
        ("topology".into(), "3/3 endpoints"),
        ("list/core/pods".into(), "kubia-"),
        ("list/core/pods?labels=app%3Dkubia".into(), "Fields"),
        ("list/core/events".into(), "Reason"),
        ("list/test.example/widgets".into(), "No widgets"),
        ("list/no/such".into(), "No such kind"),
        (deployment.into(), "Conditions"),
        (format!("{deployment}/pods"), "kubia-"),
        (format!("{deployment}/events"), "Scaled"),
        (format!("{deployment}/yaml"), "Review and apply"),
        ("object/core/pods/default/nobody".into(), "No Pod nobody"),
        (kubia, "Containers"),
        (format!("{api}/logs"), "the sidecar says hello"),
        (format!("{api}/terminal"), "leaves the terminal"),
        (format!("{api}/metrics"), "sidecar"),
        (node.clone(), "Allocatable"),
        (format!("{node}/terminal"), "leaves the terminal"),
        ("object/core/configmaps/default/settings".into(), "app.conf"),
        (
            "object/networking.k8s.io/ingresses/default/shop".into(),
            "Rules",
        ),
        ("object/core/services/default/kubia".into(), "Cluster IP"),
        ("object/batch/cronjobs/default/report".into(), "Schedule"),
        ("create".into(), "Create from YAML"),
        ("cluster".into(), "control plane"),
    ]
}

fn views(tour: &Tour<'_>, theme: &str, findings: &mut Vec<String>) {
    for (view, part) in places(tour) {
        tour.open(&view, &[part]);
        tour.browser.until(
            "a heading",
            "return !!document.querySelector('main h1')?.textContent && !document.querySelector('main .live.loading')",
        );
        look(tour, &format!("{theme} {view}"), findings);
    }
    for tab in [
        "Images",
        "Addons",
        "Snapshots",
        "Tunnel",
        "Logs",
        "Profiles",
    ] {
        tour.browser.click(tab);
        tour.browser.until(
            "the tab's content",
            "return !document.querySelector('[role=tabpanel]').textContent.includes('Loading')",
        );
        look(tour, &format!("{theme} cluster {tab}"), findings);
    }
    tour.open("topology", &["3/3 endpoints"]);
    tour.browser.run(
        "[...document.querySelectorAll('.thing')].find((e) => e.textContent.includes('shop')).click()",
        &[],
    );
    tour.browser.sees(&["Request path"]);
    tour.browser
        .until("marks", "return !!document.querySelector('.thing.faded')");
    look(tour, &format!("{theme} request path"), findings);
    tour.browser
        .run("document.querySelector('aside button').click()", &[]);
}

/// Checks every dialog, and that Escape returns the focus to the element that opened it.
fn dialogs(tour: &Tour<'_>, theme: &str, findings: &mut Vec<String>) {
    let browser = &tour.browser;
    let node = format!("object/core/nodes/-/{}", tour.cluster.node(2));
    let deployment = "object/apps/deployments/default/kubia";
    for (view, button) in [
        (deployment, "Scale"),
        (deployment, "Restart"),
        (deployment, "Roll back"),
        (deployment, "Delete"),
        (node.as_str(), "Drain"),
        ("cluster", "Delete"),
        ("create", "Review and create"),
    ] {
        tour.open(view, &[button]);
        let script = "
            const b = [...document.querySelectorAll('main button')].filter((b) => b.textContent.trim() === arguments[0]).pop();
            b.focus(); return !!b";
        browser.run(script, &[json!(button)]);
        browser.keys(&ENTER.to_string());
        browser.until(
            "a dialog",
            "return !!document.querySelector('dialog[open] .buttons')",
        );
        look(tour, &format!("{theme} dialog {button}"), findings);
        let inside = browser.run("return !!document.activeElement.closest('dialog')", &[]);
        assert_eq!(
            inside,
            json!(true),
            "{button}: the focus is not in the dialog"
        );
        for _ in 0..12 {
            browser.keys(&TAB.to_string());
            // The focus may move to the browser's own controls, but not to the page behind
            // the dialog.
            let lost = browser.run("const a = document.activeElement; return a !== document.body && !a.closest('dialog')", &[]);
            assert_eq!(lost, json!(false), "{button}: the focus left the dialog");
        }
        browser.run("document.querySelector('dialog[open] button').focus()", &[]);
        browser.keys(&ESCAPE.to_string());
        browser.until(
            "the dialog's end",
            "return !document.querySelector('dialog')",
        );
        let back = browser.run("return document.activeElement.textContent.trim()", &[]);
        assert_eq!(back, json!(button), "the focus did not come back");
    }
    for (key, part) in [
        (format!("{CONTROL}k"), "Overview"),
        ("?".to_owned(), "Everything by typing"),
    ] {
        browser.run("document.getElementById('main').focus()", &[]);
        browser.keys(&key);
        browser.until(
            "a dialog",
            "return !!document.querySelector('dialog[open]')",
        );
        browser.sees(&[part]);
        look(tour, &format!("{theme} {key:?}"), findings);
        browser.keys(&ESCAPE.to_string());
        browser.until(
            "the dialog's end",
            "return !document.querySelector('dialog')",
        );
    }
}

/// Moves through every view with the Tab key only.
fn keyboard(tour: &Tour<'_>, findings: &mut Vec<String>) {
    let browser = &tour.browser;
    // The whole page first: the skip link is its first element.
    tour.open("overview", &["What changed last"]);
    browser.run("document.activeElement.blur(); window.lastFocus = null; document.body.tabIndex = -1; document.body.focus(); document.body.removeAttribute('tabindex')", &[]);
    browser.keys(&TAB.to_string());
    let first = browser.run("return document.activeElement.textContent", &[]);
    assert_eq!(first, json!("Skip to the content"));
    let skip = browser.run(FOCUS, &[]);
    assert_eq!(skip["findings"], json!([]), "{skip}");
    browser.keys(&ENTER.to_string());
    let at = browser.run("return document.activeElement.id", &[]);
    assert_eq!(at, json!("main"));
    for (view, part) in places(tour) {
        tour.open(&view, &[part]);
        browser.run(
            "window.lastFocus = null; document.getElementById('main').focus()",
            &[],
        );
        let mut seen = 0;
        let mut previous = Value::Null;
        for _ in 0..80 {
            browser.keys(&TAB.to_string());
            let focus = browser.run(FOCUS, &[]);
            let list = focus["findings"].as_array().expect("a list");
            if focus["end"] == json!(true) || list.contains(&json!("wrapped")) {
                break;
            }
            for finding in list {
                findings.push(format!(
                    "keyboard {view}: {}",
                    finding.as_str().unwrap_or_default()
                ));
            }
            let here = browser.run(
                "const a = document.activeElement; return a.matches('.terminput') ? 'terminal' : null",
                &[],
            );
            seen += 1;
            if here == json!("terminal") {
                // The terminal's own test covers leaving it.
                break;
            }
            previous = focus;
        }
        assert!(
            seen > 0 || part == "No such kind",
            "nothing of {view} has the focus; last {previous}"
        );
        assert!(seen < 80, "the keyboard does not get out of {view}");
    }
}
