//! The handbook: every command of every page runs as it stands, and every link leads somewhere.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rkube_testing::{Cluster, require_machine};

/// Declares a test for each page, and the list of pages.
macro_rules! pages {
    ($($test:ident: $page:literal,)*) => {
        const PAGES: &[&str] = &[$($page),*];
        $(
            #[test]
            fn $test() {
                require_machine!();
                run($page);
            }
        )*
    };
}

pages! {
    autoscaling: "autoscaling",
    coming_from_k3d: "from-k3d",
    coming_from_kind: "from-kind",
    coming_from_minikube: "from-minikube",
    continuous_integration: "ci",
    debugging: "debugging",
    developing_an_app: "dev",
    getting_started: "getting-started",
    images: "images",
    ingress: "ingress",
    policies: "policies",
    reaching_an_app: "reaching-an-app",
    several_clusters: "several-clusters",
    storage: "storage",
}

/// Pages without commands.
const TEXTS: [&str; 2] = ["README", "differences"];

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns the commands of a page: its blocks of the language `sh`, in order.
fn script(page: &str) -> String {
    let mut script = String::from("set -euo pipefail\n");
    let mut in_block = false;
    for line in page.lines() {
        match line {
            "```sh" => in_block = true,
            "```" => in_block = false,
            _ if !in_block => {}
            // The shell does not end at `!` if the command succeeds.
            _ if line.starts_with("! ") => {
                let command = &line[2..];
                script +=
                    &format!("if {command}; then echo 'did not fail: {command}'; exit 1; fi\n");
            }
            _ => {
                script += line;
                script += "\n";
            }
        }
    }
    assert!(!in_block, "a block has no end");
    script
}

/// Runs the commands of a page in a directory and a home of its own.
fn run(page: &str) {
    let text = read(&docs().join(format!("handbook/{page}.md")));
    let cluster = Cluster::plan(page.split('-').next_back().expect("a name"));
    let (bin, work) = (cluster.path("bin"), cluster.path("work"));
    for directory in [&bin, &work] {
        std::fs::create_dir(directory).expect("a directory");
    }
    let kubectl = cluster.kubectl_command(&[]).get_program().to_owned();
    let kubectl = match Path::new(&kubectl).is_absolute() {
        true => PathBuf::from(kubectl),
        false => which(&kubectl.to_string_lossy()),
    };
    std::os::unix::fs::symlink(kubectl, bin.join("kubectl")).expect("a link");
    std::os::unix::fs::symlink(rkube_testing::binary(), bin.join("rkube")).expect("a link");
    let path = std::env::var("PATH").unwrap_or_default();

    // Takes the environment of kubectl: profile, home, kubeconfig.
    let mut shell = Command::new("bash");
    for (name, value) in cluster.kubectl_command(&[]).get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    if page == "several-clusters" {
        // It names its profiles, and each has a range.
        shell.env_remove("RKUBE_PROFILE").env_remove("RKUBE_SUBNET");
    }
    let out = shell
        .arg("-xc")
        .arg(script(&text))
        .env("PATH", format!("{}:{path}", bin.display()))
        .current_dir(&work)
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    assert!(
        out.status.success(),
        "{page}.md: {}\n{}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Returns the path of a program.
fn which(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("no {program}"))
}

#[test]
fn every_page_is_listed_and_run() {
    let list = read(&docs().join("handbook/README.md"));
    let mut found: Vec<String> = std::fs::read_dir(docs().join("handbook"))
        .expect("the handbook")
        .map(|e| {
            e.expect("a file")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .map(|name| name.trim_end_matches(".md").to_owned())
        .collect();
    found.sort();
    let mut wanted: Vec<&str> = [PAGES, &TEXTS].concat();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    for page in PAGES {
        assert!(list.contains(&format!("({page}.md)")), "{page}");
    }
}

/// The book, made of `docs/SUMMARY.md`, has all pages.
#[test]
fn the_book_has_every_page() {
    let summary = read(&docs().join("SUMMARY.md"));
    for directory in ["", "handbook/"] {
        for entry in std::fs::read_dir(docs().join(directory)).expect("a directory") {
            let name = entry.expect("a file").file_name();
            let name = name.to_string_lossy().into_owned();
            if name.ends_with(".md") && name != "SUMMARY.md" {
                assert!(summary.contains(&format!("({directory}{name})")), "{name}");
            }
        }
    }
}

/// Relative links of the documentation lead to files and headings that exist.
#[test]
fn links_lead_somewhere() {
    let root = docs().join("..");
    let mut pages: Vec<PathBuf> = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for directory in ["docs", "docs/handbook", "addons", "images", "images/ci"] {
        let entries = std::fs::read_dir(root.join(directory)).expect("a directory");
        pages.extend(
            entries
                .map(|e| e.expect("a file").path())
                .filter(|p| p.extension().is_some_and(|e| e == "md")),
        );
    }
    for page in pages {
        for link in read(&page).split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                _ => page.parent().expect("a directory").join(file),
            };
            let place = format!("{}: {link}", page.display());
            assert!(target.exists(), "{place}");
            if !heading.is_empty() {
                let known = read(&target).lines().any(|l| anchor(l) == heading);
                assert!(known, "{place}");
            }
        }
    }
}

/// Returns the anchor that Markdown renderers give to a heading.
fn anchor(line: &str) -> String {
    let title = line.trim_start_matches('#').trim();
    title
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}
