use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

/// The child of [`a_killed_process_loses_no_acknowledged_write`].
#[test]
#[ignore = "only makes sense in a process that is killed"]
fn write_until_killed() {
    let Ok(dir) = std::env::var("RKUBE_STORE_TEST_DIR") else {
        return;
    };
    run(async {
        let store = EmbeddedStore::open(Path::new(&dir), small()).unwrap();
        let tasks = (0..4).map(|task| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..1_000_000 {
                    let written = put(&store, &format!("/{task}/{}", i % 5), &i.to_string()).await;
                    let line = format!(
                        "acknowledged {} {} {i}\n",
                        written.mod_revision, written.key
                    );
                    std::io::stdout().write_all(line.as_bytes()).unwrap();
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    });
}

#[test]
fn a_killed_process_loses_no_acknowledged_write() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged: BTreeMap<String, (Revision, String)> = BTreeMap::new();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "embedded::tests::crash::write_until_killed",
                "--ignored",
                "--nocapture",
            ])
            .env("RKUBE_STORE_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The test harness writes to the same stream.
            let Some((_, rest)) = line.split_once("acknowledged ") else {
                continue;
            };
            let [revision, key, value] = rest.split(' ').collect::<Vec<_>>()[..] else {
                continue;
            };
            let revision = revision.parse().unwrap();
            let known = acknowledged.entry(key.to_owned()).or_default();
            if known.0 < revision {
                *known = (revision, value.to_owned());
            }
            lines += 1;
            if lines == 300 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(lines >= 300, "the child wrote {lines} times");
        let store = EmbeddedStore::open(dir.path(), small()).unwrap();
        for (key, (revision, value)) in &acknowledged {
            let found = store
                .shared
                .state
                .read()
                .get(key)
                .cloned()
                .expect("an acknowledged key is there");
            assert!(
                found.mod_revision >= *revision,
                "{key} went back from {revision} to {}",
                found.mod_revision
            );
            if found.mod_revision == *revision {
                assert_eq!(found.value, value.as_bytes());
            }
        }
    }
}
