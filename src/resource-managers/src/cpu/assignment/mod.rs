//! Chooses CPUs so that a container has whole NUMA nodes, sockets and cores where possible.

use std::collections::BTreeMap;

use crate::cpuset::CpuSet;
use crate::machine::{Cpus, Level};

/// Chooses from `free` CPUs of the machine.
struct Accumulator<'a> {
    machine: &'a Cpus,
    free: Cpus,
    needed: usize,
    result: CpuSet,
    /// The larger one of NUMA nodes and sockets first.
    outer: [Level; 2],
}

/// Returns the message that there are too few CPUs.
fn not_enough(needed: usize, available: &CpuSet) -> String {
    format!(
        "not enough cpus available to satisfy request: requested={needed}, available={}",
        available.len()
    )
}

impl<'a> Accumulator<'a> {
    fn new(machine: &'a Cpus, available: &CpuSet, needed: usize) -> Self {
        let numa_first = machine.units(Level::Socket).len() >= machine.units(Level::Numa).len();
        Self {
            machine,
            free: machine.only(available),
            needed,
            result: CpuSet::new(),
            outer: match numa_first {
                true => [Level::Numa, Level::Socket],
                false => [Level::Socket, Level::Numa],
            },
        }
    }

    fn is_done(&self) -> bool {
        self.needed == 0
    }

    /// Sorts units by the number of free CPUs, then by number.
    fn sorted(&self, level: Level, mut units: Vec<usize>) -> Vec<usize> {
        units.sort_by_key(|id| (self.free.of(level, &[*id]).len(), *id));
        units
    }

    /// Returns the units of a level with free CPUs, the fullest ones first, within the order of the
    /// larger units that contain them.
    fn ordered(&self, level: Level) -> Vec<usize> {
        let outer = match level {
            _ if level == self.outer[0] => return self.sorted(level, self.free.units(level)),
            _ if level == self.outer[1] => self.outer[0],
            Level::Uncore => Level::Numa,
            _ => self.outer[1],
        };
        let within = |id: usize| self.sorted(level, self.free.units_in(level, outer, &[id]));
        self.ordered(outer).into_iter().flat_map(within).collect()
    }

    /// Returns how many CPUs a free unit has.
    fn full_size(&self, level: Level, id: usize) -> usize {
        match level {
            // An average, as upstream has it: a unit of another size is never whole.
            Level::Core | Level::Socket => self.machine.per(level),
            Level::Numa | Level::Uncore => self.machine.of(level, &[id]).len(),
        }
    }

    fn take(&mut self, cpus: &CpuSet) {
        self.result = self.result.union(cpus);
        self.free = self.free.only(&self.free.all().difference(cpus));
        self.needed = self.needed.saturating_sub(cpus.len());
    }

    /// Takes the free units of a level that are not larger than what is needed.
    fn take_full(&mut self, level: Level) {
        let is_free = |id: &usize| self.free.of(level, &[*id]).len() == self.full_size(level, *id);
        let free: Vec<usize> = self.ordered(level).into_iter().filter(is_free).collect();
        for id in free {
            let cpus = self.machine.of(level, &[id]);
            if self.needed >= cpus.len() {
                self.take(&cpus);
            }
        }
    }

    /// Takes what is needed from one cache group if it has all of it.
    fn take_part_of_uncore(&mut self, id: usize) {
        let per_core = self.machine.per(Level::Core).max(1);
        let mut cores = self.free.units_in(Level::Core, Level::Uncore, &[id]);
        cores.truncate(self.needed.div_ceil(per_core));
        let mut cpus: Vec<usize> = self.free.of(Level::Core, &cores).iter().collect();
        if !self.needed.is_multiple_of(2) && per_core > 1 && cpus.len() > self.needed {
            cpus.pop();
        }
        if cpus.len() == self.needed {
            self.take(&cpus.into_iter().collect());
        }
    }

