//! Merges the hints of all providers to the best common one.

use super::{Hint, Hints, Policy, TopologySettings};
use crate::mask::NumaMask;

/// The best common hint, and whether the policy admits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The hint.
    pub hint: Hint,
    /// Whether the pod is admitted.
    pub admit: bool,
}

/// A combination of hints, one of each resource.
#[derive(Clone, Copy)]
struct Candidate {
    mask: NumaMask,
    preferred: bool,
}

/// Merges hints; `nodes` are the machine's NUMA nodes with their distances.
pub fn merge(settings: &TopologySettings, nodes: &[(usize, Vec<u64>)], hints: &[Hints]) -> Merged {
    let all = NumaMask::of(nodes.iter().map(|(id, _)| *id));
    let single = settings.policy == Policy::SingleNumaNode;
    let mut lists = listed(hints);
    if single {
        for list in &mut lists {
            list.retain(|h| h.preferred && h.affinity.is_none_or(|mask| mask.count() == 1));
        }
    }
    let merger = Merger {
        // The largest of the sizes that the resources need at least.
        least: lists
            .iter()
            .filter_map(|list| narrowest(list))
            .max()
            .unwrap_or(0),
        closest: settings.prefer_closest && !single,
        nodes,
    };
    let mut best: Option<Candidate> = None;
    each_combination(&lists, &mut Vec::new(), &mut |hints| {
        let candidate = combine(all, hints);
        if candidate.mask.count() > 0 && best.is_none_or(|b| merger.is_better(b, candidate)) {
            best = Some(candidate);
        }
    });
    let best = best.unwrap_or(Candidate {
        mask: all,
        preferred: false,
    });
    // All nodes are no restriction.
    let affinity = (!single || best.mask != all).then_some(best.mask);
    Merged {
        hint: Hint {
            affinity,
            preferred: best.preferred,
        },
        admit: settings.policy == Policy::BestEffort || best.preferred,
    }
}

/// Returns the hints of each resource. Where any node will do, that is a preferred hint; where
/// nothing is possible, one that is not preferred.
fn listed(hints: &[Hints]) -> Vec<Vec<Hint>> {
    let any = |preferred| {
        vec![Hint {
            affinity: None,
            preferred,
        }]
    };
    let mut lists = Vec::new();
    for provider in hints {
        if provider.is_empty() {
            lists.push(any(true));
        }
        lists.extend(provider.values().map(|list| match list {
            None => any(true),
            Some(list) if list.is_empty() => any(false),
            Some(list) => list.clone(),
        }));
    }
    lists
}

/// Returns the size of the narrowest hint.
fn narrowest(list: &[Hint]) -> Option<usize> {
    list.iter()
        .filter_map(|h| h.affinity)
        .map(NumaMask::count)
        .min()
}

/// Calls `visit` with each choice of one hint of every list.
fn each_combination(lists: &[Vec<Hint>], chosen: &mut Vec<Hint>, visit: &mut dyn FnMut(&[Hint])) {
    let Some(list) = lists.get(chosen.len()) else {
        visit(chosen);
        return;
    };
    for hint in list {
        chosen.push(*hint);
        each_combination(lists, chosen, visit);
        chosen.pop();
    }
}

/// Returns the common nodes. They are preferred if all hints are, and name the same nodes.
fn combine(all: NumaMask, hints: &[Hint]) -> Candidate {
    let mut masks = hints.iter().filter_map(|h| h.affinity);
    let first = masks.clone().next();
    Candidate {
        mask: masks.clone().fold(all, NumaMask::and),
        preferred: hints.iter().all(|h| h.preferred) && masks.all(|mask| Some(mask) == first),
    }
}

/// The rules by which one candidate is better than another.
struct Merger<'a> {
    least: usize,
    closest: bool,
    nodes: &'a [(usize, Vec<u64>)],
}

impl Merger<'_> {
    /// Returns whether the candidate replaces the current best one.
    fn is_better(&self, current: Candidate, candidate: Candidate) -> bool {
        if current.preferred != candidate.preferred {
            return candidate.preferred;
        }
        if current.preferred {
            return self.is_nearer(current.mask, candidate.mask);
        }
        // Of those that are not preferred, the best has the size that some resource needs.
        let (size, other) = (current.mask.count(), candidate.mask.count());
        if size > self.least {
            return self.is_nearer(current.mask, candidate.mask);
        }
        if size == self.least {
            return other == self.least && self.is_nearer(current.mask, candidate.mask);
        }
        if other >= self.least {
            return other == self.least;
        }
        match other.cmp(&size) {
            std::cmp::Ordering::Equal => self.is_nearer(current.mask, candidate.mask),
            order => order.is_gt(),
        }
    }

    /// Returns whether the candidate is narrower, or closer if distances count.
    fn is_nearer(&self, current: NumaMask, candidate: NumaMask) -> bool {
        if !self.closest || current.count() != candidate.count() {
            return candidate.is_narrower(current);
        }
        let (now, then) = (self.distance(current), self.distance(candidate));
        if now == then {
            return candidate.is_lower(current);
        }
        then < now
    }

    /// Returns the average distance between nodes.
    fn distance(&self, mask: NumaMask) -> f64 {
        let of = |from: usize, to: usize| {
            let node = self.nodes.iter().find(|(id, _)| *id == from);
            let distance = node.and_then(|(_, distances)| distances.get(to));
            distance.map_or(0.0, |d| *d as f64)
        };
        let sum: f64 = mask
            .nodes()
            .flat_map(|from| mask.nodes().map(move |to| of(from, to)))
            .sum();
        let pairs = mask.count() * mask.count();
        if pairs == 0 { 0.0 } else { sum / pairs as f64 }
    }
}
