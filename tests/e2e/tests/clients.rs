//! Unmodified API clients.

use rkube_testing::require_machine;
use std::path::PathBuf;
use std::process::Command;

use rkube_testing::Cluster;

/// Returns a Python interpreter with the package `kubernetes`, installed once below
/// `target`, or the reason why there is none.
fn python() -> Result<PathBuf, String> {
    let venv = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("python-client");
    let python = venv.join("bin/python");
    let run = |program: &std::path::Path, args: &[&str]| -> Result<(), String> {
        let done = Command::new(program)
            .args(args)
            .output()
            .map_err(|e| format!("{}: {e}", program.display()))?;
        if done.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&done.stderr);
        Err(stderr.lines().last().unwrap_or_default().to_owned())
    };
    if run(&python, &["-c", "import kubernetes"]).is_ok() {
        return Ok(python);
    }
    let folder = venv.display().to_string();
    run("python3".as_ref(), &["-m", "venv", "--clear", &folder])?;
    run(
        &venv.join("bin/pip"),
        &[
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "kubernetes",
        ],
    )?;
    Ok(python)
}

#[test]
fn the_python_client_works() {
    require_machine!();
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            rkube_testing::skip!("no Python client (Debian's python3-venv makes one): {why}");
        }
    };
    let Some(image) = rkube_testing::image::Image::busybox("test/busybox:1") else {
        rkube_testing::skip!("no busybox-static");
    };
    let cluster = Cluster::start("py", 1);
    let archive = cluster.path("busybox.tar");
    std::fs::write(&archive, image.docker_archive()).expect("the archive");
    cluster
        .rkube(&["image", "load", &archive.display().to_string()])
        .ok();
    cluster.apply(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: client}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
         - {name: c, image: 'test/busybox:1', command: [sleep, '3600']}\n",
    );
    cluster
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/client",
            &rkube_testing::timeout(),
        ])
        .ok();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/client.py");
    let done = Command::new(python)
        .arg(script)
        .arg(cluster.kubeconfig())
        .output()
        .expect("python");
    let (out, err) = (
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr),
    );
    assert!(
        done.status.success() && out.trim().ends_with("all done"),
        "{out}\n{err}"
    );
}
