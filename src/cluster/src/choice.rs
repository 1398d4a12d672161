//! The choice of a driver for a new cluster.

use ipnet::Ipv4Net;
use rkube_drivers::{ClusterPlan, MachineOptions, Problem};
use rkube_failure::{Failure, Kind, Source};

use crate::files::Home;
use crate::plan::StartOptions;
use crate::reservation::Reservation;

/// A driver and the requirements that the host does not meet.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The driver's name.
    pub name: &'static str,
    /// The unmet requirements, with advice.
    pub problems: Vec<Problem>,
}

impl Candidate {
    /// Whether the driver can create a cluster on this host.
    pub fn works(&self) -> bool {
        !self.problems.iter().any(|p| p.fatal)
    }
}

/// Checks the requirements of a driver for a new cluster with this profile.
pub(crate) async fn ask(
    home: &Home,
    profile: &str,
    machine: &MachineOptions,
    name: &'static str,
) -> Candidate {
    let problems = match rkube_drivers::by_name(name) {
        Ok(driver) => {
            let mut plan = ClusterPlan {
                machine: machine.clone(),
                ..empty_plan(home, profile)
            };
            // A missing free range is reported only if the driver has no other fatal problem.
            match Reservation::choose(driver.as_ref(), &[]).await {
                Ok(reservation) => {
                    plan.node_cidr = reservation.range;
                    driver.preflight(&plan).await
                }
                Err(failure) => {
                    let mut problems = driver.preflight(&plan).await;
                    if !problems.iter().any(|p| p.fatal) {
                        problems.push(Problem {
                            failure,
                            fatal: true,
                        });
                    }
                    problems
                }
            }
        }
        Err(failure) => vec![Problem {
            failure,
            fatal: true,
        }],
    };
    Candidate { name, problems }
}

/// Checks all drivers, in the order in which they are tried. `machine` holds the options of
/// virtual-machine nodes.
pub async fn candidates(home: &Home, profile: &str, machine: &MachineOptions) -> Vec<Candidate> {
    let asked = rkube_drivers::NAMES
        .iter()
        .map(|name| ask(home, profile, machine, name));
    futures::future::join_all(asked).await
}

/// Returns the first usable driver that can do what the options ask for.
pub(crate) async fn first(home: &Home, options: &StartOptions) -> Result<&'static str, Failure> {
    let mut why = Vec::new();
    for name in rkube_drivers::NAMES {
        let driver = rkube_drivers::by_name(name);
        if let Some(failure) = driver.ok().and_then(|driver| options.unsuitable(&*driver)) {
            why.push((name, failure));
            continue;
        }
        let candidate = ask(home, &options.profile, &options.machine, name).await;
        match candidate.problems.into_iter().find(|p| p.fatal) {
            None => return Ok(name),
            Some(problem) => why.push((name, problem.failure)),
        }
    }
    Err(none_works(why))
}

/// Combines the first problem of each driver into one failure. Its kind and advice are those of the
/// first driver, whose problem most users can fix.
pub fn none_works(why: Vec<(&'static str, Failure)>) -> Failure {
    let text: Vec<String> = why
        .iter()
        .map(|(name, failure)| format!("{name}: {}", failure.message))
        .collect();
    let (source, kind, advice) = why
        .into_iter()
        .next()
        .map_or((Source::Driver, Kind::NotFound, None), |(_, failure)| {
            (failure.source, failure.kind, failure.advice)
        });
    let failure = Failure::new(
        source,
        kind,
        format!("no driver works here: {}", text.join("; ")),
    );
    match advice {
        Some(advice) => failure.advise(format!("{advice}; all fixes: rkube driver list")),
        None => failure,
    }
}

/// Returns the plan of a cluster whose name is all that is known.
pub(crate) fn empty_plan(home: &Home, name: &str) -> ClusterPlan {
    let dir = home.profile_dir(name);
    ClusterPlan {
        name: name.to_owned(),
        run_dir: home.run_dir(name),
        owner_uid: home.owner_uid(),
        binary: dir.join("bin/rkube"),
        dir,
        node_cidr: Ipv4Net::default(),
        ipv6: None,
        loopback_ports: Vec::new(),
        api_port: None,
        ports: Vec::new(),
        machine: rkube_drivers::MachineOptions::from_env(),
        nodes: Vec::new(),
    }
}
