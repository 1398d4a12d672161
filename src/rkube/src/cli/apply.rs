//! `rkube apply`: changes a running cluster to what its cluster file says.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rkube_cluster::RegistrySources;
use rkube_cluster::addons::{self, Addon, Origin, Status};
use rkube_cluster::apply::{self, DesiredState, Step};
use rkube_cluster::{
    Home, Kubeconfig, Profile, default_kubeconfig, io_failure, make_private_dir, write_private,
};
use rkube_failure::{Failure, Kind, Source, command};

use super::file::{self, File};
use super::yaml::Document;
use super::{Global, Output, interrupted};

/// The addon that holds the manifests of a cluster file.
const MANIFESTS: &str = "manifests";

#[derive(clap::Args)]
#[command(
    after_help = "A list that the file leaves out stays as it is. A list in the file replaces that of the cluster. `rkube config init` prints the file of a cluster that exists."
)]
pub struct Args {
    /// YAML file that describes the cluster; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Print what would change, without changing anything
    #[arg(long)]
    dry_run: bool,
}

/// Something to do.
enum Action {
    /// A change of nodes or their settings.
    Cluster(Step),
    /// Write the API server's audit policy.
    AuditPolicy(Vec<u8>),
    /// Load an image on the nodes.
    Load(String),
    /// Disable an addon.
    Disable(String),
    /// Enable or update an addon, or apply the file's manifests.
    Enable(Addon),
}

impl Action {
    /// Returns the change of nodes or their settings, if it is one.
    fn step(&self) -> Option<&Step> {
        match self {
            Self::Cluster(step) => Some(step),
            _ => None,
        }
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster(step) => step.fmt(f),
            Self::AuditPolicy(_) => f.write_str("replace the API server's audit policy"),
            Self::Load(image) => write!(f, "load the image {image}"),
            Self::Disable(name) if name == MANIFESTS => {
                f.write_str("remove the objects of the manifests")
            }
            Self::Disable(name) => write!(f, "disable the addon {name}"),
            Self::Enable(addon) if addon.name == MANIFESTS => f.write_str("apply the manifests"),
            Self::Enable(addon) => write!(f, "enable the addon {} ({})", addon.name, addon.version),
        }
    }
}

/// The result of the command.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    profile: String,
    dry_run: bool,
    /// Changes that were made, or would be.
    changes: Vec<String>,
    /// Changes that take effect at the next start.
    restart: Vec<String>,
    /// Changes that the driver cannot make while the cluster runs, and that were not made.
    not_done: Vec<String>,
    /// The commands that do it: they stop the cluster, change it and start it.
    commands: Vec<String>,
}

