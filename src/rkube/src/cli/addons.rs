//! `rkube addons`

use rkube_cluster::addons::{self, Addon, Entry, Manifest, Status};
use rkube_cluster::{Home, Profile, Progress};
use rkube_failure::{Failure, Kind};

use super::output::table;
use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
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
}

pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    match args.command {
        Command::List => list(home, global, output).await,
        Command::Enable { addons } => {
            // Unknown addons are reported before anything is changed.
            let addons = find(home, &addons)?;
            let profile = Profile::load(home, &global.profile)?;
            enable(home, &profile, &addons, output).await
        }
        Command::Disable { addons } => {
            let profile = Profile::load(home, &global.profile)?;
            for name in &addons {
                addons::disable(home, &profile, name, output).await?;
                output.say(&format!("The addon '{name}' was disabled."));
            }
            Ok(())
        }
        Command::Show { addon } => show(home, &addon, output),
    }
}

/// Finds addons by name.
pub fn find(home: &Home, names: &[String]) -> Result<Vec<Addon>, Failure> {
    names.iter().map(|name| addons::find(home, name)).collect()
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
        match addons::enable(home, profile, addon, output).await {
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
    let addon = addons::find(home, name)?;
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
