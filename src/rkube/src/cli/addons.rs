//! `rkube addons`

use rkube_cluster::addons::{self, Addon, Entry, Manifest, Origin, Status};
use rkube_cluster::{Home, Profile, Progress};
use rkube_failure::{Failure, Kind, command};

use super::minikube::Rest;
use super::output::table;
use super::unsupported::unsupported;
use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

impl Args {
    /// Whether the command prints a list of names.
    pub fn lists(&self) -> bool {
        matches!(self.command, Command::List)
    }
}

#[derive(clap::Subcommand)]
enum Command {
    /// List available addons and whether they are enabled
    List,
    /// Enable addons, or update enabled ones
    Enable {
        /// Names of addons, or paths of directories with an addon.yaml (./my-addon)
        #[arg(required = true, value_name = "ADDON")]
        addons: Vec<String>,
    },
    /// Disable addons and remove everything they installed
    Disable {
        /// Names of addons
        #[arg(required = true, value_name = "NAME")]
        addons: Vec<String>,
    },
    /// Show the description and the manifests of an addon
    Show {
        /// Name of the addon, or path of its directory
        addon: String,
    },
    /// List the images of an addon
    Images {
        /// Name of the addon, or path of its directory
        addon: String,
    },
    /// Open an addon in a web browser
    Open {
        /// Name of the addon
        addon: String,
        /// Print the URL instead of opening a browser
        #[arg(long)]
        url: bool,
        #[command(flatten)]
        _rest: Rest,
    },
    /// Not supported; says how to change an addon
    #[command(hide = true)]
    Configure {
        /// Name of the addon
        addon: String,
        #[command(flatten)]
        _rest: Rest,
    },
}

