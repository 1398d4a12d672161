//! DefaultIngressClass: sets the default class of ingresses.

use rkube_api::Object;

use super::storage::newest_marked;
use crate::types::{Operation, Request};
use rkube_auth::{ObjectReader, tree};

/// The annotation that set the class before the field existed.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

/// Sets the default class on an ingress without a class.
pub(super) fn default_ingress_class(reader: &dyn ObjectReader, request: &mut Request<'_>) {
    if request.operation != Operation::Create || !request.is_whole("networking.k8s.io", "ingresses")
    {
        return;
    }
    let Some(ingress) = request.object.as_deref_mut() else {
        return;
    };
    let has_class =
        tree::at(ingress, &["spec", "ingressClassName"]).is_some_and(|class| !class.is_null());
    if has_class || tree::map_text(ingress, &["metadata", "annotations"], OLD_CLASS).is_some() {
        return;
    }
    let classes = reader.list("networking.k8s.io", "ingressclasses", None);
    if let Some(class) = newest_marked(&classes, &[IS_DEFAULT]) {
        let name: Object = tree::name(class).into();
        tree::make_map(ingress, &["spec"]).insert("ingressClassName".into(), name);
    }
}
