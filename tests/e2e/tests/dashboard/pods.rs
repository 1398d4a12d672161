//! Logs, terminals, metrics and port-forwards.

use serde_json::json;

use crate::tour::{HOSTILE, Tour};
use rkube_testing::browser::{ENTER, F6, SHIFT};
use rkube_testing::{eventually, http_get};

/// Checks logs, the terminal, metrics and port-forwards.
pub fn all(tour: &Tour<'_>) {
    let pod = tour.cluster.pods("api").remove(0);
    let page = format!("object/core/pods/default/{pod}");
    logs(tour, &pod, &page);
    logs_of_the_previous_container(tour);
    terminal(tour, &page);
    tour.open(&format!("{page}/metrics"), &["Memory", "sidecar", "MiB"]);
    tour.browser.sees(&["KiB"]);
    forwarded_port(tour);
}

fn logs(tour: &Tour<'_>, pod: &str, page: &str) {
    tour.open(page, &["Containers", "sidecar", "Ports", "QoS"]);
    tour.open(
        &format!("{page}/logs"),
        &["the sidecar says hello", HOSTILE],
    );
    tour.picture("logs");
    tour.browser.run(
        "const i = document.querySelector('main input.search'); i.value = 'orders/1 '; i.dispatchEvent(new InputEvent('input'))",
        &[],
    );
    tour.browser.until(
        "a found line",
        "return document.querySelector('.logline mark')?.textContent",
    );
    let shown = tour.browser.run(
        "return [...document.querySelectorAll('.logline')].filter((l) => !l.textContent.includes('orders/1 ')).length",
        &[],
    );
    assert_eq!(shown, json!(0), "lines without what is searched for");
    // Shows one container only, with timestamps, and downloads its whole log.
    tour.browser.fill("main input.search", "");
    tour.browser.run(
        "const s = document.querySelector('main select'); s.value = 'sidecar'; s.dispatchEvent(new Event('change'))",
        &[],
    );
    tour.browser.until(
        "the sidecar alone",
        "const l = [...document.querySelectorAll('.logline')]; return l.length > 0 && l.every((x) => x.textContent === 'the sidecar says hello')",
    );
    tour.browser.run(
        "[...document.querySelectorAll('main .check')].find((e) => e.textContent.includes('Times')).querySelector('input').click()",
        &[],
    );
    tour.browser.until(
        "times",
        "return /^20\\d\\d-\\d\\d-\\d\\d \\d\\d:/.test(document.querySelector('.logline time')?.textContent ?? '')",
    );
    let folder = tour.cluster.path("downloads");
    std::fs::create_dir_all(&folder).expect("a folder");
    tour.browser.downloads(&folder);
    tour.browser.click("Download");
    let file = folder.join(format!("default_{pod}.log"));
    let text = eventually("the download", || {
        std::fs::read_to_string(&file)
            .ok()
            .filter(|t| !t.is_empty())
    });
    assert!(
        text.lines().all(|l| l.ends_with(" the sidecar says hello")),
        "{text}"
    );
    // The view follows the log until the user scrolls up.
    let before = tour.browser.run(
        "return document.querySelector('main .tools span.count:not([role])').textContent",
        &[],
    );
    let script = format!(
        "return document.querySelector('main .tools span.count:not([role])').textContent !== {before}"
    );
    tour.browser.until("more lines", &script);
    tour.clean();
}

fn logs_of_the_previous_container(tour: &Tour<'_>) {
    let broken = eventually("a pod that died", || {
        let state = tour
            .cluster
            .kubectl(&[
                "get",
                "pods",
                "-l",
                "app=broken",
                "-o",
                "jsonpath={.items[0].status.containerStatuses[0].restartCount}",
            ])
            .stdout;
        (state.parse::<u32>().unwrap_or(0) > 0).then(|| tour.cluster.pods("broken").remove(0))
    });
    tour.open(
        &format!("object/core/pods/default/{broken}/logs"),
        &["Previous"],
    );
    tour.browser.run(
        "[...document.querySelectorAll('main .check')].find((e) => e.textContent.includes('Previous')).querySelector('input').click()",
        &[],
    );
    tour.browser.sees(&["last words"]);
    tour.clean();
}

fn terminal(tour: &Tour<'_>, page: &str) {
    tour.open(&format!("{page}/terminal"), &[]);
    let screen = "return document.querySelector('.termlines')?.textContent.includes(' # ')";
    tour.browser.until("a prompt", screen);
    tour.browser
        .run("document.querySelector('.terminput').focus()", &[]);
    tour.browser
        .keys(&format!("echo $((6*7)) '<b>bold</b>'{ENTER}"));
    tour.browser.until(
        "the command's output",
        "return document.querySelector('.termlines').textContent.includes('42 <b>bold</b>')",
    );
    tour.picture("terminal");
    // Shift-F6 moves the focus out of the terminal.
    tour.browser.keys(&format!("{SHIFT}{F6}"));
    let script = "return document.activeElement.getAttribute('role')";
    assert_eq!(tour.browser.run(script, &[]), json!("tab"));
    tour.clean();
}

fn forwarded_port(tour: &Tour<'_>) {
    let kubia = tour.cluster.pods("kubia").remove(0);
    tour.open(
        &format!("object/core/pods/default/{kubia}"),
        &["8080", "Forward"],
    );
    tour.browser.click("Forward");
    let link = tour.browser.until(
        "a link",
        "return document.querySelector('.forwards a')?.href",
    );
    // The page and the port are on the same machine, so no hint about forwarding is shown.
    assert!(!tour.browser.text().contains("Forward them as well"));
    let link = link.as_str().expect("a link");
    assert!(link.starts_with("http://localhost:"), "{link}");
    let port = link
        .trim_end_matches('/')
        .rsplit(':')
        .next()
        .expect("a port");
    let answer = http_get(&format!("127.0.0.1:{port}")).expect("an answer");
    assert!(answer.contains(&kubia), "{answer}");
    tour.browser.click("Close");
    eventually("the port closes", || {
        std::net::TcpStream::connect(format!("127.0.0.1:{port}"))
            .is_err()
            .then_some(())
    });
    tour.clean();
}
