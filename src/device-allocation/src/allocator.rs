//! The entry of the search: checks the claims and prepares what they ask for.

use std::sync::Arc;

use k8s_openapi::api::resource::v1::{AllocationResult, DeviceClass, ResourceClaim, ResourceSlice};
use rkube_component_helpers::label_selector::Labels;

use crate::MAX_RESULTS;
use crate::capacity::is_left;
use crate::constraint::Constraint;
use crate::pools::{Candidate, Pool, gather, reaches};
use crate::request::Request;
use crate::result;
use crate::search::Search;
use crate::selector::{SelectorError, Selectors};
use crate::state::AllocatedState;

/// Why devices could not be searched for, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The claims or classes are at fault, so other nodes need not be tried.
    Fatal(String),
    /// The pools of this node are at fault.
    OnNode(String),
    /// The search was given up.
    TimedOut,
}

/// A node.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a Labels,
}

/// What the allocator knows of the cluster.
pub trait World {
    /// Returns a class by name.
    fn class(&self, name: &str) -> Option<&DeviceClass>;
    /// Returns a new random UID.
    fn new_uid(&self) -> String;
    /// Returns whether to give up.
    fn is_late(&self) -> bool {
        false
    }
}

/// Allocates devices to claims that have none.
#[derive(Debug)]
pub struct Allocator<'a> {
    /// All slices.
    pub slices: &'a [Arc<ResourceSlice>],
    /// What claims hold.
    pub allocated: &'a AllocatedState,
    /// Compiled expressions.
    pub selectors: &'a Selectors,
}

/// What one request, or one of its alternatives, needs.
#[derive(Debug)]
pub(crate) struct Need<'a> {
    pub request: Request<'a>,
    /// Name of the request whose alternative this is.
    pub parent: Option<&'a str>,
    pub class: &'a DeviceClass,
    pub count: usize,
    /// The devices, as indices of a pool and a device in it, if all that match are wanted.
    pub all: Vec<(usize, usize)>,
}

impl Need<'_> {
    /// Returns the name of the request as results and configurations have it.
    pub(crate) fn full_name(&self) -> String {
        match self.parent {
            Some(parent) => format!("{parent}/{}", self.request.name),
            None => self.request.name.to_owned(),
        }
    }
}

/// Returns how messages name a claim.
pub(crate) fn full_name(claim: &ResourceClaim) -> String {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    match claim.metadata.namespace.as_deref() {
        None | Some("") => name.to_owned(),
        Some(namespace) => format!("{namespace}/{name}"),
    }
}

impl<'a> Allocator<'a> {
    /// Chooses devices on a node for the claims, of which none is allocated. Returns one result per
    /// claim, or `None` if the devices do not suffice at the moment.
    ///
    /// # Errors
    ///
    /// The claims, their classes or the pools of the node are invalid, or the time is up.
    pub fn allocate(
        &self,
        world: &'a dyn World,
        node: Node<'a>,
        claims: &[&'a ResourceClaim],
    ) -> Result<Option<Vec<AllocationResult>>, Failure> {
        let pools = gather(self.slices, node);
        let needs = Needs {
            allocator: self,
            world,
            node,
            pools: &pools,
        };
        let mut wanted = Vec::new();
        let mut constraints = Vec::new();
        for claim in claims {
            wanted.push(needs.of_claim(claim)?);
            constraints.push(constraints_of(claim)?);
        }
        let requests = wanted.iter().flatten();
        let devices = requests.map(|needs| needs.iter().map(|need| need.count).min().unwrap_or(0));
        let depth = claims.len() + devices.sum::<usize>();
        if depth > crate::MAX_DEPTH {
            let most = crate::MAX_DEPTH;
            return Err(Failure::Fatal(format!(
                "the claims of the pod ask for more than {most} devices"
            )));
        }
        let search = Search::new(self, world, node, &pools, claims, &wanted, constraints);
        match search.run()? {
            Some(found) => {
                let results = claims.iter().zip(&wanted).zip(&found);
                results
                    .map(|((claim, needs), found)| result::of_claim(claim, needs, found, node))
                    .collect::<Result<Vec<_>, _>>()
                    .map(Some)
            }
            None if pools.iter().any(|pool| pool.invalid) => Err(Failure::OnNode(
                "invalid resource pools were encountered".to_owned(),
            )),
            None => Ok(None),
        }
    }

    /// Returns whether a device matches the selectors of the class and the request, and whether the
    /// node reaches it.
    pub(crate) fn is_selectable(
        &self,
        claim: &ResourceClaim,
        class: &DeviceClass,
        request: &Request<'_>,
        node: Node<'_>,
        candidate: &Candidate<'_>,
    ) -> Result<bool, Failure> {
        let of_class = || {
            format!(
                "class {}",
                class.metadata.name.as_deref().unwrap_or_default()
            )
        };
        let of_claim = || format!("claim {}", full_name(claim));
        let sets: [(&[_], &dyn Fn() -> String); 2] = [
            (
                class.spec.selectors.as_deref().unwrap_or_default(),
                &of_class,
            ),
            (request.selectors, &of_claim),
        ];
        for (selectors, holder) in sets {
            for (i, selector) in selectors.iter().enumerate() {
                let Some(cel) = &selector.cel else {
                    let why = format!(
                        "{} selector #{i}: CEL expression empty (unsupported selector type?)",
                        holder()
                    );
                    return Err(Failure::Fatal(why));
                };
                let driver = &candidate.slice.spec.driver;
                let matches = self
                    .selectors
                    .matches(&cel.expression, driver, candidate.device);
                let (what, why) = match matches {
                    Ok(true) => continue,
                    Ok(false) => return Ok(false),
                    Err(SelectorError::Compile(why)) => ("compile", why),
                    Err(SelectorError::Run(why)) => ("runtime", why),
                };
                let holder = holder();
                return Err(Failure::Fatal(format!(
                    "{holder}: selector #{i}: CEL {what} error: {why}"
                )));
            }
        }
        let per_device = candidate.slice.spec.per_device_node_selection == Some(true);
        Ok(!per_device || reaches(node, candidate.device))
    }
}

fn constraints_of(claim: &ResourceClaim) -> Result<Vec<Constraint<'_>>, Failure> {
    let devices = claim.spec.devices.as_ref();
    let constraints = devices.and_then(|d| d.constraints.as_ref());
    let constraints = constraints.into_iter().flatten().enumerate();
    constraints
        .map(|(i, constraint)| {
            Constraint::new(constraint).ok_or_else(|| {
                let claim = full_name(claim);
                Failure::Fatal(format!(
                    "claim {claim}, constraint #{i}: empty constraint (unsupported constraint type?)"
                ))
            })
        })
        .collect()
}

