//! Saves and restores snapshots of a cluster.
//!
//! A snapshot contains the API objects at one revision, and the data of the built-in provisioner's
//! volumes. Images are not included, nor are the containers' other files, which a restart does not
//! keep either.
//!
//! It is a directory with `snapshot.yaml`, `objects.gz` (a dump of the store) and
//! `volumes/NODE.tar.gz`. To restore it, it is first staged on all nodes. Then the nodes stop, and
//! apply the snapshot that the profile names when they boot (module `state` of `rkube-init`).

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::AsyncReadExt;
use futures::future::try_join_all;
use rkube_drivers::NodeState;
use rkube_failure::{Failure, Kind, Source, command};
use rkube_store::dump::Entries;
use serde::{Deserialize, Serialize};

use crate::files::{Home, Lock, io_failure, make_private_dir, owned, remove_tree, write_private};
use crate::lifecycle::running;
use crate::profile::{Node, Profile};
use crate::provision::provision;
use crate::ready::{RestartedNodes, wait_for_api, wait_for_nodes};
use crate::sudo::act_for_owner_of;
use crate::{Progress, access};

/// The version of the snapshot format that this binary writes.
const FORMAT: u32 = 1;
const DESCRIPTION: &str = "snapshot.yaml";
const OBJECTS: &str = "objects.gz";
/// Path of the API server's store dump.
const DUMP: &str = "/rkube/v1/store";

/// The content of `snapshot.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Description {
    format: u32,
    /// Time of creation, RFC 3339.
    created: String,
    /// Version of the `rkube` that wrote it.
    version: String,
    objects: u64,
    nodes: Vec<String>,
}

/// A snapshot of a profile.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The snapshot's name.
    pub name: String,
    /// Time of creation, RFC 3339.
    pub created: String,
    /// Size of its files, in bytes.
    pub bytes: u64,
    /// Number of objects.
    pub objects: u64,
    /// Names of the cluster's nodes at that time.
    pub nodes: Vec<String>,
}

fn failure(kind: Kind, message: String) -> Failure {
    Failure::new(Source::Program, kind, message)
}

/// Fails unless the name is a DNS label (RFC 1123), because it names a directory.
fn check_name(name: &str) -> Result<(), Failure> {
    if rkube_api::names::dns1123_label(name).is_empty() {
        return Ok(());
    }
    Err(failure(
        Kind::Usage,
        format!("'{name}' cannot name a snapshot"),
    )
    .advise(
        "use at most 63 lower-case letters, digits and '-', with a letter or digit at both ends",
    ))
}

fn root(home: &Home, profile: &Profile) -> PathBuf {
    home.profile_dir(&profile.name).join("snapshots")
}

/// Returns the directory of a snapshot; fails if it does not exist.
fn existing(home: &Home, profile: &Profile, name: &str) -> Result<PathBuf, Failure> {
    check_name(name)?;
    let directory = root(home, profile).join(name);
    if directory.exists() {
        return Ok(directory);
    }
    Err(failure(
        Kind::NotFound,
        format!("the profile '{}' has no snapshot '{name}'", profile.name),
    )
    .advise(format!(
        "list snapshots with: {}",
        command("snapshot list", &profile.name)
    )))
}

fn archive(directory: &Path, node: &str) -> PathBuf {
    directory.join("volumes").join(format!("{node}.tar.gz"))
}

fn damaged(file: &Path, why: &dyn std::fmt::Display) -> Failure {
    failure(
        Kind::Config,
        format!("the snapshot is damaged, {}: {why}", file.display()),
    )
    .advise("delete that snapshot")
}

fn describe(directory: &Path) -> Result<Description, Failure> {
    let file = directory.join(DESCRIPTION);
    let text = std::fs::read_to_string(&file).map_err(|e| damaged(&file, &e))?;
    let description: Description = serde_yaml::from_str(&text).map_err(|e| damaged(&file, &e))?;
    if description.format != FORMAT {
        let why = format!(
            "its format is {}, this rkube reads {FORMAT}",
            description.format
        );
        return Err(damaged(&file, &why));
    }
    Ok(description)
}

fn read(directory: &Path, name: &str) -> Result<Snapshot, Failure> {
    let description = describe(directory)?;
    let files = description
        .nodes
        .iter()
        .map(|node| archive(directory, node));
    let bytes = files
        .chain([directory.join(OBJECTS)])
        .map(|file| {
            std::fs::metadata(&file)
                .map(|m| m.len())
                .map_err(|e| damaged(&file, &e))
        })
        .sum::<Result<u64, Failure>>()?;
    Ok(Snapshot {
        name: name.to_owned(),
        created: description.created,
        bytes,
        objects: description.objects,
        nodes: description.nodes,
    })
}

