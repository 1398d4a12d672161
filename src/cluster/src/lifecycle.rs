//! Starts, stops and deletes clusters.

use std::time::{Duration, Instant};

use rkube_drivers::{Driver, HostMount};
use rkube_failure::{Failure, Kind, Source, command};

use crate::Progress;
use crate::access;
use crate::choice::empty_plan;
use crate::files::{Home, io_failure, make_private_dir, remove_tree, write_private};
use crate::kubeconfig::Kubeconfig;
use crate::pause;
use crate::plan::{StartOptions, new_profile, usage, warn_of_ignored};
use crate::profile::{Profile, check_name};
use crate::provision::{AUDIT_POLICY, provision};
use crate::publish;
use crate::ready::{RestartedNodes, wait_for_api, wait_for_nodes};
use crate::reservation::Reservation;
use crate::schedule;

/// A cluster that was started.
#[derive(Debug)]
pub struct Started {
    /// The cluster.
    pub profile: Profile,
    restarted: RestartedNodes,
}

/// Starts a cluster and creates it first if it does not exist. Removes everything again
/// if the first start fails. Does not wait for the nodes: see [`wait_ready`].
///
/// The future must not be dropped before it completes: the driver would continue its step.
pub async fn start(
    home: &Home,
    options: &StartOptions,
    progress: &dyn Progress,
) -> Result<Started, Failure> {
    check_name(&options.profile)?;
    // Read before anything is created.
    let audit_policy = match &options.audit_policy {
        Some(file) => Some(std::fs::read(file).map_err(|e| io_failure("read", file, &e))?),
        None => None,
    };
    let _lock = home.lock(&options.profile)?;
    // The reservation is held until the nodes run, and with them their network.
    let (mut profile, _reservation, new) = load_or_create(home, options, progress).await?;
    take_over_options(home, &mut profile, options, progress).await?;
    check_options(&profile, options)?;
    if let Some(text) = &audit_policy {
        let dir = home.profile_dir(&profile.name);
        make_private_dir(&dir)?;
        write_private(&dir.join(AUDIT_POLICY), text)?;
    }
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let restarted = match new {
        true => RestartedNodes::none(),
        // If the states are not available, the start below reports why.
        false => RestartedNodes::stopped(driver.as_ref(), home, &profile)
            .await
            .unwrap_or_else(|_| RestartedNodes::none()),
    };
    if !new {
        // A frozen node would take part in nothing.
        pause::resume(home, &profile, driver.as_ref(), progress).await?;
    }
    let started = start_profile(home, &mut profile, driver.as_ref(), options, progress).await;
    match started {
        Ok(()) => Ok(Started { profile, restarted }),
        Err(failure) => {
            if new && !options.retain {
                undo(home, &profile, driver.as_ref()).await;
            }
            Err(failure)
        }
    }
}

/// Loads a cluster or plans a new one, and reserves its network. Returns whether the cluster is new.
async fn load_or_create(
    home: &Home,
    options: &StartOptions,
    progress: &dyn Progress,
) -> Result<(Profile, Reservation, bool), Failure> {
    if let Some(profile) = Profile::try_load(home, &options.profile)? {
        warn_of_ignored(&profile, options, progress);
        let reservation = Reservation::of(profile.node_cidr)?;
        return Ok((profile, reservation, false));
    }
    let (profile, reservation) = new_profile(home, options).await.inspect_err(|_| {
        home.forget_lock(&options.profile);
        home.tidy();
    })?;
    Ok((profile, reservation, true))
}

/// Takes over the options that an existing cluster can change, and warns of those that need a
/// restart.
async fn take_over_options(
    home: &Home,
    profile: &mut Profile,
    options: &StartOptions,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let registries = &options.insecure_registries;
    if !registries.is_empty() {
        if profile.insecure_registries != *registries {
            warn_of_restart(home, profile, "--insecure-registry takes effect", progress).await?;
        }
        profile.insecure_registries.clone_from(registries);
    }
    let excluded = crate::registries::no_proxy(profile);
    let settings = options.registries.applied(&profile.registries, &excluded);
    if profile.registries != settings {
        let change = "the settings of registries and proxies take effect";
        warn_of_restart(home, profile, change, progress).await?;
        profile.registries = settings;
    }
    if let Some(cache) = &options.image_cache
        && profile.image_cache != *cache
    {
        warn_of_restart(home, profile, "--image-cache takes effect", progress).await?;
        profile.image_cache.clone_from(cache);
    }
    let kubelet = options.kubelet.applied(&profile.kubelet);
    rkube_resource_managers::Settings::parse(&kubelet.resources)
        .map_err(|e| usage(format!("--extra-config=kubelet…: {e}")))?;
    if profile.kubelet != kubelet {
        let change = "the options of the kubelet take effect";
        warn_of_restart(home, profile, change, progress).await?;
        profile.kubelet = kubelet;
    }
    if let Some(off) = options.no_load_balancer
        && profile.no_load_balancer != off
    {
        let change = "--no-load-balancer takes effect";
        warn_of_restart(home, profile, change, progress).await?;
        profile.no_load_balancer = off;
    }
    Ok(())
}

