//! The process of the registry, as the commands start, show and end it.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::process::Child;
use std::time::{Duration, Instant};

use rkube_cluster::{
    Home, Profile, Progress as _, RegistryAdmin, RegistrySettings, io_failure, registry_dir,
};
use rkube_config::REGISTRY_NAME;
use rkube_failure::{Failure, Kind, Source};
use rkube_registry::{Auth, Scheme, Store};
use serde::Serialize;

use super::super::output::table;
use super::super::{Output, detach};
use super::{CreateArgs, control};

/// The first port that is tried, which tools expect.
const FIRST_PORT: u16 = 5000;
/// The ports that are tried after it.
const MORE_PORTS: u16 = 100;
/// The time that the process may take to listen, or to end.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// The time that another command may take to change the registry.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);
/// The time after which the process must listen for a cluster.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The period of the checks of that.
const CHECK_PERIOD: Duration = Duration::from_millis(20);

/// Creates the registry, or starts its process again, and tells the running clusters.
pub async fn create(home: &Home, args: &CreateArgs, output: &Output) -> Result<(), Failure> {
    let auth = match &args.htpasswd {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|e| io_failure("read", path, &e))?;
            // The process reads it again, and then nobody would see what is wrong.
            Auth::parse(&text, Scheme::default()).map_err(|e| {
                let why = format!("{} cannot be used: {e}", path.display());
                Failure::new(Source::Program, Kind::Config, why)
            })?;
            Some((text, args.auth.clone()))
        }
        None => None,
    };
    let settings = establish(home, args, auth, output).await?;
    for profile in running(home).await? {
        if rkube_cluster::registry_is_off(home, &profile.name) {
            continue;
        }
        match attach(home, &profile, &settings, output).await {
            Ok(()) => output.say(&format!("The cluster '{}' knows it.", profile.name)),
            Err(failure) => warn(&profile.name, &failure, output),
        }
    }
    Ok(())
}

/// Makes the registry's settings unless there are some, and starts its process. `auth` is the content
/// of an htpasswd file and the scheme.
async fn establish(
    home: &Home,
    args: &CreateArgs,
    auth: Option<(String, String)>,
    output: &Output,
) -> Result<RegistrySettings, Failure> {
    let _admin = administer(home).await?;
    match RegistrySettings::load(home)? {
        Some(settings) => {
            refuse_changes(&settings, args)?;
            ensure_process(home, &settings).await?;
            output.say(&format!("The registry is at {}.", name(&settings)));
            Ok(settings)
        }
        None => {
            // Of a registry whose deletion did not end: its images were to go.
            end(home).await?;
            let settings = RegistrySettings {
                port: choose_port(args.port)?,
                auth: auth.as_ref().map(|(_, scheme)| scheme.clone()),
                max_blob: args.max_blob_size,
                control: secret()?,
            };
            rkube_cluster::make_private_dir(&registry_dir(home))?;
            if let Some((text, _)) = &auth {
                let path = registry_dir(home).join("htpasswd");
                rkube_cluster::write_private(&path, text.as_bytes())?;
            }
            settings.save(home)?;
            if let Err(failure) = ensure_process(home, &settings).await {
                // Nothing is left of a registry that could not begin.
                drop(end(home).await);
                return Err(failure);
            }
            output.say(&format!("The registry was created at {}.", name(&settings)));
            Ok(settings)
        }
    }
}