    fn take_uncore(&mut self) {
        let size = self.machine.per(Level::Uncore);
        for id in self.ordered(Level::Uncore) {
            if self.needed >= size {
                self.take_full(Level::Uncore);
            }
            if !self.is_done() {
                self.take_part_of_uncore(id);
            }
            if self.is_done() {
                return;
            }
        }
    }

    fn take_remaining(&mut self) {
        let cores = self.ordered(Level::Core);
        let cpus: Vec<usize> = cores
            .iter()
            .flat_map(|core| {
                self.free
                    .of(Level::Core, &[*core])
                    .iter()
                    .collect::<Vec<_>>()
            })
            .collect();
        for cpu in cpus {
            if self.is_done() {
                return;
            }
            self.take(&CpuSet::from([cpu]));
        }
    }
}

/// Chooses CPUs that are packed: whole NUMA nodes and sockets, then (with `uncore`) groups of a
/// last-level cache, then whole cores, then single CPUs.
///
/// # Errors
///
/// Returns upstream's message if too few CPUs are available.
pub fn take_packed(
    machine: &Cpus,
    available: &CpuSet,
    needed: usize,
    uncore: bool,
) -> Result<CpuSet, String> {
    let mut acc = Accumulator::new(machine, available, needed);
    if needed > acc.free.0.len() {
        return Err(not_enough(needed, available));
    }
    let outer = acc.outer;
    let steps: [&dyn Fn(&mut Accumulator<'_>); 5] = [
        &|acc| acc.take_full(outer[0]),
        &|acc| acc.take_full(outer[1]),
        &|acc| {
            if uncore {
                acc.take_uncore()
            }
        },
        &|acc| acc.take_full(Level::Core),
        &|acc| acc.take_remaining(),
    ];
    for step in steps {
        if acc.is_done() {
            break;
        }
        step(&mut acc);
    }
    match acc.is_done() {
        true => Ok(acc.result),
        false => Err("failed to allocate cpus".into()),
    }
}

/// Returns the standard deviation of numbers, rounded to thousandths as upstream rounds it.
fn deviation(numbers: impl Iterator<Item = usize> + Clone) -> f64 {
    let round = |x: f64| (x * 1000.0).round() / 1000.0;
    let count = numbers.clone().count() as f64;
    let mean = round(numbers.clone().map(|n| n as f64).sum::<f64>() / count);
    let squares: f64 = numbers.map(|n| (n as f64 - mean) * (n as f64 - mean)).sum();
    round((squares / count).sqrt())
}

/// Returns all choices of `count` of the items, in their order.
fn combinations(items: &[usize], count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut out = Vec::new();
    for (i, item) in items.iter().enumerate() {
        for mut rest in combinations(&items[i + 1..], count - 1) {
            rest.insert(0, *item);
            out.push(rest);
        }
    }
    out
}

/// A way to distribute CPUs over NUMA nodes.
struct Spread {
    /// The NUMA nodes.
    nodes: Vec<usize>,
    /// How many CPUs each of them gives.
    each: usize,
    /// Those that also give the rest, in groups.
    rest: Vec<usize>,
    /// How uneven the free CPUs are afterwards.
    balance: f64,
}

/// Takes the rest from some nodes in turn, in groups; returns what is free afterwards, or `None` if
/// they do not have it.
fn without_rest(
    free: &BTreeMap<usize, usize>,
    nodes: &[usize],
    mut rest: usize,
    group: usize,
) -> Option<BTreeMap<usize, usize>> {
    let mut free = free.clone();
    while rest > 0 {
        let before = rest;
        for node in nodes {
            let left = free.get_mut(node)?;
            if rest > 0 && *left >= group {
                *left -= group;
                rest = rest.saturating_sub(group);
            }
        }
        if rest == before {
            return None;
        }
    }
    Some(free)
}

/// Returns the best way to take CPUs from exactly these NUMA nodes, if there is one.
fn spread(
    all: &BTreeMap<usize, usize>,
    nodes: &[usize],
    needed: usize,
    group: usize,
) -> Option<Spread> {
    let groups: usize = nodes.iter().map(|n| all[n] / group).sum();
    let each = needed / nodes.len() / group * group;
    if groups * group < needed || nodes.iter().any(|n| all[n] < each) {
        return None;
    }
    let mut free = all.clone();
    for node in nodes {
        *free.get_mut(node)? -= each;
    }
    let rest = needed - each * nodes.len();
    let found = |rest: Vec<usize>, balance| Spread {
        nodes: nodes.to_vec(),
        each,
        rest,
        balance,
    };
    if rest == 0 {
        return Some(found(Vec::new(), deviation(free.values().copied())));
    }
    let givers: Vec<usize> = nodes.iter().copied().filter(|n| free[n] >= group).collect();
    let mut best: Option<Spread> = None;
    for count in (1..=givers.len()).rev() {
        for subset in combinations(&givers, count) {
            let Some(after) = without_rest(&free, &subset, rest, group) else {
                continue;
            };
            let balance = deviation(after.values().copied());
            if best.as_ref().is_none_or(|b| balance < b.balance) {
                best = Some(found(subset, balance));
            }
        }
    }
    best
}

/// Chooses CPUs that are distributed evenly over as few NUMA nodes as can give them, in groups of
/// `group` CPUs.
///
/// # Errors
///
/// Returns upstream's message if too few CPUs are available.
pub fn take_distributed(
    machine: &Cpus,
    available: &CpuSet,
    needed: usize,
    group: usize,
) -> Result<CpuSet, String> {
    let group = group.max(1);
    if !needed.is_multiple_of(group) {
        return take_packed(machine, available, needed, false);
    }
    let mut acc = Accumulator::new(machine, available, needed);
    if acc.is_done() {
        return Ok(acc.result);
    }
    if needed > acc.free.0.len() {
        return Err(not_enough(needed, available));
    }
    let numas = acc.ordered(Level::Numa);
    let free: BTreeMap<usize, usize> = numas
        .iter()
        .map(|numa| (*numa, acc.free.of(Level::Numa, &[*numa]).len()))
        .collect();
    let all_nodes = machine.units(Level::Numa).len();
    let groups_per_node = machine.0.len().div_ceil(group).div_ceil(all_nodes);
    let groups = needed.div_ceil(group);
    for count in groups.div_ceil(groups_per_node)..=groups.min(numas.len()) {
        let mut best: Option<Spread> = None;
        for nodes in combinations(&numas, count) {
            if best.as_ref().is_some_and(|b| b.balance == 0.0) {
                break;
            }
            if let Some(found) = spread(&free, &nodes, needed, group)
                && best.as_ref().is_none_or(|b| found.balance < b.balance)
            {
                best = Some(found);
            }
        }
        if let Some(best) = best {
            return take_spread(&mut acc, &best, group);
        }
    }
    take_packed(machine, available, needed, false)
}

/// Takes the CPUs of a distribution.
fn take_spread(acc: &mut Accumulator<'_>, by: &Spread, group: usize) -> Result<CpuSet, String> {
    let take = |acc: &mut Accumulator<'_>, numa: usize, count: usize| {
        let free = acc.free.of(Level::Numa, &[numa]);
        let cpus = take_packed(acc.machine, &free, count, false)?;
        acc.take(&cpus);
        Ok::<(), String>(())
    };
    for numa in &by.nodes {
        take(acc, *numa, by.each)?;
    }
    while !acc.is_done() {
        let before = acc.needed;
        for numa in &by.rest {
            if !acc.is_done() && acc.free.of(Level::Numa, &[*numa]).len() >= group {
                take(acc, *numa, group)?;
            }
        }
        if acc.needed == before {
            return Err(format!(
                "accounting error, not enough CPUs allocated, remaining: {before}"
            ));
        }
    }
    Ok(acc.result.clone())
}

#[cfg(test)]
mod tests;
