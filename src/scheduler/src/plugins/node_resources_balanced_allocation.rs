//! NodeResourcesBalancedAllocation: prefers nodes whose CPU and memory are used to a similar
//! degree.

use super::MAX_SCORE;
use crate::model::{NodeInfo, PodInfo};

/// Returns the score: 100 if the used fractions of CPU and memory would be equal.
pub fn score(pod: &PodInfo, node: &NodeInfo) -> i64 {
    // A pod without requests does not change the balance.
    if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
        return 0;
    }
    let fractions: Vec<f64> = [
        (
            node.requested
                .milli_cpu
                .saturating_add(pod.requests.milli_cpu),
            node.allocatable.milli_cpu,
        ),
        (
            node.requested.memory.saturating_add(pod.requests.memory),
            node.allocatable.memory,
        ),
    ]
    .into_iter()
    .filter(|(_, all)| *all > 0)
    .map(|(taken, all)| (taken as f64 / all as f64).min(1.0))
    .collect();
    // The standard deviation of two values is half their distance.
    let deviation = match fractions[..] {
        [a, b] => (a - b).abs() / 2.0,
        _ => 0.0,
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::*;

    #[test]
    fn balance() {
        let n = node("n");
        let mut even = asking("p", "2");
        even.requests.memory = n.allocatable.memory / 2;
        assert_eq!(score(&even, &n), 100);
        assert_eq!(score(&asking("p", "2"), &n), 75);
    }
}
