//! The manifests of a session, and the images in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use rkube_cluster::addons::objects::{self, Object, Text};
use rkube_cluster::io_failure;
use rkube_failure::{Failure, Kind, Source};
use serde_json::Value;

use crate::reference;
use crate::settings::Settings;

/// Endings of the names of manifests, as kubectl knows them.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Returns whether a file of a directory is a manifest.
pub fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

/// Reads all objects of a session. `kubectl` renders kustomizations.
///
/// # Errors
/// Names the file and the place of what is wrong.
pub fn read(settings: &Settings, kubectl: Option<&Path>) -> Result<Vec<Object>, Failure> {
    objects::read(&texts(&settings.manifests, &settings.kustomize, kubectl)?)
}

/// Reads files and directories of manifests, and renders directories with a kustomization by
/// `kubectl`.
///
/// # Errors
/// Names the file that cannot be read, or the directory that cannot be rendered.
pub fn texts(
    manifests: &[PathBuf],
    kustomize: &[PathBuf],
    kubectl: Option<&Path>,
) -> Result<Vec<Text>, Failure> {
    let mut texts = Vec::new();
    for path in manifests {
        for file in files(path)? {
            let text = std::fs::read_to_string(&file).map_err(|e| io_failure("read", &file, &e))?;
            let name = file.display().to_string();
            texts.push(Text { name, text });
        }
    }
    for directory in kustomize {
        texts.push(rendered(directory, kubectl)?);
    }
    Ok(texts)
}

/// Returns a file, or the manifests of a directory in the order of their names.
fn files(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let failed = |e: std::io::Error| io_failure("read", path, &e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if is_manifest(&file) && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

/// Runs `kubectl kustomize`.
fn rendered(directory: &Path, kubectl: Option<&Path>) -> Result<Text, Failure> {
    let name = directory.display().to_string();
    let Some(kubectl) = kubectl else {
        return Err(Failure::new(
            Source::Program,
            Kind::NotFound,
            "there is no kubectl in PATH, which renders kustomizations",
        )
        .advise("install it (https://kubernetes.io/docs/tasks/tools/), or apply files with -f"));
    };
    let done = Command::new(kubectl)
        .arg("kustomize")
        .arg(directory)
        .output();
    let done = done.map_err(|e| io_failure("run", kubectl, &e))?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr);
        let why = why.trim().trim_start_matches("error: ").to_owned();
        return Err(Failure::new(
            Source::Program,
            Kind::Config,
            format!("cannot render {name}: {why}"),
        ));
    }
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    Ok(Text { name, text })
}

/// Returns the directories that a kustomization refers to, itself included, as far as they can be
/// read: its resources, components and bases.
pub fn directories(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(directory) = left.pop() {
        if !found.insert(directory.clone()) {
            continue;
        }
        let names = ["kustomization.yaml", "kustomization.yml", "Kustomization"];
        let read = |name: &&str| std::fs::read_to_string(directory.join(name)).ok();
        let Some(text) = names.iter().find_map(read) else {
            continue;
        };
        let Some(Ok(value)) = rkube_cluster::yaml::documents(&text).next() else {
            continue;
        };
        for field in ["resources", "components", "bases"] {
            let entries = value[field].as_array().into_iter().flatten();
            for entry in entries.filter_map(Value::as_str) {
                let path = directory.join(entry);
                if let Ok(path) = path.canonicalize()
                    && path.is_dir()
                {
                    left.push(path);
                }
            }
        }
    }
    found
}

/// Returns the names of the images in a part of an object, with the container that each is in.
pub fn for_each_container(value: &mut Value, act: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let containers = matches!(key.as_str(), "containers" | "initContainers");
                if let (true, Value::Array(list)) = (containers, &mut *field) {
                    list.iter_mut().for_each(&mut *act);
                }
                for_each_container(field, act);
            }
        }
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| for_each_container(item, act)),
        _ => {}
    }
}

/// An image that is built, and the name that its last build got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The name in the manifests.
    pub built: String,
    /// The name to use instead; `None` if no build has succeeded.
    pub name: Option<String>,
}

/// Returns the places of the images that an object uses.
pub fn uses(object: &Value, images: &[Image]) -> BTreeSet<usize> {
    let mut object = object.clone();
    set_images(&mut object, images)
}

