//! Facts about fields that the types of `k8s-openapi` do not carry, written down
//! from upstream's markers (`+listType`, `+listMapKey`, `+patchStrategy`,
//! `+patchMergeKey`, `+mapType`, `+structType`, `+default`). A test of `rkube-api`
//! compares them with upstream's published document where that is available.
//!
//! Definitions are named without the prefixes `io.k8s.` and `api.`.

/// Fields with lists that are merged item by item (`+listType=map`).
pub struct ListMap {
    /// The definition that has the fields.
    pub def: &'static str,
    /// The fields.
    pub fields: &'static [&'static str],
    /// The keys that identify an item (`+listMapKey`). The first is the merge key
    /// of strategic merge patch.
    pub keys: &'static [&'static str],
    /// The behaviour in strategic merge patch (`+patchStrategy`).
    pub patch: Patch,
}

/// How strategic merge patch treats a list map.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patch {
    /// Strategic merge replaces the list.
    None,
    /// Strategic merge merges it.
    Merge,
    /// Strategic merge merges it and clears unnamed keys of an item.
    MergeRetainKeys,
}

const fn map(
    def: &'static str,
    fields: &'static [&'static str],
    keys: &'static [&'static str],
    patch: Patch,
) -> ListMap {
    ListMap {
        def,
        fields,
        keys,
        patch,
    }
}

use Patch::{Merge, MergeRetainKeys, None as Plain};

