use rkube_config::registries::{ANY, Proxies};

use super::*;

fn k3s(text: &str) -> Result<BTreeMap<String, Registry>, String> {
    from_value(serde_yaml::from_str(text).unwrap())
}

fn urls(registry: &Registry) -> Vec<&str> {
    let all = registry.mirrors.iter().map(|mirror| mirror.url.as_str());
    all.collect()
}

#[test]
fn files_of_k3s() {
    let all = k3s(r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.example", "http://harbor.example:8080/v2/hub", "localhost:5000", "plain.example"]
    rewrite:
      "^library/(.*)": "team/$1"
  "*":
    endpoint: [https://any.example/]
  quiet.example:
configs:
  mirror.example:
    auth: {username: u, password: p}
    tls: {insecure_skip_verify: true}
  registry-1.docker.io:
    auth: {auth: dTpwOnE=}
  other.example:5000:
    auth: {identity_token: t}
"#)
    .unwrap();
    let hub = &all["docker.io"];
    assert_eq!(
        urls(hub),
        [
            "https://mirror.example/v2",
            "http://harbor.example:8080/v2/hub",
            "http://localhost:5000/v2",
            "https://plain.example/v2",
        ]
    );
    let first = &hub.mirrors[0];
    assert!(first.skip_verify && !first.push && first.pull && first.resolve);
    assert_eq!(first.login.as_ref().unwrap().password, "p");
    assert_eq!(first.rewrites.len(), 1);
    assert_eq!(hub.mirrors[1].login, None);
    let server = hub.server.as_ref().unwrap();
    assert_eq!((server.url.as_str(), server.push), ("", true));
    assert_eq!(server.login.as_ref().unwrap().password, "p:q");
    assert_eq!(urls(&all[ANY]), ["https://any.example/v2"]);
    assert_eq!(all["quiet.example"], Registry::default());
    let other = &all["other.example:5000"];
    assert_eq!(urls(other), ["https://any.example/v2"]);
    let login = other.server.as_ref().unwrap().login.as_ref().unwrap();
    assert_eq!(login.identity_token, "t");
    assert_eq!(k3s("").unwrap(), BTreeMap::new());
}

#[test]
fn mistakes_in_files_of_k3s_have_a_place() {
    for (text, words) in [
        ("mirror: {}", "mirror"),
        ("mirrors: {a: {endpoints: []}}", "endpoints"),
        (
            "mirrors: {a: {endpoint: ['ftp://a']}}",
            "mirrors[a].endpoint[0]: 'ftp://a'",
        ),
        ("mirrors: {a: {endpoint: ['https://u:p@a']}}", "credentials"),
        ("mirrors: {'https://a': {}}", "HOST[:PORT]"),
        ("mirrors: {a: {rewrite: {'(': b}}}", "mirrors[a].rewrite"),
        (
            "configs: {a: {auth: {auth: '*'}}}",
            "configs[a].auth: auth is not in base64",
        ),
        (
            "configs: {a: {tls: {ca_file: /nonexistent}}}",
            "/nonexistent",
        ),
        ("configs: {a: {tls: {cert_file: /a}}}", "belong together"),
    ] {
        let error = k3s(text).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn directories_of_containerd() {
    let text = r#"
server = "https://registry-1.docker.io"
skip_verify = true

[host."https://b.example"]
  capabilities = ["pull", "resolve"]
  dial_timeout = "3s"
  [host."https://b.example".header]
    x-one = "1"
    x-two = ["2", "3"]
[host."http://a.example:5000/harbor/v2/hub"]
  override_path = true
[host."c.example/path"]
"#;
    let registry = hosts::parse(text, Path::new("/nonexistent")).unwrap();
    // The order of the file counts.
    assert_eq!(
        urls(&registry),
        [
            "https://b.example/v2",
            "http://a.example:5000/harbor/v2/hub",
            "https://c.example/path/v2",
        ]
    );
    let first = &registry.mirrors[0];
    assert!(first.pull && first.resolve && !first.push);
    assert_eq!(first.dial_timeout_millis, Some(3000));
    assert_eq!(first.headers.len(), 3);
    assert!(registry.mirrors[1].push);
    let server = registry.server.unwrap();
    assert!(server.skip_verify);
    assert_eq!(server.url, "https://registry-1.docker.io/v2");
    for (text, words) in [
        ("server = 1", "server: it must be a string"),
        ("servers = \"a\"", "unknown field servers"),
        (
            "[host.\"https://a\"]\ncapabilities = [\"fly\"]",
            "unknown capability fly",
        ),
        ("[host.\"https://a\"]\nca = \"a.pem\"", "/nonexistent/a.pem"),
        ("[host.\"ftp://a\"]", "host.\"ftp://a\""),
        ("skip_verify = \"yes\"", "skip_verify"),
        ("dial_timeout = \"long\"", "dial_timeout"),
        ("[host", "TOML"),
    ] {
        let error = hosts::parse(text, Path::new("/nonexistent")).unwrap_err();
        assert!(error.contains(words), "{text}: {error}");
    }
}

#[test]
fn names_of_directories() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, text) in [
        ("_default", "server = \"https://a.example\""),
        ("r.example_5000_", "[host.\"https://b.example\"]"),
        ("docker.io", ""),
    ] {
        let folder = dir.path().join(folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
    }
    std::fs::create_dir(dir.path().join("bare.example")).unwrap();
    let all = hosts::read(dir.path()).unwrap();
    let names: Vec<&str> = all.keys().map(String::as_str).collect();
    assert_eq!(names, [ANY, "bare.example", "docker.io", "r.example:5000"]);
}

#[test]
fn flags_come_before_files() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("registries.yaml");
    std::fs::write(&config, "mirrors: {docker.io: {endpoint: [https://b]}}").unwrap();
    let changes = RegistrySources {
        mirrors: vec!["https://a".into()],
        config: Some(config.clone()),
        ..RegistrySources::default()
    };
    let hosts = changes.read().unwrap().hosts.unwrap();
    assert_eq!(urls(&hosts["docker.io"]), ["https://a/v2", "https://b/v2"]);
    let bad = RegistrySources {
        extra_ca: vec![config],
        ..RegistrySources::default()
    };
    assert!(bad.read().unwrap_err().message.contains("registries.yaml"));
    let none = RegistrySources::default().read().unwrap();
    assert_eq!(none, RegistryChanges::default());
}

#[test]
fn mirrors_leave_other_settings_as_they_are() {
    let text = "configs: {docker.io: {auth: {username: u}}, a.example: {auth: {username: v}}}";
    let now = Registries {
        hosts: k3s(text).unwrap(),
        ..Registries::default()
    };
    let changes = RegistrySources {
        mirrors: vec!["https://m".into()],
        ..RegistrySources::default()
    };
    let after = changes.read().unwrap().applied(&now, &[]);
    assert_eq!(urls(&after.hosts["docker.io"]), ["https://m/v2"]);
    assert!(after.hosts["docker.io"].server.is_some());
    assert_eq!(after.hosts["a.example"], now.hosts["a.example"]);
    // A file says everything.
    let changes = RegistrySources {
        section: Some(BTreeMap::new()),
        ..RegistrySources::default()
    };
    let after = changes.read().unwrap().applied(&now, &[]);
    assert_eq!(after.hosts, BTreeMap::new());
}

#[test]
fn certificates_and_keys_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("r.example");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("a.key", "");
    let error = hosts::read(dir.path()).unwrap_err().message;
    assert!(error.contains("no certificate"), "{error}");
    for name in ["a", "b"] {
        let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        write(&format!("{name}.cert"), &made.cert.pem());
        write(&format!("{name}.key"), &made.signing_key.serialize_pem());
    }
    let error = hosts::read(dir.path()).unwrap_err().message;
    assert!(error.contains("only one"), "{error}");
}

#[test]
fn proxies_come_from_the_environment() {
    let of = |pairs: &[(&str, &str)]| {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        ProxyChoice::of_environment(|name| {
            let found = pairs.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.clone())
        })
    };
    assert_eq!(of(&[("NO_PROXY", "a")]), Ok(ProxyChoice::Keep));
    assert!(of(&[("HTTPS_PROXY", "socks5://a")]).is_err());
    let choice = of(&[
        ("http_proxy", "proxy:3128"),
        ("HTTPS_PROXY", "http://proxy:3128/"),
        ("no_proxy", "corp.example, 10.96.0.0/12"),
    ])
    .unwrap();
    let excluded = ["10.96.0.0/12", ".svc"].map(str::to_owned);
    let now = Proxies {
        pods: true,
        ..Proxies::default()
    };
    let proxies = choice.applied(&now, &excluded);
    assert_eq!(
        (proxies.http.as_str(), proxies.https.as_str()),
        ("http://proxy:3128", "http://proxy:3128")
    );
    assert_eq!(proxies.no_proxy, "corp.example,10.96.0.0/12,.svc");
    assert!(proxies.pods);
    // Nothing is lost without the variables, and all with --proxy=none.
    assert_eq!(ProxyChoice::Keep.applied(&proxies, &excluded), proxies);
    assert_eq!(ProxyChoice::None.applied(&proxies, &excluded), now);
    let fixed = ProxyChoice::parse("http://p:1", |_| None).unwrap();
    assert!(matches!(fixed, ProxyChoice::Use(p) if p.http == p.https));
}
