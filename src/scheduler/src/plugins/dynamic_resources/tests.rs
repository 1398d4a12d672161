use super::*;
use crate::cycle::{FitError, Placement, preempt, schedule};
use crate::devices::ClaimChange;
use crate::model::testing::*;
use serde_json::{Value, json};

fn class() -> DeviceClass {
    let class = json!({"metadata": {"name": "gpu"},
        "spec": {"selectors": [{"cel": {"expression": "device.driver == 'x'"}}]}});
    serde_json::from_value(class).unwrap()
}

fn slice(node: &str, devices: &[&str]) -> Arc<ResourceSlice> {
    let devices: Vec<Value> = devices.iter().map(|name| json!({"name": name})).collect();
    let slice = json!({"metadata": {"name": format!("slice-{node}")}, "spec": {"driver": "x",
        "nodeName": node, "devices": devices,
        "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}});
    Arc::new(serde_json::from_value(slice).unwrap())
}

fn claim(name: &str, class: &str, status: Value) -> Arc<ResourceClaim> {
    let claim = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
            "resourceVersion": "1"},
        "spec": {"devices": {"requests": [{"name": "r", "exactly":
            {"deviceClassName": class, "allocationMode": "ExactCount", "count": 1}}]}},
        "status": status});
    Arc::new(serde_json::from_value(claim).unwrap())
}

fn allocated(node: &str, users: &[&str]) -> Value {
    let users: Vec<Value> = users
        .iter()
        .map(|uid| json!({"resource": "pods", "name": uid, "uid": uid}))
        .collect();
    json!({"reservedFor": users, "allocation": {
        "devices": {"results": [{"request": "r", "driver": "x", "pool": node, "device": "d"}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields":
            [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}}})
}

fn cluster(claims: &[Arc<ResourceClaim>]) -> Cluster {
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        cluster.set_node(node(name));
    }
    cluster.devices.classes.insert("gpu".into(), class());
    cluster
        .devices
        .slices
        .insert("slice-a".into(), slice("a", &["d"]));
    for claim in claims {
        let name = claim.metadata.name.clone().unwrap();
        let key = ("default".to_owned(), name);
        cluster.devices.set_claim(key, Arc::clone(claim));
    }
    cluster
}

fn user(name: &str, claim: &str) -> PodInfo {
    let claims = json!([{"name": "d", "resourceClaimName": claim}]);
    let pod = pod(
        name,
        json!({"resourceClaims": claims, "containers": [{"name": "c", "image": "i"}]}),
    );
    assert_eq!(pod.namespace, "default");
    pod
}

fn placed(pod: &PodInfo, cluster: &Cluster) -> Result<Placement, FitError> {
    schedule(pod, cluster, |_| 0).map_err(|mut error| {
        preempt(pod, cluster, &mut error);
        error
    })
}

fn told(pod: &PodInfo, cluster: &Cluster) -> String {
    placed(pod, cluster).unwrap_err().to_string()
}

#[test]
fn devices_are_chosen_with_the_node() {
    let mut cluster = cluster(&[
        claim("c", "gpu", Value::Null),
        claim("other", "gpu", Value::Null),
    ]);
    let placement = placed(&user("p", "c"), &cluster).unwrap();
    assert_eq!(placement.node, "a");
    let chosen = placement.devices[0].allocation.as_ref().unwrap();
    assert_eq!(
        results(chosen)
            .map(|r| r.device.as_str())
            .collect::<Vec<_>>(),
        ["d"]
    );
    // From then on the device and the claim are taken, before anything is written.
    cluster.devices.hold(&placement.devices);
    let preemption =
        "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    assert_eq!(
        told(&user("q", "other"), &cluster),
        format!(
            "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, {preemption}"
        )
    );
    assert_eq!(
        told(&user("q", "c"), &cluster),
        format!(
            "0/2 nodes are available: resource claim default/c is in the process of being allocated. no new claims to deallocate, {preemption}"
        )
    );
    assert!(cluster.devices.let_go(&placement.devices));
    assert_eq!(placed(&user("q", "other"), &cluster).unwrap().node, "a");
}

#[test]
fn claims_that_cannot_be_used() {
    let deleted = {
        let mut claim = (*claim("c", "gpu", Value::Null)).clone();
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        claim.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
        Arc::new(claim)
    };
    for (claims, want) in [
        (vec![], "could not find ResourceClaim \"default/c\""),
        (vec![deleted], "resourceclaim \"c\" is being deleted"),
        (
            vec![claim("c", "odd", Value::Null)],
            "request r: device class odd does not exist",
        ),
    ] {
        let told = told(&user("p", "c"), &cluster(&claims));
        let want = format!("0/2 nodes are available: {want}. no new claims to deallocate, ");
        assert!(told.starts_with(&want), "{told}");
    }
    let template = json!([{"name": "d", "resourceClaimTemplateName": "t"}]);
    let templated = pod("p", json!({"resourceClaims": template, "containers": []}));
    let why = cluster(&[]).devices.claims_of(&templated).unwrap_err();
    assert_eq!(why, "pod \"default/p\": ResourceClaim not created yet");
}

