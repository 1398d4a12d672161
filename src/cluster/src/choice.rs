//! Which driver makes a new cluster's nodes.

use ipnet::Ipv4Net;
use rkube_drivers::{ClusterPlan, MachineOptions, Problem};
use rkube_failure::{Failure, Kind, Source};

use crate::files::Home;

/// A driver and what this machine lacks for it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its name.
    pub name: &'static str,
    /// What is missing, with the fix.
    pub problems: Vec<Problem>,
}

impl Candidate {
    /// Whether a cluster can be made with it here.
    pub fn works(&self) -> bool {
        !self.problems.iter().any(|p| p.fatal)
    }
}

/// Asks the driver `name` what it lacks for a new cluster of that profile.
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
            // That no range is free is a problem of its own.
            match driver.free_range(&[]).await {
                Ok(range) => {
                    plan.node_cidr = range;
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

/// Asks every driver, in the order in which they are tried. `machine` is what nodes
/// that are virtual machines would be made of.
pub async fn candidates(home: &Home, profile: &str, machine: &MachineOptions) -> Vec<Candidate> {
    let asked = rkube_drivers::NAMES
        .iter()
        .map(|name| ask(home, profile, machine, name));
    futures::future::join_all(asked).await
}

/// The first driver that works here.
pub(crate) async fn first(
    home: &Home,
    profile: &str,
    machine: &MachineOptions,
) -> Result<&'static str, Failure> {
    let mut why = Vec::new();
    for name in rkube_drivers::NAMES {
        let candidate = ask(home, profile, machine, name).await;
        match candidate.problems.into_iter().find(|p| p.fatal) {
            None => return Ok(name),
            Some(problem) => why.push((name, problem.failure)),
        }
    }
    Err(none_works(why))
}

/// Why nothing can be made here, given what each driver lacks first: the failure of
/// the first one, which is the one most can put right, with
/// the reasons of the others.
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

/// The plan of a cluster of which only the name is known.
pub(crate) fn empty_plan(home: &Home, name: &str) -> ClusterPlan {
    let dir = home.profile_dir(name);
    ClusterPlan {
        name: name.to_owned(),
        run_dir: home.run_dir(name),
        owner_uid: home.owner_uid(),
        binary: dir.join("bin/rkube"),
        dir,
        node_cidr: Ipv4Net::default(),
        loopback_ports: Vec::new(),
        api_port: None,
        ports: Vec::new(),
        machine: rkube_drivers::MachineOptions::from_env(),
        nodes: Vec::new(),
    }
}
