//! The rows of the table: group versions of v1.36 that are enabled by default, in the order
//! of upstream's discovery. Beta versions have been disabled by default since v1.24.

use crate::gvk::GroupVersionKind;

use super::types::{ALL_VERBS, CONNECT_VERBS, CREATE_ONLY, PART_VERBS, Resource, Subresource};

/// The verbs of a proxy, each of which stands for HTTP methods.
const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];
const NAMESPACE_VERBS: &[&str] = &[
    "create", "delete", "get", "list", "patch", "update", "watch",
];
const READ_VERBS: &[&str] = &["get", "list"];

const AUTOSCALING: (&str, &str) = ("autoscaling", "v1");

struct Row(Resource);

/// A group version whose definitions are in `package`.
#[derive(Clone, Copy)]
struct Group {
    group: &'static str,
    version: &'static str,
    package: &'static str,
}

const fn group(group: &'static str, version: &'static str, package: &'static str) -> Group {
    Group {
        group,
        version,
        package,
    }
}

impl Group {
    fn row(self, plural: &'static str, kind: &'static str, namespaced: bool) -> Row {
        Row(Resource {
            group: self.group.into(),
            version: self.version.into(),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            namespaced,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: ALL_VERBS,
            subresources: Vec::new(),
            definition: format!("{}.{kind}", self.package).into(),
            storage_group: self.group.into(),
            storage_version: self.version.into(),
            selectable_fields: Vec::new(),
        })
    }

    /// Creates a namespaced resource.
    fn namespaced(self, plural: &'static str, kind: &'static str) -> Row {
        self.row(plural, kind, true)
    }

    /// Creates a cluster-scoped resource.
    fn cluster(self, plural: &'static str, kind: &'static str) -> Row {
        self.row(plural, kind, false)
    }
}

impl Row {
    fn short(mut self, names: &[&'static str]) -> Self {
        self.0.short_names = names.iter().map(|n| (*n).into()).collect();
        self
    }

    fn category(mut self, name: &'static str) -> Self {
        self.0.categories.push(name.into());
        self
    }

    fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.0.verbs = verbs;
        self
    }

    fn fields(mut self, fields: &[&'static str]) -> Self {
        self.0.selectable_fields = fields.iter().map(|f| (*f).into()).collect();
        self
    }

    fn stored_as(mut self, group: &'static str, version: &'static str) -> Self {
        self.0.storage_group = group.into();
        self.0.storage_version = version.into();
        self
    }

    /// Adds a subresource of the resource's kind.
    fn part(self, name: &'static str) -> Self {
        self.own(name, PART_VERBS)
    }

    fn own(self, name: &'static str, verbs: &'static [&'static str]) -> Self {
        let kind = self.0.gvk();
        self.sub(name, kind, verbs)
    }

    fn status(self) -> Self {
        self.part("status")
    }

    fn scale(self) -> Self {
        self.sub(
            "scale",
            GroupVersionKind::new(AUTOSCALING.0, AUTOSCALING.1, "Scale"),
            PART_VERBS,
        )
    }

    /// Adds a subresource of another kind, in the core group.
    fn core(self, name: &'static str, kind: &'static str, verbs: &'static [&'static str]) -> Self {
        self.sub(name, GroupVersionKind::new("", "v1", kind), verbs)
    }

    fn sub(
        mut self,
        name: &'static str,
        kind: GroupVersionKind,
        verbs: &'static [&'static str],
    ) -> Self {
        self.0.subresources.push(Subresource {
            name: name.into(),
            kind,
            verbs,
        });
        self.0.subresources.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }
}

pub(super) fn rows() -> Vec<Resource> {
    let rows = core()
        .into_iter()
        .chain(workloads())
        .chain(access())
        .chain(cluster_services())
        .chain(extension());
    rows.map(|row| row.0).collect()
}

