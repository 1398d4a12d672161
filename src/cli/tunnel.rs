//! `rkube tunnel`

use rkube_cluster::{Home, Profile, Progress, TunnelChange};
use rkube_config::Failure;

use super::{Global, Output, interrupted};

pub async fn run(home: &Home, global: &Global, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    output.say(&format!(
        "Giving load balancers of '{}' addresses of {}; Ctrl-C takes them back.",
        profile.name,
        profile.load_balancer_range()
    ));
    rkube_cluster::tunnel(home, &profile, interrupted(), |change| match change {
        TunnelChange::Up {
            service,
            address,
            ports,
        } => {
            let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
            output.say(&format!(
                "{service}   {address}   ports {}",
                ports.join(", ")
            ));
        }
        TunnelChange::Down { service } => output.say(&format!("{service}   withdrawn")),
        TunnelChange::Trouble(what) => output.warn(&what),
    })
    .await
}
