//! Images that are built in the nodes.

use std::fs;
use std::path::{Path, PathBuf};

use rkube_testing::image::Image;
use rkube_testing::{Cluster, eventually, require_machine};

const DOCKERFILE: &str = r#"# syntax=docker/dockerfile:1
ARG BASE=test/base:1
FROM $BASE AS build
ARG VERSION=none
ENV GREETING="hello ${VERSION}"
WORKDIR /made
COPY src/*.txt ./
RUN --mount=type=secret,id=key --mount=type=tmpfs,target=/tmp/x <<EOF
set -e
cat *.txt /run/secrets/key > all
echo "$GREETING" >> all
EOF

FROM scratch AS unused
COPY no-such-file /

FROM test/base:1
RUN --network=none ln -s /etc /out && rm /bin/seq
USER web
WORKDIR /home/web
COPY --from=build --chown=web:web --chmod=640 /made/all ./
ENTRYPOINT ["sh", "-c"]
CMD ["cat all; id -u; test ! -e /bin/seq && echo gone; sleep 3600"]
"#;

/// Writes the files of a context and returns its directory.
fn context(cluster: &Cluster, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = cluster.path(name);
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap_or(Path::new("/"))).expect("a directory");
        fs::write(path, text).expect("a file");
    }
    dir
}

/// Starts a cluster whose nodes have the base image.
fn cluster(name: &str) -> Option<Cluster> {
    let base = Image::busybox("test/base:1")?;
    let cluster = Cluster::start(name, 2);
    let archive = cluster.path("base.tar");
    fs::write(&archive, base.docker_archive()).expect("a file");
    let path = archive.display().to_string();
    cluster.rkube(&["image", "load", &path]).ok();
    Some(cluster)
}

#[test]
fn an_image_is_built_once_and_runs_on_every_node() {
    require_machine!();
    let Some(cluster) = cluster("build") else {
        rkube_testing::skip!("no busybox-static");
    };
    let files = [
        ("Dockerfile", DOCKERFILE),
        (".dockerignore", "**/secret*\n"),
        ("src/a.txt", "from a\n"),
        ("src/secret.txt", "not sent\n"),
        ("key", "the key\n"),
    ];
    let dir = context(&cluster, "context", &files);
    let (dir, key) = (dir.display().to_string(), dir.join("key"));
    let (id, metadata) = (cluster.path("id"), cluster.path("metadata"));
    let (id_path, metadata_path) = (id.display().to_string(), metadata.display().to_string());
    let secret = format!("id=key,src={}", key.display());
    let words = [
        "image",
        "build",
        "-t",
        "test/app:1",
        "-t",
        "test/other",
        "--build-arg",
        "VERSION=7",
        "--secret",
        &secret,
        "--iidfile",
        &id_path,
        "--metadata-file",
        &metadata_path,
        &dir,
    ];
    let first = cluster.rkube(&words);
    assert!(!first.stderr.contains("CACHED"), "{}", first.stderr);
    first.ok();
    let built = fs::read_to_string(&id).expect("the file of the ID");
    let told = fs::read_to_string(&metadata).expect("the metadata");
    assert!(told.contains(&built), "{told}");

    // Everything comes from the cache, also after a restart of the node's processes.
    let again = cluster.rkube(&words);
    let cached = again.stderr.matches(" CACHED\n").count();
    assert_eq!(cached, 6, "{}", again.stderr);
    again.ok();
    assert_eq!(fs::read_to_string(&id).expect("the file of the ID"), built);

    cluster.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: app}}\nspec:\n  nodeName: {}\n  terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: c, image: 'test/app:1', imagePullPolicy: Never}}\n",
        cluster.node(2)
    ));
    let log = eventually("the pod's output", || {
        let log = cluster.kubectl(&["logs", "app"]).stdout;
        log.contains("gone").then_some(log)
    });
    assert_eq!(log, "from a\nthe key\nhello 7\n1000\ngone\n");
}

#[test]
fn built_images_are_bases_and_can_be_saved() {
    require_machine!();
    let Some(cluster) = cluster("buildsave") else {
        rkube_testing::skip!("no busybox-static");
    };
    let text =
        "FROM test/base:1\nRUN mkdir /d && rm /bin/seq\nUSER web\nONBUILD RUN echo > /trigger\n";
    let dir = context(&cluster, "context", &[("Dockerfile", text)]);
    let dir = dir.display().to_string();
    let words = ["image", "build", "--quiet", "-t", "test/other", &dir];
    let id = cluster.rkube(&words).ok();

    // The trigger runs as the image's user, who may not write there.
    let next = context(&cluster, "next", &[("Dockerfile", "FROM test/other\n")]);
    let next = next.display().to_string();
    let refused = cluster.rkube(&["image", "build", &next]).failed(1);
    assert!(refused.contains("ermission denied"), "{refused}");
    assert!(refused.contains("Dockerfile:1: "), "{refused}");

    let history = cluster.rkube(&["image", "history", "test/other"]).ok();
    assert!(history.contains("RUN /bin/sh -c mkdir /d"), "{history}");
    let described = cluster.rkube(&["image", "inspect", "test/other"]).ok();
    assert!(described.contains(id.trim()), "{described}");
    assert!(described.contains("\"User\": \"web\""), "{described}");

    let archive = cluster.path("saved.tar").display().to_string();
    cluster
        .rkube(&["image", "tag", "test/other", "test/app:2"])
        .ok();
    cluster
        .rkube(&["image", "save", "test/app:2", &archive])
        .ok();
    cluster.rkube(&["image", "rm", "test/other"]).ok();
    cluster.rkube(&["image", "prune"]).ok();
    let loaded = cluster.rkube(&["image", "load", &archive]).ok();
    assert!(
        loaded.contains("test/app:2") && !loaded.contains("other"),
        "{loaded}"
    );
    let fresh = cluster.rkube(&["image", "build", "-t", "test/other", &dir]);
    assert!(!fresh.stderr.contains("CACHED"), "{}", fresh.stderr);
    fresh.ok();
}