/// Sets the images that are built in all containers of an object. Such containers pull nothing that
/// is on the node. Returns the places of the images that the object uses.
pub fn set_images(object: &mut Value, images: &[Image]) -> BTreeSet<usize> {
    let mut used = BTreeSet::new();
    for_each_container(object, &mut |container| {
        let Some(name) = container.get("image").and_then(Value::as_str) else {
            return;
        };
        let Some(i) = find(name, images) else {
            return;
        };
        used.insert(i);
        if let Some(name) = &images[i].name {
            container["image"] = name.clone().into();
            // Also where the manifest says nothing: an object that was there before may have got
            // `Always` for an image without a tag.
            if container["imagePullPolicy"] != "Never" {
                container["imagePullPolicy"] = "IfNotPresent".into();
            }
        }
    });
    used
}

/// Returns the place of the image that a name in a manifest means. The same name precedes the same
/// repository.
fn find(name: &str, images: &[Image]) -> Option<usize> {
    let exact = images.iter().position(|image| image.built == name);
    exact.or_else(|| {
        let mut fitting = images.iter().enumerate();
        let fitting = fitting.find(|(_, image)| reference::matches(&image.built, name));
        fitting.map(|(i, _)| i)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn image(built: &str, name: Option<&str>) -> Image {
        Image {
            built: built.to_owned(),
            name: name.map(str::to_owned),
        }
    }

    #[test]
    fn images_are_set_in_every_container() {
        let images = [
            image("app", Some("app:dev-1")),
            image("init:2", Some("init:dev-2")),
        ];
        let mut object = json!({"kind": "CronJob", "spec": {"jobTemplate": {"spec": {"template": {"spec": {
            "initContainers": [{"name": "i", "image": "init:2"}, {"name": "j", "image": "init:3"}],
            "containers": [
                {"name": "a", "image": "docker.io/library/app:1", "imagePullPolicy": "Always"},
                {"name": "b", "image": "other", "imagePullPolicy": "Always"},
                {"name": "c"},
            ],
        }}}}}});
        assert_eq!(uses(&object, &images), [0, 1].into());
        assert_eq!(set_images(&mut object, &images), [0, 1].into());
        let spec = object
            .pointer("/spec/jobTemplate/spec/template/spec")
            .unwrap();
        let expected = json!({
            "initContainers": [
                {"name": "i", "image": "init:dev-2", "imagePullPolicy": "IfNotPresent"},
                {"name": "j", "image": "init:3"},
            ],
            "containers": [
                {"name": "a", "image": "app:dev-1", "imagePullPolicy": "IfNotPresent"},
                {"name": "b", "image": "other", "imagePullPolicy": "Always"},
                {"name": "c"},
            ],
        });
        assert_eq!(spec, &expected);
    }

    #[test]
    fn the_same_name_precedes_the_repository() {
        let images = [image("app", Some("x")), image("app:2", Some("y"))];
        assert_eq!(find("app:2", &images), Some(1));
        assert_eq!(find("app:1", &images), Some(0));
        assert_eq!(find("b", &images), None);
    }

    #[test]
    fn an_image_that_was_not_built_stays() {
        let mut pod =
            json!({"spec": {"containers": [{"image": "app", "imagePullPolicy": "Always"}]}});
        let before = pod.clone();
        assert_eq!(set_images(&mut pod, &[image("app", None)]), [0].into());
        assert_eq!(pod, before);
    }

    #[test]
    fn directories_hold_manifests_and_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let object =
            |name: &str| format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}}}}");
        write("b.yaml", &object("b"));
        write(
            "a.json",
            r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}"#,
        );
        write("notes.txt", "text");
        write("deeper/c.yaml", &object("c"));
        let settings = Settings {
            manifests: vec![dir.path().to_path_buf()],
            ..Settings::default()
        };
        let names = read(&settings, None).unwrap();
        let names: Vec<_> = names.iter().map(|o| o.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        write("b.yaml", "a: [");
        let failure = read(&settings, None).unwrap_err();
        assert!(failure.message.contains("b.yaml"), "{failure}");
    }

    #[test]
    fn a_kustomization_refers_to_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for name in ["base", "overlay", "part"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let text = "resources: [../base, x.yaml, https://example.com/y]\ncomponents: [../part]\n";
        std::fs::write(root.join("overlay/kustomization.yaml"), text).unwrap();
        let text = "resources: [../overlay]\n";
        std::fs::write(root.join("base/kustomization.yml"), text).unwrap();
        let expected = ["base", "overlay", "part"].map(|name| root.join(name));
        assert_eq!(directories(&root.join("overlay")), expected.into());
    }
}
