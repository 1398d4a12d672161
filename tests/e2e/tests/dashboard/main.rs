//! The dashboard in a real browser, on a real cluster.
//!
//! `RKUBE_TEST_SCREENSHOTS=1` writes the pictures of `docs/`.

mod access;
mod changes;
mod cluster;
mod connection;
mod pods;
mod security;
mod tour;
mod views;

use rkube_testing::Cluster;
use rkube_testing::require_machine;
use tour::{Tour, furnished};

#[test]
fn every_view_in_a_browser() {
    let Some(cluster) = furnished("dash") else {
        return;
    };
    let (server, tour) = Tour::begin(&cluster);
    views::all(&tour);
    views::every_kind(&tour);
    pods::all(&tour);
    changes::all(&tour);
    views::small_and_dark(&tour);
    // The page shows the dashboard's end. Ctrl-C ends it with exit code 0.
    assert_eq!(server.interrupt(), 0);
    tour.browser
        .sees(&["The dashboard does not answer", "Behind"]);
}

#[test]
fn everybody_can_use_it() {
    let Some(cluster) = furnished("acc") else {
        return;
    };
    let (_server, tour) = Tour::begin(&cluster);
    access::all(&tour);
}

#[test]
fn the_machine_through_the_page() {
    let Some(cluster) = furnished("mach") else {
        return;
    };
    let (_server, tour) = Tour::begin(&cluster);
    cluster::all(&tour);
}

#[test]
fn what_breaks_mends_itself() {
    let Some(cluster) = furnished("conn") else {
        return;
    };
    connection::all(&cluster);
}

#[test]
fn other_pages_get_nothing() {
    let Some(cluster) = furnished("sec") else {
        return;
    };
    security::all(&cluster);
}

#[test]
fn a_stopped_cluster_is_named() {
    require_machine!();
    let cluster = Cluster::plan("nodash");
    let error = cluster.rkube(&["dashboard", "--url"]).failed(85);
    assert!(error.contains("rkube start"), "{error}");
}

/// The documentation shows exactly the pictures that exist, and the tests make all of them.
#[test]
fn every_picture_is_shown_and_made() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("docs/dashboard.md")).expect("the page");
    let mut shown: Vec<&str> = text
        .split("](dashboard/")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .collect();
    shown.sort_unstable();
    let mut there: Vec<String> = std::fs::read_dir(root.join("docs/dashboard"))
        .expect("pictures")
        .map(|e| {
            e.expect("a file")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    there.sort();
    assert_eq!(shown, there);
    for name in &there {
        let size = root
            .join("docs/dashboard")
            .join(name)
            .metadata()
            .expect("a file")
            .len();
        assert!(size < 250_000, "{name} has {size} bytes");
        let stem = name.trim_end_matches(".png");
        assert!(
            tour::PICTURES.contains(&stem),
            "no test makes the picture {name}"
        );
    }
    assert_eq!(there.len(), tour::PICTURES.len());
}
