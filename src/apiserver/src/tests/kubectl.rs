//! An unmodified kubectl, if one is installed.

use std::path::PathBuf;
use std::process::Output;

use base64::Engine as _;
use serde_json::json;

use super::support::{TestServer, start};

struct Kubectl {
    test: TestServer,
    config: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    /// Starts a server with TLS and writes a kubeconfig for it; `None` if there is no kubectl.
    async fn start() -> Option<Self> {
        if std::process::Command::new("kubectl")
            .arg("--help")
            .output()
            .is_err()
        {
            rkube_testing::skipped("there is no kubectl");
            return None;
        }
        let test = start().await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(
            test.server
                .clone()
                .serve(listener, tokio_util::sync::CancellationToken::new()),
        );
        let home = tempfile::tempdir().unwrap();
        let config = home.path().join("config");
        let data = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let document = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{address}"), "certificate-authority-data": data(&test.pki.pki.ca_cert)}}],
            "users": [{"name": "test", "user": {
                "client-certificate-data": data(test.pki.admin_cert.as_bytes()),
                "client-key-data": data(test.pki.admin_key.as_bytes())}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        std::fs::write(&config, document.to_string()).unwrap();
        Some(Self { test, config, home })
    }

    async fn output(&self, args: &[&str], stdin: &str) -> Output {
        use tokio::io::AsyncWriteExt as _;
        let mut child = tokio::process::Command::new("kubectl")
            .args(args)
            .env("KUBECONFIG", &self.config)
            .env("HOME", self.home.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(stdin.as_bytes()).await.unwrap();
        drop(input);
        child.wait_with_output().await.unwrap()
    }

    async fn run(&self, args: &[&str]) -> String {
        self.run_with(args, "").await
    }

    async fn run_with(&self, args: &[&str], stdin: &str) -> String {
        let output = self.output(args, stdin).await;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "kubectl {args:?}: {text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    async fn fail(&self, args: &[&str], stdin: &str) -> String {
        let output = self.output(args, stdin).await;
        assert!(!output.status.success(), "kubectl {args:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

#[tokio::test]
async fn kubectl_creates_shows_changes_and_deletes() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    assert!(k.run(&["version"]).await.contains("v1.36.0+rkube0.0.0"));
    assert!(k.run(&["get", "ns"]).await.contains("kube-system"));
    assert!(k.run(&["api-resources"]).await.contains("deployments"));
    assert!(k.run(&["get", "cs"]).await.contains("Healthy"));
    assert!(
        k.run(&["get", "--raw", "/readyz?verbose"])
            .await
            .contains("readyz check passed")
    );
    assert_eq!(
        k.run(&["create", "deployment", "web", "--image=x", "--replicas=2"])
            .await,
        "deployment.apps/web created\n"
    );
    assert!(k.run(&["get", "deployments"]).await.contains("web    0/2"));
    assert_eq!(
        k.run(&["scale", "deployment", "web", "--replicas=3"]).await,
        "deployment.apps/web scaled\n"
    );
    assert!(
        k.run(&["get", "deploy", "web", "-o", "yaml"])
            .await
            .contains("replicas: 3")
    );
    assert!(
        k.run(&["describe", "deployment", "web"])
            .await
            .contains("RollingUpdate")
    );
    assert_eq!(
        k.run(&["set", "image", "deployment/web", "x=y"]).await,
        "deployment.apps/web image updated\n"
    );
    assert_eq!(
        k.run(&[
            "expose",
            "deployment",
            "web",
            "--type=LoadBalancer",
            "--port=8080"
        ])
        .await,
        "service/web exposed\n"
    );
    assert!(k.run(&["get", "svc", "web"]).await.contains("<pending>"));
    assert!(
        k.run(&["explain", "pod.spec.containers"])
            .await
            .contains("FIELDS")
    );
    assert_eq!(
        k.run(&["label", "ns", "default", "a=b"]).await,
        "namespace/default labeled\n"
    );
    assert!(
        k.run(&["get", "all", "-A"])
            .await
            .contains("service/kubernetes")
    );
    assert_eq!(k.run(&["auth", "can-i", "create", "pods"]).await, "yes\n");
    k.run(&["create", "serviceaccount", "me"]).await;
    assert_eq!(
        k.run(&["create", "job", "j", "--image=x"]).await,
        "job.batch/j created\n"
    );
    assert_eq!(
        k.run(&["create", "token", "me"]).await.matches('.').count(),
        2
    );
    assert!(
        k.run(&["delete", "deployment", "web"])
            .await
            .starts_with("deployment.apps \"web\" deleted")
    );
}

#[tokio::test]
async fn kubectl_says_that_a_kind_is_unknown() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    for api_version in ["v1", "apps/v1", "nowhere.example.com/v1"] {
        let object =
            format!("apiVersion: {api_version}\nkind: Nope\nmetadata: {{name: unknown}}\n");
        let told = k.fail(&["apply", "-f", "-"], &object).await;
        assert!(
            told.contains(&format!(
                "no matches for kind \"Nope\" in version \"{api_version}\""
            )),
            "{told}"
        );
    }
}

#[tokio::test]
async fn kubectl_applies_and_diffs() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: m\ndata:\n  a: b\n";
    assert_eq!(
        k.run_with(&["apply", "-f", "-"], map).await,
        "configmap/m created\n"
    );
    assert_eq!(
        k.run_with(&["apply", "-f", "-"], map).await,
        "configmap/m unchanged\n"
    );
    let changed = map.replace("a: b", "a: c");
    let diff = k.output(&["diff", "-f", "-"], &changed).await;
    assert!(
        String::from_utf8_lossy(&diff.stdout).contains("+  a: c"),
        "{diff:?}"
    );
    assert_eq!(
        k.run_with(&["apply", "-f", "-"], &changed).await,
        "configmap/m configured\n"
    );
    let one = ["apply", "--server-side", "--field-manager=one", "-f", "-"];
    assert_eq!(
        k.run_with(&one, &changed).await,
        "configmap/m serverside-applied\n"
    );
    let other = map.replace("a: b", "a: d");
    let two = ["apply", "--server-side", "--field-manager=two", "-f", "-"];
    let error = k.fail(&two, &other).await;
    assert!(error.contains("conflict with \"one\""), "{error}");
    let forced = [
        "apply",
        "--server-side",
        "--field-manager=two",
        "--force-conflicts",
        "-f",
        "-",
    ];
    assert_eq!(
        k.run_with(&forced, &other).await,
        "configmap/m serverside-applied\n"
    );
    let typo = map.replace("\ndata:", "\ndato:");
    let error = k
        .fail(
            &["apply", "-f", "-"],
            &typo.replace("name: m", "name: typo"),
        )
        .await;
    assert!(error.contains("unknown field \"dato\""), "{error}");
    drop(k.test);
}

#[tokio::test]
async fn kubectl_uses_custom_resources() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    let crd = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Spec, type: string, jsonPath: .spec.cronSpec}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {cronSpec: {type: string}, replicas: {type: integer, minimum: 1, default: 1}}
"#;
    k.run_with(&["apply", "-f", "-"], crd).await;
    k.run(&[
        "wait",
        "--for=condition=Established",
        "crd/crontabs.stable.example.com",
        "--timeout=5s",
    ])
    .await;
    let tab = "apiVersion: stable.example.com/v1\nkind: CronTab\nmetadata: {name: t}\nspec: {cronSpec: '* * * * *'}\n";
    assert_eq!(
        k.run_with(&["apply", "-f", "-"], tab).await,
        "crontab.stable.example.com/t created\n"
    );
    assert!(k.run(&["get", "ct"]).await.contains("* * * * *"));
    assert!(
        k.run(&["get", "ct", "t", "-o", "yaml"])
            .await
            .contains("replicas: 1")
    );
    let error = k
        .fail(
            &[
                "patch",
                "ct",
                "t",
                "--type=merge",
                "-p",
                r#"{"spec":{"replicas":0}}"#,
            ],
            "",
        )
        .await;
    assert!(
        error.contains("should be greater than or equal to 1"),
        "{error}"
    );
    k.run(&[
        "delete",
        "crd",
        "crontabs.stable.example.com",
        "--timeout=10s",
    ])
    .await;
    let error = k.fail(&["get", "ct"], "").await;
    // kubectl may still use cached discovery documents.
    let gone = [
        "doesn't have a resource type",
        "could not find the requested resource",
    ];
    assert!(gone.iter().any(|g| error.contains(g)), "{error}");
    drop(k.test);
}

/// For manual experiments: serves until killed.
#[tokio::test]
#[ignore = "by hand"]
async fn serve_forever() {
    let Some(k) = Kubectl::start().await else {
        return;
    };
    std::fs::copy(&k.config, "/tmp/apiserver-kubeconfig").unwrap();
    std::future::pending::<()>().await;
}
