//! Loading of archives of all formats.

use crate::support::*;

#[tokio::test]
async fn archives_of_every_kind() {
    if !is_root() {
        return;
    }
    let layers = [
        Tar::default().dir("a/").file("a/f", b"one").end(),
        Tar::default().file("b/c/f", b"two").end(),
    ];
    for inner in [plain, gzip, zstd] {
        for outer in [plain, gzip, zstd] {
            let dir = tempfile::tempdir().unwrap();
            let parts = parts(HOST, &layers, inner);
            let (runtime, names) = load(dir.path(), &outer(&layout(&parts, HOST)))
                .await
                .unwrap();
            assert_eq!(names, ["example.com/app:v1"]);
            let status = runtime.image_status("example.com/app:v1").unwrap();
            assert_eq!(status.id, digest(&parts.config));
            assert_eq!((status.uid, status.user.as_str()), (Some(7), "7:8"));
            assert_eq!(
                status.repo_digests,
                [format!("example.com/app@{}", digest(&parts.manifest))]
            );
            for name in [&status.id[..], &status.id[7..30], &status.repo_digests[0]] {
                assert_eq!(runtime.image_status(name).as_ref(), Some(&status), "{name}");
            }
            assert_eq!(
                std::fs::read(tree(dir.path(), &layers[0]).join("a/f")).unwrap(),
                b"one"
            );

            let names = runtime
                .load_image_from(&outer(&docker(&parts))[..])
                .await
                .unwrap();
            assert_eq!(names, ["docker.io/library/app:v2"]);
            assert_eq!(runtime.image_status("app:v2").unwrap().id, status.id);

            // The images are persisted.
            let again = open(dir.path()).await;
            assert_eq!(again.list_images().len(), 1);
            again.tag_image("app:v2", "other").await.unwrap();
            again.untag_image("app:v2").await.unwrap();
            assert!(
                again.image_status("app:v2").is_none() && again.image_status("other").is_some()
            );
            again.remove_image(&status.id).await.unwrap();
            again.remove_image(&status.id).await.unwrap();
            assert!(again.list_images().is_empty());
            for kind in ["layers/sha256", "blobs/sha256", "ingest"] {
                let left = std::fs::read_dir(dir.path().join("images").join(kind))
                    .unwrap()
                    .count();
                assert_eq!(left, 0, "{kind}");
            }
        }
    }
}

#[tokio::test]
async fn nodes_share_content() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layer = Tar::default().file("f", b"x").end();
    let archive = layout(&parts(HOST, std::slice::from_ref(&layer), gzip), HOST);
    let (one, two) = (
        open_as(dir.path(), "one").await,
        open_as(dir.path(), "two").await,
    );
    let (a, b) = tokio::join!(
        one.load_image_from(&archive[..]),
        two.load_image_from(&archive[..])
    );
    assert_eq!(a.unwrap(), b.unwrap());
    one.remove_image("example.com/app:v1").await.unwrap();
    assert!(one.image_status("example.com/app:v1").is_none());
    assert!(two.image_status("example.com/app:v1").is_some());
    assert!(tree(dir.path(), &layer).join("f").exists());
    two.remove_image("example.com/app:v1").await.unwrap();
    assert!(!tree(dir.path(), &layer).exists());
}

#[tokio::test]
async fn bad_archives_are_clear_errors() {
    let layer = Tar::default().file("f", &[7; 5000]).end();
    let good = parts(HOST, std::slice::from_ref(&layer), plain);
    let mut wrong = docker(&good);
    let at = wrong.windows(16).position(|w| w == [7; 16]).unwrap();
    wrong[at] = 8;
    let archive = docker(&good);
    for (archive, expected) in [
        (archive[..archive.len() / 2].to_vec(), "truncated"),
        (gzip(&archive)[..100].to_vec(), "truncated"),
        (wrong, "hashes to"),
        (b"nonsense".to_vec(), "no image archive"),
        (Vec::new(), "tar archive"),
        (
            Tar::default().file("x", b"y").end(),
            "neither manifest.json nor index.json",
        ),
        (
            Tar::default().file("manifest.json", b"{").end(),
            "malformed manifest.json",
        ),
        (
            docker(&parts("s390x", std::slice::from_ref(&layer), plain)),
            "linux/s390x",
        ),
        (
            layout(
                &parts("s390x", std::slice::from_ref(&layer), plain),
                "s390x",
            ),
            "linux/s390x",
        ),
    ] {
        if expected == "hashes to" && !is_root() {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let error = load(dir.path(), &archive)
            .await
            .map(|(_, names)| names)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
        assert_eq!(
            std::fs::read_dir(dir.path().join("images/layers/sha256"))
                .unwrap()
                .count(),
            0
        );
        assert_eq!(
            std::fs::read_dir(dir.path().join("images/ingest"))
                .unwrap()
                .count(),
            0
        );
    }
}