/// Returns the snapshots of a profile, oldest first, and the errors of damaged ones.
pub fn snapshots(home: &Home, profile: &str) -> Result<(Vec<Snapshot>, Vec<Failure>), Failure> {
    let profile = Profile::load(home, profile)?;
    let directory = root(home, &profile);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(e) => return Err(io_failure("read", &directory, &e)),
    };
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for entry in entries {
        let entry = entry.map_err(|e| io_failure("read", &directory, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // A hidden directory is incomplete.
        if name.starts_with('.') {
            continue;
        }
        match read(&entry.path(), &name) {
            Ok(snapshot) => good.push(snapshot),
            Err(failure) => bad.push(failure),
        }
    }
    good.sort_by(|a, b| (&a.created, &a.name).cmp(&(&b.created, &b.name)));
    Ok((good, bad))
}

/// A directory that is removed on drop unless it is kept.
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn new(directory: PathBuf) -> Result<Self, Failure> {
        remove_tree(&directory)?;
        make_private_dir(&directory.join("volumes"))?;
        Ok(Self(Some(directory)))
    }

    fn keep_as(mut self, directory: &Path) -> Result<(), Failure> {
        if let Some(own) = &self.0 {
            std::fs::rename(own, directory).map_err(|e| io_failure("create", directory, &e))?;
        }
        self.0 = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(directory) = &self.0 {
            // The next snapshot with this name tries again.
            let _ = remove_tree(directory);
        }
    }
}

/// Saves a snapshot of a running cluster.
///
/// Pods keep running. Their volumes are saved in the state that a power failure would leave.
pub async fn save_snapshot(
    home: &Home,
    profile: &str,
    name: &str,
    progress: &dyn Progress,
) -> Result<Snapshot, Failure> {
    check_name(name)?;
    let profile = Profile::load(home, profile)?;
    let _lock = home.lock(&profile.name)?;
    let directory = root(home, &profile).join(name);
    if directory.exists() {
        return Err(failure(
            Kind::Conflict,
            format!("the snapshot '{name}' already exists"),
        )
        .advise(format!(
            "choose another name, or delete it with: {}",
            command(&format!("snapshot delete {name}"), &profile.name)
        )));
    }
    every_node_runs(home, &profile).await?;
    let unfinished = root(home, &profile).join(format!(".{name}"));
    let guard = Unfinished::new(unfinished.clone())?;
    progress.step("objects", "Saving the cluster's objects");
    let objects = save_objects(home, &profile, &unfinished.join(OBJECTS)).await?;
    progress.step(
        "volumes",
        &format!("Saving the volumes of {}", count_nodes(profile.nodes.len())),
    );
    try_join_all(
        profile
            .nodes
            .iter()
            .map(|node| save_volumes(home, &profile, node, archive(&unfinished, &node.name))),
    )
    .await?;
    let description = Description {
        format: FORMAT,
        created: jiff::Timestamp::now()
            .round(jiff::Unit::Second)
            .unwrap_or_default()
            .to_string(),
        version: rkube_config::version(),
        objects,
        nodes: profile.nodes.iter().map(|n| n.name.clone()).collect(),
    };
    let text = serde_yaml::to_string(&description)
        .map_err(|e| failure(Kind::Error, format!("cannot describe the snapshot: {e}")))?;
    write_private(&unfinished.join(DESCRIPTION), text.as_bytes())?;
    guard.keep_as(&directory)?;
    read(&directory, name)
}

/// Returns a number of nodes in words.
fn count_nodes(count: usize) -> String {
    match count {
        1 => "1 node".to_owned(),
        count => format!("{count} nodes"),
    }
}

/// Fails unless all nodes are running.
async fn every_node_runs(home: &Home, profile: &Profile) -> Result<(), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let states = driver.states(&profile.plan(home)).await?;
    if states.contains(&NodeState::Paused) {
        return Err(crate::pause::failure(&profile.name));
    }
    if states.iter().all(|state| *state != NodeState::Running) {
        return Err(access::not_running(&profile.name));
    }
    for (node, state) in profile.nodes.iter().zip(states) {
        if state != NodeState::Running {
            return Err(Failure::new(
                Source::Guest,
                Kind::NotRunning,
                format!(
                    "the node {} is not running, but a snapshot includes the volumes of all nodes",
                    node.name
                ),
            )
            .advise(format!(
                "start it with: {}",
                command(&format!("node start {}", node.name), &profile.name)
            )));
        }
    }
    Ok(())
}

