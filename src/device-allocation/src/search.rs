//! The search: tries all combinations of devices, request by request, and takes the first that
//! satisfies all claims.

use std::collections::HashMap;

use k8s_openapi::api::resource::v1::ResourceClaim;

use crate::allocator::{Allocator, Failure, Need, Node, World, full_name};
use crate::capacity::{consumption, is_left};
use crate::constraint::{Constraint, Names};
use crate::counters::Counters;
use crate::pools::{Candidate, Pool};
use crate::state::Amounts;
use crate::taints::repels;
use crate::{MAX_DEPTH, MAX_RESULTS};

/// A device by the indices of its pool and of itself in the pool.
type At = (usize, usize);

/// A device that was found for a request.
#[derive(Clone, Debug)]
pub(crate) struct Found<'s, 'a> {
    pub need: &'s Need<'a>,
    pub candidate: &'s Candidate<'a>,
    /// Identity of the share, if claims share the device.
    pub share: Option<String>,
    /// What is consumed of a shared device.
    pub consumed: Amounts,
    at: At,
    /// Whether counters of the pool were consumed.
    counted: bool,
}

/// What was found for a claim.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClaimFound<'s, 'a> {
    pub devices: Vec<Found<'s, 'a>>,
    /// The alternative of each request.
    pub chosen: Vec<usize>,
}

/// Why a branch of the search ends.
enum Stop {
    /// The claim would have too many devices, whichever they are.
    TooMany,
    /// The whole search fails.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The next device to find: one of a claim, a request and its alternative.
#[derive(Clone, Copy, Debug)]
struct Place {
    claim: usize,
    request: usize,
    alternative: usize,
    device: usize,
}

/// The state of a search.
pub(crate) struct Search<'s, 'a> {
    allocator: &'s Allocator<'a>,
    world: &'a dyn World,
    node: Node<'a>,
    pools: &'s [Pool<'a>],
    claims: &'s [&'a ResourceClaim],
    needs: &'s [Vec<Vec<Need<'a>>>],
    constraints: Vec<Vec<Constraint<'a>>>,
    /// Whether devices match requests, as far as that was asked.
    matches: HashMap<(At, usize, usize, usize), bool>,
    /// The claims for which devices that cannot be shared were taken.
    taken: HashMap<At, Vec<usize>>,
    /// What was taken of devices that can be shared: how often, and how much.
    shared: HashMap<At, (usize, Amounts)>,
    counters: HashMap<usize, Counters<'a>>,
    found: Vec<ClaimFound<'s, 'a>>,
}

