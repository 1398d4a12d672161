use super::*;
use rkube_client::reflector::Listed;
use serde_json::{Value, json};

const DNS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn object<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn policy() -> NetworkPolicy {
    object(json!({
        "metadata": {"namespace": "default", "name": "deny", "uid": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress"]},
    }))
}

fn pod(uid: &str, ip: Option<&str>) -> Pod {
    object(json!({
        "metadata": {"namespace": "default", "name": uid, "uid": uid, "labels": {"app": "a"}},
        "spec": {"nodeName": "here", "containers": []},
        "status": {"podIP": ip},
    }))
}

fn listed<K>(objects: impl IntoIterator<Item = K>) -> Event<K> {
    Event::Listed(Listed::new(objects.into_iter().collect(), 1))
}

fn complete(view: &mut View) {
    view.take(Change::Namespace(listed([])));
    view.take(Change::Pod(Box::new(listed([]))));
}

/// Returns the number of addresses that are isolated for ingress.
fn isolated(view: &mut View) -> usize {
    let tables = view.state.tables();
    let of = |table: &Table| table.sets["isolated-ingress"].elements.len();
    tables.iter().map(of).sum()
}

#[test]
fn without_policies_nothing_else_is_needed() {
    let mut view = View::new("here", vec![DNS.into()]);
    assert!(!view.is_complete(), "the policies are unknown");
    view.take(Change::Policy(listed([])));
    assert!(view.is_complete() && !view.needs_cluster());
    view.take(Change::Policy(Event::Applied(policy())));
    assert!(view.needs_cluster() && !view.is_complete());
    complete(&mut view);
    assert!(view.is_complete());
    view.take(Change::Policy(Event::Deleted(policy())));
    assert!(!view.needs_cluster());
    view.forget_cluster();
    assert!(view.is_complete());
}

#[test]
fn a_new_pod_is_isolated_before_the_api_knows_its_address() {
    let mut view = View::new("here", vec![DNS.into()]);
    // Attached before there is a policy.
    view.attach(
        "s1".into(),
        &pod("one", None),
        vec![Ipv4Addr::new(10, 244, 0, 2).into()],
    );
    view.take(Change::Policy(listed([policy()])));
    complete(&mut view);
    assert_eq!(isolated(&mut view), 1);
    view.attach(
        "s2".into(),
        &pod("two", None),
        vec![Ipv4Addr::new(10, 244, 0, 3).into()],
    );
    assert_eq!(isolated(&mut view), 2);
    // The watch reports it without an address, then with it.
    for ip in [None, Some("10.244.0.3")] {
        view.take(Change::Pod(Box::new(Event::Applied(pod("two", ip)))));
        assert_eq!(isolated(&mut view), 2, "{ip:?}");
    }
    // A list that is older than the pods does not make them forgotten.
    complete(&mut view);
    assert_eq!(isolated(&mut view), 2);
    // Its sandbox is created again, then the old one is removed.
    view.attach(
        "s3".into(),
        &pod("two", None),
        vec![Ipv4Addr::new(10, 244, 0, 4).into()],
    );
    view.detach("s2");
    assert_eq!(isolated(&mut view), 2);
    view.detach("s3");
    assert_eq!(isolated(&mut view), 1);
    // The object is gone, but its processes are not yet.
    view.take(Change::Pod(Box::new(Event::Deleted(pod("one", None)))));
    assert_eq!(isolated(&mut view), 1);
    view.detach("s1");
    assert_eq!(isolated(&mut view), 0);
}

#[test]
fn what_earlier_agents_attached_is_isolated_from_the_start() {
    let sandbox = |id: &str, of: &str, attempt| Sandbox {
        id: id.into(),
        state: rkube_runtime::SandboxState::Ready,
        netns_path: None,
        pid: None,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        spec: rkube_runtime::SandboxSpec {
            uid: of.into(),
            attempt,
            annotations: record(&pod(of, None)).into_iter().collect(),
            ..Default::default()
        },
    };
    let ip = |last| vec![IpAddr::from(Ipv4Addr::new(10, 244, 0, last))];
    let mut unknown = sandbox("s4", "three", 0);
    unknown.spec.annotations.clear();
    let mut view = View::new("here", vec![DNS.into()]);
    view.restore(vec![
        Adopted::new(sandbox("s1", "one", 0), ip(2)),
        Adopted::new(sandbox("s2", "one", 1), ip(3)),
        Adopted::new(sandbox("s3", "two", 0), ip(4)),
        Adopted::new(unknown, ip(5)),
    ]);
    view.take(Change::Policy(listed([policy()])));
    // The objects of two of them are gone. That of the third has no address yet.
    view.take(Change::Namespace(listed([])));
    view.take(Change::Pod(Box::new(listed([pod("three", None)]))));
    assert_eq!(isolated(&mut view), 3);
    view.detach("s1");
    assert_eq!(isolated(&mut view), 3, "its pod has a later sandbox");
    for (id, left) in [("s2", 2), ("s3", 1), ("s4", 0)] {
        view.detach(id);
        assert_eq!(isolated(&mut view), left, "{id}");
    }
}

#[test]
fn pods_wait_for_rules_only_if_there_may_be_any() {
    let mut view = View::new("here", vec![DNS.into()]);
    let waits = |view: &mut View| {
        let (done, mut told) = oneshot::channel();
        let waiting = view.notice(Notice::Attached {
            sandbox: "s".into(),
            pod: Box::new(pod("one", None)),
            ips: vec![Ipv4Addr::new(10, 244, 0, 2).into()],
            done,
        });
        assert_eq!(told.try_recv().is_ok(), waiting.is_none());
        waiting.is_some()
    };
    assert!(waits(&mut view), "the policies are unknown");
    view.take(Change::Policy(listed([])));
    assert!(!waits(&mut view));
    view.take(Change::Policy(Event::Applied(policy())));
    assert!(waits(&mut view));
    complete(&mut view);
    assert!(waits(&mut view), "the rules are not written yet");
}

#[test]
fn a_list_replaces_what_was_known() {
    let mut view = View::new("here", vec![DNS.into()]);
    view.take(Change::Policy(Event::Applied(policy())));
    view.take(Change::Pod(Box::new(Event::Applied(pod(
        "one",
        Some("10.244.0.2"),
    )))));
    assert_eq!(isolated(&mut view), 1);
    let two = listed([pod("two", Some("10.244.0.3"))]);
    view.take(Change::Pod(Box::new(two)));
    assert_eq!(isolated(&mut view), 1);
    view.take(Change::Policy(listed([])));
    assert!(!view.needs_cluster());
}

fn unreadable(name: &str) -> Unreadable {
    Unreadable {
        namespace: "default".into(),
        name: name.into(),
        uid: name.into(),
        error: String::new(),
    }
}

/// Returns a list with nothing but an object that cannot be read.
fn unread<K>(name: &str) -> Event<K> {
    let mut list = Listed::new(vec![], 1);
    list.unreadable.push(unreadable(name));
    Event::Listed(list)
}

#[test]
fn what_cannot_be_read_opens_nothing() {
    let mut view = View::new("here", vec![DNS.into()]);
    view.take(Change::Policy(unread("deny")));
    assert!(!view.is_complete(), "nobody knows what the policy forbids");
    view.take(Change::Policy(Event::Applied(policy())));
    complete(&mut view);
    let one = pod("one", Some("10.244.0.2"));
    view.take(Change::Pod(Box::new(Event::Applied(one))));
    assert!(view.is_complete());
    assert_eq!(isolated(&mut view), 1);
    // What was known holds.
    view.take(Change::Policy(unread("deny")));
    view.take(Change::Pod(Box::new(unread("one"))));
    assert!(view.is_complete() && view.needs_cluster());
    assert_eq!(isolated(&mut view), 1);
    view.take(Change::Policy(Event::Unreadable(unreadable("deny"))));
    assert!(view.is_complete());
    view.take(Change::Policy(Event::Unreadable(unreadable("other"))));
    assert!(!view.is_complete());
    // Another policy of the same name is not known.
    let mut again = unreadable("deny");
    again.uid = "again".into();
    view.take(Change::Policy(listed([policy()])));
    assert!(view.is_complete());
    view.take(Change::Policy(Event::Unreadable(again)));
    assert!(!view.is_complete());
    view.take(Change::Policy(listed([])));
    assert!(view.is_complete() && !view.needs_cluster());
}