/// Creates a file with mode 0600.
fn create(file: &Path) -> Result<File, Failure> {
    let _owner = act_for_owner_of(file);
    owned(
        File::options().create(true).write(true).truncate(true),
        0o600,
    )
    .open(file)
    .map_err(|e| io_failure("create", file, &e))
}

/// Writes the dump of the store and returns the number of objects.
async fn save_objects(home: &Home, profile: &Profile, file: &Path) -> Result<u64, Failure> {
    let failed = |e: &dyn std::fmt::Display| {
        Failure::new(
            Source::ControlPlane,
            Kind::Error,
            format!("cannot read the cluster's objects: {e}"),
        )
    };
    let written = |e: std::io::Error| io_failure("write", file, &e);
    let client = access::client(home, profile).await?;
    let mut request = http::Request::new(Vec::new());
    *request.uri_mut() = http::Uri::from_static(DUMP);
    let mut dump = std::pin::pin!(
        client
            .request_stream(request)
            .await
            .map_err(|e| failed(&e))?
    );
    let mut output = GzEncoder::new(create(file)?, Compression::fast());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = dump.read(&mut buffer).await.map_err(|e| failed(&e))?;
        if n == 0 {
            break;
        }
        output.write_all(&buffer[..n]).map_err(written)?;
    }
    let output = output.finish().map_err(written)?;
    output.sync_all().map_err(written)?;
    // Detects a connection that broke before the end of the dump.
    count_objects(file)
}

/// Reads a complete dump and returns the number of objects. Fails if it is damaged.
fn count_objects(file: &Path) -> Result<u64, Failure> {
    let input = File::open(file).map_err(|e| io_failure("read", file, &e))?;
    let mut entries =
        Entries::new(BufReader::new(GzDecoder::new(input))).map_err(|e| damaged(file, &e))?;
    entries.try_fold(0, |count, entry| {
        entry.map_err(|e| damaged(file, &e)).map(|_| count + 1)
    })
}

/// Runs an rkube command on a node. Fails unless it exits with 0.
async fn on_node(
    home: &Home,
    profile: &Profile,
    node: &Node,
    command: &str,
    input: Option<tokio::fs::File>,
    output: impl tokio::io::AsyncWrite + Unpin,
) -> Result<(), Failure> {
    let (code, why) = access::on_node(home, profile, node, command, input, output).await?;
    if code == 0 {
        return Ok(());
    }
    let why = match why.as_str() {
        "" => format!("'{command}' ended with {code}"),
        why => why.to_owned(),
    };
    Err(Failure::new(
        Source::Guest,
        Kind::Error,
        format!("the node {}: {why}", node.name),
    ))
}

async fn save_volumes(
    home: &Home,
    profile: &Profile,
    node: &Node,
    file: PathBuf,
) -> Result<(), Failure> {
    let mut output = tokio::fs::File::from_std(create(&file)?);
    on_node(
        home,
        profile,
        node,
        "rkube ctl state save",
        None,
        &mut output,
    )
    .await?;
    output
        .sync_all()
        .await
        .map_err(|e| io_failure("write", &file, &e))
}

/// Removes a snapshot.
pub fn delete_snapshot(home: &Home, profile: &str, name: &str) -> Result<(), Failure> {
    let profile = Profile::load(home, profile)?;
    let _lock = home.lock(&profile.name)?;
    let directory = existing(home, &profile, name)?;
    // Renamed first, so that a partly removed snapshot is not listed.
    let hidden = root(home, &profile).join(format!(".{name}"));
    remove_tree(&hidden)?;
    std::fs::rename(&directory, &hidden).map_err(|e| io_failure("remove", &directory, &e))?;
    remove_tree(&hidden)?;
    // Fails if other snapshots exist, as intended.
    let _ = std::fs::remove_dir(root(home, &profile));
    Ok(())
}

/// A snapshot that is staged on all nodes and has not been applied yet.
pub struct Staged {
    home: Home,
    profile: Profile,
    id: String,
    _lock: Lock,
}

