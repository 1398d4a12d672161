//! Specifications in files.

use super::*;

/// Writes files; returns the directories `low` and `high`.
fn registry(files: &[(&str, &str)]) -> Registry {
    let dir = tempfile::tempdir().unwrap();
    let dirs = ["low", "high"].map(|name| dir.path().join(name));
    for folder in &dirs {
        std::fs::create_dir(folder).unwrap();
    }
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    Registry::read(&dirs)
}

const GPU: &str = r#"
cdiVersion: 0.6.0
kind: e.com/gpu
containerEdits:
  env: [ALL=1]
devices:
- name: "0"
  annotations: {a: b}
  containerEdits:
    env: [GPU=0]
    deviceNodes: [{path: /dev/gpu0, hostPath: /dev/null, permissions: rw}]
    mounts: [{hostPath: /lib, containerPath: /gpu, options: [ro, rbind]}]
    hooks: [{hookName: createContainer, path: /bin/hook, args: [hook, x], timeout: 5}]
- name: "1"
  containerEdits: {env: [GPU=1]}
"#;

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[test]
fn edits_of_a_specification_count_once() {
    let registry = registry(&[("low/gpu.yaml", GPU)]);
    let edits = registry
        .edits(&names(&["e.com/gpu=0", "e.com/gpu=1"]))
        .unwrap();
    assert_eq!(edits.env, ["ALL=1", "GPU=0", "GPU=1"]);
    assert_eq!(edits.device_nodes[0].host_path, "/dev/null");
    assert_eq!(edits.mounts[0].options, ["ro", "rbind"]);
    assert_eq!(
        (edits.hooks[0].args.len(), edits.hooks[0].timeout),
        (2, Some(5))
    );
    assert_eq!(registry.edits(&[]).unwrap(), Edits::default());
    assert_eq!(
        registry
            .edits(&names(&["e.com/gpu=0", "e.com/gpu=7", "x"]))
            .unwrap_err(),
        "CDI device injection failed: unresolvable CDI devices e.com/gpu=7, x"
    );
}

#[test]
fn later_directories_take_precedence_and_conflicts_have_no_device() {
    let json = |value: &str| {
        format!(
            r#"{{"cdiVersion":"1.0.0","kind":"e.com/gpu","devices":[{{"name":"0","containerEdits":{{"env":["GPU={value}"]}}}}]}}"#
        )
    };
    let both = registry(&[
        ("low/a.yaml", GPU),
        ("high/b.json", &json("high")),
        ("high/c.txt", "?"),
    ]);
    assert_eq!(
        both.edits(&names(&["e.com/gpu=0"])).unwrap().env,
        ["GPU=high"]
    );
    assert_eq!(
        both.edits(&names(&["e.com/gpu=1"])).unwrap().env,
        ["ALL=1", "GPU=1"]
    );
    let conflict = registry(&[("low/a.yaml", GPU), ("low/b.json", &json("x"))]);
    assert!(conflict.edits(&names(&["e.com/gpu=0"])).is_err());
    assert!(conflict.edits(&names(&["e.com/gpu=1"])).is_ok());
}

#[test]
fn damaged_specifications_are_named() {
    for (text, word) in [
        (
            "cdiVersion: 0.2.0\nkind: e.com/gpu\ndevices: []",
            "\"0.2.0\" is not understood",
        ),
        (
            "cdiVersion: 0.6.0\nkind: gpu\ndevices: []",
            "no \"/\" in the kind",
        ),
        (
            "cdiVersion: 0.6.0\nkind: e.com/1x\ndevices: []",
            "invalid class",
        ),
        (
            "cdiVersion: 0.6.0\nkind: e.com/x\ndevices: [{name: -}]",
            "no valid name",
        ),
        (
            "cdiVersion: 0.6.0\nkind: e.com/x\ndevices: []\nfuture: 1",
            "unknown field",
        ),
        ("{", "while parsing"),
    ] {
        let registry = registry(&[("low/x.yaml", text), ("high/gpu.yaml", GPU)]);
        assert!(registry.errors[0].contains(word), "{:?}", registry.errors);
        assert!(registry.edits(&names(&["e.com/gpu=1"])).is_ok());
        let error = registry.edits(&names(&["e.com/x=1"])).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn names_have_three_parts() {
    assert_eq!(
        parse_name("vendor.com/class=dev_1:2.3"),
        Ok(("vendor.com/class", "dev_1:2.3"))
    );
    for name in [
        "a/b",
        "a=b",
        "1.com/c=d",
        "a-/c=d",
        "a/c=",
        "a/c=-d",
        "a/c=d e",
        "a/b/c=d",
    ] {
        assert!(parse_name(name).is_err(), "{name}");
    }
}
