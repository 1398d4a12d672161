//! `rkube update-context`

use rkube_cluster::{Home, Kubeconfig, Profile, default_kubeconfig};
use rkube_failure::Failure;

use super::{Global, Output};

pub async fn run(home: &Home, global: &Global, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    rkube_cluster::write_context(home, &profile, &kubeconfig, false)?;
    output.say(&format!(
        "The context '{}' in {} was updated.",
        profile.context(),
        kubeconfig.path().display()
    ));
    Ok(())
}