/// Computes what claims need.
struct Needs<'s, 'a> {
    allocator: &'s Allocator<'a>,
    world: &'a dyn World,
    node: Node<'a>,
    pools: &'s [Pool<'a>],
}

impl<'a> Needs<'_, 'a> {
    /// Returns the alternatives of each request of a claim.
    fn of_claim(&self, claim: &'a ResourceClaim) -> Result<Vec<Vec<Need<'a>>>, Failure> {
        let devices = claim.spec.devices.as_ref();
        let requests = devices.and_then(|d| d.requests.as_ref());
        let mut least = 0;
        let mut all = Vec::new();
        for request in requests.into_iter().flatten() {
            let alternatives = request
                .first_available
                .as_ref()
                .is_some_and(|a| !a.is_empty());
            let parent = alternatives.then_some(request.name.as_str());
            let needs = Request::all(request).into_iter();
            let needs = needs
                .map(|wanted| self.of_request(claim, wanted, parent))
                .collect::<Result<Vec<_>, _>>()?;
            least += needs.iter().map(|need| need.count).min().unwrap_or(0);
            all.push(needs);
        }
        if least > MAX_RESULTS {
            let claim = full_name(claim);
            return Err(Failure::Fatal(format!(
                "claim {claim}: number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}"
            )));
        }
        Ok(all)
    }

    fn of_request(
        &self,
        claim: &'a ResourceClaim,
        request: Request<'a>,
        parent: Option<&'a str>,
    ) -> Result<Need<'a>, Failure> {
        let fail = |why: String| {
            let claim = full_name(claim);
            Failure::Fatal(format!("claim {claim}, request {}: {why}", request.name))
        };
        if let Some(i) = request.selectors.iter().position(|s| s.cel.is_none()) {
            let why = format!("selector #{i}: CEL expression empty (unsupported selector type?)");
            return Err(fail(why));
        }
        if request.class.is_empty() {
            let why = "missing device class name (unsupported request type?)";
            return Err(fail(why.to_owned()));
        }
        let class = self.world.class(request.class).ok_or_else(|| {
            fail(format!(
                "could not retrieve device class {}: deviceclass.resource.k8s.io {:?} not found",
                request.class, request.class
            ))
        })?;
        let mut need = Need {
            request,
            parent,
            class,
            count: 0,
            all: Vec::new(),
        };
        match request.mode {
            "ExactCount" => need.count = usize::try_from(request.count).unwrap_or_default(),
            "All" => {
                need.all = self.all_devices(claim, &need, &fail)?;
                need.count = need.all.len();
            }
            other => return Err(fail(format!("unsupported count mode {other}"))),
        }
        Ok(need)
    }

    /// Returns all devices that match. Pools that are about to change have to be waited for.
    fn all_devices(
        &self,
        claim: &ResourceClaim,
        need: &Need<'_>,
        fail: &dyn Fn(String) -> Failure,
    ) -> Result<Vec<(usize, usize)>, Failure> {
        let mut all = Vec::new();
        for (p, pool) in self.pools.iter().enumerate() {
            let state = match (pool.incomplete, pool.invalid) {
                (true, _) => Some("being updated"),
                (_, true) => Some("invalid"),
                _ => None,
            };
            if let Some(state) = state {
                let (driver, name) = (pool.driver, pool.name);
                let why = format!(
                    "asks for all devices, but resource pool {driver}/{name} is currently {state}"
                );
                return Err(fail(why));
            }
            for (d, candidate) in pool.devices.iter().enumerate() {
                if self.world.is_late() {
                    return Err(Failure::TimedOut);
                }
                let (request, node) = (&need.request, self.node);
                let allocator = self.allocator;
                if !allocator.is_selectable(claim, need.class, request, node, candidate)? {
                    continue;
                }
                let consumed = allocator.allocated.consumed(&candidate.id);
                if is_left(candidate.device, request.capacity, consumed, None) {
                    all.push((p, d));
                }
            }
        }
        Ok(all)
    }
}
