//! What a session builds, applies, copies and forwards: from flags, or from a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rkube_failure::{Failure, Kind, Source};
use serde::Deserialize;

use crate::ports::Forwarded;
use crate::reference;

/// The settings as users write them: the section `dev` of a cluster file, or the fields of a file of
/// its own. Flags are added to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Section {
    /// The namespace of objects without one.
    pub namespace: Option<String>,
    /// Files and directories of manifests.
    pub manifests: Vec<PathBuf>,
    /// Directories with a kustomization.
    pub kustomize: Vec<PathBuf>,
    /// The images to build.
    pub build: Vec<Build>,
    /// Directories and files to copy into running containers.
    pub sync: Vec<String>,
    /// Ports to forward.
    pub port_forward: Vec<String>,
}

/// An image to build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Build {
    /// The name of the image in the manifests.
    pub image: String,
    /// The directory that is sent to the builder.
    pub context: PathBuf,
    /// The path of the Dockerfile; `Dockerfile` in the context if absent.
    #[serde(default)]
    pub dockerfile: Option<PathBuf>,
    /// The stage to build; the last one if absent.
    #[serde(default)]
    pub target: Option<String>,
    /// Values of `ARG`s.
    #[serde(default)]
    pub args: BTreeMap<String, String>,
}

/// A directory or file that is copied into running containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sync {
    /// The place of the image in the list of builds.
    pub build: usize,
    /// The path on this machine.
    pub from: PathBuf,
    /// The absolute path in the containers.
    pub to: String,
}

/// Settings that were checked. Paths are absolute.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The namespace of objects without one.
    pub namespace: Option<String>,
    /// Files and directories of manifests.
    pub manifests: Vec<PathBuf>,
    /// Directories with a kustomization.
    pub kustomize: Vec<PathBuf>,
    /// The images to build.
    pub builds: Vec<Build>,
    /// What is copied into running containers.
    pub syncs: Vec<Sync>,
    /// The ports to forward; all of the services' if empty.
    pub ports: Vec<Forwarded>,
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::new(Source::Program, Kind::Usage, message)
}

impl Build {
    /// Reads `IMAGE=DIRECTORY[,file=PATH][,target=STAGE][,arg=NAME=VALUE]`.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = |why: &str| usage(format!("--build {text}: {why}"));
        let form = "it must be IMAGE=DIRECTORY, such as app=./app";
        let (image, rest) = text.split_once('=').ok_or_else(|| wrong(form))?;
        let mut fields = rest.split(',');
        let context = fields.next().unwrap_or_default();
        if image.is_empty() || context.is_empty() {
            return Err(wrong(form));
        }
        let mut build = Self {
            image: image.to_owned(),
            context: context.into(),
            ..Self::default()
        };
        for field in fields {
            match field.split_once('=') {
                Some(("file" | "dockerfile", value)) => build.dockerfile = Some(value.into()),
                Some(("target", value)) => build.target = Some(value.to_owned()),
                Some(("arg", value)) => {
                    let (name, value) = value
                        .split_once('=')
                        .ok_or_else(|| wrong("arg must be arg=NAME=VALUE"))?;
                    build.args.insert(name.to_owned(), value.to_owned());
                }
                _ => {
                    return Err(wrong(&format!(
                        "'{field}' is none of file=PATH, target=STAGE and arg=NAME=VALUE"
                    )));
                }
            }
        }
        Ok(build)
    }

    /// Returns the path of the Dockerfile.
    pub fn dockerfile(&self) -> PathBuf {
        match &self.dockerfile {
            Some(path) => path.clone(),
            None => {
                let [usual, lower] = ["Dockerfile", "dockerfile"].map(|n| self.context.join(n));
                // As builds find it.
                match !usual.exists() && lower.exists() {
                    true => lower,
                    false => usual,
                }
            }
        }
    }
}

