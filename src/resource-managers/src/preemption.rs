//! Chooses the pods that go so that a critical pod can be admitted.

use std::collections::BTreeMap;

/// A missing amount of a resource.
pub type Missing = BTreeMap<String, i64>;

/// A class of pods in the order in which they go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Pods without requests.
    BestEffort,
    /// Pods with some.
    Burstable,
    /// Pods whose limits are their requests.
    Guaranteed,
}

/// A pod that may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The pod's UID.
    pub uid: String,
    /// Its class.
    pub class: Class,
    /// Its requests by resource name: milli-CPUs, bytes, and one of `pods`.
    pub requests: BTreeMap<String, i64>,
}

impl Victim {
    fn request(&self, name: &str) -> i64 {
        self.requests.get(name).copied().unwrap_or(0)
    }

    /// Returns whether the pod requests less memory, or as much and less CPU.
    fn is_smaller(&self, other: &Self) -> bool {
        let key = |v: &Self| (v.request("memory"), v.request("cpu"));
        key(self) < key(other)
    }
}

/// Returns what is missing after some pods went.
fn without<'a>(missing: &Missing, gone: impl IntoIterator<Item = &'a Victim> + Clone) -> Missing {
    missing
        .iter()
        .map(|(name, amount)| {
            let freed = gone.clone().into_iter().map(|v| v.request(name));
            (name.clone(), freed.fold(*amount, i64::saturating_sub))
        })
        .filter(|(_, amount)| *amount > 0)
        .collect()
}

fn text(missing: &Missing) -> String {
    let each = missing
        .iter()
        .map(|(name, amount)| format!("(res: {name}, q: {amount}), "));
    format!("[{}]", each.collect::<String>())
}

fn impossible(missing: &Missing) -> String {
    format!(
        "no set of running pods found to reclaim resources: {}",
        text(missing)
    )
}

/// Returns how much of what is missing a pod does not free, from 0 to the number of resources.
fn distance(missing: &Missing, pod: &Victim) -> f64 {
    let part = |(name, amount): (&String, &i64)| {
        let left = amount.saturating_sub(pod.request(name)).max(0);
        (left as f64 / *amount as f64).powi(2)
    };
    missing.iter().map(part).sum()
}

/// Chooses few and small pods of one class that free what is missing.
fn choose(mut pods: Vec<Victim>, mut missing: Missing) -> Result<Vec<Victim>, String> {
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let mut best: Option<(usize, f64)> = None;
        for (i, pod) in pods.iter().enumerate() {
            let own = distance(&missing, pod);
            let is_better = best
                .is_none_or(|(b, least)| own < least || (own == least && pod.is_smaller(&pods[b])));
            if is_better {
                best = Some((i, own));
            }
        }
        let Some((index, _)) = best else {
            return Err(impossible(&missing));
        };
        let pod = pods.swap_remove(index);
        missing = without(&missing, [&pod]);
        chosen.push(pod);
    }
    Ok(chosen)
}

/// Chooses the pods that go: guaranteed ones only if all others do not suffice, and so on.
///
/// # Errors
///
/// Returns upstream's message if all pods together do not free what is missing.
pub fn victims(pods: &[Victim], missing: &Missing) -> Result<Vec<String>, String> {
    let of = |class| -> Vec<Victim> { pods.iter().filter(|p| p.class == class).cloned().collect() };
    let (best_effort, burstable) = (of(Class::BestEffort), of(Class::Burstable));
    let left = without(missing, pods);
    if !left.is_empty() {
        return Err(impossible(&left));
    }
    let lower: Vec<Victim> = best_effort.iter().chain(&burstable).cloned().collect();
    let guaranteed = choose(of(Class::Guaranteed), without(missing, &lower))?;
    let others: Vec<Victim> = best_effort.iter().chain(&guaranteed).cloned().collect();
    let burstable = choose(burstable, without(missing, &others))?;
    let others: Vec<Victim> = burstable.iter().chain(&guaranteed).cloned().collect();
    let best_effort = choose(best_effort, without(missing, &others))?;
    let all = best_effort.into_iter().chain(burstable).chain(guaranteed);
    Ok(all.map(|pod| pod.uid).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::{BestEffort, Burstable, Guaranteed};

    /// Pods of upstream's `preemption_test.go`.
    fn pods() -> Vec<Victim> {
        let pod = |uid: &str, class, cpu: i64, memory: i64| Victim {
            uid: uid.into(),
            class,
            requests: [("cpu", cpu), ("memory", memory << 20), ("pods", 1)]
                .map(|(k, v)| (k.to_owned(), v))
                .into(),
        };
        vec![
            pod("best-effort", BestEffort, 0, 0),
            pod("burstable", Burstable, 100, 100),
            pod("high-burstable", Burstable, 300, 300),
            pod("guaranteed", Guaranteed, 100, 100),
            pod("high-guaranteed", Guaranteed, 300, 300),
        ]
    }

    fn missing(cpu: i64, memory: i64, count: i64) -> Missing {
        [("cpu", cpu), ("memory", memory << 20), ("pods", count)]
            .into_iter()
            .filter(|(_, amount)| *amount > 0)
            .map(|(k, v)| (k.to_owned(), v))
            .collect()
    }

    #[test]
    fn few_and_lowly_pods_go() {
        let all = pods();
        for (need, gone) in [
            (missing(0, 0, 0), &[][..]),
            (missing(0, 0, 1), &["best-effort"]),
            (missing(50, 0, 0), &["burstable"]),
            (missing(200, 0, 0), &["high-burstable"]),
            (missing(150, 150, 0), &["high-burstable"]),
            (missing(400, 0, 0), &["high-burstable", "burstable"]),
            (
                missing(500, 0, 0),
                &["high-burstable", "burstable", "guaranteed"][..],
            ),
            (
                missing(0, 700, 0),
                &["high-burstable", "burstable", "high-guaranteed"][..],
            ),
        ] {
            let mut got = victims(&all, &need).unwrap();
            let mut gone: Vec<String> = gone.iter().map(|s| (*s).to_owned()).collect();
            got.sort();
            gone.sort();
            assert_eq!(got, gone, "{need:?}");
        }
    }

    #[test]
    fn too_much_is_never_freed() {
        assert_eq!(
            victims(&pods(), &missing(900, 0, 0)).unwrap_err(),
            "no set of running pods found to reclaim resources: [(res: cpu, q: 100), ]"
        );
        assert!(victims(&[], &missing(1, 0, 0)).is_err());
    }
}
