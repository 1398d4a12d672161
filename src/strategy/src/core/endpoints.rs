//! Endpoints, the predecessor of endpoint slices.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::Value;

use crate::errors::{Errors, child, index};
use crate::generic::Rules;
use crate::names;
use crate::tree::{at, default_text, has, int, list, list_mut, same_at, text};
use crate::{Context, Strategy};

static RULES: Rules = Rules {
    default: |obj| {
        for subset in list_mut(obj, "subsets") {
            for port in list_mut(subset, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    },
    validate_new: validate,
    // Unchanged subsets may have addresses in a notation that was valid before.
    validate_update: |new, old| match same_at(new, old, "subsets") {
        true => Vec::new(),
        false => validate(new),
    },
    ..Rules::PLAIN
};

/// The strategy of kind `Endpoints`.
pub(crate) struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, obj: &mut Object) {
        RULES.default(obj);
    }

    fn prepare_create(&self, ctx: &Context<'_>, obj: &mut Object) {
        RULES.prepare_create(ctx, obj);
    }

    fn prepare_update(&self, ctx: &Context<'_>, new: &mut Object, old: &Object) {
        RULES.prepare_update(ctx, new, old);
    }

    fn validate_create(&self, obj: &Object) -> Vec<FieldError> {
        RULES.validate_create(obj)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        RULES.validate_update(new, old)
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        // The controller of endpoints takes addresses as they are.
        let labels = at(new, "metadata.labels");
        if labels
            .get("endpoints.kubernetes.io/managed-by")
            .and_then(Value::as_str)
            == Some("endpoint-controller")
        {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for (i, subset) in list(new, "subsets").iter().enumerate() {
            for key in ["addresses", "notReadyAddresses"] {
                let field = child(&index("subsets", i), key);
                for (j, address) in list(subset, key).iter().enumerate() {
                    let field = child(&index(&field, j), "ip");
                    warnings.extend(names::ip_warnings(text(address, "ip"), &field));
                }
            }
        }
        warnings
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn validate(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    for (i, subset) in list(obj, "subsets").iter().enumerate() {
        let field = index("subsets", i);
        let ready = list(subset, "addresses");
        let unready = list(subset, "notReadyAddresses");
        if ready.is_empty() && unready.is_empty() {
            errors.required(
                field.clone(),
                "must specify `addresses` or `notReadyAddresses`",
            );
        }
        for (key, addresses) in [("addresses", ready), ("notReadyAddresses", unready)] {
            for (j, address) in addresses.iter().enumerate() {
                let field = index(&child(&field, key), j);
                let (ip, field_of_ip) = (text(address, "ip"), child(&field, "ip"));
                errors.invalid_each(&field_of_ip, ip, names::ip(ip));
                let host = text(address, "hostname");
                if !host.is_empty() {
                    errors.invalid_each(
                        &child(&field, "hostname"),
                        host,
                        names::dns1123_label(host),
                    );
                }
                if has(address, "nodeName") {
                    let (node, field) = (text(address, "nodeName"), child(&field, "nodeName"));
                    errors.invalid_each(&field, node, names::dns1123_subdomain(node));
                }
                if names::parse_ip(ip).is_none() {
                    errors.invalid(field_of_ip, ip, "must be a valid IP address");
                } else {
                    super::service::non_special_ip(&mut errors, ip, &field_of_ip);
                }
            }
        }
        let ports = list(subset, "ports");
        for (j, port) in ports.iter().enumerate() {
            let field = index(&child(&field, "ports"), j);
            let name = text(port, "name");
            if name.is_empty() {
                if ports.len() > 1 {
                    errors.required(child(&field, "name"), "");
                }
            } else {
                errors.invalid_each(&child(&field, "name"), name, names::dns1123_label(name));
            }
            let number = int(port, "port").unwrap_or(0);
            for message in names::port_number(number) {
                errors.invalid(child(&field, "port"), number, message);
            }
            super::containers::protocol(
                &mut errors,
                text(port, "protocol"),
                &child(&field, "protocol"),
            );
            if has(port, "appProtocol") {
                let (app, field) = (text(port, "appProtocol"), child(&field, "appProtocol"));
                errors.invalid_each(&field, app, names::qualified_name(app));
            }
        }
    }
    errors.0
}
