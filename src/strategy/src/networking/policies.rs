//! Network policies.

use rkube_api::Object;
use rkube_api::status::FieldError;
use serde_json::{Value, json};

use crate::core::containers;
use crate::errors::{Errors, child, index};
use crate::generic::{Generation, Rules};
use crate::tree::{at, default_value, has, int, list, list_mut, put, remove, text};
use crate::{names, selectors};

pub(super) static NETWORK_POLICY: Rules = Rules {
    default: default_network_policy,
    validate: network_policy,
    warnings: |new, _| {
        let mut warnings = Vec::new();
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            let base = child("spec", rules);
            for (i, rule) in list(new, &base).iter().enumerate() {
                for (j, peer) in list(rule, peers).iter().enumerate() {
                    let field = format!("{}.{peers}[{j}].ipBlock", index(&base, i));
                    block_warnings(&mut warnings, at(peer, "ipBlock"), &field);
                }
            }
        }
        warnings
    },
    generation: Generation::Counted,
    ..Rules::PLAIN
};

fn block_warnings(warnings: &mut Vec<String>, block: &Value, field: &str) {
    if block.is_null() {
        return;
    }
    let range = text(block, "cidr");
    warnings.extend(names::cidr_warnings(range, &child(field, "cidr")));
    for (i, except) in list(block, "except").iter().enumerate() {
        let except = except.as_str().unwrap_or_default();
        let field = index(&child(field, "except"), i);
        warnings.extend(names::cidr_warnings(except, &field));
    }
}

fn default_network_policy(obj: &mut Object) {
    for key in ["ingress", "egress"] {
        for rule in list_mut(obj, &format!("spec.{key}")) {
            for port in list_mut(rule, "ports") {
                default_value(port, "protocol", "TCP");
            }
        }
    }
    let egress = !list(obj, "spec.egress").is_empty();
    if let Some(spec) = crate::tree::at_mut(obj, "spec") {
        default_value(spec, "podSelector", json!({}));
        if list(spec, "policyTypes").is_empty() {
            // Upstream's default: always Ingress, and Egress if there are egress rules.
            let types = if egress {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            };
            put(spec, "policyTypes", types);
        }
    }
    remove(obj, "status");
}

fn network_policy(obj: &Object) -> Vec<FieldError> {
    let mut errors = Errors::new();
    selectors::validate(&mut errors, at(obj, "spec.podSelector"), "spec.podSelector");
    for (key, peers) in [("ingress", "from"), ("egress", "to")] {
        let base = format!("spec.{key}");
        for (i, rule) in list(obj, &base).iter().enumerate() {
            let field = index(&base, i);
            for (j, port) in list(rule, "ports").iter().enumerate() {
                policy_port(&mut errors, port, &index(&child(&field, "ports"), j));
            }
            for (j, peer) in list(rule, peers).iter().enumerate() {
                policy_peer(&mut errors, peer, &index(&child(&field, peers), j));
            }
        }
    }
    let types = list(obj, "spec.policyTypes");
    if types.len() > 2 {
        errors.invalid(
            "spec.policyTypes",
            at(obj, "spec.policyTypes").clone(),
            "may not specify more than two policyTypes",
        );
        return errors.0;
    }
    for (i, kind) in types.iter().enumerate() {
        let kind = kind.as_str().unwrap_or_default();
        if !matches!(kind, "Ingress" | "Egress") {
            errors.not_supported(index("spec.policyTypes", i), kind, &["Ingress", "Egress"]);
        }
    }
    errors.0
}

fn policy_port(errors: &mut Errors, port: &Value, field: &str) {
    let protocol = text(port, "protocol");
    let protocols = ["TCP", "UDP", "SCTP"];
    if has(port, "protocol") && !protocols.contains(&protocol) {
        errors.not_supported(child(field, "protocol"), protocol, &protocols);
    }
    let number = at(port, "port");
    if number.is_number() {
        containers::port(errors, number, &child(field, "port"));
    }
    if let Some(end) = int(port, "endPort") {
        match number {
            Value::Null => errors.invalid(
                child(field, "endPort"),
                end,
                "may not be specified when `port` is not specified",
            ),
            Value::String(_) => errors.invalid(
                child(field, "endPort"),
                end,
                "may not be specified when `port` is non-numeric",
            ),
            start => {
                let start = start.as_i64().unwrap_or(0);
                let field = child(field, "endPort");
                if end < start {
                    // The value that upstream shows is the start.
                    let why = "must be greater than or equal to `port`";
                    errors.invalid(field.clone(), start, why);
                }
                for message in names::port_number(end) {
                    errors.invalid(field.clone(), end, message);
                }
            }
        }
    }
    if number.is_string() {
        containers::port(errors, number, &child(field, "port"));
    }
}

fn policy_peer(errors: &mut Errors, peer: &Value, field: &str) {
    let block = at(peer, "ipBlock");
    let mut peers = usize::from(!block.is_null());
    let mut selects = false;
    for key in ["podSelector", "namespaceSelector"] {
        if has(peer, key) {
            selects = true;
            selectors::validate(errors, at(peer, key), &child(field, key));
        }
    }
    peers += usize::from(selects);
    if !block.is_null() {
        let field = child(field, "ipBlock");
        let range = text(block, "cidr");
        if range.is_empty() {
            errors.required(child(&field, "cidr"), "");
        } else {
            errors.invalid_each(&child(&field, "cidr"), range, names::cidr(range));
        }
        // As upstream, exceptions to something else than a network are not looked at.
        if let Some(outer) = names::parse_cidr(range) {
            exceptions(errors, block, outer, &child(&field, "except"));
        }
    }
    if peers == 0 {
        errors.required(field, "must specify a peer");
    } else if selects && !block.is_null() {
        errors.forbidden(field, "may not specify both ipBlock and another peer");
    }
}

/// Validates the parts of a network that a peer does not include.
fn exceptions(errors: &mut Errors, block: &Value, outer: ipnet::IpNet, field: &str) {
    for (i, except) in list(block, "except").iter().enumerate() {
        let except = except.as_str().unwrap_or_default();
        let field = index(field, i);
        errors.invalid_each(&field, except, names::cidr(except));
        if let Some(inner) = names::parse_cidr(except)
            && (!outer.contains(&inner.addr()) || outer.prefix_len() >= inner.prefix_len())
        {
            errors.invalid(field, except, "must be a strict subset of `cidr`");
        }
    }
}
