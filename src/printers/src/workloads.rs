//! Rows of workloads and autoscalers.

use jiff::Timestamp;
use rkube_strategy::tree::{at, has, int, list, text};
use rkube_strategy::{Object, format_labels, format_selector};
use serde_json::Value;

use crate::cells::{age, containers, is_true, name, or_unset, quantity, since, text_or};
use crate::types::{AGE, NAME, Printer, boolean, integer, string, wide};

/// Printers of workloads and autoscalers.
pub(crate) static PRINTERS: &[Printer] = &[
    Printer {
        group: "apps",
        kind: "Deployment",
        columns: &[
            NAME,
            string("Ready"),
            string("Up-to-date"),
            string("Available"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        cells: deployment,
    },
    Printer {
        group: "apps",
        kind: "ReplicaSet",
        columns: &[
            NAME,
            integer("Desired"),
            integer("Current"),
            integer("Ready"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        cells: replica_set,
    },
    Printer {
        group: "apps",
        kind: "StatefulSet",
        columns: &[
            NAME,
            string("Ready"),
            AGE,
            wide("Containers"),
            wide("Images"),
        ],
        cells: stateful_set,
    },
    Printer {
        group: "apps",
        kind: "DaemonSet",
        columns: &[
            NAME,
            integer("Desired"),
            integer("Current"),
            integer("Ready"),
            integer("Up-to-date"),
            integer("Available"),
            string("Node Selector"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        cells: daemon_set,
    },
    Printer {
        group: "apps",
        kind: "ControllerRevision",
        columns: &[NAME, string("Controller"), integer("Revision"), AGE],
        cells: controller_revision,
    },
    Printer {
        group: "batch",
        kind: "Job",
        columns: &[
            NAME,
            string("Status"),
            string("Completions"),
            string("Duration"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        cells: job,
    },
    Printer {
        group: "batch",
        kind: "CronJob",
        columns: &[
            NAME,
            string("Schedule"),
            string("Timezone"),
            boolean("Suspend"),
            integer("Active"),
            string("Last Schedule"),
            AGE,
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ],
        cells: cron_job,
    },
    Printer {
        group: "autoscaling",
        kind: "HorizontalPodAutoscaler",
        columns: &[
            NAME,
            string("Reference"),
            string("Targets"),
            string("MinPods"),
            string("MaxPods"),
            integer("Replicas"),
            AGE,
        ],
        cells: autoscaler,
    },
    Printer {
        group: "autoscaling",
        kind: "Scale",
        columns: &[NAME, integer("Desired"), integer("Available"), AGE],
        cells: scale,
    },
    Printer {
        group: "policy",
        kind: "PodDisruptionBudget",
        columns: &[
            NAME,
            string("Min Available"),
            string("Max Unavailable"),
            integer("Allowed Disruptions"),
            AGE,
        ],
        cells: pod_disruption_budget,
    },
];

fn replica_set(o: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(o, "spec.template.spec"));
    vec![
        name(o),
        number(o, "spec.replicas"),
        number(o, "status.replicas"),
        number(o, "status.readyReplicas"),
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec.selector")).into(),
    ]
}

fn stateful_set(o: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(o, "spec.template.spec"));
    vec![name(o), ready(o), age(o, now), names, images]
}

fn scale(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        number(o, "spec.replicas"),
        number(o, "status.replicas"),
        age(o, now),
    ]
}

fn pod_disruption_budget(o: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        or_not_applicable(at(o, "spec.minAvailable")),
        or_not_applicable(at(o, "spec.maxUnavailable")),
        number(o, "status.disruptionsAllowed"),
        age(o, now),
    ]
}

fn number(o: &Object, path: &str) -> Value {
    int(o, path).unwrap_or(0).into()
}

fn or_not_applicable(value: &Value) -> Value {
    match value {
        Value::Null => "N/A".into(),
        Value::String(s) => s.as_str().into(),
        other => other.to_string().into(),
    }
}

fn ready(o: &Object) -> Value {
    format!(
        "{}/{}",
        int(o, "status.readyReplicas").unwrap_or(0),
        int(o, "spec.replicas").unwrap_or(0)
    )
    .into()
}

fn deployment(o: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(o, "spec.template.spec"));
    vec![
        name(o),
        ready(o),
        number(o, "status.updatedReplicas"),
        number(o, "status.availableReplicas"),
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec.selector")).into(),
    ]
}

fn daemon_set(o: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(at(o, "spec.template.spec"));
    vec![
        name(o),
        number(o, "status.desiredNumberScheduled"),
        number(o, "status.currentNumberScheduled"),
        number(o, "status.numberReady"),
        number(o, "status.updatedNumberScheduled"),
        number(o, "status.numberAvailable"),
        format_labels(o, "spec.template.spec.nodeSelector").into(),
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec.selector")).into(),
    ]
}

fn controller_revision(o: &Object, now: Timestamp) -> Vec<Value> {
    let owner = rkube_api::meta::controller_of(o).map(|owner| {
        let kind = text(owner, "kind").to_lowercase();
        let name = text(owner, "name");
        match text(owner, "apiVersion").split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{name}"),
            None => format!("{kind}/{name}"),
        }
    });
    vec![
        name(o),
        owner.unwrap_or_else(|| "<none>".to_owned()).into(),
        number(o, "revision"),
        age(o, now),
    ]
}

fn job(o: &Object, now: Timestamp) -> Vec<Value> {
    let status = if is_true(o, "Complete") {
        "Complete"
    } else if is_true(o, "Failed") {
        "Failed"
    } else if has(o, "metadata.deletionTimestamp") {
        "Terminating"
    } else if is_true(o, "Suspended") {
        "Suspended"
    } else if is_true(o, "FailureTarget") {
        "FailureTarget"
    } else if is_true(o, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let succeeded = int(o, "status.succeeded").unwrap_or(0);
    let completions = match (int(o, "spec.completions"), int(o, "spec.parallelism")) {
        (Some(all), _) => format!("{succeeded}/{all}"),
        (None, Some(parallel)) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        _ => format!("{succeeded}/1"),
    };
    let parse = |path: &str| rkube_api::meta::parse_time(text(o, path));
    let duration = match (parse("status.startTime"), parse("status.completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => {
            rkube_api::duration::human(end.unwrap_or(now).as_second() - start.as_second())
        }
    };
    let [names, images] = containers(at(o, "spec.template.spec"));
    vec![
        name(o),
        status.into(),
        completions.into(),
        duration.into(),
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec.selector")).into(),
    ]
}

fn cron_job(o: &Object, now: Timestamp) -> Vec<Value> {
    let last = match text(o, "status.lastScheduleTime") {
        "" => "<none>".to_owned(),
        time => since(time, now),
    };
    let suspend = match at(o, "spec.suspend") {
        Value::Bool(true) => "True",
        Value::Bool(false) => "False",
        _ => "<unset>",
    };
    let [names, images] = containers(at(o, "spec.jobTemplate.spec.template.spec"));
    vec![
        name(o),
        text(o, "spec.schedule").into(),
        text_or(text(o, "spec.timeZone"), "<none>").into(),
        suspend.into(),
        list(o, "status.active").len().into(),
        last.into(),
        age(o, now),
        names,
        images,
        format_selector(at(o, "spec.jobTemplate.spec.selector")).into(),
    ]
}

fn autoscaler(o: &Object, now: Timestamp) -> Vec<Value> {
    let reference = format!(
        "{}/{}",
        text(o, "spec.scaleTargetRef.kind"),
        text(o, "spec.scaleTargetRef.name")
    );
    vec![
        name(o),
        reference.into(),
        metrics(o).into(),
        or_unset(at(o, "spec.minReplicas")),
        number(o, "spec.maxReplicas"),
        number(o, "status.currentReplicas"),
        age(o, now),
    ]
}

/// Formats up to two metrics as `cpu: 12%/80%` and counts the rest.
fn metrics(o: &Object) -> String {
    let specs = list(o, "spec.metrics");
    if specs.is_empty() {
        // `autoscaling/v1` supports a single metric.
        if let Some(target) = int(o, "spec.targetCPUUtilizationPercentage") {
            let current = int(o, "status.currentCPUUtilizationPercentage")
                .map_or("<unknown>".to_owned(), |n| format!("{n}%"));
            return format!("cpu: {current}/{target}%");
        }
        return "<none>".to_owned();
    }
    let current = list(o, "status.currentMetrics");
    let mut shown = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let now = current.get(i).unwrap_or(&Value::Null);
        let (key, named) = match text(spec, "type") {
            "Resource" => ("resource", true),
            "ContainerResource" => ("containerResource", true),
            "Pods" => ("pods", false),
            "Object" => ("object", false),
            "External" => ("external", false),
            _ => {
                shown.push("<unknown type>".to_owned());
                continue;
            }
        };
        let (metric, now) = (at(spec, key), at(at(now, key), "current"));
        let amount = |value: &Value, field: &str| match value.get(field) {
            Some(v) if !v.is_null() => quantity(v),
            _ => "<unknown>".to_owned(),
        };
        let target = at(metric, "target");
        let text_of = if has(target, "averageValue") {
            let pair = format!(
                "{}/{}",
                amount(now, "averageValue"),
                amount(target, "averageValue")
            );
            match key {
                "external" | "object" => format!("{pair} (avg)"),
                _ => pair,
            }
        } else if named {
            let percent = |v: &Value, none: &str| {
                int(v, "averageUtilization").map_or(none.to_owned(), |n| format!("{n}%"))
            };
            format!(
                "{}/{}",
                percent(now, "<unknown>"),
                percent(target, "<auto>")
            )
        } else {
            format!("{}/{}", amount(now, "value"), amount(target, "value"))
        };
        shown.push(if named {
            format!("{}: {text_of}", text(metric, "name"))
        } else {
            text_of
        });
    }
    const MAX_SHOWN: usize = 2;
    let more = shown.len().saturating_sub(MAX_SHOWN);
    shown.truncate(MAX_SHOWN);
    let mut all = shown.join(", ");
    if more > 0 {
        all.push_str(&format!(" + {more} more..."));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    #[test]
    fn deployments() {
        let d = json!({"metadata": {"name": "d", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "a"}},
                "template": {"spec": {"containers": [{"name": "x", "image": "i:1"}, {"name": "y", "image": "j"}]}}},
            "status": {"readyReplicas": 1, "updatedReplicas": 3, "availableReplicas": 1}});
        assert_eq!(
            deployment(&d, now()),
            vec![
                json!("d"),
                json!("1/3"),
                json!(3),
                json!(1),
                json!("60m"),
                json!("x,y"),
                json!("i:1,j"),
                json!("app=a")
            ]
        );
    }

    #[test]
    fn jobs() {
        let mut j = json!({"metadata": {"name": "j"}, "spec": {"completions": 2}, "status": {"succeeded": 1, "startTime": "2026-01-01T00:59:30Z"}});
        assert_eq!(
            job(&j, now())[1..4],
            [json!("Running"), json!("1/2"), json!("30s")]
        );
        j["status"] = json!({"succeeded": 2, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:07Z",
            "conditions": [{"type": "Complete", "status": "True"}]});
        assert_eq!(
            job(&j, now())[1..4],
            [json!("Complete"), json!("2/2"), json!("7s")]
        );
        let p = json!({"spec": {"parallelism": 3}});
        assert_eq!(job(&p, now())[2], "0/1 of 3");
    }

    #[test]
    fn autoscalers() {
        let h = json!({"spec": {"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]},
            "status": {"currentMetrics": [{"type": "Resource", "resource": {"current": {"averageUtilization": 12}}}]}});
        assert_eq!(metrics(&h), "cpu: 12%/80%");
    }
}