fn core() -> Vec<Row> {
    let g = group("", "v1", "io.k8s.api.core.v1");
    vec![
        g.namespaced("bindings", "Binding").verbs(CREATE_ONLY),
        g.cluster("componentstatuses", "ComponentStatus")
            .short(&["cs"])
            .verbs(READ_VERBS),
        g.namespaced("configmaps", "ConfigMap").short(&["cm"]),
        g.namespaced("endpoints", "Endpoints").short(&["ep"]),
        g.namespaced("events", "Event").short(&["ev"]).fields(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ]),
        g.namespaced("limitranges", "LimitRange").short(&["limits"]),
        g.cluster("namespaces", "Namespace")
            .short(&["ns"])
            .verbs(NAMESPACE_VERBS)
            .fields(&["status.phase"])
            .own("finalize", &["update"])
            .status(),
        g.cluster("nodes", "Node")
            .short(&["no"])
            .fields(&["spec.unschedulable"])
            .core("proxy", "NodeProxyOptions", PROXY_VERBS)
            .status(),
        g.namespaced("persistentvolumeclaims", "PersistentVolumeClaim")
            .short(&["pvc"])
            .status(),
        g.cluster("persistentvolumes", "PersistentVolume")
            .short(&["pv"])
            .status(),
        g.namespaced("pods", "Pod")
            .short(&["po"])
            .category("all")
            .fields(&[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.podIPs",
                "status.nominatedNodeName",
            ])
            .core("attach", "PodAttachOptions", CONNECT_VERBS)
            .core("binding", "Binding", CREATE_ONLY)
            .part("ephemeralcontainers")
            .sub(
                "eviction",
                GroupVersionKind::new("policy", "v1", "Eviction"),
                CREATE_ONLY,
            )
            .core("exec", "PodExecOptions", CONNECT_VERBS)
            .own("log", &["get"])
            .core("portforward", "PodPortForwardOptions", CONNECT_VERBS)
            .core("proxy", "PodProxyOptions", PROXY_VERBS)
            .part("resize")
            .status(),
        g.namespaced("podtemplates", "PodTemplate"),
        g.namespaced("replicationcontrollers", "ReplicationController")
            .short(&["rc"])
            .category("all")
            .fields(&["status.replicas"])
            .scale()
            .status(),
        g.namespaced("resourcequotas", "ResourceQuota")
            .short(&["quota"])
            .status(),
        g.namespaced("secrets", "Secret").fields(&["type"]),
        g.namespaced("serviceaccounts", "ServiceAccount")
            .short(&["sa"])
            .sub(
                "token",
                GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest"),
                CREATE_ONLY,
            ),
        g.namespaced("services", "Service")
            .short(&["svc"])
            .category("all")
            .fields(&["spec.clusterIP", "spec.type"])
            .core("proxy", "ServiceProxyOptions", PROXY_VERBS)
            .status(),
    ]
}

fn workloads() -> Vec<Row> {
    let registration = group(
        "apiregistration.k8s.io",
        "v1",
        "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
    );
    let apps = group("apps", "v1", "io.k8s.api.apps.v1");
    let events = group("events.k8s.io", "v1", "io.k8s.api.events.v1");
    vec![
        registration
            .cluster("apiservices", "APIService")
            .category("api-extensions")
            .status(),
        apps.namespaced("controllerrevisions", "ControllerRevision"),
        apps.namespaced("daemonsets", "DaemonSet")
            .short(&["ds"])
            .category("all")
            .status(),
        apps.namespaced("deployments", "Deployment")
            .short(&["deploy"])
            .category("all")
            .scale()
            .status(),
        apps.namespaced("replicasets", "ReplicaSet")
            .short(&["rs"])
            .category("all")
            .scale()
            .status(),
        apps.namespaced("statefulsets", "StatefulSet")
            .short(&["sts"])
            .category("all")
            .scale()
            .status(),
        // The same objects as the core group's events.
        events
            .namespaced("events", "Event")
            .short(&["ev"])
            .stored_as("", "v1")
            .fields(&[
                "reason",
                "regarding.kind",
                "regarding.namespace",
                "regarding.name",
                "regarding.uid",
                "regarding.apiVersion",
                "regarding.resourceVersion",
                "regarding.fieldPath",
                "reportingController",
                "source",
                "type",
            ]),
    ]
}

fn access() -> Vec<Row> {
    let authentication = group(
        "authentication.k8s.io",
        "v1",
        "io.k8s.api.authentication.v1",
    );
    let authorization = group("authorization.k8s.io", "v1", "io.k8s.api.authorization.v1");
    let autoscaling_v2 = group("autoscaling", "v2", "io.k8s.api.autoscaling.v2");
    let autoscaling_v1 = group(AUTOSCALING.0, AUTOSCALING.1, "io.k8s.api.autoscaling.v1");
    let batch = group("batch", "v1", "io.k8s.api.batch.v1");
    let certificates = group("certificates.k8s.io", "v1", "io.k8s.api.certificates.v1");
    let autoscaler = |g: Group| {
        g.namespaced("horizontalpodautoscalers", "HorizontalPodAutoscaler")
            .short(&["hpa"])
            .category("all")
            .stored_as("autoscaling", "v2")
            .status()
    };
    vec![
        authentication
            .cluster("selfsubjectreviews", "SelfSubjectReview")
            .verbs(CREATE_ONLY),
        authentication
            .cluster("tokenreviews", "TokenReview")
            .verbs(CREATE_ONLY),
        authorization
            .namespaced("localsubjectaccessreviews", "LocalSubjectAccessReview")
            .verbs(CREATE_ONLY),
        authorization
            .cluster("selfsubjectaccessreviews", "SelfSubjectAccessReview")
            .verbs(CREATE_ONLY),
        authorization
            .cluster("selfsubjectrulesreviews", "SelfSubjectRulesReview")
            .verbs(CREATE_ONLY),
        authorization
            .cluster("subjectaccessreviews", "SubjectAccessReview")
            .verbs(CREATE_ONLY),
        autoscaler(autoscaling_v2),
        autoscaler(autoscaling_v1),
        batch
            .namespaced("cronjobs", "CronJob")
            .short(&["cj"])
            .category("all")
            .status(),
        batch
            .namespaced("jobs", "Job")
            .category("all")
            .fields(&["status.successful"])
            .status(),
        certificates
            .cluster("certificatesigningrequests", "CertificateSigningRequest")
            .short(&["csr"])
            .fields(&["spec.signerName"])
            .part("approval")
            .status(),
    ]
}