/// Warns that a change takes effect after a restart, if the cluster runs.
async fn warn_of_restart(
    home: &Home,
    profile: &Profile,
    change: &str,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let driver = rkube_drivers::by_name(&profile.driver)?;
    if driver.is_up(&profile.plan(home)).await {
        progress.warn(&format!(
            "{change} after a restart: {} && {}",
            command("stop", &profile.name),
            command("start", &profile.name)
        ));
    }
    Ok(())
}

/// Fails if the options ask for a mount that the cluster was created without.
fn check_options(profile: &Profile, options: &StartOptions) -> Result<(), Failure> {
    let missing = |mount: &&HostMount| !profile.mounts.contains(mount);
    let Some(mount) = options.mounts.iter().find(missing) else {
        return Ok(());
    };
    Err(Failure::new(
        Source::Program,
        Kind::Conflict,
        format!("the cluster '{}' was created without {mount}", profile.name),
    )
    .advise(format!(
        "add the directory with: {}",
        command(&format!("mount {mount}"), &profile.name)
    )))
}

async fn start_profile(
    home: &Home,
    profile: &mut Profile,
    driver: &dyn Driver,
    options: &StartOptions,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    if !driver.is_up(&profile.plan(home)).await {
        progress.step(
            "preflight",
            &format!("Checking the machine for the {} driver", driver.name()),
        );
        for problem in driver.preflight(&profile.plan(home)).await {
            if problem.fatal {
                return Err(problem.failure);
            }
            let advice = problem
                .failure
                .advice
                .map(|a| format!(" ({a})"))
                .unwrap_or_default();
            progress.warn(&format!("{}{advice}", problem.failure.message));
        }
        publish::check(profile.all_ports())?;
        if driver.publishes() {
            publish::assign(home, profile)?;
        }
    }
    let plan = profile.plan(home);
    progress.step("certificates", "Preparing certificates and configuration");
    profile.save(home)?;
    if let Some(store) = &options.store
        && profile.store.is_some()
    {
        let pki = home.profile_dir(&profile.name).join("pki");
        make_private_dir(&pki)?;
        store.keep_files(&pki)?;
    }
    provision(home, profile, &driver.binary().await?)?;

    let wanted = running(profile);
    let count = wanted.len();
    progress.step(
        "nodes",
        &format!(
            "Starting {count} {} node{}",
            driver.name(),
            if count == 1 { "" } else { "s" }
        ),
    );
    driver.start(&plan, &wanted).await?;

    if let Some(kubeconfig) = &options.kubeconfig {
        kubeconfig.put(&access::entry(home, profile)?, options.set_context)?;
    }
    Ok(())
}

/// Waits until the API server and all nodes that are not stopped are ready.
pub async fn wait_ready(
    home: &Home,
    started: &Started,
    limit: Duration,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let profile = &started.profile;
    progress.step("control-plane", "Waiting for the API server");
    let client = access::client(home, profile).await?;
    let deadline = Instant::now() + limit;
    wait_for_api(&client, &profile.name, deadline).await?;
    progress.step("ready", "Waiting for the nodes to be ready");
    wait_for_nodes(
        &client,
        &profile.name,
        &running(profile),
        &started.restarted,
        deadline,
    )
    .await
}

/// Returns the names of the nodes that are not stopped.
pub(crate) fn running(profile: &Profile) -> Vec<String> {
    profile
        .nodes
        .iter()
        .filter(|n| !n.stopped)
        .map(|n| n.name.clone())
        .collect()
}

/// Writes the cluster's entry to `kubeconfig` and makes it the current context. With `internal`, the
/// address of the API server is that for containers in the cluster's network.
pub fn write_context(
    home: &Home,
    profile: &Profile,
    kubeconfig: &Kubeconfig,
    internal: bool,
) -> Result<(), Failure> {
    kubeconfig.put(&access::entry_for(home, profile, internal)?, true)
}

/// Writes the cluster's entry to `kubeconfig`, and leaves the current context as it is.
pub fn update_entry(
    home: &Home,
    profile: &Profile,
    kubeconfig: &Kubeconfig,
) -> Result<(), Failure> {
    kubeconfig.put(&access::entry_for(home, profile, false)?, false)
}

