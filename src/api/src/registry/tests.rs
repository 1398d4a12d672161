use super::*;

#[test]
fn every_row_has_its_schema() {
    for row in builtin() {
        assert!(
            row.schema().is_some(),
            "{} has no definition",
            row.definition
        );
        assert!(row.verbs.is_sorted(), "{}", row.plural);
        for sub in &row.subresources {
            assert!(sub.verbs.is_sorted(), "{}/{}", row.plural, sub.name);
        }
    }
}

#[test]
fn groups_share_events() {
    let core = find("", "v1", "events").unwrap();
    let events = find("events.k8s.io", "v1", "events").unwrap();
    assert_eq!(core.storage_key("ns", "e"), "/registry/core/events/ns/e");
    assert_eq!(core.storage_prefix(), events.storage_prefix());
    assert_eq!(events.group_kind().to_string(), "Event");
}
