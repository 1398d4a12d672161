//! The default Roles of Kubernetes v1.36 with its default feature gates, in the system
//! namespaces.

use super::table::{Role, named, on};

/// The roles, sorted by namespace.
pub(super) const NAMESPACE_ROLES: &[Role] = &[
    Role {
        name: "system:controller:bootstrap-signer",
        namespace: "kube-public",
        aggregates_to: "",
        aggregates: "",
        rules: &[
            on("get list watch", "core", "configmaps"),
            named("update", "core", "configmaps", "cluster-info"),
            on("create patch update", "core events.k8s.io", "events"),
        ],
    },
    Role {
        name: "extension-apiserver-authentication-reader",
        namespace: "kube-system",
        aggregates_to: "",
        aggregates: "",
        rules: &[named(
            "get list watch",
            "core",
            "configmaps",
            "extension-apiserver-authentication",
        )],
    },
    Role {
        name: "system::leader-locking-kube-controller-manager",
        namespace: "kube-system",
        aggregates_to: "",
        aggregates: "",
        rules: &[
            on(
                "create get list update watch",
                "coordination.k8s.io",
                "leases",
            ),
            on(
                "create get list update watch",
                "coordination.k8s.io",
                "leasecandidates",
            ),
        ],
    },
    Role {
        name: "system::leader-locking-kube-scheduler",
        namespace: "kube-system",
        aggregates_to: "",
        aggregates: "",
        rules: &[
            on(
                "create get list update watch",
                "coordination.k8s.io",
                "leases",
            ),
            on(
                "create get list update watch",
                "coordination.k8s.io",
                "leasecandidates",
            ),
        ],
    },
    Role {
        name: "system:controller:bootstrap-signer",
        namespace: "kube-system",
        aggregates_to: "",
        aggregates: "",
        rules: &[on("get list watch", "core", "secrets")],
    },
    Role {
        name: "system:controller:cloud-provider",
        namespace: "kube-system",
        aggregates_to: "",
        aggregates: "",
        rules: &[on("create get list watch", "core", "configmaps")],
    },
    Role {
        name: "system:controller:token-cleaner",
        namespace: "kube-system",
        aggregates_to: "",
        aggregates: "",
        rules: &[
            on("delete get list watch", "core", "secrets"),
            on("create patch update", "core events.k8s.io", "events"),
        ],
    },
];