impl Report {
    fn new(profile: &Profile, dry_run: bool) -> Self {
        Self {
            profile: profile.name.clone(),
            dry_run,
            changes: Vec::new(),
            restart: Vec::new(),
            not_done: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// Notes what has to wait for a stop.
    fn add_waiting(&mut self, steps: &[&Step]) {
        let with = |words: &str| command(words, &self.profile);
        self.not_done = steps.iter().map(ToString::to_string).collect();
        let changes = steps.iter().filter_map(|step| step.command());
        let all = std::iter::once("stop".to_owned()).chain(changes);
        let all = all.chain(std::iter::once("start".to_owned()));
        self.commands = all.map(|words| with(&words)).collect();
    }
}

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let document = Document::read(&args.file)?;
    let file = file::read(&document).map_err(|failure| {
        if failure.message.contains("kind: ") || failure.message.contains("apiVersion: ") {
            let words = format!("kubectl -- apply -f {}", args.file.display());
            let advice = command(&words, &global.profile);
            return failure.advise(format!("objects of Kubernetes are applied with: {advice}"));
        }
        failure
    })?;
    let name = match &file.name {
        Some(name) if !global.profile_given => name,
        _ => &global.profile,
    };
    super::audit::about(name);
    let profile = Profile::load(home, name).map_err(|failure| {
        if failure.kind != Kind::NotFound {
            return failure;
        }
        let words = format!("start -f {}", args.file.display());
        failure.advise(format!("create it with: {}", command(&words, name)))
    })?;
    check_fixed(&document, &file, &profile)?;
    let mut interrupt = std::pin::pin!(interrupted());
    let prepare = async {
        apply::check_running(home, &profile).await?;
        actions(home, &document, file, &profile, output).await
    };
    let actions = tokio::select! {
        actions = prepare => actions?,
        () = &mut interrupt => return Err(Failure::interruption()),
    };
    let steps = actions.all.iter().filter_map(Action::step);
    apply::check(&profile, &steps.cloned().collect::<Vec<_>>())?;
    let mut report = Report::new(&profile, args.dry_run);
    let mut waiting: Vec<&Step> = Vec::new();
    let mut result = Ok(());
    for action in &actions.all {
        let step = action.step();
        if let Some(step) = step
            && waiting.iter().any(|other| step.needs(other))
        {
            waiting.push(step);
            continue;
        }
        let done = match args.dry_run {
            true => Ok(()),
            false => make(home, &profile.name, action, &mut interrupt, output).await,
        };
        match done {
            Ok(()) => {
                report.changes.push(action.to_string());
                if matches!(
                    action,
                    Action::AuditPolicy(_)
                        | Action::Cluster(Step::Registries(_) | Step::RegistrySettings(_))
                ) {
                    report.restart.push(action.to_string());
                }
            }
            // The driver cannot do it while the node runs.
            Err(e) if e.kind == Kind::Conflict && e.source == Source::Driver => {
                // Only directories are refused so.
                match step {
                    Some(step) if step.command().is_some() => waiting.push(step),
                    _ => {
                        result = Err(e);
                        break;
                    }
                }
            }
            Err(e) => {
                result = Err(e);
                break;
            }
        }
    }
    if !args.dry_run {
        super::image::catch_up::run(home, &profile.name, output).await;
    }
    if !waiting.is_empty() {
        report.add_waiting(&waiting);
        if result.is_ok() {
            result = Err(not_done(&report, &profile));
        }
    }
    if let Some(namespace) = actions
        .namespace
        .filter(|_| !args.dry_run && (result.is_ok() || !waiting.is_empty()))
    {
        let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
        kubeconfig.set_namespace(&profile.context(), &namespace)?;
    }
    output.result(&report, || text(&report));
    result
}

/// Returns the failure for what the driver cannot change while the cluster runs.
fn not_done(report: &Report, profile: &Profile) -> Failure {
    let (count, driver) = (report.not_done.len(), &profile.driver);
    Failure::new(
        Source::Driver,
        Kind::Conflict,
        format!(
            "{count} change{} not done: the driver {driver} cannot change the directories of a running node",
            if count == 1 { " was" } else { "s were" }
        ),
    )
    .advise(format!("run: {}", report.commands.join(" && ")))
}

fn text(report: &Report) -> String {
    let name = &report.profile;
    if report.changes.is_empty() && report.not_done.is_empty() {
        return format!("The cluster '{name}' is as the file says; there is nothing to change.");
    }
    let head = match report.dry_run {
        true => format!("Would change the cluster '{name}':"),
        false => format!("Changed the cluster '{name}':"),
    };
    let mut lines = Vec::new();
    if !report.changes.is_empty() {
        lines.push(head);
    }
    lines.extend(report.changes.iter().map(|change| format!("  {change}")));
    if !report.restart.is_empty() {
        lines.push(format!(
            "This needs a restart ({} && {}):",
            command("stop", name),
            command("start", name)
        ));
        lines.extend(report.restart.iter().map(|change| format!("  {change}")));
    }
    if !report.not_done.is_empty() {
        lines.push("Not done, as the cluster must be stopped for it:".to_owned());
        lines.extend(report.not_done.iter().map(|change| format!("  {change}")));
        lines.push("These commands do it:".to_owned());
        lines.extend(report.commands.iter().map(|words| format!("  {words}")));
    }
    lines.join("\n")
}

/// Fails at the place of a field that a cluster cannot change.
fn check_fixed(document: &Document, file: &File, profile: &Profile) -> Result<(), Failure> {
    let differs = |path: &str, now: &str| {
        let why = format!("a cluster cannot change it; it is {now}");
        let again = format!(
            "to create the cluster again, first run: {}",
            command("delete", &profile.name)
        );
        Err(document.wrong(path, why).advise(again))
    };
    if let Some(driver) = &file.driver
        && *driver != profile.driver
    {
        return differs("driver", &profile.driver);
    }
    for (path, wanted, now) in [("networking.nodeSubnet", file.subnet, profile.node_cidr)] {
        if wanted.is_some_and(|wanted| wanted.trunc() != now.trunc()) {
            return differs(path, &now.to_string());
        }
    }
    let place = profile.ipv6.map(|ipv6| ipv6.place);
    let families = rkube_cluster::Families(place);
    if file.families.is_some_and(|wanted| wanted != families) {
        return differs("networking.ipFamilies", &families.to_string());
    }
    let ipv6 = profile.ipv6;
    for (path, wanted, ipv4, ipv6) in [
        (
            "networking.podSubnet",
            file.pods,
            profile.pod_cidr,
            ipv6.map(|ipv6| ipv6.pod_cidr),
        ),
        (
            "networking.serviceSubnet",
            file.services,
            profile.service_cidr,
            ipv6.map(|ipv6| ipv6.service_cidr),
        ),
    ] {
        let Some(wanted) = wanted else { continue };
        let other = wanted
            .ipv4
            .is_some_and(|range| range.trunc() != ipv4.trunc())
            || wanted.ipv6.is_some_and(|range| Some(range.trunc()) != ipv6);
        if other {
            let now = rkube_cluster::Cidrs {
                ipv4: Some(ipv4),
                ipv6,
            };
            return differs(path, &now.to_string());
        }
    }
    if let Some(domain) = &file.dns_domain
        && *domain != profile.dns_domain
    {
        return differs("networking.dnsDomain", &profile.dns_domain);
    }
    if let Some(on) = file.load_balancer
        && on == profile.no_load_balancer
    {
        return differs("networking.loadBalancer", &(!on).to_string());
    }
    if let Some(store) = &file.store
        && profile.store != Some(store.config(&profile.name))
    {
        return differs("store", "another one");
    }
    if !file.machine.is_default() && file.machine != profile.machine {
        return differs("machine", "another one");
    }
    Ok(())
}

/// All that is to do.
struct Actions {
    all: Vec<Action>,
    /// The namespace of the kubeconfig's context, if the file has one.
    namespace: Option<String>,
}

/// Compares a cluster with its file.
async fn actions(
    home: &Home,
    document: &Document,
    file: File,
    profile: &Profile,
    output: &Output,
) -> Result<Actions, Failure> {
    let (has_mounts, has_registries) = (file.has("mounts"), file.has("insecureRegistries"));
    let (has_addons, has_manifests) = (file.has("addons"), file.has("manifests"));
    let wanted = DesiredState {
        nodes: Some(file.nodes).filter(|nodes| !nodes.is_empty()),
        mounts: Some(file.mounts).filter(|_| has_mounts),
        insecure_registries: Some(file.insecure_registries).filter(|_| has_registries),
        registries: Some(
            RegistrySources {
                section: file.registries,
                has_extra_ca: file.extra_ca.is_some(),
                extra_ca: file.extra_ca.unwrap_or_default(),
                ..RegistrySources::default()
            }
            .read()?,
        ),
    };
    let mut steps = apply::changes(profile, &wanted).map_err(|why| document.wrong("nodes", why))?;
    apply::add_starts(&mut steps, apply::down(home, profile).await?);
    let mut all: Vec<Action> = steps.into_iter().map(Action::Cluster).collect();
    if let Some(path) = &file.audit_policy {
        let wanted = std::fs::read(path).map_err(|e| io_failure("read", path, &e))?;
        // A policy that is missing differs.
        let now = std::fs::read(audit_policy(home, &profile.name)).ok();
        if now.as_ref() != Some(&wanted) {
            all.push(Action::AuditPolicy(wanted));
        }
    }
    all.extend(file.images.into_iter().map(Action::Load));
    let manifests = file::manifests(&file.manifests)?;
    if has_addons || has_manifests {
        let found = super::addons::find(home, &file.addons, output)?;
        let there = addons::list(home, Some(profile)).await?;
        let wanted: BTreeSet<&str> = found.iter().map(|addon| addon.name.as_str()).collect();
        for entry in &there {
            let is_enabled = matches!(entry.status, Status::Enabled | Status::Incomplete);
            let goes = match entry.name.as_str() {
                MANIFESTS => has_manifests && manifests.is_none(),
                name => has_addons && !wanted.contains(name),
            };
            if is_enabled && goes {
                // First: its pods need not leave the nodes that go.
                all.insert(0, Action::Disable(entry.name.clone()));
            }
        }
        // The content of a directory may have changed without its version.
        let is_same = |addon: &Addon| {
            !matches!(addon.origin, Origin::Directory(_))
                && there.iter().any(|entry| {
                    let same = entry.enabled_version.as_ref() == Some(&addon.version);
                    entry.name == addon.name && entry.status == Status::Enabled && same
                })
        };
        let fresh = found.into_iter().filter(|addon| !is_same(addon));
        all.extend(fresh.map(Action::Enable));
    }
    all.extend(manifests.map(Action::Enable));
    Ok(Actions {
        all,
        namespace: file.namespace,
    })
}

fn audit_policy(home: &Home, profile: &str) -> PathBuf {
    home.profile_dir(profile).join("audit-policy.yaml")
}

/// Carries out an action until it ends or `interrupt` completes. A node that is being added is taken
/// away again then; other actions stop where they are, and can be repeated.
async fn make(
    home: &Home,
    name: &str,
    action: &Action,
    mut interrupt: impl Future<Output = ()> + Unpin,
    output: &Output,
) -> Result<(), Failure> {
    if let Action::Cluster(step @ Step::Add(_)) = action {
        return apply::make(home, name, step, interrupt, output).await;
    }
    tokio::select! {
        done = make_other(home, name, action, output) => done,
        () = &mut interrupt => Err(Failure::interruption()),
    }
}

async fn make_other(
    home: &Home,
    name: &str,
    action: &Action,
    output: &Output,
) -> Result<(), Failure> {
    match action {
        Action::Cluster(step) => {
            apply::make(home, name, step, std::future::pending(), output).await
        }
        Action::AuditPolicy(text) => {
            let _lock = home.lock(name)?;
            make_private_dir(&home.profile_dir(name))?;
            write_private(&audit_policy(home, name), text)
        }
        Action::Load(image) => super::load::run(home, name, vec![image.clone()], output).await,
        Action::Disable(addon) => {
            let profile = Profile::load(home, name)?;
            addons::disable(home, &profile, addon, output).await
        }
        Action::Enable(addon) => {
            let profile = Profile::load(home, name)?;
            addons::enable(home, &profile, addon, output).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(dry_run: bool) -> Report {
        Report {
            profile: "demo".to_owned(),
            dry_run,
            changes: Vec::new(),
            restart: Vec::new(),
            not_done: Vec::new(),
            commands: Vec::new(),
        }
    }

    #[test]
    fn the_report_names_changes_and_those_that_wait() {
        let mut report = report(true);
        assert!(text(&report).contains("nothing to change"));
        report
            .changes
            .push(Action::Load("app.tar".to_owned()).to_string());
        assert_eq!(
            text(&report),
            "Would change the cluster 'demo':\n  load the image app.tar"
        );
        report.dry_run = false;
        let registries = Action::Cluster(Step::Registries(vec!["r:5000".to_owned()]));
        report.restart.push(registries.to_string());
        let text = text(&report);
        assert!(text.starts_with("Changed the cluster 'demo':"), "{text}");
        assert!(
            text.contains("rkube stop -p demo && rkube start -p demo"),
            "{text}"
        );
    }

    #[test]
    fn changes_that_need_a_stop_have_commands() {
        let unmount = Step::Unmount {
            node: None,
            path: "/b".into(),
        };
        let mount = Step::Mount {
            node: Some("demo-m02".to_owned()),
            mount: "/a:/b".parse().unwrap(),
        };
        let mut report = report(false);
        report.add_waiting(&[&unmount, &mount]);
        assert_eq!(
            report.commands,
            [
                "rkube stop -p demo",
                "rkube mount --remove /b -p demo",
                "rkube mount /a:/b --node demo-m02 -p demo",
                "rkube start -p demo",
            ]
        );
        let text = text(&report);
        assert!(
            text.starts_with("Not done, as the cluster must be stopped for it:\n  unmount /b"),
            "{text}"
        );
        assert!(text.ends_with("\n  rkube start -p demo"), "{text}");
    }

    #[test]
    fn empty_and_missing_lists_are_distinguished() {
        let head = "apiVersion: rkube.dev/v1alpha1\nkind: Cluster\n";
        let read =
            |rest: &str| file::read(&Document::new("c.yaml", format!("{head}{rest}"))).unwrap();
        assert!(!read("").has("addons"));
        assert!(read("addons: []").has("addons") && !read("addons: []").has("mounts"));
    }
}
