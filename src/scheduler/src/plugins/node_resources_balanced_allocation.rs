//! NodeResourcesBalancedAllocation: prefers nodes on which the pod brings the used fractions of CPU
//! and memory closer together.

use super::types::MAX_SCORE;
use crate::model::{NodeInfo, PodInfo};

/// Returns the balance of a node in which these amounts are taken: 100 if the used fractions of
/// CPU and memory are equal, less by half of their distance.
fn balance(milli_cpu: i64, memory: i64, node: &NodeInfo) -> i64 {
    let fraction = |taken: i64, all: i64| (all > 0).then(|| (taken as f64 / all as f64).min(1.0));
    let cpu = fraction(milli_cpu, node.allocatable.milli_cpu);
    let memory = fraction(memory, node.allocatable.memory);
    // The standard deviation of two values is half their distance, that of one is zero.
    let deviation = cpu.zip(memory).map_or(0.0, |(a, b)| (a - b).abs() / 2.0);
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

/// Returns the score: 75 if the pod leaves the balance as it is, up to 100 if it improves it and
/// down to 50 if it worsens it.
///
/// Kubernetes 1.36 scores the change; earlier versions scored the balance with the pod.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let (taken, own) = (&node.requested, &pod.requests);
    // A pod without requests does not change the balance.
    if own.milli_cpu == 0 && own.memory == 0 {
        return 0;
    }
    let with = balance(
        taken.milli_cpu.saturating_add(own.milli_cpu),
        taken.memory.saturating_add(own.memory),
        node,
    );
    let without = balance(taken.milli_cpu, taken.memory, node);
    let half = MAX_SCORE / 2;
    half + (half + with - without) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;
    use std::sync::Arc;

    #[test]
    fn the_change_of_the_balance_is_scored() {
        let n = node("n");
        let half_of_memory = n.allocatable.memory / 2;
        let of = |cpu: &str, memory: i64| {
            let mut pod = asking("p", cpu);
            pod.requests.memory = memory;
            pod
        };
        // An empty node of four cores is balanced.
        assert_eq!(score(&of("2", half_of_memory), &n), 75);
        assert_eq!(score(&of("2", 0), &n), 62);
        assert_eq!(score(&of("0", half_of_memory), &n), 62);
        assert_eq!(score(&of("0", 0), &n), 0);
        // Half of the processors are taken: a pod that takes half of the memory restores it.
        let mut n = n;
        n.add(Arc::new(of("2", 0)));
        assert_eq!(score(&of("0", half_of_memory), &n), 87);
        assert_eq!(score(&of("2", 0), &n), 62);
        // More than everything counts as everything.
        assert_eq!(score(&of("40", 0), &n), 62);
    }
}
