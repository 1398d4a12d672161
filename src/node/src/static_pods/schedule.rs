//! Decides which static pods have a worker.
//!
//! Of the pods with the same name, one has a worker at a time: a changed pod starts when the old
//! one has ended. The same holds for a manifest that was removed and came back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::mirror::{self, Mirrors};
use super::source::Wanted;
use super::{is_mirror, key};
use crate::kinds::*;

/// A step towards the wanted workers.
#[derive(Debug, PartialEq)]
pub(crate) enum Step {
    /// Start a worker for the pod.
    Run(Arc<Pod>),
    /// The pod changed, but not its UID.
    Update(Arc<Pod>),
    /// Stop the pod with this UID.
    End(String),
    /// The mirror of the pod with this UID is now this one, or is gone.
    Mirror(String, Option<Arc<Pod>>),
}

/// A static pod that has a worker.
struct Working {
    pod: Arc<Pod>,
    ending: bool,
}

/// The static pods of the node, their workers and their mirrors.
#[derive(Default)]
pub(crate) struct Schedule {
    wanted: Wanted,
    /// The pods with a worker, by name.
    working: BTreeMap<String, Working>,
    /// The mirror pods in the API, by name; `None` before the first list of pods.
    mirrors: Option<BTreeMap<String, Arc<Pod>>>,
}

impl Schedule {
    /// Sets the pods of all manifests.
    pub(crate) fn want(&mut self, wanted: Wanted) -> Vec<Step> {
        self.wanted = wanted;
        self.steps()
    }

    /// Records that a pod's worker has ended.
    pub(crate) fn ended(&mut self, uid: &str) -> Vec<Step> {
        self.working.retain(|_, working| working.pod.uid() != uid);
        self.steps()
    }

    /// Sets all mirror pods of the API.
    pub(crate) fn list(&mut self, mirrors: impl Iterator<Item = Arc<Pod>>) -> Vec<Step> {
        let mirrors: BTreeMap<_, _> = mirrors.map(|pod| (key(&pod), pod)).collect();
        let earlier = self.mirrors.replace(mirrors).unwrap_or_default();
        let changed = self.working.iter().filter_map(|(name, working)| {
            let mirror = self.mirrors.as_ref()?.get(name).cloned();
            let uid = working.pod.uid().to_owned();
            (mirror.as_ref() != earlier.get(name)).then_some(Step::Mirror(uid, mirror))
        });
        changed.collect()
    }

    /// Takes a pod that the API has or changed; returns it if it is no mirror.
    pub(crate) fn applied(&mut self, pod: Pod) -> Result<Vec<Step>, Box<Pod>> {
        if !is_mirror(&pod) {
            return Err(Box::new(pod));
        }
        let (name, pod) = (key(&pod), Arc::new(pod));
        self.mirrors
            .get_or_insert_default()
            .insert(name.clone(), pod.clone());
        Ok(self.tell(&name, Some(pod)))
    }

    /// Takes a pod that the API no longer has; returns it if it was no mirror.
    pub(crate) fn deleted(&mut self, pod: Pod) -> Result<Vec<Step>, Box<Pod>> {
        if !is_mirror(&pod) {
            return Err(Box::new(pod));
        }
        let name = key(&pod);
        let mirrors = self.mirrors.get_or_insert_default();
        // A successor may have come first.
        if mirrors.get(&name).is_none_or(|m| m.uid() != pod.uid()) {
            return Ok(Vec::new());
        }
        mirrors.remove(&name);
        Ok(self.tell(&name, None))
    }

    fn tell(&self, name: &str, mirror: Option<Arc<Pod>>) -> Vec<Step> {
        let working = self.working.get(name).into_iter();
        working
            .map(|working| Step::Mirror(working.pod.uid().to_owned(), mirror.clone()))
            .collect()
    }

    /// Returns the UIDs of all static pods, also of those that end.
    pub(crate) fn uids(&self) -> impl Iterator<Item = &str> {
        let working = self.working.values().map(|working| working.pod.uid());
        working.chain(self.wanted.values().map(|pod| pod.uid()))
    }

    /// Returns the mirror of a static pod.
    pub(crate) fn mirror(&self, pod: &Pod) -> Option<Arc<Pod>> {
        self.mirrors.as_ref()?.get(&key(pod)).cloned()
    }

