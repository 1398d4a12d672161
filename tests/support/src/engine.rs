//! Access to the container engine through the `docker` command.

use std::process::Command;

/// Runs `docker` and returns its standard output, or `None` if it fails.
pub fn docker(args: &[&str]) -> Option<String> {
    let out = Command::new("docker").args(args).output().ok()?;
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Returns whether a container engine answers and the `docker` command exists.
pub fn answers() -> bool {
    docker(&["version", "--format", "{{.Server.Version}}"]).is_some()
}

/// Lists the containers, volumes and networks of a profile, one per line.
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

/// Returns the full IDs of a profile's containers. Their control groups are named after
/// these.
pub fn containers(profile: &str) -> Vec<String> {
    let label = format!("label=io.rkube.profile={profile}");
    let text = docker(&["ps", "-q", "--no-trunc", "--filter", &label]).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