#[test]
fn failures_name_the_line_and_leave_nothing() {
    require_machine!();
    let Some(cluster) = cluster("buildbad") else {
        rkube_testing::skip!("no busybox-static");
    };
    for (text, part) in [
        (
            "FROM test/base:1\nRUN echo told; \\\n  exit 3\n",
            "exit code: 3",
        ),
        ("FROM test/base:1\nRUNN x\n", "unknown instruction: RUNN"),
        (
            "FROM test/base:1\nCOPY missing /\n",
            "\"/missing\": not found",
        ),
        ("FROM test/base:1\nCOPY link/passwd /\n", "not found"),
        (
            "FROM test/base:1\nCOPY --from=test/base:1 /etc/nope /\n",
            "not found",
        ),
        (
            "FROM test/base:1\nRUN --mount=type=ssh true\n",
            "not supported",
        ),
        (
            "FROM test/base:1\nRUN mount -t tmpfs none /tmp\n",
            "exit code: 1",
        ),
        (
            "FROM test/base:1\nRUN echo x > /etc/hosts\n",
            "Read-only file system",
        ),
        (
            "FROM test/base:1\nCOPY --chown=nobody-here a /\n",
            "unable to find user nobody-here",
        ),
    ] {
        let dir = context(&cluster, "context", &[("Dockerfile", text), ("a", "a")]);
        let link = dir.join("link");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink("../../../../../etc", &link).expect("a link");
        let dir = dir.display().to_string();
        let said = cluster
            .rkube(&["image", "build", "-t", "test/bad:1", &dir])
            .failed(1);
        assert!(said.contains(part), "{text}: {said}");
        assert!(said.contains("Dockerfile:2: "), "{text}: {said}");
        assert!(said.contains(">>> "), "{text}: {said}");
    }
    let images = cluster.rkube(&["image", "ls"]).ok();
    assert!(!images.contains("test/bad"), "{images}");
    let left = [
        "ssh",
        "--",
        "ls",
        "/var/lib/rkube/build/work",
        "/run/rkube/build",
    ];
    if rkube_testing::is_native("a look at the node's files") {
        let left = cluster.rkube(&left).ok();
        let left: Vec<&str> = left
            .lines()
            .filter(|l| !l.is_empty() && !l.ends_with(':'))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    // What a build cannot do is refused before anything runs.
    let refused = cluster.rkube(&["image", "build", "--platform=linux/s390x", "."]);
    refused.failed(16);
    cluster.rkube(&["image", "build", "--push", "."]).failed(14);
}

#[test]
fn an_interrupted_build_tags_nothing_and_keeps_the_cache() {
    require_machine!();
    let Some(cluster) = cluster("buildstop") else {
        rkube_testing::skip!("no busybox-static");
    };
    let text = "FROM test/base:1\nRUN echo first > /first\nRUN sleep 600\n";
    let dir = context(&cluster, "context", &[("Dockerfile", text)]);
    let path = dir.display().to_string();
    let words = ["image", "build", "-t", "test/stopped:1", &path];
    let errors = cluster.path("errors");
    let build = cluster
        .rkube_command(&words)
        .stderr(fs::File::create(&errors).expect("a file"))
        .spawn()
        .expect("rkube runs");
    eventually("the long step", || {
        let told = fs::read_to_string(&errors).ok()?;
        told.contains("RUN sleep 600").then_some(())
    });
    assert_eq!(rkube_testing::Running(build).interrupt(), 2);
    if rkube_testing::is_native("a look at the node's files") {
        // The step ends although it would go on.
        eventually("the end of the build on the node", || {
            let left = cluster.rkube(&["ssh", "--", "ls", "/var/lib/rkube/build/work"]);
            (left.code == 0 && left.stdout.trim().is_empty()).then_some(())
        });
    }
    let images = cluster.rkube(&["image", "ls"]).ok();
    assert!(!images.contains("test/stopped"), "{images}");
    let short = text.replace("sleep 600", "true");
    fs::write(dir.join("Dockerfile"), short).expect("a file");
    let done = cluster.rkube(&words);
    let cached = done.stderr.contains("RUN echo first > /first\n#3 CACHED");
    assert!(cached, "{}", done.stderr);
    done.ok();
}
