//! `rkube tunnel`

use rkube_cluster::{Home, Profile, Progress, TunnelChange};
use rkube_failure::{Failure, Kind, Source};

use super::{Global, Output, interrupted};

pub async fn run(home: &Home, global: &Global, output: &Output) -> Result<(), Failure> {
    let profile = Profile::load(home, &global.profile)?;
    if rkube_cluster::tunnel_is_open(home, &profile) {
        return Err(Failure::new(
            Source::Program,
            Kind::Conflict,
            format!("a tunnel for '{}' is already running", profile.name),
        ));
    }
    let range = if rkube_cluster::endpoints(home, &profile)?.routable {
        profile.load_balancer_range().to_string()
    } else {
        "the loopback interface".to_owned()
    };
    output.say(&format!(
        "Services of type LoadBalancer in '{}' get addresses from {range}. Press Ctrl-C to stop.",
        profile.name
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
        TunnelChange::Down { service } => output.say(&format!("{service}   removed")),
        TunnelChange::Trouble(what) => output.warn(&what),
        TunnelChange::Deleted => output.say(&format!(
            "The cluster '{}' was deleted, so the tunnel ends.",
            profile.name
        )),
    })
    .await
}
