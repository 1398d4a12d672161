//! What follows from changed files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use rkube_build::pattern::Matcher;

use crate::copies::Copies;
use crate::manifests::is_manifest;
use crate::scan::{Change, What};
use crate::settings::{Build, Settings};

/// The files that an image is made of.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Patterns of files that the builder does not get.
    pub excluded: Matcher,
    /// The file that has these patterns, or would have them.
    pub ignore_file: PathBuf,
}

impl Context {
    /// Reads the patterns of a build. A file that belongs to the Dockerfile precedes the general one.
    ///
    /// # Errors
    /// The reason, with the path of the file.
    pub fn read(build: &Build) -> Result<Self, String> {
        let own = build.dockerfile();
        let mut own = own.into_os_string();
        own.push(".dockerignore");
        let own = PathBuf::from(own);
        let ignore_file = match own.exists() {
            true => own,
            false => build.context.join(".dockerignore"),
        };
        let text = match std::fs::read_to_string(&ignore_file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(format!("cannot read {}: {e}", ignore_file.display())),
        };
        match Matcher::of_ignore_file(&text) {
            Ok(excluded) => Ok(Self {
                excluded,
                ignore_file,
            }),
            Err(e) => Err(format!("{}: {e}", ignore_file.display())),
        }
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The images to build.
    pub rebuild: BTreeSet<usize>,
    /// The files to copy into containers, by image.
    pub copies: BTreeMap<usize, Copies>,
    /// Whether the manifests must be read again.
    pub manifests: bool,
    /// Whether the patterns of excluded files must be read again.
    pub patterns: bool,
}

impl Plan {
    /// Returns whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what a later plan wants.
    pub fn merge(&mut self, later: Self) {
        self.rebuild.extend(later.rebuild);
        for (i, copies) in later.copies {
            self.copies.entry(i).or_default().merge(&copies);
        }
        self.manifests |= later.manifests;
        self.patterns |= later.patterns;
    }
}

/// Returns those of the copies that no build of their image brings: their files are outside its
/// context.
pub fn outside(settings: &Settings, image: usize, copies: &Copies) -> Copies {
    let context = &settings.builds[image].context;
    let syncs = settings.syncs.iter().filter(|sync| sync.build == image);
    let places: Vec<&str> = syncs
        .filter(|sync| !sync.from.starts_with(context))
        .map(|sync| sync.to.as_str())
        .collect();
    let below = |target: &str, place: &str| {
        let rest = target.strip_prefix(place);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut kept = copies.clone();
    kept.retain(
        |source| !source.starts_with(context),
        |target| places.iter().any(|place| below(target, place)),
    );
    kept
}

/// Decides what follows from changes. An image of which any file has changed that is not copied is
/// built again, which brings all its files up to date.
pub fn plan(settings: &Settings, contexts: &[Context], changes: &[Change]) -> Plan {
    let mut plan = Plan::default();
    for change in changes {
        let path = change.path.as_path();
        plan.manifests |= of_manifests(settings, path);
        for (i, build) in settings.builds.iter().enumerate() {
            let context = contexts.get(i);
            let ignore = context.is_some_and(|context| context.ignore_file == path)
                || path.file_name().is_some_and(|name| {
                    name.to_string_lossy().ends_with(".dockerignore")
                        && (path.parent() == Some(&build.context)
                            || path.parent() == build.dockerfile().parent())
                });
            plan.patterns |= ignore;
            let targets = targets(settings, i, path, context);
            if ignore || build.dockerfile() == path {
                plan.rebuild.insert(i);
            } else if !targets.is_empty() {
                let copies = plan.copies.entry(i).or_default();
                for target in targets {
                    match change.what {
                        What::Written => copies.write(path.to_path_buf(), target),
                        What::Removed => copies.remove(target),
                    }
                }
            } else if in_context(build, context, path) {
                plan.rebuild.insert(i);
            }
        }
    }
    for i in &plan.rebuild {
        if let Some(copies) = plan.copies.get_mut(i) {
            *copies = outside(settings, *i, copies);
        }
    }
    plan.copies.retain(|_, copies| !copies.is_empty());
    plan
}

fn of_manifests(settings: &Settings, path: &Path) -> bool {
    let files =
        |source: &PathBuf| source == path || (path.parent() == Some(source) && is_manifest(path));
    settings.manifests.iter().any(files)
        || settings.kustomize.iter().any(|root| {
            crate::manifests::directories(root)
                .iter()
                .any(|dir| path.starts_with(dir))
        })
}

/// Returns whether the builder of an image gets a file.
fn in_context(build: &Build, context: Option<&Context>, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(&build.context) else {
        return false;
    };
    let name = slashes(below);
    context.is_none_or(|context| !context.excluded.matches(&name))
}

/// Returns the places in the containers of an image that a file is copied to.
fn targets(
    settings: &Settings,
    image: usize,
    path: &Path,
    context: Option<&Context>,
) -> Vec<String> {
    let build = &settings.builds[image];
    if path.starts_with(&build.context) && !in_context(build, context, path) {
        return Vec::new();
    }
    let syncs = settings.syncs.iter().filter(|sync| sync.build == image);
    let targets = syncs.filter_map(|sync| {
        let below = path.strip_prefix(&sync.from).ok()?;
        match below.as_os_str().is_empty() {
            true => Some(sync.to.clone()),
            false => Some(format!("{}/{}", sync.to, slashes(below))),
        }
    });
    targets.collect()
}

/// Returns a relative path with slashes.
fn slashes(path: &Path) -> String {
    let parts = path.components();
    let parts: Vec<_> = parts
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sync;

    fn settings() -> Settings {
        let build = |image: &str, context: &str| Build {
            image: image.to_owned(),
            context: context.into(),
            ..Build::default()
        };
        let sync = |build, from: &str, to: &str| Sync {
            build,
            from: from.into(),
            to: to.to_owned(),
        };
        Settings {
            manifests: vec!["/p/deploy.yaml".into(), "/p/k8s".into()],
            builds: vec![
                build("app", "/p/app"),
                Build {
                    dockerfile: Some("/p/docker/web".into()),
                    ..build("web", "/p")
                },
            ],
            syncs: vec![
                sync(0, "/p/app/src", "/srv"),
                sync(0, "/p/shared", "/srv/shared"),
                sync(0, "/p/app/main.py", "/main.py"),
            ],
            ..Settings::default()
        }
    }

    fn contexts() -> Vec<Context> {
        let context = |text: &str, file: &str| Context {
            excluded: Matcher::of_ignore_file(text).unwrap(),
            ignore_file: file.into(),
        };
        vec![
            context("**/*.pyc\n", "/p/app/.dockerignore"),
            context(
                "app\nshared\ndeploy.yaml\nk8s\n",
                "/p/docker/web.dockerignore",
            ),
        ]
    }

    /// Describes the plan for one file.
    fn planned(path: &str, what: What) -> String {
        let change = Change {
            path: path.into(),
            what,
        };
        let plan = plan(&settings(), &contexts(), &[change]);
        let mut words = Vec::new();
        words.extend(plan.rebuild.iter().map(|i| format!("build {i}")));
        for (i, copies) in &plan.copies {
            for (_, target) in copies.written() {
                words.push(format!("copy {i} {target}"));
            }
            for target in copies.removed() {
                words.push(format!("remove {i} {target}"));
            }
        }
        words.extend(plan.manifests.then(|| "manifests".to_owned()));
        words.extend(plan.patterns.then(|| "patterns".to_owned()));
        words.join(", ")
    }

    #[test]
    fn a_changed_file_concerns_its_images() {
        for (path, expected) in [
            ("/p/app/src/a/b.py", "copy 0 /srv/a/b.py"),
            ("/p/app/main.py", "copy 0 /main.py"),
            ("/p/shared/x", "copy 0 /srv/shared/x"),
            ("/p/app/src/a.pyc", ""),
            ("/p/app/requirements.txt", "build 0"),
            ("/p/app/Dockerfile", "build 0"),
            ("/p/app/.dockerignore", "build 0, patterns"),
            ("/p/index.html", "build 1"),
            ("/p/docker/web", "build 1"),
            ("/p/docker/web.dockerignore", "build 1, patterns"),
            ("/p/.dockerignore", "build 1, patterns"),
            ("/p/deploy.yaml", "manifests"),
            ("/p/k8s/a.yml", "manifests"),
            ("/p/k8s/README", ""),
            ("/elsewhere", ""),
        ] {
            assert_eq!(planned(path, What::Written), expected, "{path}");
        }
        assert_eq!(planned("/p/app/src/a", What::Removed), "remove 0 /srv/a");
        assert_eq!(planned("/p/app/other", What::Removed), "build 0");
    }

    #[test]
    fn a_build_makes_copies_needless() {
        let change = |path: &str| Change {
            path: path.into(),
            what: What::Written,
        };
        let changes = [change("/p/app/src/a.py"), change("/p/app/requirements.txt")];
        let plan = plan(&settings(), &contexts(), &changes);
        assert_eq!(plan.rebuild, [0].into());
        assert!(plan.copies.is_empty());
        assert!(!plan.is_empty());
        // Except those that it does not bring.
        let changes = [change("/p/shared/x"), change("/p/app/requirements.txt")];
        let mut plan = super::plan(&settings(), &contexts(), &changes);
        let copies = &plan.copies[&0];
        assert_eq!(copies.written().count(), 1);
        let mut all = copies.clone();
        all.write("/p/app/src/a".into(), "/srv/a".into());
        all.remove("/srv/shared/y".into());
        all.remove("/srv/sharedz".into());
        let kept = outside(&settings(), 0, &all);
        assert_eq!(kept.removed().collect::<Vec<_>>(), ["/srv/shared/y"]);
        assert_eq!(kept.written().count(), 1);
        let later = super::plan(&settings(), &contexts(), &[change("/p/app/src/a.py")]);
        plan.merge(later);
        assert_eq!((plan.rebuild.len(), plan.copies[&0].len()), (1, 2));
    }
}
