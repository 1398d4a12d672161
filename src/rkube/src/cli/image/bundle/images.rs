//! Which images a bundle has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rkube_cluster::addons::objects::{self, Text};
use rkube_cluster::{Home, addons};
use rkube_failure::{Failure, Kind, Source};

use super::Args;
use crate::cli::image::check_name;
use crate::cli::{Output, kubectl};

/// Largest input that is read as manifests, in bytes.
const MAX_INPUT: u64 = 64 << 20;

fn failure(kind: Kind, message: impl Into<String>) -> Failure {
    Failure::new(Source::Program, kind, message)
}

/// Returns the names of all images that the arguments mean, each once.
pub async fn collect(home: &Home, args: &Args, output: &Output) -> Result<Vec<String>, Failure> {
    let mut names: BTreeSet<String> = args.images.iter().cloned().collect();
    let (inputs, files): (Vec<PathBuf>, Vec<PathBuf>) = args
        .filenames
        .iter()
        .cloned()
        .partition(|path| path.as_os_str() == "-");
    let kubectl = match args.kustomize.is_empty() {
        true => None,
        false => kubectl::find(),
    };
    let mut texts = rkube_dev::manifests::texts(&files, &args.kustomize, kubectl.as_deref())?;
    if !inputs.is_empty() {
        texts.push(input().await?);
    }
    for chart in &args.charts {
        texts.push(rendered(chart, &args.values).await?);
    }
    if !texts.is_empty() {
        names.extend(addons::images_of(&objects::read(&texts)?));
    }
    for addon in crate::cli::addons::find(home, &args.addons, output)? {
        names.extend(addons::images(&addon).await?);
    }
    for name in &names {
        check_name(name)?;
    }
    if names.is_empty() {
        let asked = !texts.is_empty() || !args.addons.is_empty();
        return Err(match asked {
            true => failure(Kind::NotFound, "the manifests and addons name no image"),
            false => failure(Kind::Usage, "nothing says which images to save"),
        }
        .advise("name manifests (-f), a kustomization (-k), a chart (--chart), an addon (--addon), or images after the archive"));
    }
    Ok(names.into_iter().collect())
}

/// Reads manifests from standard input.
async fn input() -> Result<Text, Failure> {
    use std::io::Read as _;
    let read = tokio::task::spawn_blocking(|| {
        let mut text = String::new();
        let mut input = std::io::stdin().lock().take(MAX_INPUT + 1);
        input.read_to_string(&mut text).map(|_| text)
    });
    let read = read.await.map_err(std::io::Error::other).flatten();
    let text = read.map_err(|e| {
        let message = format!("cannot read the manifests on standard input: {e}");
        Failure::new(Source::Host, Kind::Error, message)
    })?;
    if text.len() as u64 > MAX_INPUT {
        let message = format!("the standard input is larger than {} MiB", MAX_INPUT >> 20);
        return Err(failure(Kind::Config, message));
    }
    Ok(Text {
        name: "the standard input".to_owned(),
        text,
    })
}

/// Runs `helm template`.
async fn rendered(chart: &Path, values: &[PathBuf]) -> Result<Text, Failure> {
    let name = chart.display().to_string();
    let Some(helm) = kubectl::find_program("helm") else {
        return Err(
            failure(Kind::NotFound, "there is no helm in PATH, which renders charts").advise(
                "install it (https://helm.sh/docs/intro/install/), or render the chart elsewhere and pass its manifests with -f",
            ),
        );
    };
    if !chart.exists() {
        let message = format!("there is no chart {name} on this machine");
        return Err(failure(Kind::NotFound, message).advise("fetch it with: helm pull"));
    }
    let mut command = tokio::process::Command::new(&helm);
    command
        .args(["template", "--include-crds", "rkube"])
        .arg(chart);
    for file in values {
        command.arg("--values").arg(file);
    }
    let done = command.kill_on_drop(true).output().await;
    let done = done.map_err(|e| rkube_cluster::io_failure("run", &helm, &e))?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        let why = why.trim().trim_start_matches("Error: ").to_owned();
        return Err(failure(
            Kind::Config,
            format!("cannot render {name}: {why}"),
        ));
    }
    Ok(Text {
        name,
        text: String::from_utf8_lossy(&done.stdout).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::output::{Destination, Format};

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn collected(words: &[&str]) -> Result<Vec<String>, Failure> {
        let words = ["save", "all.tar"].iter().chain(words);
        let args = Line::parse_from(words).args;
        let dir = tempfile::tempdir().unwrap();
        let output = Output::at(Format::Text, Destination::Nowhere);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(collect(&Home::at(dir.path()), &args, &output))
    }

    #[test]
    fn manifests_and_lists_are_joined() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pod.yaml");
        let pod = |image: &str| {
            let spec = format!("{{containers: [{{name: c, image: {image}}}]}}");
            let text =
                format!("{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {spec}}}");
            std::fs::write(&file, text).unwrap();
        };
        let path = file.to_str().unwrap();
        pod("app:1");
        let both = collected(&["-f", path, "redis:8", "app:1"]).unwrap();
        assert_eq!(both, ["app:1", "redis:8"]);
        let whole = collected(&["-f", dir.path().to_str().unwrap()]).unwrap();
        assert_eq!(whole, ["app:1"]);
        // Names become words of a command on a node.
        pod("'a; b'");
        let error = collected(&["-f", path]).unwrap_err();
        assert_eq!((error.source, error.kind), (Source::Program, Kind::Usage));
        std::fs::write(&file, "{apiVersion: v1, kind: Secret, metadata: {name: s}}").unwrap();
        assert_eq!(collected(&["-f", path]).unwrap_err().kind, Kind::NotFound);
        assert_eq!(collected(&[]).unwrap_err().kind, Kind::Usage);
    }
}
