//! The query parameters of requests.

use serde_json::{Value, json};

use super::types::Dialect;

/// A query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Query {
    /// The parameter's name.
    pub name: &'static str,
    kind: &'static str,
    text: &'static str,
}

const fn query(name: &'static str, kind: &'static str, text: &'static str) -> Query {
    Query { name, kind, text }
}

/// The parameter of nearly all operations.
pub(super) const PRETTY: Query = query(
    "pretty",
    "string",
    "Indent the answer. Off unless the client is a browser or a command-line HTTP tool.",
);

const DRY_RUN: Query = query(
    "dryRun",
    "string",
    "`All` carries the request through every stage and stores nothing. No other value is valid.",
);
const FIELD_MANAGER: Query = query(
    "fieldManager",
    "string",
    "The name under which changed fields are recorded; at most 128 printable characters. Server-side apply needs one.",
);
const FIELD_VALIDATION: Query = query(
    "fieldValidation",
    "string",
    "What to do about unknown and duplicate fields: `Ignore` drops them, `Warn` (the default) drops them and answers with warnings, `Strict` refuses the request.",
);
const FORCE: Query = query(
    "force",
    "boolean",
    "Take over fields that other managers own. For server-side apply only.",
);

const CONTINUE: Query = query(
    "continue",
    "string",
    "The token of the page before, for the next page of the same list.",
);
const FIELD_SELECTOR: Query = query(
    "fieldSelector",
    "string",
    "Only objects whose fields match.",
);
const LABEL_SELECTOR: Query = query(
    "labelSelector",
    "string",
    "Only objects whose labels match.",
);
const LIMIT: Query = query(
    "limit",
    "integer",
    "At most this many objects; the answer has a token for the rest.",
);
const RESOURCE_VERSION: Query = query(
    "resourceVersion",
    "string",
    "How new the answer must be, or where a watch starts. See `resourceVersionMatch`.",
);
const RESOURCE_VERSION_MATCH: Query = query(
    "resourceVersionMatch",
    "string",
    "How `resourceVersion` is meant: `Exact`, or `NotOlderThan`.",
);
const SEND_INITIAL_EVENTS: Query = query(
    "sendInitialEvents",
    "boolean",
    "Start a watch with the present objects as additions, then a bookmark that marks their end.",
);
const SHARD_SELECTOR: Query = query(
    "shardSelector",
    "string",
    "Only objects of a range of hashes. An alpha feature, off.",
);
const TIMEOUT_SECONDS: Query = query(
    "timeoutSeconds",
    "integer",
    "End the list or watch after this long.",
);
const ALLOW_WATCH_BOOKMARKS: Query = query(
    "allowWatchBookmarks",
    "boolean",
    "Let the watch send bookmarks: events that only tell how far it is.",
);
const WATCH: Query = query(
    "watch",
    "boolean",
    "Answer with a stream of changes rather than a list.",
);

const GRACE_PERIOD_SECONDS: Query = query(
    "gracePeriodSeconds",
    "integer",
    "Seconds until the object is deleted; 0 is at once. Without it the kind's default holds.",
);
const UNSAFE_DELETE: Query = query(
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Delete an object that can't be read from the store, whatever depends on it. Dangerous.",
);
const ORPHAN_DEPENDENTS: Query = query(
    "orphanDependents",
    "boolean",
    "Deprecated: use `propagationPolicy`.",
);
const PROPAGATION_POLICY: Query = query(
    "propagationPolicy",
    "string",
    "What becomes of dependents: `Orphan` leaves them, `Background` deletes them later, `Foreground` first.",
);