impl Settings {
    /// Checks a section. Relative paths are relative to `base`.
    ///
    /// # Errors
    /// Says which field is wrong, and why. Directories and files must exist.
    pub fn new(section: Section, base: &Path) -> Result<Self, Failure> {
        let absolute = |path: &Path| -> Result<PathBuf, Failure> {
            let joined = base.join(path);
            // Lexically, as links in it are the user's own.
            let path = std::path::absolute(&joined)
                .map_err(|e| usage(format!("cannot find {}: {e}", joined.display())))?;
            Ok(normal(&path))
        };
        let existing = |path: &Path| -> Result<PathBuf, Failure> {
            let found = absolute(path)?;
            match found.metadata() {
                Ok(_) => Ok(found),
                Err(e) => Err(Failure::new(
                    Source::Program,
                    Kind::NotFound,
                    format!("cannot read {}: {e}", path.display()),
                )),
            }
        };
        let directory = |path: &Path| -> Result<PathBuf, Failure> {
            let found = existing(path)?;
            match found.is_dir() {
                true => Ok(found),
                false => Err(usage(format!("{} is not a directory", path.display()))),
            }
        };
        let mut settings = Self {
            namespace: section.namespace,
            ..Self::default()
        };
        for path in &section.manifests {
            settings.manifests.push(existing(path)?);
        }
        for path in &section.kustomize {
            settings.kustomize.push(directory(path)?);
        }
        for build in section.build {
            let dockerfile = build.dockerfile.as_deref().map(absolute).transpose()?;
            if settings.builds.iter().any(|b| b.image == build.image) {
                return Err(usage(format!(
                    "the image {} is to be built twice",
                    build.image
                )));
            }
            settings.builds.push(Build {
                context: directory(&build.context)?,
                dockerfile,
                ..build
            });
        }
        for text in &section.sync {
            let sync = sync(text, &settings.builds, existing)?;
            settings.syncs.push(sync);
        }
        for text in &section.port_forward {
            let port = text.parse();
            let port = port.map_err(|why: String| usage(format!("--port-forward {why}")))?;
            settings.ports.push(port);
        }
        if settings.manifests.is_empty() && settings.kustomize.is_empty() {
            return Err(usage("there are no manifests to apply")
                .advise("name them with -f FILE or -k DIRECTORY, or in the file rkube-dev.yaml"));
        }
        Ok(settings)
    }
}

/// Returns an absolute path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    use std::path::Component;
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

