//! `rkube apply`: changes a running cluster to what its cluster file says.

use std::collections::BTreeSet;
use std::path::PathBuf;

use rkube_cluster::addons::{self, Addon, Origin, Status};
use rkube_cluster::apply::{self, Step, Wanted};
use rkube_cluster::{
    Home, Kubeconfig, Profile, default_kubeconfig, io_failure, make_private_dir, write_private,
};
use rkube_failure::{Failure, Kind, Source, command};

use super::file::{self, File};
use super::yaml::Document;
use super::{Global, Output};

/// The addon that holds the manifests of a cluster file.
const MANIFESTS: &str = "manifests";

#[derive(clap::Args)]
#[command(
    after_help = "Lists that the file does not have stay as they are; of a list that it has, the cluster keeps nothing else. `rkube config init` prints the file of a cluster that exists."
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
    /// What was done, or would be.
    changes: Vec<String>,
    /// What takes effect with the next start, or has to wait for a stop.
    restart: Vec<String>,
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
    let profile = Profile::load(home, name).map_err(|failure| {
        if failure.kind != Kind::NotFound {
            return failure;
        }
        let words = format!("start -f {}", args.file.display());
        failure.advise(format!("create it with: {}", command(&words, name)))
    })?;
    super::audit::about(&profile.name);
    check_fixed(&document, &file, &profile)?;
    apply::check_running(home, &profile).await?;
    let actions = actions(home, &document, file, &profile, output).await?;
    let mut report = Report {
        profile: profile.name.clone(),
        dry_run: args.dry_run,
        changes: Vec::new(),
        restart: Vec::new(),
    };
    let mut result = Ok(());
    for action in &actions.all {
        let done = match args.dry_run {
            true => Ok(()),
            false => make(home, &profile.name, action, output).await,
        };
        match done {
            Ok(()) => {
                report.changes.push(action.to_string());
                if matches!(
                    action,
                    Action::AuditPolicy(_) | Action::Cluster(Step::Registries(_))
                ) {
                    report.restart.push(action.to_string());
                }
            }
            // The driver cannot do it while the node runs.
            Err(e) if e.kind == Kind::Conflict && e.source == Source::Driver => {
                report
                    .restart
                    .push(format!("{action} (not done: {})", e.message));
            }
            Err(e) => {
                result = Err(e);
                break;
            }
        }
    }
    if let Some(namespace) = actions
        .namespace
        .filter(|_| !args.dry_run && result.is_ok())
    {
        let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
        kubeconfig.set_namespace(&profile.context(), &namespace)?;
    }
    output.result(&report, || text(&report));
    result
}

fn text(report: &Report) -> String {
    let name = &report.profile;
    if report.changes.is_empty() && report.restart.is_empty() {
        return format!("The cluster '{name}' is as the file says; there is nothing to change.");
    }
    let head = match report.dry_run {
        true => format!("Would change the cluster '{name}':"),
        false => format!("Changed the cluster '{name}':"),
    };
    let mut lines = vec![head];
    lines.extend(report.changes.iter().map(|change| format!("  {change}")));
    if !report.restart.is_empty() {
        lines.push(format!(
            "This needs a restart ({} && {}):",
            command("stop", name),
            command("start", name)
        ));
        lines.extend(report.restart.iter().map(|change| format!("  {change}")));
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
    for (path, wanted, now) in [
        ("networking.nodeSubnet", file.subnet, profile.node_cidr),
        ("networking.podSubnet", file.pods, profile.pod_cidr),
        (
            "networking.serviceSubnet",
            file.services,
            profile.service_cidr,
        ),
    ] {
        if wanted.is_some_and(|wanted| wanted.trunc() != now.trunc()) {
            return differs(path, &now.to_string());
        }
    }
    if let Some(domain) = &file.dns_domain
        && *domain != profile.dns_domain
    {
        return differs("networking.dnsDomain", &profile.dns_domain);
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
    let wanted = Wanted {
        nodes: Some(file.nodes).filter(|nodes| !nodes.is_empty()),
        mounts: Some(file.mounts).filter(|_| has_mounts),
        insecure_registries: Some(file.insecure_registries).filter(|_| has_registries),
    };
    let steps = apply::changes(profile, &wanted).map_err(|why| document.wrong("nodes", why))?;
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
        // The content of a folder may have changed without its version.
        let is_same = |addon: &Addon| {
            !matches!(addon.origin, Origin::Folder(_))
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

async fn make(home: &Home, name: &str, action: &Action, output: &Output) -> Result<(), Failure> {
    match action {
        Action::Cluster(step) => apply::make(home, name, step, output).await,
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

    #[test]
    fn the_report_names_changes_and_what_waits() {
        let mut report = Report {
            profile: "demo".to_owned(),
            dry_run: true,
            changes: Vec::new(),
            restart: Vec::new(),
        };
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
    fn lists_are_told_from_missing_ones() {
        let head = "apiVersion: rkube.dev/v1alpha1\nkind: Cluster\n";
        let read =
            |rest: &str| file::read(&Document::new("c.yaml", format!("{head}{rest}"))).unwrap();
        assert!(!read("").has("addons"));
        assert!(read("addons: []").has("addons") && !read("addons: []").has("mounts"));
    }
}
