//! The container engine as the `docker` command shows it.

use std::process::Command;

/// What `docker` prints, when it succeeds.
pub fn docker(args: &[&str]) -> Option<String> {
    let out = Command::new("docker").args(args).output().ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether there is an engine, and the command to look at it.
pub fn answers() -> bool {
    docker(&["version", "--format", "{{.Server.Version}}"]).is_some()
}

/// Everything of a profile that the engine has, a line each.
pub fn holds(profile: &str) -> Vec<String> {
    let label = format!("label=io.rkube.profile={profile}");
    let lists: [(&str, &[&str]); 3] = [
        (
            "container",
            &["ps", "-a", "--format", "{{.Names}} {{.Status}}"],
        ),
        ("volume", &["volume", "ls", "--format", "{{.Name}}"]),
        ("network", &["network", "ls", "--format", "{{.Name}}"]),
    ];
    let mut found = Vec::new();
    for (what, args) in lists {
        let mut args = args.to_vec();
        args.extend(["--filter", &label]);
        let text = docker(&args).unwrap_or_default();
        found.extend(text.lines().map(|l| format!("engine: {what} {l}")));
    }
    found
}

/// Full IDs of a profile's containers, which their control groups are named after.
pub fn containers(profile: &str) -> Vec<String> {
    let label = format!("label=io.rkube.profile={profile}");
    let text = docker(&["ps", "-q", "--no-trunc", "--filter", &label]).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
