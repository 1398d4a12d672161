//! `rkube status`

use std::fmt::Write as _;
use std::process::ExitCode;

use rkube_cluster::{Home, Kubeconfig, Profile, default_kubeconfig};
use rkube_failure::Failure;

use super::{Global, Output};

#[derive(clap::Args)]
pub struct Args {}

pub async fn run(
    home: &Home,
    global: &Global,
    _args: Args,
    output: &Output,
) -> Result<ExitCode, Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    let status = rkube_cluster::status(home, &profile, &kubeconfig).await?;
    output.result(&status, || {
        let mut text = String::new();
        for node in &status.nodes {
            let role = if node.worker {
                "Worker"
            } else {
                "Control Plane"
            };
            let _ = write!(
                text,
                "{}\ntype: {role}\nhost: {}\nkubelet: {}\n",
                node.name, node.host, node.kubelet
            );
            if !node.worker {
                let _ = write!(
                    text,
                    "apiserver: {}\nkubeconfig: {}\n",
                    node.api_server, node.kubeconfig
                );
            }
            let _ = writeln!(text, "address: {}\n", node.ip);
        }
        text.truncate(text.trim_end().len());
        text
    });
    Ok(ExitCode::from(status.exit_code()))
}