/// The counterpart of an addon of minikube's.
enum Counterpart {
    /// A part of every cluster, and how it is used.
    BuiltIn(&'static str),
    /// Not available, and what to do instead.
    Missing(&'static str),
}

/// Returns what minikube's addon of that name is here; `None` if it is an addon, too, or unknown.
fn find_counterpart(name: &str) -> Option<Counterpart> {
    Some(match name {
        "dashboard" => Counterpart::BuiltIn("open it with the command dashboard"),
        "default-storageclass" => {
            Counterpart::BuiltIn("the storage class 'standard' is the default")
        }
        "storage-provisioner" | "storage-provisioner-rancher" => {
            Counterpart::BuiltIn("volumes are created when a pod uses their claim")
        }
        "metallb" => Counterpart::BuiltIn(
            "services of type LoadBalancer have addresses as long as the cluster runs",
        ),
        "metrics-server" => Counterpart::BuiltIn("kubectl top and autoscaling work without it"),
        "volumesnapshots" | "csi-hostpath-driver" => {
            Counterpart::Missing("save and restore the whole cluster with the command snapshot")
        }
        "ingress-dns" => Counterpart::Missing(
            "put the host names into /etc/hosts, with the address of the ingress controller",
        ),
        "registry-aliases" => Counterpart::Missing(
            "use the registry by the names that the command registry list shows",
        ),
        "registry-creds" => Counterpart::Missing(
            "give pods imagePullSecrets, or copy images to the nodes with the command image load",
        ),
        "auto-pause" => Counterpart::Missing("an idle cluster needs next to no CPU time"),
        "traefik" | "kong" | "ambassador" | "istio" | "istio-provisioner" | "headlamp"
        | "portainer" | "olm" | "kubevirt" | "volcano" | "yakd" | "efk" | "logviewer"
        | "kubeflow" | "inspektor-gadget" | "kubetail" => {
            Counterpart::Missing("install it as its project says, with kubectl or helm")
        }
        "gcp-auth"
        | "cloud-spanner"
        | "freshpod"
        | "gvisor"
        | "inaccel"
        | "nvidia-device-plugin"
        | "nvidia-driver-installer"
        | "nvidia-gpu-device-plugin"
        | "amd-gpu-device-plugin"
        | "pod-security-policy" => Counterpart::Missing("it needs what rkube's nodes do not have"),
        _ => return None,
    })
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    match args.command {
        Command::List => list(home, global, output).await,
        Command::Enable { addons } => {
            // Unknown addons are reported before anything is changed.
            let addons = find(home, &addons, output)?;
            let profile = Profile::load(home, &global.profile)?;
            enable(home, &profile, &addons, output).await
        }
        Command::Disable { addons } => {
            let profile = Profile::load(home, &global.profile)?;
            for name in &addons {
                if let Some(Counterpart::BuiltIn(how)) = find_counterpart(name) {
                    return Err(unsupported(
                        format!("'{name}' is part of every cluster and cannot be disabled"),
                        how,
                    ));
                }
                if name == rkube_cluster::REGISTRY_ADDON {
                    rkube_cluster::detach_registry(home, &profile, true, output).await?;
                } else {
                    addons::disable(home, &profile, name, output).await?;
                }
                output.say(&format!("The addon '{name}' was disabled."));
            }
            Ok(())
        }
        Command::Show { addon } => show(home, &addon, output),
        Command::Images { addon } => {
            let addon = find_one(home, &addon)?;
            let images = addons::images(&addon).await?;
            output.result(&images, || {
                images.iter().map(|i| format!("{i}\n")).collect()
            });
            Ok(())
        }
        Command::Open { addon, url, .. } if addon == "dashboard" => {
            let args = super::dashboard::Args::of(url);
            super::dashboard::run(home, global, args, output).await
        }
        Command::Open { addon, .. } => Err(unsupported(
            format!("the addon '{addon}' has no page of its own"),
            format!(
                "list the services of the cluster with: {}",
                command("service list", &global.profile)
            ),
        )),
        Command::Configure { addon, .. } => Err(unsupported(
            format!("the addon '{addon}' has no settings"),
            "change its objects with kubectl, or copy its manifests into an addon of your own",
        )),
    }
}

/// Finds addons by name. Says which of them are part of every cluster, and leaves those out.
///
/// # Errors
/// Fails if one of them does not exist.
pub fn find(home: &Home, names: &[String], output: &Output) -> Result<Vec<Addon>, Failure> {
    let mut found = Vec::new();
    for name in names {
        match find_one(home, name) {
            Ok(addon) => {
                if addon.name != *name && !name.contains('/') {
                    output.warn(&format!(
                        "the addon '{name}' is called '{}' here",
                        addon.name
                    ));
                }
                found.push(addon);
            }
            Err(failure) => match find_counterpart(name) {
                Some(Counterpart::BuiltIn(how)) => output.say(&format!(
                    "'{name}' is part of every cluster, so there is nothing to enable: {how}."
                )),
                _ => return Err(failure),
            },
        }
    }
    Ok(found)
}

/// Finds an addon by its name, and says what minikube's addon of that name is here.
fn find_one(home: &Home, name: &str) -> Result<Addon, Failure> {
    let failure = match addons::find(home, name) {
        Err(failure) if failure.kind == Kind::NotFound && !name.contains('/') => failure,
        found => return found,
    };
    match find_counterpart(name) {
        Some(Counterpart::BuiltIn(how)) => Err(unsupported(
            format!("'{name}' is part of every cluster, not an addon"),
            how,
        )),
        Some(Counterpart::Missing(instead)) => Err(failure.advise(instead)),
        None => match super::near(name, &addons::names(home)?) {
            Some(near) => Err(failure.advise(format!("did you mean '{near}'?"))),
            None => Err(failure),
        },
    }
}

/// Enables addons in order. Continues after a failure and returns the first one.
pub async fn enable(
    home: &Home,
    profile: &Profile,
    addons: &[Addon],
    output: &Output,
) -> Result<(), Failure> {
    let mut first: Option<Failure> = None;
    for addon in addons {
        let enabled = match addon.origin {
            // It has a part on this machine.
            Origin::BuiltIn(_) if addon.name == rkube_cluster::REGISTRY_ADDON => {
                super::registry::enable(home, profile, output).await
            }
            _ => addons::enable(home, profile, addon, output).await,
        };
        match enabled {
            Ok(()) => output.say(&format!(
                "The addon '{}' was enabled ({}).",
                addon.name, addon.version
            )),
            Err(failure) if first.is_none() => first = Some(failure),
            Err(failure) => output.warn(&failure.message),
        }
    }
    first.map_or(Ok(()), Err)
}

async fn list(home: &Home, global: &Global, output: &Output) -> Result<(), Failure> {
    let profile = match Profile::load(home, &global.profile) {
        Ok(profile) => Some(profile),
        // The catalogue does not depend on a cluster.
        Err(e) if e.kind == Kind::NotFound => None,
        Err(e) => return Err(e),
    };
    let entries = addons::list(home, profile.as_ref()).await?;
    output.result(&entries, || text(&entries));
    Ok(())
}

fn text(entries: &[Entry]) -> String {
    let header = ["NAME", "STATUS", "VERSION", "DESCRIPTION"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(entries.iter().map(|e| {
        let status = match e.status {
            Status::Enabled => "enabled",
            Status::Disabled => "disabled",
            Status::Incomplete => "incomplete",
            Status::Unknown => "unknown",
        };
        // `addons enable` would update it.
        let status = match &e.enabled_version {
            Some(version) if *version != e.version => format!("{status} ({version})"),
            _ => status.to_owned(),
        };
        vec![
            e.name.clone(),
            status,
            e.version.clone(),
            e.description.clone(),
        ]
    }));
    table(&rows)
}

/// An addon's description.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    name: String,
    description: String,
    version: String,
    homepage: String,
    source: String,
    manifests: Vec<String>,
}

fn show(home: &Home, name: &str, output: &Output) -> Result<(), Failure> {
    let addon = find_one(home, name)?;
    let manifests = addon.manifests.iter().map(|manifest| match manifest {
        Manifest::File(file) => file.clone(),
        Manifest::Url(url, _) => url.clone(),
    });
    let description = Description {
        manifests: manifests.collect(),
        source: addon.origin.to_string(),
        name: addon.name,
        description: addon.description,
        version: addon.version,
        homepage: addon.homepage,
    };
    output.result(&description, || {
        let d = &description;
        let rows = [
            ["Name:", &d.name],
            ["Description:", &d.description],
            ["Version:", &d.version],
            ["Homepage:", &d.homepage],
            ["Source:", &d.source],
        ];
        let mut rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.map(str::to_owned).to_vec())
            .collect();
        for (i, manifest) in d.manifests.iter().enumerate() {
            let title = if i == 0 { "Manifests:" } else { "" };
            rows.push(vec![title.to_owned(), manifest.clone()]);
        }
        table(&rows)
    });
    Ok(())
}
