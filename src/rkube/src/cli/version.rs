//! `rkube version`

use rkube_cluster::{Home, Profile};
use rkube_failure::{Failure, Kind};

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {
    /// Print only the version of rkube
    #[arg(long)]
    short: bool,
    /// Also print the versions of the nodes of the cluster, which must be running
    #[arg(long)]
    components: bool,
}

/// The commit that this binary was built from, or `unknown`.
const COMMIT: &str = env!("RKUBE_BUILD_COMMIT");

/// Runs the command.
pub async fn run(home: &Home, global: &Global, args: Args, output: &Output) -> Result<(), Failure> {
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    if args.short {
        output.result(&version, || version.clone());
        return Ok(());
    }
    let nodes = match args.components {
        true => nodes(home, global).await?,
        false => Vec::new(),
    };
    let mut value = serde_json::json!({
        "rkubeVersion": version,
        "commit": COMMIT,
        "kubernetesVersion": rkube_config::KUBERNETES_VERSION,
    });
    for (name, version) in &nodes {
        value["components"][name] = version.as_str().into();
    }
    output.result(&value, || {
        let mut text = format!(
            "rkube version: {version}\ncommit: {COMMIT}\nKubernetes version: {}\n",
            rkube_config::KUBERNETES_VERSION
        );
        for (name, version) in &nodes {
            text += &format!("{name}: {version}\n");
        }
        text
    });
    Ok(())
}

/// Returns the versions of the API server and the kubelets.
async fn nodes(home: &Home, global: &Global) -> Result<Vec<(String, String)>, Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let client = rkube_cluster::client(home, &profile).await?;
    let failed = |e: kube::Error| {
        Failure::new(
            rkube_failure::Source::ControlPlane,
            Kind::Unavailable,
            format!("the API server does not respond: {e}"),
        )
        .advise(format!(
            "start the cluster with: {}",
            rkube_failure::command("start", &profile.name)
        ))
    };
    let server = client.apiserver_version().await.map_err(failed)?;
    let api: kube::Api<k8s_openapi::api::core::v1::Node> = kube::Api::all(client);
    let nodes = api.list(&Default::default()).await.map_err(failed)?;
    let mut versions = vec![("apiserver".to_owned(), server.git_version)];
    for node in nodes {
        let name = kube::ResourceExt::name_any(&node);
        let info = node.status.and_then(|status| status.node_info);
        versions.push((
            format!("kubelet of {name}"),
            info.map_or_else(|| "unknown".to_owned(), |info| info.kubelet_version),
        ));
    }
    Ok(versions)
}
