//! NodeResourcesFit: a pod's requests must fit the node; emptier nodes are preferred.

use super::types::{MAX_SCORE, Plugin, Rejection};
use crate::model::{NodeInfo, PodInfo};

/// Rejects the node if the pod's requests exceed its free resources. Lists all insufficient
/// resources.
pub fn filter(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let mut reasons = Vec::new();
    // Set if a request exceeds the node's total, so that preemption cannot help.
    let mut hopeless = false;
    let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if pods >= node.max_pods {
        reasons.push("Too many pods".into());
    }
    let mut check = |name: &str, wanted: i64, all: i64, taken: i64| {
        if wanted > 0 && wanted > all.saturating_sub(taken) {
            reasons.push(format!("Insufficient {name}").into());
            hopeless |= wanted > all;
        }
    };
    let (want, all, taken) = (&pod.requests, &node.allocatable, &node.requested);
    check("cpu", want.milli_cpu, all.milli_cpu, taken.milli_cpu);
    check("memory", want.memory, all.memory, taken.memory);
    check(
        "ephemeral-storage",
        want.ephemeral_storage,
        all.ephemeral_storage,
        taken.ephemeral_storage,
    );
    for (name, wanted) in &want.scalar {
        let of = |r: &crate::resources::Resources| r.scalar.get(name).copied().unwrap_or(0);
        check(name, *wanted, of(all), of(taken));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    Err(Rejection {
        plugin: Plugin::NodeResourcesFit,
        reasons,
        unresolvable: hopeless,
        fatal: false,
    })
}

/// Returns the LeastAllocated score: the mean percentage of CPU and memory that would remain free.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let left = |all: i64, taken: i64| {
        if all == 0 || taken > all {
            0
        } else {
            let free = i128::from(all) - i128::from(taken);
            // `taken` is negative only if amounts have wrapped around.
            (free * i128::from(MAX_SCORE) / i128::from(all)).min(MAX_SCORE.into()) as i64
        }
    };
    let (all, taken, own) = (&node.allocatable, &node.scored, &pod.scored);
    let mut sum = 0;
    let mut count = 0;
    for (all, taken) in [
        (all.milli_cpu, taken.milli_cpu.saturating_add(own.milli_cpu)),
        (all.memory, taken.memory.saturating_add(own.memory)),
    ] {
        if all > 0 {
            sum += left(all, taken);
            count += 1;
        }
    }
    if count == 0 { 0 } else { sum / count }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use std::sync::Arc;

    #[test]
    fn free_resources() {
        let mut n = node("n");
        n.add(Arc::new(asking("a", "3")));
        assert!(filter(&asking("b", "1"), &n).is_ok());
        let no = filter(&asking("b", "2"), &n).unwrap_err();
        assert_eq!(no.reasons, ["Insufficient cpu"]);
        assert!(!no.unresolvable);
        assert!(filter(&asking("b", "5"), &n).unwrap_err().unresolvable);
    }

    #[test]
    fn pod_count_and_extended_resources() {
        let mut n = node("n");
        n.max_pods = 0;
        let mut p = asking("p", "1");
        p.requests.scalar.insert("example.com/gpu".into(), 1);
        assert_eq!(
            filter(&p, &n).unwrap_err().reasons,
            ["Too many pods", "Insufficient example.com/gpu"]
        );
    }

    #[test]
    fn emptier_is_better() {
        let mut full = node("a");
        full.add(Arc::new(asking("x", "3")));
        let p = asking("p", "500m");
        assert!(score(&p, &node("b")) > score(&p, &full));
    }
}
