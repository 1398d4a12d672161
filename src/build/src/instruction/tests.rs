use super::*;

fn parse_all(text: &str) -> Result<Vec<Instruction>> {
    let source = lines::split(text)?;
    let parsed = source.statements.iter().map(|s| parse(s, source.escape));
    parsed.map(|p| p.map(|l| l.instruction)).collect()
}

fn parse_one(text: &str) -> Instruction {
    parse_all(text).unwrap().pop().unwrap()
}

#[test]
fn forms_of_commands() {
    for (text, expected) in [
        (
            "CMD [\"a\", \"b c\"]",
            CommandLine::Exec(vec!["a".into(), "b c".into()]),
        ),
        ("CMD a  b", CommandLine::Shell("a  b".into())),
        // Not JSON, so it is for the shell.
        ("CMD ['a']", CommandLine::Shell("['a']".into())),
        ("CMD [\"a\", 1]", CommandLine::Shell("[\"a\", 1]".into())),
    ] {
        assert_eq!(parse_one(text), Instruction::Cmd(expected), "{text}");
    }
}

#[test]
fn names_and_values() {
    let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
    for (text, expected) in [
        ("ENV a=b", vec![pair("a", "b")]),
        (
            "ENV a=b c=\"d e\" f=g\\ h",
            vec![pair("a", "b"), pair("c", "\"d e\""), pair("f", "g\\ h")],
        ),
        ("ENV a b = c", vec![pair("a", "b = c")]),
    ] {
        assert_eq!(parse_one(text), Instruction::Env(expected), "{text}");
    }
    assert_eq!(
        parse_one("ARG a b=c"),
        Instruction::Arg(vec![("a".into(), None), ("b".into(), Some("c".into()))])
    );
}

#[test]
fn mounts() {
    let Instruction::Run { mounts, .. } = parse_one(
        "RUN --mount=type=cache,dst=/c,sharing=locked --mount=target=/b,src=x,ro --mount=type=secret,id=k true",
    ) else {
        panic!();
    };
    assert_eq!(mounts[0].kind, MountKind::Cache);
    assert_eq!(mounts[0].options["target"], "/c");
    assert_eq!(mounts[1].kind, MountKind::Bind);
    assert_eq!(mounts[1].options["readonly"], "true");
    assert_eq!(mounts[2].kind, MountKind::Secret);
}

#[test]
fn errors_name_the_line() {
    for (text, part) in [
        ("FROM a\nRUNN x", "unknown instruction: RUNN"),
        ("FROM a\nFROM a b", "either one or three"),
        ("FROM a\nFROM a AS 1b", "invalid name for build stage"),
        ("FROM a\nCOPY x", "at least two arguments"),
        ("FROM a\nCOPY --nope x y", "unknown flag: --nope"),
        ("FROM a\nADD --parents x y", "not supported"),
        ("FROM a\nRUN --mount=type=ssh x", "not supported"),
        (
            "FROM a\nRUN --mount=type=nope,target=/a x",
            "unsupported mount type",
        ),
        ("FROM a\nRUN --mount=type=tmpfs x", "no target"),
        (
            "FROM a\nRUN --mount=type=bind,target=/x,what=1 x",
            "unexpected key",
        ),
        ("FROM a\nRUN --security=insecure x", "not supported"),
        ("FROM a\nRUN", "at least one argument"),
        ("FROM a\nENV a", "two arguments"),
        ("FROM a\nENV a=b c", "can't find ="),
        ("FROM a\nSHELL a", "JSON"),
        ("FROM a\nONBUILD ONBUILD RUN x", "Chaining"),
        ("FROM a\nONBUILD FROM x", "trigger"),
        ("FROM a\nHEALTHCHECK PING", "unknown type"),
        ("FROM a\nADD --from=b x y", "unknown flag: --from"),
    ] {
        let error = parse_all(text).unwrap_err();
        assert!(error.message.contains(part), "{text}: {error}");
        assert_eq!(error.lines, Some((2, 2)), "{text}");
    }
}

#[test]
fn health_checks() {
    let Instruction::Healthcheck(check) =
        parse_one("HEALTHCHECK --interval=5s --retries=2 CMD a b")
    else {
        panic!();
    };
    assert_eq!(check.command, Some(CommandLine::Shell("a b".into())));
    assert_eq!(check.options["interval"], "5s");
    assert!(parse_all("HEALTHCHECK NONE").is_ok());
}
