//! `/metrics/probes`: results and durations of probes.

use super::super::answer::Answer;
use super::agent::start_time;
use super::page::{Label, Page};
use crate::pods::probe_counts::{self, BUCKETS, Counts, Series};

/// Serves `/metrics/probes`.
pub(crate) fn serve() -> Answer {
    page(&probe_counts::all()).into_answer()
}

fn page(all: &[(Series, Counts)]) -> Page {
    let mut page = Page::default();
    start_time(&mut page);
    let name = "prober_probe_duration_seconds";
    page.family(
        name,
        "histogram",
        "[ALPHA] Duration in seconds for a probe response.",
    );
    for (series, counts) in all.iter().filter(|(_, counts)| counts.timed > 0) {
        let labels = [
            ("container", &*series.container),
            ("namespace", &series.namespace),
            ("pod", &series.pod),
            ("probe_type", series.kind),
        ];
        let mut sum = 0;
        let bounds = BUCKETS.iter().map(f64::to_string).chain(["+Inf".into()]);
        for (bound, count) in bounds.zip(counts.buckets) {
            sum += count;
            let labels: Vec<Label<'_>> = labels.into_iter().chain([("le", &*bound)]).collect();
            page.sample(&format!("{name}_bucket"), &labels, sum as f64, None);
        }
        page.sample(&format!("{name}_sum"), &labels, counts.seconds, None);
        page.sample(&format!("{name}_count"), &labels, counts.timed as f64, None);
    }
    let name = "prober_probe_total";
    page.family(
        name,
        "counter",
        "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.",
    );
    for (series, counts) in all {
        for (result, count) in [
            ("failed", counts.failed),
            ("successful", counts.successful),
            ("unknown", counts.unknown),
        ] {
            let labels = [
                ("container", &*series.container),
                ("namespace", &series.namespace),
                ("pod", &series.pod),
                ("pod_uid", &series.pod_uid),
                ("probe_type", series.kind),
                ("result", result),
            ];
            if count > 0 {
                page.sample(name, &labels, count as f64, None);
            }
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_durations_are_shown() {
        let series = Series {
            container: "c".into(),
            namespace: "n".into(),
            pod: "p".into(),
            pod_uid: "u".into(),
            kind: "Liveness",
        };
        let mut counts = Counts::default();
        counts.observe(probe_counts::Outcome::Successful, 0.02);
        counts.observe(probe_counts::Outcome::Successful, 20.0);
        counts.observe(probe_counts::Outcome::Failed, 1.0);
        let page = page(&[(series, counts)]).into_text();
        let labels = r#"container="c",namespace="n",pod="p",probe_type="Liveness""#;
        let total = r#"container="c",namespace="n",pod="p",pod_uid="u",probe_type="Liveness""#;
        for line in [
            format!("prober_probe_duration_seconds_bucket{{{labels},le=\"0.01\"}} 0"),
            format!("prober_probe_duration_seconds_bucket{{{labels},le=\"0.025\"}} 1"),
            format!("prober_probe_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 2"),
            format!("prober_probe_duration_seconds_sum{{{labels}}} 20.02"),
            format!("prober_probe_duration_seconds_count{{{labels}}} 2"),
            format!("prober_probe_total{{{total},result=\"successful\"}} 2"),
            format!("prober_probe_total{{{total},result=\"failed\"}} 1"),
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        assert!(!page.contains("unknown"));
    }
}
