//! Checks the laws with the API server of this workspace, in one process.

use rkube_differential::own::Own;
use rkube_differential::{Generator, laws};

/// Number of cases that run with all tests. `RKUBE_DIFFERENTIAL_CASES` sets another number, and
/// `RKUBE_DIFFERENTIAL_SEED` another seed.
const CASES: u64 = 1500;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_obeys_the_laws() {
    let own = Own::start().await.unwrap();
    let server = own.server("laws");
    server.prepare().await.unwrap();
    let seed = setting("RKUBE_DIFFERENTIAL_SEED", 1);
    let generator = Generator::new(seed, "").unwrap();
    let mut accepted = 0;
    let mut broken = Vec::new();
    let cases = setting("RKUBE_DIFFERENTIAL_CASES", CASES);
    for number in 0..cases {
        let case = generator.case(number);
        let outcome = laws::run(&server, &case).await.unwrap();
        if number < generator.valid() {
            assert!(outcome.accepted, "refused: {}", case.object);
        }
        accepted += u64::from(outcome.accepted);
        for breach in outcome.breaches {
            let (kind, changes) = (&case.resource.kind, case.changes.join(" "));
            broken.push(format!(
                "case {number}, {kind}, {changes}: {}\n  {}\n    {}",
                breach.law, case.object, breach.detail
            ));
        }
    }
    assert!(
        accepted > cases / 4,
        "only {accepted} of {cases} objects were accepted"
    );
    assert!(
        broken.is_empty(),
        "{} breaches with seed {seed}:\n{}",
        broken.len(),
        broken.join("\n")
    );
}