/// All list maps.
pub const LIST_MAPS: &[ListMap] = &[
    map(
        "apimachinery.pkg.apis.meta.v1.ObjectMeta",
        &["ownerReferences"],
        &["uid"],
        Merge,
    ),
    // Workloads.
    map(
        "core.v1.PodSpec",
        &[
            "containers",
            "ephemeralContainers",
            "imagePullSecrets",
            "initContainers",
            "schedulingGates",
        ],
        &["name"],
        Merge,
    ),
    map("core.v1.PodSpec", &["hostAliases"], &["ip"], Merge),
    map(
        "core.v1.PodSpec",
        &["resourceClaims", "volumes"],
        &["name"],
        MergeRetainKeys,
    ),
    map(
        "core.v1.PodSpec",
        &["topologySpreadConstraints"],
        &["topologyKey", "whenUnsatisfiable"],
        Merge,
    ),
    map("core.v1.Container", &["env"], &["name"], Merge),
    map(
        "core.v1.Container",
        &["ports"],
        &["containerPort", "protocol"],
        Merge,
    ),
    map(
        "core.v1.Container",
        &["volumeDevices"],
        &["devicePath"],
        Merge,
    ),
    map(
        "core.v1.Container",
        &["volumeMounts"],
        &["mountPath"],
        Merge,
    ),
    map("core.v1.EphemeralContainer", &["env"], &["name"], Merge),
    map(
        "core.v1.EphemeralContainer",
        &["ports"],
        &["containerPort", "protocol"],
        Merge,
    ),
    map(
        "core.v1.EphemeralContainer",
        &["volumeDevices"],
        &["devicePath"],
        Merge,
    ),
    map(
        "core.v1.EphemeralContainer",
        &["volumeMounts"],
        &["mountPath"],
        Merge,
    ),
    map(
        "core.v1.ResourceRequirements",
        &["claims"],
        &["name"],
        Plain,
    ),
    map("core.v1.PodStatus", &["conditions"], &["type"], Merge),
    map("core.v1.PodStatus", &["podIPs"], &["ip"], Merge),
    map(
        "core.v1.PodStatus",
        &["resourceClaimStatuses"],
        &["name"],
        MergeRetainKeys,
    ),
    map(
        "core.v1.ContainerStatus",
        &["allocatedResourcesStatus"],
        &["name"],
        Merge,
    ),
    map(
        "core.v1.ContainerStatus",
        &["volumeMounts"],
        &["mountPath"],
        Merge,
    ),
    map(
        "core.v1.ResourceStatus",
        &["resources"],
        &["resourceID"],
        Plain,
    ),
    map(
        "core.v1.ReplicationControllerStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map("apps.v1.DaemonSetStatus", &["conditions"], &["type"], Merge),
    map(
        "apps.v1.DeploymentStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map(
        "apps.v1.ReplicaSetStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map(
        "apps.v1.StatefulSetStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map(
        "autoscaling.v2.HorizontalPodAutoscalerStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map(
        "policy.v1.PodDisruptionBudgetStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    // The rest of the core group.
    map("core.v1.ComponentStatus", &["conditions"], &["type"], Merge),
    map("core.v1.NamespaceStatus", &["conditions"], &["type"], Merge),
    map(
        "core.v1.NodeStatus",
        &["addresses", "conditions"],
        &["type"],
        Merge,
    ),
    map(
        "core.v1.PersistentVolumeClaimStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map("core.v1.ServiceAccount", &["secrets"], &["name"], Merge),
    map(
        "core.v1.ServiceSpec",
        &["ports"],
        &["port", "protocol"],
        Merge,
    ),
    map("core.v1.ServiceStatus", &["conditions"], &["type"], Merge),
    // Admission.
    map(
        "admissionregistration.v1.MutatingAdmissionPolicySpec",
        &["matchConditions"],
        &["name"],
        Merge,
    ),
    map(
        "admissionregistration.v1.MutatingWebhook",
        &["matchConditions"],
        &["name"],
        Merge,
    ),
    map(
        "admissionregistration.v1.MutatingWebhookConfiguration",
        &["webhooks"],
        &["name"],
        Merge,
    ),
    map(
        "admissionregistration.v1.ValidatingAdmissionPolicySpec",
        &["matchConditions", "variables"],
        &["name"],
        Merge,
    ),
    map(
        "admissionregistration.v1.ValidatingAdmissionPolicyStatus",
        &["conditions"],
        &["type"],
        Plain,
    ),
    map(
        "admissionregistration.v1.ValidatingWebhook",
        &["matchConditions"],
        &["name"],
        Merge,
    ),
    map(
        "admissionregistration.v1.ValidatingWebhookConfiguration",
        &["webhooks"],
        &["name"],
        Merge,
    ),
    // Extension.
    map(
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus",
        &["conditions"],
        &["type"],
        Plain,
    ),
    map(
        "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps",
        &["x-kubernetes-validations"],
        &["rule"],
        Merge,
    ),
    map(
        "kube-aggregator.pkg.apis.apiregistration.v1.APIServiceStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    // Everything else.
    map(
        "certificates.v1.CertificateSigningRequestStatus",
        &["conditions"],
        &["type"],
        Plain,
    ),
    map(
        "flowcontrol.v1.FlowSchemaStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map(
        "flowcontrol.v1.PriorityLevelConfigurationStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map(
        "networking.v1.ServiceCIDRStatus",
        &["conditions"],
        &["type"],
        Merge,
    ),
    map(
        "resource.v1.AllocatedDeviceStatus",
        &["conditions"],
        &["type"],
        Plain,
    ),
    map(
        "resource.v1.ResourceClaimStatus",
        &["devices"],
        &["driver", "device", "pool", "shareID"],
        Plain,
    ),
    map(
        "resource.v1.ResourceClaimStatus",
        &["reservedFor"],
        &["uid"],
        Merge,
    ),
    map("storage.v1.CSINodeSpec", &["drivers"], &["name"], Merge),
];

/// Lists of unique scalars (`+listType=set`): definition, fields, and whether
/// strategic merge patch merges them too.
pub const SETS: &[(&str, &[&str], bool)] = &[
    (
        "apimachinery.pkg.apis.meta.v1.ObjectMeta",
        &["finalizers"],
        true,
    ),
    ("core.v1.NodeSpec", &["podCIDRs"], true),
    (
        "admissionregistration.v1.ValidatingAdmissionPolicyBindingSpec",
        &["validationActions"],
        false,
    ),
    (
        "batch.v1.PodFailurePolicyOnExitCodesRequirement",
        &["values"],
        false,
    ),
    (
        "batch.v1.UncountedTerminatedPods",
        &["failed", "succeeded"],
        false,
    ),
    (
        "core.v1.ContainerRestartRuleOnExitCodes",
        &["values"],
        false,
    ),
    (
        "core.v1.NodeAllocatableResourceClaimStatus",
        &["containers"],
        false,
    ),
    ("discovery.v1.Endpoint", &["addresses"], false),
    (
        "flowcontrol.v1.NonResourcePolicyRule",
        &["nonResourceURLs", "verbs"],
        false,
    ),
    (
        "flowcontrol.v1.ResourcePolicyRule",
        &["apiGroups", "namespaces", "resources", "verbs"],
        false,
    ),
    ("storage.v1.CSIDriverSpec", &["volumeLifecycleModes"], false),
];

/// Lists that server-side apply replaces and strategic merge patch merges:
/// definition, field, merge key.
pub const ATOMIC_MERGED: &[(&str, &str, &str)] = &[
    ("core.v1.PodStatus", "hostIPs", "ip"),
    ("batch.v1.JobStatus", "conditions", "type"),
];

/// Lists without a list type. Every other list that is not named here is atomic.
pub const UNTYPED_LISTS: &[(&str, &str)] =
    &[("apimachinery.pkg.apis.meta.v1.APIResource", "verbs")];

/// Definitions that server-side apply replaces as a whole (`+structType=atomic`).
pub const ATOMIC_DEFS: &[&str] = &[
    "admissionregistration.v1.MatchResources",
    "admissionregistration.v1.NamedRuleWithOperations",
    "admissionregistration.v1.ParamKind",
    "admissionregistration.v1.ParamRef",
    "admissionregistration.v1.Variable",
    "autoscaling.v1.CrossVersionObjectReference",
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.FileKeySelector",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.ScopeSelector",
    "core.v1.SecretKeySelector",
    "core.v1.SecretReference",
    "core.v1.TopologySelectorTerm",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "networking.v1.ServiceBackendPort",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
    "apimachinery.pkg.apis.meta.v1.LabelSelector",
    "apimachinery.pkg.apis.meta.v1.OwnerReference",
];

/// Maps that server-side apply replaces as a whole (`+mapType=atomic`).
pub const ATOMIC_FIELDS: &[(&str, &str)] = &[
    ("core.v1.PodSpec", "nodeSelector"),
    ("core.v1.ReplicationControllerSpec", "selector"),
    ("core.v1.ServiceSpec", "selector"),
    ("node.v1.Scheduling", "nodeSelector"),
];

/// Fields marked `+mapType=granular`: uses of atomic definitions that are merged
/// field by field, and maps that carry the marker although it is the default.
pub const GRANULAR_FIELDS: &[(&str, &str)] = &[
    ("core.v1.PersistentVolumeSpec", "claimRef"),
    (
        "core.v1.PersistentVolumeClaimStatus",
        "allocatedResourceStatuses",
    ),
];

/// Fields of objects with a patch strategy: definition, field, strategy bits.
pub const OBJECT_STRATEGIES: &[(&str, &str, u8)] = &[
    (
        "apps.v1.DeploymentSpec",
        "strategy",
        super::format::strategy::RETAIN_KEYS,
    ),
    (
        "policy.v1.PodDisruptionBudgetSpec",
        "selector",
        super::format::strategy::REPLACE,
    ),
];

/// Defaults that the document publishes (`+default`), as JSON: definition, field, value.
/// The zero values of fields that are always encoded are published too and not listed.
pub const DEFAULTS: &[(&str, &str, &str)] = &[
    (
        "core.v1.AzureDiskVolumeSource",
        "cachingMode",
        r#""ReadWrite""#,
    ),
    ("core.v1.AzureDiskVolumeSource", "fsType", r#""ext4""#),
    ("core.v1.AzureDiskVolumeSource", "kind", r#""Shared""#),
    ("core.v1.AzureDiskVolumeSource", "readOnly", "false"),
    ("core.v1.ContainerPort", "protocol", r#""TCP""#),
    (
        "core.v1.ISCSIPersistentVolumeSource",
        "iscsiInterface",
        r#""default""#,
    ),
    (
        "core.v1.ISCSIVolumeSource",
        "iscsiInterface",
        r#""default""#,
    ),
    (
        "core.v1.RBDPersistentVolumeSource",
        "keyring",
        r#""/etc/ceph/keyring""#,
    ),
    ("core.v1.RBDPersistentVolumeSource", "pool", r#""rbd""#),
    ("core.v1.RBDPersistentVolumeSource", "user", r#""admin""#),
    (
        "core.v1.RBDVolumeSource",
        "keyring",
        r#""/etc/ceph/keyring""#,
    ),
    ("core.v1.RBDVolumeSource", "pool", r#""rbd""#),
    ("core.v1.RBDVolumeSource", "user", r#""admin""#),
    ("core.v1.ReplicationControllerSpec", "replicas", "1"),
    (
        "core.v1.ScaleIOPersistentVolumeSource",
        "fsType",
        r#""xfs""#,
    ),
    (
        "core.v1.ScaleIOPersistentVolumeSource",
        "storageMode",
        r#""ThinProvisioned""#,
    ),
    ("core.v1.ScaleIOVolumeSource", "fsType", r#""xfs""#),
    (
        "core.v1.ScaleIOVolumeSource",
        "storageMode",
        r#""ThinProvisioned""#,
    ),
    ("core.v1.ServicePort", "protocol", r#""TCP""#),
    ("resource.v1.DeviceToleration", "operator", r#""Equal""#),
    ("autoscaling.v1.ScaleSpec", "replicas", "0"),
    ("core.v1.ConfigMapEnvSource", "name", r#""""#),
    ("core.v1.ConfigMapKeySelector", "name", r#""""#),
    ("core.v1.ConfigMapProjection", "name", r#""""#),
    ("core.v1.ConfigMapVolumeSource", "name", r#""""#),
    ("core.v1.FileKeySelector", "optional", "false"),
    ("core.v1.GRPCAction", "service", r#""""#),
    ("core.v1.LocalObjectReference", "name", r#""""#),
    ("core.v1.ReplicationControllerSpec", "minReadySeconds", "0"),
    ("core.v1.SecretEnvSource", "name", r#""""#),
    ("core.v1.SecretKeySelector", "name", r#""""#),
    ("core.v1.SecretProjection", "name", r#""""#),
];

/// Fields that `k8s-openapi` requires and upstream does not.
pub const NOT_REQUIRED: &[(&str, &str)] = &[
    ("apimachinery.pkg.apis.meta.v1.Status", "metadata"),
    ("core.v1.ConfigMapEnvSource", "name"),
    ("core.v1.ConfigMapKeySelector", "name"),
    ("core.v1.ConfigMapProjection", "name"),
    ("core.v1.ConfigMapVolumeSource", "name"),
    ("core.v1.LocalObjectReference", "name"),
    ("core.v1.SecretEnvSource", "name"),
    ("core.v1.SecretKeySelector", "name"),
    ("core.v1.SecretProjection", "name"),
];

/// Fields that upstream requires and `k8s-openapi` does not.
pub const REQUIRED: &[(&str, &str)] = &[("events.v1.Event", "eventTime")];

/// The only kind whose metadata is required; `k8s-openapi` requires it for all.
pub const METADATA_REQUIRED: &str = "core.v1.Event";

/// Returns the name that facts use for a definition: `core.v1.Pod` for
/// `io.k8s.api.core.v1.Pod`.
pub fn short(definition: &str) -> &str {
    let rest = definition.strip_prefix("io.k8s.").unwrap_or(definition);
    rest.strip_prefix("api.").unwrap_or(rest)
}