fn cluster_services() -> Vec<Row> {
    let networking = group("networking.k8s.io", "v1", "io.k8s.api.networking.v1");
    let policy = group("policy", "v1", "io.k8s.api.policy.v1");
    let rbac = group("rbac.authorization.k8s.io", "v1", "io.k8s.api.rbac.v1");
    let storage = group("storage.k8s.io", "v1", "io.k8s.api.storage.v1");
    vec![
        networking.cluster("ingressclasses", "IngressClass"),
        networking
            .namespaced("ingresses", "Ingress")
            .short(&["ing"])
            .status(),
        networking
            .cluster("ipaddresses", "IPAddress")
            .short(&["ip"]),
        networking
            .namespaced("networkpolicies", "NetworkPolicy")
            .short(&["netpol"]),
        networking.cluster("servicecidrs", "ServiceCIDR").status(),
        policy
            .namespaced("poddisruptionbudgets", "PodDisruptionBudget")
            .short(&["pdb"])
            .status(),
        rbac.cluster("clusterrolebindings", "ClusterRoleBinding"),
        rbac.cluster("clusterroles", "ClusterRole"),
        rbac.namespaced("rolebindings", "RoleBinding"),
        rbac.namespaced("roles", "Role"),
        storage.cluster("csidrivers", "CSIDriver"),
        storage.cluster("csinodes", "CSINode"),
        storage.namespaced("csistoragecapacities", "CSIStorageCapacity"),
        storage
            .cluster("storageclasses", "StorageClass")
            .short(&["sc"]),
        storage
            .cluster("volumeattachments", "VolumeAttachment")
            .status(),
        storage
            .cluster("volumeattributesclasses", "VolumeAttributesClass")
            .short(&["vac"]),
    ]
}

fn extension() -> Vec<Row> {
    let admission = group(
        "admissionregistration.k8s.io",
        "v1",
        "io.k8s.api.admissionregistration.v1",
    );
    let extensions = group(
        "apiextensions.k8s.io",
        "v1",
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    );
    let scheduling = group("scheduling.k8s.io", "v1", "io.k8s.api.scheduling.v1");
    let coordination = group("coordination.k8s.io", "v1", "io.k8s.api.coordination.v1");
    let node = group("node.k8s.io", "v1", "io.k8s.api.node.v1");
    let discovery = group("discovery.k8s.io", "v1", "io.k8s.api.discovery.v1");
    let resource = group("resource.k8s.io", "v1", "io.k8s.api.resource.v1");
    let flow = group(
        "flowcontrol.apiserver.k8s.io",
        "v1",
        "io.k8s.api.flowcontrol.v1",
    );
    let hook = |plural, kind| admission.cluster(plural, kind).category("api-extensions");
    vec![
        hook("mutatingadmissionpolicies", "MutatingAdmissionPolicy"),
        hook(
            "mutatingadmissionpolicybindings",
            "MutatingAdmissionPolicyBinding",
        ),
        hook(
            "mutatingwebhookconfigurations",
            "MutatingWebhookConfiguration",
        ),
        hook("validatingadmissionpolicies", "ValidatingAdmissionPolicy").status(),
        hook(
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
        ),
        hook(
            "validatingwebhookconfigurations",
            "ValidatingWebhookConfiguration",
        ),
        extensions
            .cluster("customresourcedefinitions", "CustomResourceDefinition")
            .short(&["crd", "crds"])
            .category("api-extensions")
            .status(),
        scheduling
            .cluster("priorityclasses", "PriorityClass")
            .short(&["pc"]),
        coordination.namespaced("leases", "Lease"),
        node.cluster("runtimeclasses", "RuntimeClass"),
        discovery.namespaced("endpointslices", "EndpointSlice"),
        resource.cluster("deviceclasses", "DeviceClass"),
        resource
            .namespaced("resourceclaims", "ResourceClaim")
            .status(),
        resource.namespaced("resourceclaimtemplates", "ResourceClaimTemplate"),
        resource
            .cluster("resourceslices", "ResourceSlice")
            .fields(&["spec.nodeName", "spec.driver"]),
        flow.cluster("flowschemas", "FlowSchema").status(),
        flow.cluster("prioritylevelconfigurations", "PriorityLevelConfiguration")
            .status(),
    ]
}
