//! Privilege escalation prevention: users can only grant permissions that they have.

use std::collections::BTreeSet;

use rkube_api::gvk::GroupResource;
use rkube_api::status::Status;
use rkube_api::{Object, meta};

use super::Authorizer;
use super::rule::{Rule, join_verbs, quoted_list, uncovered};
use super::types::Attributes;
use crate::{UserInfo, names, tree};

const GROUP: &str = "rbac.authorization.k8s.io";

impl Authorizer {
    /// Checks that `user` may write a role or binding of `resource` (`roles`, `clusterroles`,
    /// `rolebindings`, `clusterrolebindings`).
    ///
    /// Users must have all permissions that they add to a role, unless they have the verb
    /// `escalate`. They must have all permissions of a role that they bind, unless they have
    /// the verb `bind`.
    ///
    /// # Errors
    ///
    /// A 403 status with the missing permissions, or 404 if the bound role does not exist.
    pub fn check_escalation(
        &self,
        user: &UserInfo,
        resource: &str,
        namespace: &str,
        new: &Object,
        old: Option<&Object>,
    ) -> Result<(), Status> {
        if user.in_group(names::MASTERS)
            || old.is_some_and(|old| only_collection_fields_differ(new, old))
        {
            return Ok(());
        }
        let forbidden = |why: String| {
            Status::forbidden(&GroupResource::new(GROUP, resource), tree::name(new), why)
        };
        match resource {
            "roles" | "clusterroles" => {
                let name = old.map_or("", tree::name);
                let ask = Attributes {
                    namespace,
                    name,
                    api_version: "*",
                    ..Attributes::resource(user, "escalate", GROUP, resource)
                };
                if self.authorize(&ask).is_allowed() {
                    return Ok(());
                }
                self.confirm(user, namespace, &Rule::of_role(new))
                    .map_err(forbidden)?;
                if aggregates(new) || old.is_some_and(aggregates) {
                    self.confirm(user, namespace, &Rule::full_authority())
                        .map_err(|_| {
                            forbidden(
                                "must have cluster-admin privileges to use the aggregationRule"
                                    .into(),
                            )
                        })?;
                }
                Ok(())
            }
            "rolebindings" | "clusterrolebindings" => {
                let kind = tree::text(new, &["roleRef", "kind"]);
                let role = tree::text(new, &["roleRef", "name"]);
                let bound = match kind {
                    "ClusterRole" => Some("clusterroles"),
                    "Role" => Some("roles"),
                    _ => None,
                };
                if let Some(bound) = bound {
                    let group = tree::text(new, &["roleRef", "apiGroup"]);
                    let ask = Attributes {
                        namespace,
                        name: role,
                        api_version: "*",
                        ..Attributes::resource(user, "bind", group, bound)
                    };
                    if self.authorize(&ask).is_allowed() {
                        return Ok(());
                    }
                }
                let rules =
                    self.rbac
                        .rules_of(kind, role, namespace)
                        .map_err(|why| match bound {
                            Some(bound) => {
                                Status::not_found(&GroupResource::new(GROUP, bound), role)
                            }
                            None => Status::internal(why),
                        })?;
                self.confirm(user, namespace, &rules).map_err(forbidden)
            }
            _ => Ok(()),
        }
    }

    /// Returns an error that lists the permissions of `rules` that the user lacks.
    fn confirm(&self, user: &UserInfo, namespace: &str, rules: &[Rule]) -> Result<(), String> {
        let (owned, errors) = self.rbac.rules_for(user, namespace);
        let missing = uncovered(&owned, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let missing: BTreeSet<String> = join_verbs(missing).iter().map(Rule::compact).collect();
        let mut message = format!(
            "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            quoted_list(user.groups.iter().map(String::as_str)),
            missing.into_iter().collect::<Vec<_>>().join("\n")
        );
        if !errors.is_empty() {
            message.push_str(&format!(
                "; resolution errors: [{}]",
                super::aggregate(&errors)
            ));
        }
        Err(message)
    }
}

fn aggregates(role: &Object) -> bool {
    !tree::items(role, &["aggregationRule", "clusterRoleSelectors"]).is_empty()
}

/// Returns whether an update changes only fields that the garbage collector changes.
fn only_collection_fields_differ(new: &Object, old: &Object) -> bool {
    let mut like_old = new.clone();
    for field in ["ownerReferences", "finalizers", "managedFields"] {
        match tree::at(old, &["metadata", field]) {
            Some(value) => {
                meta::metadata_mut(&mut like_old).insert(field.into(), value.clone());
            }
            None => {
                meta::remove(&mut like_old, field);
            }
        }
    }
    like_old == *old
}