async fn undo(home: &Home, profile: &Profile, driver: &dyn Driver) {
    // The caller reports the failure that led here.
    let _ = driver.destroy(&profile.plan(home)).await;
    let _ = remove_tree(&home.profile_dir(&profile.name));
    home.forget_lock(&profile.name);
    home.tidy();
}

/// Stops a cluster and keeps its data.
pub async fn stop(home: &Home, name: &str, progress: &dyn Progress) -> Result<(), Failure> {
    let (_lock, profile) = Profile::lock(home, name)?;
    stop_locked(home, &profile, progress).await
}

/// Stops a cluster if the schedule `id` is still its schedule. The lock prevents that the schedule is
/// cancelled or replaced between the check and the stop.
pub(crate) async fn stop_scheduled(
    home: &Home,
    name: &str,
    id: &str,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    let (_lock, profile) = Profile::lock(home, name)?;
    match schedule::is_scheduled(home, name, id)? {
        true => stop_locked(home, &profile, progress).await,
        false => Ok(()),
    }
}

async fn stop_locked(
    home: &Home,
    profile: &Profile,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    // As minikube: a stop takes the place of the one that was going to happen.
    schedule::withdraw(home, &profile.name)?;
    crate::docker::withdraw(home, &profile.name)?;
    let driver = rkube_drivers::by_name(&profile.driver)?;
    let nodes: Vec<String> = profile.nodes.iter().map(|n| n.name.clone()).collect();
    progress.step(
        "stop",
        &format!(
            "Stopping {} node{}",
            nodes.len(),
            if nodes.len() == 1 { "" } else { "s" }
        ),
    );
    crate::paused::release_to_stop(home, profile, driver.as_ref(), progress).await;
    driver.stop(&profile.plan(home), &nodes).await
}

/// Returns whether a cluster of that name, or a remainder of one, exists.
pub fn exists(home: &Home, name: &str) -> Result<bool, Failure> {
    check_name(name)?;
    Ok(home.profile_dir(name).exists() || home.run_dir(name).exists())
}

/// Deletes a cluster and all its data, whatever state it is in.
pub async fn delete(
    home: &Home,
    name: &str,
    kubeconfig: Option<&Kubeconfig>,
    progress: &dyn Progress,
) -> Result<(), Failure> {
    check_name(name)?;
    let dir = home.profile_dir(name);
    let run_dir = home.run_dir(name);
    if !dir.exists() && !run_dir.exists() {
        return Err(Failure::new(
            Source::Guest,
            Kind::NotFound,
            format!("the cluster '{name}' does not exist"),
        )
        .advise("list clusters with: rkube profile list"));
    }
    let _lock = home.lock(name)?;
    progress.step("delete", &format!("Deleting the cluster '{name}'"));
    let profile = match Profile::try_load(home, name) {
        Ok(profile) => profile,
        Err(e) => {
            progress.warn(&format!(
                "{}; deleting everything that can be found",
                e.message
            ));
            None
        }
    };
    match &profile {
        Some(profile) => {
            let driver = rkube_drivers::by_name(&profile.driver)?;
            crate::paused::release_to_stop(home, profile, driver.as_ref(), progress).await;
            driver.destroy(&profile.plan(home)).await?;
        }
        None => destroy_by_name(home, name, progress).await?,
    }
    if let Some(store) = profile.as_ref().and_then(|p| p.store.as_ref())
        && let Err(why) = crate::store::wipe(store, &dir.join("pki")).await
    {
        progress.warn(&format!(
            "the cluster's data in etcd below {} was not deleted: {why}",
            store.root
        ));
    }
    if let Some(kubeconfig) = kubeconfig {
        match &profile {
            Some(profile) => kubeconfig.remove(&profile.context())?,
            None => kubeconfig.remove(name)?,
        }
    }
    remove_tree(&dir)?;
    home.forget_lock(name);
    home.tidy();
    Ok(())
}

/// Removes the remains of a cluster with all drivers, by its name. Used if the profile is damaged
/// or missing, so that its driver is not known.
async fn destroy_by_name(home: &Home, name: &str, progress: &dyn Progress) -> Result<(), Failure> {
    let plan = empty_plan(home, name);
    for driver in rkube_drivers::NAMES {
        // Drivers that this build does not have created nothing.
        let Ok(driver) = rkube_drivers::by_name(driver) else {
            continue;
        };
        if let Err(e) = driver.destroy(&plan).await {
            // A driver that is not usable has most likely created nothing.
            if driver.preflight(&plan).await.iter().any(|p| p.fatal) {
                progress.warn(&format!(
                    "nodes of the {} driver, if any, were not deleted: {}",
                    driver.name(),
                    e.message
                ));
            } else {
                return Err(e);
            }
        }
    }
    Ok(())
}