/// The parameters of creations and replacements.
pub(super) const WRITE: &[Query] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION];
/// The parameters of patches.
pub(super) const APPLY: &[Query] = &[DRY_RUN, FIELD_MANAGER, FIELD_VALIDATION, FORCE];
/// The parameters of lists and watches.
pub(super) const LIST: &[Query] = &[
    ALLOW_WATCH_BOOKMARKS,
    CONTINUE,
    FIELD_SELECTOR,
    LABEL_SELECTOR,
    LIMIT,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    SHARD_SELECTOR,
    TIMEOUT_SECONDS,
    WATCH,
];
/// The parameters of deletions.
pub(super) const DELETE: &[Query] = &[
    DRY_RUN,
    GRACE_PERIOD_SECONDS,
    UNSAFE_DELETE,
    ORPHAN_DEPENDENTS,
    PROPAGATION_POLICY,
];
/// The parameters of deletions of collections.
pub(super) const DELETE_COLLECTION: &[Query] = &[
    CONTINUE,
    DRY_RUN,
    FIELD_SELECTOR,
    GRACE_PERIOD_SECONDS,
    UNSAFE_DELETE,
    LABEL_SELECTOR,
    LIMIT,
    ORPHAN_DEPENDENTS,
    PROPAGATION_POLICY,
    RESOURCE_VERSION,
    RESOURCE_VERSION_MATCH,
    SEND_INITIAL_EVENTS,
    SHARD_SELECTOR,
    TIMEOUT_SECONDS,
];

const CONTAINER: Query = query(
    "container",
    "string",
    "Which container; needed if the pod has several.",
);
const STDERR: Query = query("stderr", "boolean", "Stream the standard error.");
const STDIN: Query = query("stdin", "boolean", "Stream the standard input.");
const STDOUT: Query = query("stdout", "boolean", "Stream the standard output.");
const TTY: Query = query("tty", "boolean", "Use a terminal.");

/// Returns the parameters of a connecting subresource, by the kind of its options.
pub(super) fn subresource_queries(kind: &str, name: &str) -> &'static [Query] {
    match (kind, name) {
        ("PodAttachOptions", _) => &[CONTAINER, STDERR, STDIN, STDOUT, TTY],
        ("PodExecOptions", _) => {
            const {
                &[
                    query(
                        "command",
                        "string",
                        "The command and its arguments, one a parameter; no shell.",
                    ),
                    CONTAINER,
                    STDERR,
                    STDIN,
                    STDOUT,
                    TTY,
                ]
            }
        }
        ("PodPortForwardOptions", _) => {
            const {
                &[query(
                    "ports",
                    "integer",
                    "The ports to forward, for WebSocket clients.",
                )]
            }
        }
        ("PodProxyOptions" | "ServiceProxyOptions" | "NodeProxyOptions", _) => {
            const {
                &[query(
                    "path",
                    "string",
                    "The path of the request that is passed on.",
                )]
            }
        }
        ("Pod", "log") => {
            const {
                &[
                    CONTAINER,
                    query("follow", "boolean", "Keep streaming as lines are written."),
                    query(
                        "insecureSkipTLSVerifyBackend",
                        "boolean",
                        "Do not check the certificate of the node that has the log.",
                    ),
                    query("limitBytes", "integer", "At most this many bytes."),
                    PRETTY,
                    query(
                        "previous",
                        "boolean",
                        "The log of the container's last run.",
                    ),
                    query("sinceSeconds", "integer", "Only lines as young as this."),
                    query("stream", "string", "`All`, `Stdout` or `Stderr`."),
                    query("tailLines", "integer", "Only this many lines from the end."),
                    query("timestamps", "boolean", "Begin each line with its time."),
                ]
            }
        }
        _ => &[],
    }
}

impl Query {
    /// Encodes the parameter.
    pub fn to_value(self, dialect: Dialect) -> Value {
        parameter(dialect, self.name, "query", self.kind, self.text)
    }
}

/// Returns a parameter of the path.
pub(super) fn path_parameter(dialect: Dialect, name: &str, text: &str) -> Value {
    let mut value = parameter(dialect, name, "path", "string", text);
    crate::meta::map_mut(&mut value).insert("required".into(), true.into());
    value
}

fn parameter(dialect: Dialect, name: &str, place: &str, kind: &str, text: &str) -> Value {
    match dialect {
        Dialect::V2 => {
            json!({"name": name, "in": place, "type": kind, "description": text, "uniqueItems": true})
        }
        Dialect::V3 => {
            json!({"name": name, "in": place, "description": text, "schema": {"type": kind, "uniqueItems": true}})
        }
    }
}