#[test]
fn devices_bind_pods_to_their_nodes() {
    let cluster_with = |users: &[&str]| cluster(&[claim("c", "gpu", allocated("b", users))]);
    let p = user("p", "c");
    let placement = placed(&p, &cluster_with(&["other"])).unwrap();
    assert_eq!(
        (placement.node.as_str(), &placement.devices[0].allocation),
        ("b", &None)
    );
    let mut gone = cluster_with(&["p"]);
    gone.remove_node("b");
    let error = placed(&p, &gone).unwrap_err();
    assert!(error.deallocate.is_some(), "nobody else uses the claim");
    assert!(
        error.to_string().starts_with("0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, "),
        "{error}"
    );
    let mut shared = cluster_with(&["p", "other"]);
    shared.remove_node("b");
    assert!(placed(&p, &shared).unwrap_err().deallocate.is_none());
}

#[test]
fn broken_selectors_end_the_attempt() {
    let mut cluster = cluster(&[claim("c", "gpu", Value::Null)]);
    let mut broken = class();
    if let Some(selectors) = &mut broken.spec.selectors
        && let Some(cel) = &mut selectors[0].cel
    {
        cel.expression = "device.attributes['x'].missing".into();
    }
    cluster.devices.classes.insert("gpu".into(), broken);
    assert_eq!(
        told(&user("p", "c"), &cluster),
        "running \"DynamicResources\" filter plugin: class gpu: selector #0: CEL runtime error: no such key: missing"
    );
}

#[test]
fn better_alternatives_win() {
    let wanted = json!({"metadata": {"name": "c", "namespace": "default", "uid": "u"},
        "spec": {"devices": {"requests": [{"name": "r", "firstAvailable": [
            {"name": "best", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2},
            {"name": "good", "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 1}]}]}}});
    let mut cluster = cluster(&[Arc::new(serde_json::from_value(wanted).unwrap())]);
    cluster
        .devices
        .slices
        .insert("slice-b".into(), slice("b", &["d", "e"]));
    for tie in 0..2 {
        let placement = schedule(&user("p", "c"), &cluster, |_| tie).unwrap();
        assert_eq!(placement.node, "b");
    }
}

#[test]
fn changes_of_claims_matter_to_some_pods() {
    let mut cluster = cluster(&[claim("c", "gpu", Value::Null)]);
    let key = ("default".to_owned(), "c".to_owned());
    let version = |status: Value, version: &str| {
        let mut claim = (*claim("c", "gpu", status)).clone();
        claim.metadata.resource_version = Some(version.to_owned());
        Arc::new(claim)
    };
    let mut change = |claim| cluster.devices.set_claim(key.clone(), claim);
    assert_eq!(change(version(Value::Null, "2")), ClaimChange::None);
    assert_eq!(
        change(version(allocated("a", &["p"]), "4")),
        ClaimChange::OwnPods
    );
    // The watch lags behind what the scheduler wrote.
    assert_eq!(change(version(Value::Null, "3")), ClaimChange::None);
    assert_eq!(change(version(json!({}), "5")), ClaimChange::Freed);
}

#[test]
fn devices_get_ready() {
    let with = |conditions: Value| {
        let mut status = allocated("a", &["p"]);
        let device = &mut status["allocation"]["devices"]["results"][0];
        device["bindingConditions"] = json!(["Ready"]);
        device["bindingFailureConditions"] = json!(["Failed"]);
        status["allocation"]["allocationTimestamp"] = json!("2026-01-01T00:00:00Z");
        status["devices"] =
            json!([{"driver": "x", "pool": "a", "device": "d", "conditions": conditions}]);
        claim("c", "gpu", status)
    };
    let condition = |kind: &str, status: &str| {
        json!([{"type": kind, "status": status, "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    };
    assert_eq!(
        readiness(&claim("c", "gpu", allocated("a", &[]))),
        Readiness::Ready
    );
    assert_eq!(readiness(&with(json!([]))), Readiness::Waiting);
    assert_eq!(
        readiness(&with(condition("Ready", "False"))),
        Readiness::Waiting
    );
    assert_eq!(
        readiness(&with(condition("Ready", "True"))),
        Readiness::Ready
    );
    let failed = "device binding failed: claim=c, reason=R, message=\"m\"";
    assert_eq!(
        readiness(&with(condition("Failed", "True"))),
        Readiness::Failed(failed.to_owned())
    );
    let at = |time: &str| time.parse().unwrap();
    assert!(!is_overdue(&with(json!([])), at("2026-01-01T00:10:00Z")));
    assert!(is_overdue(&with(json!([])), at("2026-01-01T00:10:01Z")));
}
