//! The available addons: those in the binary, and those in the user's directory.

use std::fs;
use std::path::{Path, PathBuf};

use rkube_failure::{Failure, Kind, Source};

use super::description::{Addon, DESCRIPTION, Origin, check_name, is_label};
use crate::files::{Home, io_failure};

/// Includes the directories of `addons/`, each with its files.
macro_rules! built_in {
    ($($directory:literal: [$($file:literal),*]),* $(,)?) => {
        &[$(&[
            ("addon.yaml", include_str!(concat!("../../../../addons/", $directory, "/addon.yaml"))),
            $(($file, include_str!(concat!("../../../../addons/", $directory, "/", $file))),)*
        ],)*]
    };
}

type Files = &'static [(&'static str, &'static str)];

/// The built-in addons. A test compares them with the directories.
const BUILT_IN: &[Files] = built_in! {
    "argo-cd": [],
    "cert-manager": [],
    "contour": [],
    "demo": ["demo.yaml"],
    "gateway-api": [],
    "ingress": ["ingress.yaml"],
    "ingress-nginx": [],
    "registry": ["registry.yaml"],
};

/// Returns the directory of the user's addons.
pub(super) fn directory(home: &Home) -> PathBuf {
    home.addons_dir()
}

/// An addon that cannot be used.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// The name of its directory.
    pub name: String,
    /// Why it cannot be used.
    pub failure: Failure,
}

/// Returns all addons, sorted by name. The user's addons replace built-in ones.
pub(super) fn read_all(home: &Home) -> Result<Vec<Result<Addon, Damaged>>, Failure> {
    let name_of = |entry: &Result<Addon, Damaged>| match entry {
        Ok(addon) => addon.name.clone(),
        Err(damaged) => damaged.name.clone(),
    };
    let mut found = read_own(home)?;
    for files in BUILT_IN {
        let addon = built_in(files)?;
        if !found.iter().any(|f| name_of(f) == addon.name) {
            found.push(Ok(addon));
        }
    }
    found.sort_by_key(name_of);
    Ok(found)
}

/// Finds an addon by its name or by the path of its directory.
pub(super) fn find(home: &Home, wanted: &str) -> Result<Addon, Failure> {
    if wanted.contains('/') || wanted == "." {
        let directory =
            std::path::absolute(wanted).map_err(|e| io_failure("find", Path::new(wanted), &e))?;
        return read(&directory);
    }
    check_name(wanted)?;
    let entries = read_all(home)?;
    let mut known = Vec::new();
    for entry in entries {
        match entry {
            Ok(addon) if addon.name == wanted => return Ok(addon),
            Err(damaged) if damaged.name == wanted => return Err(damaged.failure),
            Ok(addon) => known.push(addon.name),
            Err(_) => {}
        }
    }
    Err(Failure::new(
        Source::Program,
        Kind::NotFound,
        format!(
            "there is no addon '{wanted}'; there are {}",
            known.join(", ")
        ),
    )
    .advise(format!(
        "your own addons are directories in {}, or are given by path",
        directory(home).display()
    )))
}

fn built_in(files: Files) -> Result<Addon, Failure> {
    let text = files.iter().find(|(name, _)| *name == DESCRIPTION);
    Addon::parse(text.map_or("", |(_, text)| text), Origin::BuiltIn(files))
}

/// Reads the user's addons.
fn read_own(home: &Home) -> Result<Vec<Result<Addon, Damaged>>, Failure> {
    let dir = directory(home);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_failure("read", &dir, &e)),
    };
    let directories = entries
        .flatten()
        .filter(|e| e.path().is_dir())
        // Skips directories of editors and version control.
        .filter_map(|e| e.file_name().into_string().ok().filter(|n| is_label(n)));
    Ok(directories
        .map(|name| {
            let addon = read(&dir.join(&name)).and_then(|addon| {
                if addon.name == name {
                    return Ok(addon);
                }
                Err(Failure::new(
                    Source::Program,
                    Kind::Config,
                    format!(
                        "the directory {} contains an addon with another name, '{}'",
                        dir.join(&name).display(),
                        addon.name
                    ),
                )
                .advise("give both the same name"))
            });
            addon.map_err(|failure| Damaged { name, failure })
        })
        .collect())
}

/// Reads the addon in a directory.
fn read(directory: &Path) -> Result<Addon, Failure> {
    let path = directory.join(DESCRIPTION);
    let text = fs::read_to_string(&path).map_err(|e| io_failure("read", &path, &e))?;
    Addon::parse(&text, Origin::Directory(directory.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::description::Manifest;
    use super::*;

    fn write(home: &Home, name: &str, text: &str) {
        let dir = directory(home).join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(DESCRIPTION), text).unwrap();
    }

    fn description(name: &str) -> String {
        format!("name: {name}\ndescription: Mine\nversion: v9\nmanifests: [file: a.yaml]\n")
    }

    #[test]
    fn every_directory_is_built_in() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../addons");
        let mut directories: Vec<PathBuf> = fs::read_dir(&root)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.is_dir())
            .collect();
        directories.sort();
        assert_eq!(directories.len(), BUILT_IN.len());
        for (directory, files) in directories.iter().zip(BUILT_IN) {
            let addon = built_in(files).unwrap();
            assert_eq!(addon.name, directory.file_name().unwrap().to_str().unwrap());
            assert!(addon.homepage.starts_with("https://"), "{}", addon.name);
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap();
                let embedded = files.iter().find(|(n, _)| *n == name);
                let text = fs::read_to_string(&path).unwrap();
                assert_eq!(embedded.map(|(_, t)| *t), Some(text.as_str()), "{name}");
            }
            for manifest in &addon.manifests {
                if let Manifest::File(file) = manifest {
                    assert!(files.iter().any(|(name, _)| name == file), "{file}");
                }
            }
        }
    }

    #[test]
    fn ones_own_addons_are_found_and_take_the_place_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path());
        assert_eq!(find(&home, "demo").unwrap().origin.to_string(), "built-in");
        write(&home, "mine", &description("mine"));
        write(&home, "demo", &description("demo"));
        write(&home, "other", &description("another"));
        write(&home, "broken", "name: broken\n");
        write(&home, "Not.A.Name", "");
        assert_eq!(find(&home, "mine").unwrap().version, "v9");
        assert_eq!(find(&home, "demo").unwrap().version, "v9");
        let names: Vec<String> = read_all(&home)
            .unwrap()
            .into_iter()
            .map(|e| e.map_or_else(|d| format!("!{}", d.name), |a| a.name))
            .collect();
        let expected = [
            "argo-cd",
            "!broken",
            "cert-manager",
            "contour",
            "demo",
            "gateway-api",
            "ingress",
            "ingress-nginx",
            "mine",
            "!other",
            "registry",
        ];
        assert_eq!(names, expected);
        let failure = find(&home, "other").unwrap_err();
        assert!(failure.message.contains("'another'"), "{failure}");
        let failure = find(&home, "broken").unwrap_err();
        assert!(failure.message.contains("missing field"), "{failure}");
        let failure = find(&home, "nothing").unwrap_err();
        assert_eq!(failure.exit_code(), 15);
        assert!(failure.message.contains("demo, gateway-api"), "{failure}");
        let path = directory(&home).join("mine");
        assert_eq!(find(&home, path.to_str().unwrap()).unwrap().name, "mine");
        for bad in ["..", "-x", "a b", ""] {
            assert_eq!(find(&home, bad).unwrap_err().exit_code(), 14, "{bad}");
        }
    }
}