impl<'s, 'a> Search<'s, 'a> {
    pub(crate) fn new(
        allocator: &'s Allocator<'a>,
        world: &'a dyn World,
        node: Node<'a>,
        pools: &'s [Pool<'a>],
        claims: &'s [&'a ResourceClaim],
        needs: &'s [Vec<Vec<Need<'a>>>],
        constraints: Vec<Vec<Constraint<'a>>>,
    ) -> Self {
        let found = needs.iter().map(|requests| ClaimFound {
            devices: Vec::new(),
            chosen: vec![0; requests.len()],
        });
        Self {
            found: found.collect(),
            allocator,
            world,
            node,
            pools,
            claims,
            needs,
            constraints,
            matches: HashMap::new(),
            taken: HashMap::new(),
            shared: HashMap::new(),
            counters: HashMap::new(),
        }
    }

    /// Returns what was found for each claim, `None` if there is no solution.
    pub(crate) fn run(mut self) -> Result<Option<Vec<ClaimFound<'s, 'a>>>, Failure> {
        match self.request(0, 0) {
            Ok(true) => Ok(Some(self.found)),
            Ok(false) | Err(Stop::TooMany) => Ok(None),
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }

    /// Satisfies a request and all that follow.
    fn request(&mut self, claim: usize, request: usize) -> Result<bool, Stop> {
        if self.world.is_late() {
            return Err(Failure::TimedOut.into());
        }
        let needs = self.needs;
        let Some(requests) = needs.get(claim) else {
            return Ok(true);
        };
        let Some(alternatives) = requests.get(request) else {
            return match self.request(claim + 1, 0) {
                // Another choice for an earlier claim does not help the next one, but one of its
                // alternatives with fewer devices might.
                Err(Stop::TooMany) => Ok(false),
                done => done,
            };
        };
        let exact = alternatives
            .first()
            .is_none_or(|need| need.parent.is_none());
        let mut all_too_many = true;
        for alternative in 0..alternatives.len() {
            let place = Place {
                claim,
                request,
                alternative,
                device: 0,
            };
            match self.device(place, (0, 0)) {
                Err(Stop::TooMany) if !exact => {}
                Ok(true) => {
                    self.found[claim].chosen[request] = alternative;
                    return Ok(true);
                }
                Ok(false) => all_too_many = false,
                failed => return failed,
            }
        }
        match all_too_many && !exact {
            true => Err(Stop::TooMany),
            false => Ok(false),
        }
    }

    fn need(&self, place: Place) -> &'s Need<'a> {
        let needs: &'s [Vec<Vec<Need<'a>>>] = self.needs;
        &needs[place.claim][place.request][place.alternative]
    }

    /// Finds the next device of a request and all that follow. Devices before `from` were tried:
    /// the order of the devices of one request does not matter.
    fn device(&mut self, place: Place, from: At) -> Result<bool, Stop> {
        let need = self.need(place);
        if need.request.wants_all() && need.all.is_empty() {
            return Ok(false);
        }
        if place.device >= need.count {
            return self.request(place.claim, place.request + 1);
        }
        let total = self.found[place.claim].devices.len() + need.count - place.device;
        if total > MAX_RESULTS {
            return Err(Stop::TooMany);
        }
        // Alternatives may ask for more than the least that was counted before.
        if self.found.iter().map(|f| f.devices.len()).sum::<usize>() >= MAX_DEPTH {
            return Ok(false);
        }
        let next = Place {
            device: place.device + 1,
            ..place
        };
        if need.request.wants_all() {
            if !self.take(place, need.all[place.device], true)? {
                return Ok(false);
            }
            return self.go_on(next, (0, 0));
        }
        if self.world.is_late() {
            return Err(Failure::TimedOut.into());
        }
        let pools = self.pools;
        for (p, pool) in pools.iter().enumerate().skip(from.0) {
            if pool.incomplete || pool.invalid {
                continue;
            }
            let first = if p == from.0 { from.1 } else { 0 };
            for d in first..pool.devices.len() {
                if self.is_candidate(place, (p, d))?
                    && self.take(place, (p, d), false)?
                    && self.go_on(next, (p, d + 1))?
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Goes on after a device was taken, and takes it back if that leads nowhere.
    fn go_on(&mut self, next: Place, from: At) -> Result<bool, Stop> {
        let done = self.device(next, from);
        if !matches!(done, Ok(true)) {
            self.give_back(next.claim);
        }
        done
    }

    fn candidate(&self, (pool, device): At) -> &'s Candidate<'a> {
        let pools: &'s [Pool<'a>] = self.pools;
        &pools[pool].devices[device]
    }

    /// Returns whether a device is free and matches a request, apart from what the search took.
    fn is_candidate(&mut self, place: Place, at: At) -> Result<bool, Stop> {
        let (need, candidate) = (self.need(place), self.candidate(at));
        if self.in_use(place, at) {
            return Ok(false);
        }
        let key = (at, place.claim, place.request, place.alternative);
        let matches = match self.matches.get(&key) {
            Some(known) => *known,
            None => {
                let (claim, node) = (self.claims[place.claim], self.node);
                let request = &need.request;
                let asked = self
                    .allocator
                    .is_selectable(claim, need.class, request, node, candidate)?;
                self.matches.insert(key, asked);
                asked
            }
        };
        Ok(matches && self.has_capacity(need, at))
    }

    fn in_use(&self, place: Place, at: At) -> bool {
        let taken = self.taken.get(&at).map(Vec::as_slice).unwrap_or_default();
        if self.need(place).request.admin {
            return taken.contains(&place.claim);
        }
        let id = &self.candidate(at).id;
        !taken.is_empty() || self.allocator.allocated.is_dedicated(id)
    }

    fn has_capacity(&self, need: &Need<'_>, at: At) -> bool {
        let candidate = self.candidate(at);
        let consumed = self.allocator.allocated.consumed(&candidate.id);
        let searching = self.shared.get(&at).map(|(_, amounts)| amounts);
        is_left(candidate.device, need.request.capacity, consumed, searching)
    }

    /// Takes a device that matches. Returns false, and takes nothing, if that is not possible.
    /// `must` tells that the request needs this very device.
    fn take(&mut self, place: Place, at: At, must: bool) -> Result<bool, Stop> {
        let (need, candidate) = (self.need(place), self.candidate(at));
        let device = candidate.device;
        let shares = device.allow_multiple_allocations == Some(true);
        let in_use = match need.request.admin {
            true => !shares && self.in_use(place, at),
            false => self.in_use(place, at),
        };
        let tolerations = need.request.tolerations.unwrap_or_default();
        if in_use || repels(device, tolerations) || !self.has_capacity(need, at) {
            return Ok(false);
        }
        // Who shares a device shares the counters that its first user consumed.
        let allocated = self.allocator.allocated;
        let shared = self.shared.contains_key(&at) || allocated.consumed(&candidate.id).is_some();
        let uses_counters = device
            .consumes_counters
            .as_ref()
            .is_some_and(|c| !c.is_empty());
        let counted = uses_counters && !(shares && shared);
        if counted {
            let pools: &'s [Pool<'a>] = self.pools;
            let counters = self.counters.entry(at.0);
            let counters = counters.or_insert_with(|| Counters::new(&pools[at.0], allocated));
            if !counters.consume(device) {
                return Ok(false);
            }
        }
        if !self.constrain(place, candidate) {
            self.release_counters(counted, at);
            if must {
                let claim = full_name(self.claims[place.claim]);
                let (request, id) = (need.request.name, &candidate.id);
                return Err(Stop::Failed(Failure::Fatal(format!(
                    "claim {claim}, request {request}: cannot add device {id} because a claim constraint would not be satisfied"
                ))));
            }
            return Ok(false);
        }
        let mut consumed = Amounts::new();
        if shares {
            consumed = consumption(device, need.request.capacity);
            let (users, sums) = self.shared.entry(at).or_default();
            *users += 1;
            for (name, amount) in &consumed {
                let sum = sums
                    .entry(name.clone())
                    .or_insert(rkube_api::quantity::Quantity::ZERO);
                *sum = *sum + *amount;
            }
        } else {
            self.taken.entry(at).or_default().push(place.claim);
        }
        self.found[place.claim].devices.push(Found {
            need,
            candidate,
            share: shares.then(|| self.world.new_uid()),
            consumed,
            at,
            counted,
        });
        Ok(true)
    }

    /// Takes back the device that was taken last for a claim.
    fn give_back(&mut self, claim: usize) {
        let Some(last) = self.found[claim].devices.pop() else {
            return;
        };
        for constraint in &mut self.constraints[claim] {
            constraint.remove(names(last.need));
        }
        self.release_counters(last.counted, last.at);
        if last.share.is_none() {
            if let Some(claims) = self.taken.get_mut(&last.at)
                && let Some(at) = claims.iter().rposition(|c| *c == claim)
            {
                claims.remove(at);
            }
            return;
        }
        if let Some((users, sums)) = self.shared.get_mut(&last.at) {
            *users -= 1;
            for (name, amount) in last.consumed {
                if let Some(sum) = sums.get_mut(&name) {
                    *sum = *sum - amount;
                }
            }
            if *users == 0 {
                self.shared.remove(&last.at);
            }
        }
    }

    fn release_counters(&mut self, counted: bool, at: At) {
        let device = self.candidate(at).device;
        if counted && let Some(counters) = self.counters.get_mut(&at.0) {
            counters.release(device);
        }
    }

    /// Adds a device to the constraints of a claim. Adds it to none if one is violated.
    fn constrain(&mut self, place: Place, candidate: &Candidate<'a>) -> bool {
        let names = names(self.need(place));
        let constraints = &mut self.constraints[place.claim];
        let (device, driver) = (candidate.device, &candidate.id.driver);
        let violated = constraints
            .iter_mut()
            .position(|constraint| !constraint.add(names, device, driver));
        if let Some(at) = violated {
            for constraint in &mut constraints[..at] {
                constraint.remove(names);
            }
        }
        violated.is_none()
    }
}

fn names<'a>(need: &Need<'a>) -> Names<'a> {
    match need.parent {
        Some(parent) => (parent, Some(need.request.name)),
        None => (need.request.name, None),
    }
}