/// Copies a snapshot to the nodes of a running cluster. Can be cancelled at any time: it has no
/// effect without [`Staged::restore`].
pub async fn stage_snapshot(
    home: &Home,
    profile: &str,
    name: &str,
    progress: &dyn Progress,
) -> Result<Staged, Failure> {
    let profile = Profile::load(home, profile)?;
    let lock = home.lock(&profile.name)?;
    let directory = existing(home, &profile, name)?;
    let description = describe(&directory)?;
    every_node_runs(home, &profile).await?;
    for node in &description.nodes {
        if profile.nodes.iter().all(|n| n.name != *node) {
            return Err(failure(
                Kind::Conflict,
                format!("the snapshot has the node {node}, which the cluster no longer has"),
            )
            .advise(format!(
                "add it with: {} (names are assigned in order)",
                command("node add", &profile.name)
            )));
        }
    }
    let objects = directory.join(OBJECTS);
    let count = count_objects(&objects)?;
    if count != description.objects {
        let why = format!("it holds {count} objects of {}", description.objects);
        return Err(damaged(&objects, &why));
    }
    progress.step(
        "stage",
        &format!(
            "Sending {count} objects and the volumes of {}",
            count_nodes(description.nodes.len())
        ),
    );
    let id = format!("{:x}", jiff::Timestamp::now().as_nanosecond());
    let home_ref = home;
    try_join_all(profile.nodes.iter().map(|node| {
        let (profile, id, directory) = (&profile, &id, &directory);
        let kept = description.nodes.contains(&node.name);
        async move {
            let mut parts = Vec::new();
            // A node that is not in the snapshot keeps its volumes.
            if kept {
                parts.push(("volumes", archive(directory, &node.name)));
            }
            if node.control_plane {
                parts.push(("objects", directory.join(OBJECTS)));
            }
            for (part, file) in parts {
                let input = tokio::fs::File::open(&file)
                    .await
                    .map_err(|e| damaged(&file, &e))?;
                let command = format!("rkube ctl state stage {id} {part}");
                on_node(
                    home_ref,
                    profile,
                    node,
                    &command,
                    Some(input),
                    tokio::io::sink(),
                )
                .await?;
            }
            Ok::<(), Failure>(())
        }
    }))
    .await?;
    Ok(Staged {
        home: home.clone(),
        profile,
        id,
        _lock: lock,
    })
}

impl Staged {
    /// Stops the nodes and starts them with the content of the snapshot. The future must not be
    /// dropped before it completes. If this process dies, `rkube start` completes the restore.
    pub async fn restore(
        mut self,
        limit: Duration,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let (home, profile) = (&self.home, &mut self.profile);
        let driver = rkube_drivers::by_name(&profile.driver)?;
        let plan = profile.plan(home);
        let names: Vec<String> = profile.nodes.iter().map(|n| n.name.clone()).collect();
        // Before any change, because it can fail.
        let binary = driver.binary().await?;
        // From here on, every boot applies the snapshot.
        profile.restore = Some(self.id);
        profile.save(home)?;
        progress.step("stop", "Stopping the nodes");
        crate::paused::release_to_stop(home, profile, driver.as_ref(), progress).await;
        driver.stop(&plan, &names).await?;
        provision(home, profile, &binary)?;
        let wanted = running(profile);
        let restarted = RestartedNodes::stopped(driver.as_ref(), home, profile).await?;
        progress.step("nodes", "Starting the nodes");
        driver.start(&plan, &wanted).await?;
        progress.step("ready", "Waiting for the nodes to be ready");
        let client = access::client(home, profile).await?;
        let deadline = Instant::now() + limit;
        wait_for_api(&client, &profile.name, deadline).await?;
        wait_for_nodes(&client, &profile.name, &wanted, &restarted, deadline).await?;
        profile.restore = None;
        profile.save(home)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels() {
        for good in ["a", "before-upgrade", "1", "x1"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a.b", &"a".repeat(64)] {
            assert_eq!(check_name(bad).unwrap_err().kind, Kind::Usage, "{bad}");
        }
    }

    #[test]
    fn unfinished_snapshots_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (own, kept) = (dir.path().join(".a"), dir.path().join("a"));
        drop(Unfinished::new(own.clone()).unwrap());
        assert!(!own.exists());
        Unfinished::new(own.clone())
            .unwrap()
            .keep_as(&kept)
            .unwrap();
        assert!(kept.join("volumes").exists() && !own.exists());
    }

    #[test]
    fn damage_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(DESCRIPTION);
        let kind = |text: &str| {
            std::fs::write(&file, text).unwrap();
            describe(dir.path()).unwrap_err().kind
        };
        assert_eq!(kind("x"), Kind::Config);
        assert_eq!(
            kind("format: 2\ncreated: x\nversion: v\nobjects: 1\nnodes: []\n"),
            Kind::Config
        );
        let objects = dir.path().join(OBJECTS);
        std::fs::write(&objects, "no gzip").unwrap();
        assert_eq!(count_objects(&objects).unwrap_err().kind, Kind::Config);
    }
}