/// Reads `[IMAGE=]FROM:TO` and finds the image that it belongs to.
fn sync(
    text: &str,
    builds: &[Build],
    existing: impl Fn(&Path) -> Result<PathBuf, Failure>,
) -> Result<Sync, Failure> {
    let wrong = |why: String| usage(format!("--sync {text}: {why}"));
    let form = || wrong("it must be [IMAGE=]PATH:PATH-IN-CONTAINER, such as ./src:/app/src".into());
    // The path in the container begins with a slash, so a drive letter is no end.
    let at = text.rfind(":/").ok_or_else(form)?;
    let (from, to) = (&text[..at], &text[at + 1..]);
    let named = from.split_once('=').and_then(|(image, rest)| {
        let same = |b: &Build| b.image == image || reference::matches(image, &b.image);
        Some((builds.iter().position(same)?, rest))
    });
    let from = named.map_or(from, |(_, rest)| rest);
    if from.is_empty() {
        return Err(form());
    }
    let path = existing(Path::new(from)).map_err(|failure| match from.contains('=') {
        true => wrong("no image of this name is built".to_owned()),
        false => failure,
    })?;
    let inside = || {
        let around = builds.iter().enumerate();
        let around = around.filter(|(_, b)| path.starts_with(&b.context));
        let depth = |b: &Build| b.context.components().count();
        around.max_by_key(|(_, b)| depth(b)).map(|(i, _)| i)
    };
    let build = match (named, builds) {
        (Some((i, _)), _) => i,
        (None, []) => {
            return Err(wrong(
                "no image is built whose containers could have the files".to_owned(),
            ));
        }
        (None, [_]) => 0,
        (None, _) => inside().ok_or_else(|| {
            wrong("several images are built; name one: IMAGE=PATH:PATH-IN-CONTAINER".to_owned())
        })?,
    };
    let trimmed = to.trim_end_matches('/');
    // A file that goes to a directory keeps its name.
    let to = match (to.ends_with('/') && path.is_file(), path.file_name()) {
        (true, Some(name)) => format!("{trimmed}/{}", name.to_string_lossy()),
        _ => trimmed.to_owned(),
    };
    Ok(Sync {
        build,
        from: path,
        to,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["app/src", "web"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["d.yaml", "app/main.py"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        dir
    }

    fn section(builds: &[&str], syncs: &[&str]) -> Section {
        Section {
            manifests: vec!["d.yaml".into()],
            build: builds.iter().map(|b| Build::parse(b).unwrap()).collect(),
            sync: syncs.iter().map(|&s| s.to_owned()).collect(),
            ..Section::default()
        }
    }

    #[test]
    fn builds_are_read_or_refused() {
        let build = Build::parse("r.io/app=./app,file=x/D,target=t,arg=A=b=c").unwrap();
        assert_eq!(build.image, "r.io/app");
        assert_eq!(build.context, Path::new("./app"));
        assert_eq!(build.dockerfile(), Path::new("x/D"));
        assert_eq!(build.target.as_deref(), Some("t"));
        assert_eq!(build.args["A"], "b=c");
        for text in ["app", "=x", "app=", "app=x,y", "app=x,arg=y", "app=x,foo=y"] {
            let failure = Build::parse(text).unwrap_err();
            assert_eq!(failure.exit_code(), 14, "{text}");
        }
    }

    #[test]
    fn copies_belong_to_an_image() {
        let dir = tree();
        let builds = ["app=app", "team/web=./web/"];
        for (builds, sync, expected) in [
            (&builds[..], "./app/src:/srv/", (0, "app/src", "/srv")),
            (&builds, "web:/srv", (1, "web", "/srv")),
            (&builds, "team/web=app/src:/x", (1, "app/src", "/x")),
            (&builds[..1], "web:/w", (0, "web", "/w")),
            (&builds, "app/main.py:/a/", (0, "app/main.py", "/a/main.py")),
            (
                &builds,
                "app/main.py:/a/b.py",
                (0, "app/main.py", "/a/b.py"),
            ),
            (&builds, "web/../app/src:/", (0, "app/src", "")),
        ] {
            let settings = Settings::new(section(builds, &[sync]), dir.path()).unwrap();
            let found = &settings.syncs[0];
            let from = dir.path().join(expected.1);
            assert_eq!(
                (found.build, &found.from, found.to.as_str()),
                (expected.0, &from, expected.2),
                "{sync}"
            );
        }
        for (builds, sync, part) in [
            (&builds[..], "./app/src", "it must be"),
            (&builds, "./app/src:srv", "it must be"),
            (&builds, ":/srv", "it must be"),
            (&builds, "d.yaml:/srv", "several images"),
            (&builds, "other=web:/srv", "no image of this name"),
            (&builds, "gone:/srv", "cannot read gone"),
            (&[], "web:/srv", "no image is built"),
        ] {
            let failure = Settings::new(section(builds, &[sync]), dir.path()).unwrap_err();
            assert!(failure.message.contains(part), "{sync}: {failure}");
        }
    }

    #[test]
    fn what_is_missing_is_said() {
        let dir = tree();
        let failure = |section| {
            let settings = Settings::new(section, dir.path());
            settings.map(drop).unwrap_err().message
        };
        assert!(failure(Section::default()).contains("no manifests"));
        assert!(failure(section(&["a=gone"], &[])).contains("cannot read gone"));
        assert!(failure(section(&["a=d.yaml"], &[])).contains("not a directory"));
        assert!(failure(section(&["a=app", "a=web"], &[])).contains("twice"));
        let mut ports = section(&[], &[]);
        ports.port_forward = vec!["svc".into()];
        assert!(failure(ports).starts_with("--port-forward 'svc'"));
    }
}
