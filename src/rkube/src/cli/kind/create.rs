//! `kind create cluster`

use std::ffi::OsString;

use rkube_cluster::{Home, NodeSpec, StartOptions, io_failure};
use rkube_failure::{Failure, Kind, Source};

use super::super::file::File as ClusterFile;
use super::super::settings::Settings;
use super::super::yaml::Document;
use super::super::{Command, Global, Output, args as parser, start, usage_failure};
use super::config::{self, Config};
use super::{CreateArgs, DEFAULT_NAME, READY_TIMEOUT};

/// Creates a cluster and waits until it is ready.
pub(super) async fn run(
    home: &Home,
    settings: &Settings,
    args: CreateArgs,
    output: &Output,
) -> Result<(), Failure> {
    let config = match &args.config {
        Some(path) => config::read(&Document::read(path)?)?,
        None => Config::default(),
    };
    let mut notes = config.notes;
    if let Some(image) = &args.image {
        notes.extend(config::image_note(image).map_err(usage_failure)?);
    }
    for note in &notes {
        rkube_cluster::Progress::warn(output, note);
    }
    let name = args.name.given().or(config.name);
    let name = name.unwrap_or_else(|| DEFAULT_NAME.to_owned());
    rkube_cluster::check_name(&name)?;
    if rkube_cluster::exists(home, &name)? {
        return Err(Failure::new(
            Source::Program,
            Kind::Conflict,
            format!("failed to create cluster: node(s) already exist for a cluster with the name \"{name}\""),
        )
        .advise("choose another name with --name, or delete that cluster first"));
    }
    for mount in config.nodes.iter().flat_map(|node| &node.mounts) {
        // As a container engine does, with its mode: pods of any user may read it.
        if !mount.host.exists() {
            std::fs::create_dir_all(&mount.host)
                .map_err(|e| io_failure("create", &mount.host, &e))?;
        }
    }
    let kubeconfig = args.file.kubeconfig.clone();
    let file = ClusterFile {
        name: Some(name.clone()),
        nodes: match config.nodes.is_empty() {
            true => vec![NodeSpec::default()],
            false => config.nodes,
        },
        families: config.families,
        pods: config.pods,
        services: config.services,
        ..ClusterFile::default()
    };
    let (global, mut defaults) = defaults(settings)?;
    let plan = start::plan(&global, &mut defaults, file, output)?;
    let options = StartOptions {
        driver: driver()?.or(plan.options.driver),
        kind: true,
        retain: args.retain,
        kubeconfig: Some(args.file.get()?),
        set_context: true,
        ..plan.options
    };
    output.say(&format!("Creating cluster \"{name}\" ..."));
    let wait = args.wait.filter(|wait| !wait.is_zero());
    let limit = wait.unwrap_or(READY_TIMEOUT);
    let Some(profile) = start::start(home, &options, Some(limit), output).await? else {
        rkube_cluster::delete(home, &name, options.kubeconfig.as_ref(), output).await?;
        output.finish();
        return Err(Failure::interruption());
    };
    super::super::registry::after_start(home, &profile, output).await;
    let context = profile.context();
    let file = kubeconfig.map_or_else(String::new, |path| {
        format!(" --kubeconfig {}", path.display())
    });
    output.say(&format!(
        "Set kubectl context to \"{context}\"\nYou can now use your cluster with:\n\nkubectl cluster-info --context {context}{file}\n"
    ));
    Ok(())
}

/// Returns the flags of `rkube start` as the environment and the settings have them.
fn defaults(settings: &Settings) -> Result<(Global, start::Args), Failure> {
    let words = ["rkube", "start"].map(OsString::from).to_vec();
    let cli = match parser::parse(words, settings) {
        Ok(parsed) => parsed.cli,
        Err(e) => return Err(usage_failure(e.to_string())),
    };
    let global = Global {
        profile_given: false,
        ..cli.global
    };
    match cli.command {
        Command::Start(args) => Ok((global, *args)),
        _ => Err(usage_failure("the settings are not those of rkube start")),
    }
}

/// Returns the driver that kind's environment names.
fn driver() -> Result<Option<String>, Failure> {
    let set = std::env::var("KIND_EXPERIMENTAL_PROVIDER").unwrap_or_default();
    match set.as_str() {
        "" => Ok(None),
        // The driver works with every engine that has Docker's API.
        "docker" | "podman" | "nerdctl" | "finch" => Ok(Some("docker".to_owned())),
        other => Err(usage_failure(format!(
            "KIND_EXPERIMENTAL_PROVIDER: '{other}' is not docker, podman or nerdctl"
        ))),
    }
}
