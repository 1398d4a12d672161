//! Endpoints, the predecessor of endpoint slices.

use rkube_api::Object;
use rkube_api::status::FieldError;

use crate::errors::{Errors, child, index};
use crate::generic::Rules;
use crate::names;
use crate::tree::{default_text, int, list, list_mut, same_at, text};

/// The strategy of kind `Endpoints`.
pub(crate) static ENDPOINTS: Rules = Rules {
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
    create_on_update: true,
    ..Rules::PLAIN
};

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
                let ip = text(address, "ip");
                let problems = names::ip(ip);
                if problems.is_empty() {
                    super::service::non_special_ip(&mut errors, ip, &child(&field, "ip"));
                }
                errors.invalid_each(&child(&field, "ip"), ip, problems);
                let host = text(address, "hostname");
                if !host.is_empty() {
                    errors.invalid_each(
                        &child(&field, "hostname"),
                        host,
                        names::dns1123_label(host),
                    );
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
        }
    }
    errors.0
}
