//! Compile checks of the expressions that select devices.

use rkube_api::Object;
use rkube_api::status::FieldError;
use rkube_cel::Type;
use rkube_device_allocation::{MAX_COST, device_type, environment};
use serde_json::Value;

use super::environment::type_name;

/// Longest expression, in bytes; the validation of the kind refuses longer ones.
const MAX_LENGTH: usize = 10 << 10;

/// Returns the problems of the selectors of a class, claim or template of claims.
pub(super) fn problems(kind: &str, object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let devices = match kind {
        "DeviceClass" => {
            selectors(&mut errors, &object["spec"], "spec");
            return errors;
        }
        "ResourceClaim" => "spec.devices",
        "ResourceClaimTemplate" => "spec.spec.devices",
        _ => return errors,
    };
    let steps = devices.split('.');
    let found = steps.fold(object, |value, step| {
        value.get(step).unwrap_or(&Value::Null)
    });
    for (i, request) in items(&found["requests"]) {
        let path = format!("{devices}.requests[{i}]");
        selectors(&mut errors, &request["exactly"], &format!("{path}.exactly"));
        for (j, alternative) in items(&request["firstAvailable"]) {
            selectors(
                &mut errors,
                alternative,
                &format!("{path}.firstAvailable[{j}]"),
            );
        }
    }
    errors
}

fn items(value: &Value) -> impl Iterator<Item = (usize, &Value)> {
    value.as_array().into_iter().flatten().enumerate()
}

fn selectors(errors: &mut Vec<FieldError>, holder: &Value, path: &str) {
    for (i, selector) in items(&holder["selectors"]) {
        let Some(cel) = selector.get("cel").filter(|cel| cel.is_object()) else {
            continue;
        };
        let source = cel["expression"].as_str().unwrap_or_default();
        if source.len() > MAX_LENGTH {
            continue;
        }
        let path = format!("{path}.selectors[{i}].cel.expression");
        match estimate(source) {
            Ok(cost) if cost > MAX_COST => {
                let why = "too complex, exceeds cost limit";
                errors.push(FieldError::forbidden(path, why));
            }
            Ok(_) => {}
            Err(why) => errors.push(FieldError::invalid(path, source, why)),
        }
    }
}

/// Returns the highest cost of an expression, or why it does not compile.
fn estimate(source: &str) -> Result<u64, String> {
    let compiled = environment()
        .compile(source)
        .map_err(|issues| format!("compilation failed: {issues}"))?;
    let ty = compiled.output();
    if !matches!(ty, Type::Bool | Type::Dyn) {
        let got = type_name(ty);
        return Err(format!(
            "must evaluate to bool or the unknown type, not {got}"
        ));
    }
    let cost = compiled.estimate(device_type().as_ref()).max;
    compiled
        .program()
        .map_err(|why| format!("program instantiation failed: {why}"))?;
    Ok(cost)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn selectors_compile() {
        for (source, want) in [
            ("device.driver == 'd'", ""),
            ("device.attributes['d'].a", ""),
            ("device.capacity['d'].m.compareTo(quantity('1')) > 0", ""),
            ("device.allowMultipleAllocations", ""),
            (
                "device.driver",
                "must evaluate to bool or the unknown type, not string",
            ),
            (
                "TCP",
                "compilation failed: ERROR: <input>:1:1: undeclared reference to 'TCP' (in container '')\n | TCP\n | ^",
            ),
        ] {
            let class = json!({"spec": {"selectors": [{"cel": {"expression": source}}]}});
            let found = problems("DeviceClass", &class);
            let found: Vec<&str> = found.iter().map(|e| e.detail.as_str()).collect();
            assert_eq!(found.join(";"), want, "{source}");
        }
    }
}
