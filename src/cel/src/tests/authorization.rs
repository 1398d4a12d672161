//! The library for authorization checks.

use crate::{
    Attributes, Authorizer, Check, Decision, Env, NoAuthorizer, PER_CALL_LIMIT, Type, Value,
};

/// Authorizer that allows one set of attributes.
struct AllowOnly(Attributes);

impl Authorizer for AllowOnly {
    fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.verb == "fail" {
            return Decision {
                error: Some("unavailable".into()),
                ..Decision::default()
            };
        }
        let allowed = *attributes == self.0;
        Decision {
            allowed,
            reason: if allowed { "a rule" } else { "no rule" }.into(),
            error: None,
        }
    }
}

/// Evaluates a boolean or text expression about `authorizer`.
fn run(expression: &str, authorizer: &dyn Authorizer) -> String {
    let env = Env::new().variable(
        "authorizer",
        Type::object("kubernetes.authorization.Authorizer"),
    );
    let compiled = match env.compile(expression) {
        Ok(compiled) => compiled,
        Err(issues) => return format!("!{issues}"),
    };
    let program = compiled.program().expect(expression);
    let values = [Value::Check(Check::start())];
    let mut values: &[Value<'_>] = &values;
    match program
        .evaluate(&mut values, authorizer, PER_CALL_LIMIT)
        .outcome
    {
        Ok(Value::Bool(b)) => b.to_string(),
        Ok(value) => value.to_json().expect("a value of JSON").to_string(),
        Err(error) => format!("!{error}"),
    }
}

#[test]
fn attributes_reach_the_authorizer() {
    let resource = || Attributes {
        group: "apps".into(),
        resource: "deployments".into(),
        subresource: "status".into(),
        namespace: "n".into(),
        name: "d".into(),
        verb: "update".into(),
        ..Attributes::default()
    };
    let full = "authorizer.group('apps').resource('deployments').subresource('status').namespace('n').name('d')";
    for (attributes, expression) in [
        (resource(), format!("{full}.check('update').allowed()")),
        (
            Attributes {
                field_selector: Some("a=b".into()),
                label_selector: Some("c".into()),
                ..resource()
            },
            format!("{full}.fieldSelector('a=b').labelSelector('c').check('update').allowed()"),
        ),
        (
            Attributes {
                service_account: Some(("n".into(), "s".into())),
                ..resource()
            },
            format!(
                "{}.check('update').allowed()",
                full.replace("authorizer", "authorizer.serviceAccount('n', 's')")
            ),
        ),
        (
            Attributes {
                path: Some("/healthz".into()),
                verb: "get".into(),
                ..Attributes::default()
            },
            "authorizer.path('/healthz').check('get').allowed()".into(),
        ),
    ] {
        assert_eq!(
            run(&expression, &AllowOnly(attributes)),
            "true",
            "{expression}"
        );
        assert_eq!(run(&expression, &NoAuthorizer), "false", "{expression}");
    }
}

#[test]
fn decisions_are_read() {
    let authorizer = AllowOnly(Attributes::default());
    for (expression, value) in [
        (
            "authorizer.group('').resource('pods').check('get').allowed()",
            "false",
        ),
        (
            "authorizer.group('').resource('pods').check('get').reason()",
            "\"no rule\"",
        ),
        (
            "authorizer.group('').resource('pods').check('get').errored()",
            "false",
        ),
        (
            "authorizer.group('').resource('pods').check('get').error()",
            "\"\"",
        ),
        (
            "authorizer.group('').resource('pods').check('fail').errored()",
            "true",
        ),
        (
            "authorizer.group('').resource('pods').check('fail').error()",
            "\"unavailable\"",
        ),
    ] {
        assert_eq!(run(expression, &authorizer), value, "{expression}");
    }
}

#[test]
fn malformed_checks_are_errors() {
    for (expression, message) in [
        (
            "authorizer.path('').check('get').allowed()",
            "!path must not be empty",
        ),
        (
            "authorizer.group('').resource('').check('get').allowed()",
            "!resource must not be empty",
        ),
    ] {
        assert_eq!(run(expression, &NoAuthorizer), message, "{expression}");
    }
    for (expression, beginning) in [
        (
            "authorizer.serviceAccount('n', 'A').path('/').check('get').allowed()",
            "!Invalid service account name: ",
        ),
        (
            "authorizer.serviceAccount('a.b', 's').path('/').check('get').allowed()",
            "!Invalid service account namespace: ",
        ),
        (
            "authorizer.check('get')",
            "!ERROR: <input>:1:17: found no matching overload for 'check' applied to ",
        ),
        (
            "authorizer.resource('pods')",
            "!ERROR: <input>:1:20: found no matching overload for 'resource' applied to ",
        ),
    ] {
        let got = run(expression, &NoAuthorizer);
        assert!(got.starts_with(beginning), "{expression}: {got}");
    }
}
