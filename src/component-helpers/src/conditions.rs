//! Conditions in the status of objects.

use k8s_openapi::api::apps::v1::DeploymentCondition;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscalerCondition;
use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde_json::Value;

/// Fields common to the conditions of all kinds.
pub trait Condition {
    /// Returns `type`, which is unique within a list.
    fn type_(&self) -> &str;
    /// Returns `status`.
    fn status(&self) -> &str;
    /// Copies `lastTransitionTime` of another condition.
    fn keep_transition_time(&mut self, other: &Self);
}

macro_rules! impl_condition {
    ($($kind:ty),*) => {$(
        impl Condition for $kind {
            fn type_(&self) -> &str {
                &self.type_
            }

            fn status(&self) -> &str {
                &self.status
            }

            fn keep_transition_time(&mut self, other: &Self) {
                self.last_transition_time.clone_from(&other.last_transition_time);
            }
        }
    )*};
}

impl_condition!(
    DeploymentCondition,
    HorizontalPodAutoscalerCondition,
    JobCondition,
    meta::Condition
);

impl Condition for Value {
    fn type_(&self) -> &str {
        self["type"].as_str().unwrap_or_default()
    }

    fn status(&self) -> &str {
        self["status"].as_str().unwrap_or_default()
    }

    fn keep_transition_time(&mut self, other: &Self) {
        const FIELD: &str = "lastTransitionTime";
        let Some(fields) = self.as_object_mut() else {
            return;
        };
        match &other[FIELD] {
            Value::Null => drop(fields.remove(FIELD)),
            time => drop(fields.insert(FIELD.to_owned(), time.clone())),
        }
    }
}

/// Returns the condition of this type.
pub fn find_condition<'a, C: Condition>(conditions: &'a [C], type_: &str) -> Option<&'a C> {
    conditions
        .iter()
        .find(|condition| condition.type_() == type_)
}

/// Adds a condition or replaces the one of the same type. The transition time is kept if the status
/// is unchanged.
pub fn set_condition<C: Condition>(conditions: &mut Vec<C>, mut condition: C) {
    match conditions
        .iter_mut()
        .find(|present| present.type_() == condition.type_())
    {
        Some(present) => {
            if present.status() == condition.status() {
                condition.keep_transition_time(present);
            }
            *present = condition;
        }
        None => conditions.push(condition),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    fn condition(type_: &str, status: &str, reason: &str, second: i64) -> meta::Condition {
        meta::Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::from_second(second).unwrap()),
        }
    }

    #[test]
    fn transition_times_change_with_the_status() {
        let mut all = Vec::new();
        set_condition(&mut all, condition("A", "True", "x", 1));
        set_condition(&mut all, condition("B", "True", "x", 2));
        set_condition(&mut all, condition("A", "True", "y", 3));
        assert_eq!(all[0], condition("A", "True", "y", 1));
        set_condition(&mut all, condition("A", "False", "y", 4));
        assert_eq!(all[0], condition("A", "False", "y", 4));
        assert_eq!(all.len(), 2);
        assert_eq!(find_condition(&all, "B"), Some(&all[1]));
        assert_eq!(find_condition(&all, "C"), None);
    }

    #[test]
    fn untyped_conditions_keep_the_time_of_the_present_one() {
        let condition = |status: &str, time: Value| {
            let mut fields = json!({"type": "A", "status": status, "lastTransitionTime": time});
            fields.as_object_mut().unwrap().retain(|_, v| !v.is_null());
            fields
        };
        for (present, new, expected) in [
            (
                condition("True", "1".into()),
                condition("True", "2".into()),
                condition("True", "1".into()),
            ),
            (
                condition("True", "1".into()),
                condition("False", "2".into()),
                condition("False", "2".into()),
            ),
            (
                condition("True", Value::Null),
                condition("True", "2".into()),
                condition("True", Value::Null),
            ),
        ] {
            let mut all = vec![present];
            set_condition(&mut all, new);
            assert_eq!(all, [expected]);
        }
    }
}