/// Waits until no other command creates, starts or deletes the registry.
async fn administer(home: &Home) -> Result<RegistryAdmin, Failure> {
    let deadline = Instant::now() + ADMIN_TIMEOUT;
    loop {
        if let Some(admin) = rkube_cluster::registry_admin(home)? {
            return Ok(admin);
        }
        if Instant::now() > deadline {
            let why = "another rkube command is changing the registry";
            return Err(Failure::new(Source::Program, Kind::Conflict, why)
                .advise("wait until that command has finished"));
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
}

/// Makes the registry known to a cluster, and waits until it is served there.
async fn attach(
    home: &Home,
    profile: &Profile,
    settings: &RegistrySettings,
    output: &Output,
) -> Result<(), Failure> {
    rkube_cluster::attach_registry(home, profile, settings, output).await?;
    // With some engines, the host does not have the address.
    let address = rkube_cluster::registry_listens(profile)
        .filter(|address| TcpListener::bind((*address, 0)).is_ok());
    let Some(address) = address else {
        return Ok(());
    };
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    while !control::answers(address, settings.port).await {
        if Instant::now() > deadline {
            let why = format!(
                "it does not answer at {address}:{}, which another program may use",
                settings.port
            );
            return Err(Failure::new(Source::LocalNetwork, Kind::Conflict, why));
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
    Ok(())
}

fn warn(profile: &str, failure: &Failure, output: &Output) {
    let why = &failure.message;
    output.warn(&format!(
        "the cluster '{profile}' was not told of the registry: {why}"
    ));
}

/// Fails if an existing registry has other settings than those that are asked for.
fn refuse_changes(settings: &RegistrySettings, args: &CreateArgs) -> Result<(), Failure> {
    let other_port = args.port.is_some_and(|port| port != settings.port);
    let other_limit = args.max_blob_size.is_some() && args.max_blob_size != settings.max_blob;
    if !other_port && !other_limit && args.htpasswd.is_none() {
        return Ok(());
    }
    let why = format!("there is a registry at {} already", name(settings));
    Err(Failure::new(Source::Program, Kind::Conflict, why)
        .advise("delete it first, with its images: rkube registry delete"))
}

/// Returns the name under which this machine and the clusters know the registry.
fn name(settings: &RegistrySettings) -> String {
    format!("localhost:{}", settings.port)
}

/// Returns a new secret.
fn secret() -> Result<String, Failure> {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    let path = std::path::Path::new("/dev/urandom");
    fs::File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|e| io_failure("read", path, &e))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Finds a port of the loopback that nobody uses.
fn choose_port(wanted: Option<u16>) -> Result<u16, Failure> {
    // There may be no IPv6.
    let in_use = |port: u16| {
        TcpListener::bind((Ipv6Addr::LOCALHOST, port))
            .is_err_and(|e| e.kind() == std::io::ErrorKind::AddrInUse)
    };
    let is_free =
        |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok() && !in_use(*port);
    let found = match wanted {
        Some(port) => Some(port).filter(is_free),
        None => (FIRST_PORT..=FIRST_PORT + MORE_PORTS).find(is_free),
    };
    found.ok_or_else(|| {
        let why = match wanted {
            Some(port) => format!("port {port} of this machine's loopback is in use"),
            None => format!(
                "all ports from {FIRST_PORT} to {} are in use",
                FIRST_PORT + MORE_PORTS
            ),
        };
        Failure::new(Source::LocalNetwork, Kind::Conflict, why)
            .advise("choose another port with: rkube registry create --port PORT")
    })
}

/// Whether the process runs.
fn runs(home: &Home) -> Result<bool, Failure> {
    Ok(registry_dir(home).exists() && rkube_cluster::registry_lock(home)?.is_none())
}

/// Starts the process, unless it runs.
async fn ensure_process(home: &Home, settings: &RegistrySettings) -> Result<(), Failure> {
    let failed = |why: String| {
        let message = format!("cannot start the registry's process: {why}");
        Failure::new(Source::Host, Kind::Error, message)
            .advise("see why with: rkube registry serve --skip-audit")
    };
    let ready = registry_dir(home).join("serving");
    if runs(home)? && ready.exists() {
        return Ok(());
    }
    // Of a process that was killed. Another one writes it when it listens.
    match fs::remove_file(&ready) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(io_failure("remove", &ready, &e));
        }
        _ => {}
    }
    let spawn = || -> Result<Child, Failure> {
        detach::spawn_as_owner(home, &["registry", "serve", "--skip-audit"])
            .map_err(|e| failed(e.to_string()))
    };
    let mut child = spawn()?;
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    while !(ready.exists() && runs(home)?) {
        let ended = child.try_wait().map_err(|e| failed(e.to_string()))?;
        if ended.is_some_and(|status| status.success()) && !runs(home)? {
            // Another process that has ended since had the lock.
            child = spawn()?;
        } else if let Some(status) = ended.filter(|status| !status.success()) {
            if choose_port(Some(settings.port)).is_err() {
                let why = format!("another program uses port {}", settings.port);
                return Err(Failure::new(Source::LocalNetwork, Kind::Conflict, why)
                    .advise("end it, or delete the registry: rkube registry delete"));
            }
            return Err(failed(format!("it ended with {status}")));
        }
        if Instant::now() > deadline {
            return Err(failed("it does not begin".to_owned()));
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
    Ok(())
}

/// Returns the clusters that run.
async fn running(home: &Home) -> Result<Vec<Profile>, Failure> {
    let mut found = Vec::new();
    for name in home.profile_names()? {
        // A damaged profile is reported by the commands about it.
        if let Ok(profile) = Profile::load(home, &name)
            && rkube_cluster::runs(home, &profile).await
        {
            found.push(profile);
        }
    }
    Ok(found)
}

/// The registry, as it is listed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    name: String,
    port: u16,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<String>,
    host_from_cluster_network: String,
    repositories: u64,
    bytes: u64,
    clusters: Vec<String>,
}

/// Shows the registry.
pub async fn list(home: &Home, output: &Output) -> Result<(), Failure> {
    let mut entries = Vec::new();
    if let Some(settings) = RegistrySettings::load(home)? {
        let storage = registry_dir(home).join("storage");
        let usage = Store::read_only(&storage)
            .usage()
            .map_err(|e| io_failure("read", &storage, &e))?;
        let mut clusters = home.profile_names()?;
        clusters.retain(|profile| rkube_cluster::registry_is_known(home, profile));
        entries.push(Entry {
            name: name(&settings),
            port: settings.port,
            running: runs(home)?,
            auth: settings.auth.clone(),
            host_from_cluster_network: format!("{REGISTRY_NAME}:{}", settings.port),
            repositories: usage.repositories,
            bytes: usage.bytes,
            clusters,
        });
    }
    output.result(&entries, || {
        if entries.is_empty() {
            return "There is no registry; create one with: rkube registry create".to_owned();
        }
        let header = ["NAME", "STATE", "REPOSITORIES", "SIZE", "CLUSTERS"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(entries.iter().map(|entry| {
            let state = if entry.running { "running" } else { "stopped" };
            let clusters = match entry.clusters.is_empty() {
                true => "-".to_owned(),
                false => entry.clusters.join(","),
            };
            vec![
                entry.name.clone(),
                state.to_owned(),
                entry.repositories.to_string(),
                size(entry.bytes),
                clusters,
            ]
        }));
        table(&rows)
    });
    Ok(())
}

/// Returns a number of bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}

/// Deletes the registry.
pub async fn delete(home: &Home, output: &Output) -> Result<(), Failure> {
    if !registry_dir(home).exists() {
        output.say("There is no registry, so nothing was deleted.");
        return Ok(());
    }
    let _admin = administer(home).await?;
    for profile in running(home).await? {
        if rkube_cluster::registry_is_known(home, &profile.name)
            && let Err(failure) =
                rkube_cluster::detach_registry(home, &profile, false, output).await
        {
            let why = &failure.message;
            output.warn(&format!(
                "the cluster '{}' was not told that the registry is gone: {why}",
                profile.name
            ));
        }
    }
    end(home).await?;
    output.say("The registry was deleted.");
    Ok(())
}

/// Deletes the registry if there is one, with all clusters.
pub async fn purge(home: &Home, output: &Output) -> Result<(), Failure> {
    match registry_dir(home).exists() {
        true => delete(home, output).await,
        false => Ok(()),
    }
}

/// Ends the process and removes its files.
async fn end(home: &Home) -> Result<(), Failure> {
    rkube_cluster::withdraw_registry(home)?;
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    while runs(home)? {
        if Instant::now() > deadline {
            let why = "the registry's process does not end";
            return Err(Failure::new(Source::Host, Kind::Timeout, why)
                .advise("end the process 'rkube registry serve', and repeat the command"));
        }
        tokio::time::sleep(CHECK_PERIOD).await;
    }
    rkube_cluster::remove_registry(home)
}

/// Enables the addon in a cluster.
pub async fn enable(home: &Home, profile: &Profile, output: &Output) -> Result<(), Failure> {
    let settings = match RegistrySettings::load(home)? {
        Some(settings) => settings,
        None => {
            let args = CreateArgs {
                port: None,
                htpasswd: None,
                auth: "basic".to_owned(),
                max_blob_size: None,
            };
            create(home, &args, output).await?;
            RegistrySettings::load(home)?.ok_or_else(rkube_cluster::no_registry)?
        }
    };
    start(home, &settings).await?;
    attach(home, profile, &settings, output).await
}

/// Starts the process of a registry that exists, unless it runs.
async fn start(home: &Home, settings: &RegistrySettings) -> Result<(), Failure> {
    let _admin = administer(home).await?;
    if RegistrySettings::load(home)?.as_ref() != Some(settings) {
        let why = "another command has changed the registry";
        return Err(Failure::new(Source::Program, Kind::Conflict, why).advise("try again"));
    }
    ensure_process(home, settings).await
}

/// Tells a started cluster of the registry, or that there is none any more.
pub async fn after_start(home: &Home, profile: &Profile, output: &Output) {
    let told = async {
        match RegistrySettings::load(home)? {
            Some(settings) => {
                start(home, &settings).await?;
                match rkube_cluster::registry_is_off(home, &profile.name) {
                    true => Ok(()),
                    false => attach(home, profile, &settings, output).await,
                }
            }
            None if rkube_cluster::registry_is_known(home, &profile.name) => {
                rkube_cluster::detach_registry(home, profile, false, output).await
            }
            None => Ok(()),
        }
    };
    if let Err(failure) = told.await {
        warn(&profile.name, &failure, output);
    }
}

/// Tells the nodes of a cluster that knows the registry its port.
pub async fn tell_nodes(home: &Home, profile: &str, output: &Output) {
    let told = async {
        let Some(settings) = RegistrySettings::load(home)? else {
            return Ok(());
        };
        if !rkube_cluster::registry_is_known(home, profile) {
            return Ok(());
        }
        let profile = Profile::load(home, profile)?;
        rkube_cluster::tell_nodes(home, &profile, settings.port.to_string().as_bytes()).await
    };
    if let Err(failure) = told.await {
        warn(profile, &failure, output);
    }
}
