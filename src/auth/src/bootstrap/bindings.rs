//! The default bindings of Kubernetes v1.36 with its default feature gates, except for those of
//! the controllers.

use super::table::Binding;
use super::table::Subject::{Account, Group, User};

/// ClusterRoleBindings, sorted by name.
pub(super) const CLUSTER_BINDINGS: &[Binding] = &[
    Binding {
        name: "cluster-admin",
        namespace: "",
        kind: "ClusterRole",
        role: "cluster-admin",
        subjects: &[Group("system:masters")],
    },
    Binding {
        name: "rkube:network-policy",
        namespace: "",
        kind: "ClusterRole",
        role: "rkube:network-policy",
        subjects: &[User("rkube:network-policy")],
    },
    Binding {
        name: "system:basic-user",
        namespace: "",
        kind: "ClusterRole",
        role: "system:basic-user",
        subjects: &[Group("system:authenticated")],
    },
    Binding {
        name: "system:discovery",
        namespace: "",
        kind: "ClusterRole",
        role: "system:discovery",
        subjects: &[Group("system:authenticated")],
    },
    Binding {
        name: "system:kube-controller-manager",
        namespace: "",
        kind: "ClusterRole",
        role: "system:kube-controller-manager",
        subjects: &[User("system:kube-controller-manager")],
    },
    Binding {
        name: "system:kube-dns",
        namespace: "",
        kind: "ClusterRole",
        role: "system:kube-dns",
        subjects: &[Account("kube-system", "kube-dns")],
    },
    Binding {
        name: "system:kube-scheduler",
        namespace: "",
        kind: "ClusterRole",
        role: "system:kube-scheduler",
        subjects: &[User("system:kube-scheduler")],
    },
    Binding {
        name: "system:monitoring",
        namespace: "",
        kind: "ClusterRole",
        role: "system:monitoring",
        subjects: &[Group("system:monitoring")],
    },
    Binding {
        name: "system:node",
        namespace: "",
        kind: "ClusterRole",
        role: "system:node",
        subjects: &[],
    },
    Binding {
        name: "system:node-proxier",
        namespace: "",
        kind: "ClusterRole",
        role: "system:node-proxier",
        subjects: &[User("system:kube-proxy")],
    },
    Binding {
        name: "system:public-info-viewer",
        namespace: "",
        kind: "ClusterRole",
        role: "system:public-info-viewer",
        subjects: &[
            Group("system:authenticated"),
            Group("system:unauthenticated"),
        ],
    },
    Binding {
        name: "system:service-account-issuer-discovery",
        namespace: "",
        kind: "ClusterRole",
        role: "system:service-account-issuer-discovery",
        subjects: &[Group("system:serviceaccounts")],
    },
    Binding {
        name: "system:volume-scheduler",
        namespace: "",
        kind: "ClusterRole",
        role: "system:volume-scheduler",
        subjects: &[User("system:kube-scheduler")],
    },
];

/// RoleBindings, sorted by namespace.
pub(super) const NAMESPACE_BINDINGS: &[Binding] = &[
    Binding {
        name: "system:controller:bootstrap-signer",
        namespace: "kube-public",
        kind: "Role",
        role: "system:controller:bootstrap-signer",
        subjects: &[Account("kube-system", "bootstrap-signer")],
    },
    Binding {
        name: "system::extension-apiserver-authentication-reader",
        namespace: "kube-system",
        kind: "Role",
        role: "extension-apiserver-authentication-reader",
        subjects: &[
            User("system:kube-controller-manager"),
            User("system:kube-scheduler"),
        ],
    },
    Binding {
        name: "system::leader-locking-kube-controller-manager",
        namespace: "kube-system",
        kind: "Role",
        role: "system::leader-locking-kube-controller-manager",
        subjects: &[
            User("system:kube-controller-manager"),
            Account("kube-system", "kube-controller-manager"),
            Account("kube-system", "leader-election-controller"),
        ],
    },
    Binding {
        name: "system::leader-locking-kube-scheduler",
        namespace: "kube-system",
        kind: "Role",
        role: "system::leader-locking-kube-scheduler",
        subjects: &[
            User("system:kube-scheduler"),
            Account("kube-system", "kube-scheduler"),
        ],
    },
    Binding {
        name: "system:controller:bootstrap-signer",
        namespace: "kube-system",
        kind: "Role",
        role: "system:controller:bootstrap-signer",
        subjects: &[Account("kube-system", "bootstrap-signer")],
    },
    Binding {
        name: "system:controller:cloud-provider",
        namespace: "kube-system",
        kind: "Role",
        role: "system:controller:cloud-provider",
        subjects: &[Account("kube-system", "cloud-provider")],
    },
    Binding {
        name: "system:controller:token-cleaner",
        namespace: "kube-system",
        kind: "Role",
        role: "system:controller:token-cleaner",
        subjects: &[Account("kube-system", "token-cleaner")],
    },
];