    /// Returns what decides about the mirror pods; `None` before they are known.
    pub(crate) fn mirrors(&self) -> Option<Mirrors> {
        let pods = self.working.iter().map(|(name, working)| {
            let state = match working.ending {
                true => mirror::State::Ending,
                false => mirror::State::Running(working.pod.clone()),
            };
            (name.clone(), state)
        });
        Some(Mirrors {
            pods: pods.collect(),
            mirrors: self.mirrors.clone()?,
        })
    }

    fn steps(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (name, working) in self.working.iter_mut().filter(|(_, w)| !w.ending) {
            match self.wanted.get(name) {
                Some(pod) if pod.uid() == working.pod.uid() => {
                    if *pod != working.pod {
                        working.pod = pod.clone();
                        steps.push(Step::Update(pod.clone()));
                    }
                }
                _ => {
                    working.ending = true;
                    steps.push(Step::End(working.pod.uid().to_owned()));
                }
            }
        }
        for (name, pod) in self.wanted.iter() {
            if !self.working.contains_key(name) {
                let (pod, ending) = (pod.clone(), false);
                steps.push(Step::Run(pod.clone()));
                self.working.insert(name.clone(), Working { pod, ending });
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{mirror, pod, static_pod};
    use super::*;

    fn wanted(pods: &[(&str, &str)]) -> Wanted {
        let pods = pods
            .iter()
            .map(|(name, uid)| Arc::new(static_pod(name, uid)));
        Arc::new(pods.map(|pod| (key(&pod), pod)).collect())
    }

    fn run(name: &str, uid: &str) -> Step {
        Step::Run(Arc::new(static_pod(name, uid)))
    }

    fn end(uid: &str) -> Step {
        Step::End(uid.to_owned())
    }

    /// Upstream's `TestStaticPodExclusion`: one pod of a name runs at a time, and the last wins.
    #[test]
    fn a_changed_pod_waits_for_the_old_one() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.want(wanted(&[("a", "1")])), [run("a", "1")]);
        assert_eq!(schedule.want(wanted(&[("a", "1")])), []);
        assert_eq!(schedule.want(wanted(&[("a", "2")])), [end("1")]);
        assert_eq!(schedule.want(wanted(&[("a", "3")])), []);
        assert_eq!(schedule.uids().collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(schedule.ended("1"), [run("a", "3")]);
        assert_eq!(schedule.want(wanted(&[])), [end("3")]);
        // The same manifest comes back before the pod has ended.
        assert_eq!(
            schedule.want(wanted(&[("a", "3"), ("b", "4")])),
            [run("b", "4")]
        );
        assert_eq!(schedule.ended("3"), [run("a", "3")]);
    }

    #[test]
    fn a_pod_with_an_own_uid_is_updated() {
        let mut schedule = Schedule::default();
        schedule.want(wanted(&[("a", "1")]));
        let mut changed = static_pod("a", "1");
        changed.spec = Some(PodSpec::default());
        let changed = Arc::new(changed);
        let all: Wanted = Arc::new([(key(&changed), changed.clone())].into());
        assert_eq!(schedule.want(all), [Step::Update(changed)]);
    }

    #[test]
    fn workers_hear_of_their_mirrors() {
        let mut schedule = Schedule::default();
        schedule.want(wanted(&[("a", "1"), ("b", "2")]));
        assert!(schedule.mirrors().is_none());
        let (a, other) = (
            Arc::new(mirror("a", "m", "1")),
            Arc::new(mirror("c", "o", "3")),
        );
        let list = [a.clone(), other];
        let told = || Step::Mirror("1".into(), Some(a.clone()));
        assert_eq!(schedule.list(list.clone().into_iter()), [told()]);
        assert_eq!(schedule.list(list.into_iter()), []);
        assert_eq!(schedule.applied((*a).clone()), Ok(vec![told()]));
        assert_eq!(schedule.mirror(&static_pod("a", "1")), Some(a.clone()));
        let ordinary = pod("a", "x", &[]);
        assert_eq!(schedule.applied(ordinary.clone()), Err(Box::new(ordinary)));
        // A successor came before the deletion was reported.
        let next = mirror("a", "n", "1");
        schedule.applied(next.clone()).unwrap();
        assert_eq!(schedule.deleted((*a).clone()), Ok(vec![]));
        let gone = Step::Mirror("1".into(), None);
        assert_eq!(schedule.deleted(next), Ok(vec![gone]));
        assert_eq!(schedule.mirror(&static_pod("a", "1")), None);
    }
}
