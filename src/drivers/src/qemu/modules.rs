//! The kernel's modules: their files, dependencies and contents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufReader, Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use object::{Object, ObjectSection};

/// The list of modules that a node needs.
const WANTED: &str = include_str!("../../../../images/vm/modules");

/// Suffixes of compressed modules, after `.ko`.
const COMPRESSIONS: [&str; 3] = [".gz", ".xz", ".zst"];

/// The modules of one kernel.
pub struct Modules {
    dir: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// A module in the form that the initramfs contains.
pub struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// Its uncompressed content.
    pub content: Vec<u8>,
}

/// Normalizes a module's name: kernels use dashes and underscores interchangeably.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

/// Returns the name in a file name, for example `veth` for `veth.ko.xz`.
fn name_of(file: &str) -> Option<String> {
    let plain = COMPRESSIONS
        .iter()
        .find_map(|c| file.strip_suffix(c))
        .unwrap_or(file);
    plain.strip_suffix(".ko").map(normal)
}

impl Modules {
    /// Reads a module directory such as `/lib/modules/6.1.0`.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        let mut open = vec![dir.to_path_buf()];
        while let Some(folder) = open.pop() {
            let entries = fs::read_dir(&folder)
                .with_context(|| format!("cannot read {}", folder.display()))?;
            for entry in entries.flatten() {
                let kind = entry.file_type()?;
                // `build` and `source` are symbolic links to other directories.
                if kind.is_dir() {
                    open.push(entry.path());
                } else if let Some(name) = entry.file_name().to_str().and_then(name_of) {
                    files.insert(name, entry.path());
                }
            }
        }
        let list = dir.join("modules.builtin");
        let builtin = fs::read_to_string(&list)
            .with_context(|| format!("cannot read {}", list.display()))?
            .lines()
            .filter_map(|line| name_of(line.rsplit('/').next()?))
            .collect();
        Ok(Self {
            dir: dir.to_path_buf(),
            files,
            builtin,
        })
    }

    /// Whether the kernel has the module, built in or loadable.
    pub fn has(&self, name: &str) -> bool {
        self.builtin.contains(name) || self.files.contains_key(name)
    }

    /// Returns the required modules that this kernel lacks.
    pub fn missing(&self) -> Vec<&'static str> {
        wanted_modules()
            .filter(|(must, name)| *must && !self.has(name))
            .map(|(_, name)| name)
            .collect()
    }

    /// Returns all modules that a node needs, each one after its dependencies.
    pub fn for_a_node(&self) -> anyhow::Result<Vec<Module>> {
        let missing = self.missing();
        if !missing.is_empty() {
            bail!("{} lacks {}", self.dir.display(), missing.join(", "));
        }
        let mut ordered = Vec::new();
        let mut seen = BTreeSet::new();
        for (_, name) in wanted_modules() {
            self.add(name, &mut seen, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        ordered: &mut Vec<Module>,
    ) -> anyhow::Result<()> {
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            return Ok(());
        };
        let content = read(path)?;
        for needed in dependencies(&content)
            .with_context(|| format!("{} is no kernel module", path.display()))?
        {
            self.add(&needed, seen, ordered)?;
        }
        ordered.push(Module {
            name: name.to_owned(),
            content,
        });
        Ok(())
    }
}

/// Parses `images/vm/modules`: whether each module is required, and its name.
fn wanted_modules() -> impl Iterator<Item = (bool, &'static str)> {
    WANTED
        .lines()
        .filter_map(|line| line.split('#').next()?.trim().split_once(' '))
        .map(|(need, name)| (need == "must", name.trim()))
}

/// Reads a module and decompresses it according to its file name's suffix.
fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    let raw = fs::read(path).with_context(failed)?;
    let mut content = Vec::new();
    match path.extension().and_then(|e| e.to_str()) {
        Some("gz") => {
            flate2::bufread::MultiGzDecoder::new(Cursor::new(raw))
                .read_to_end(&mut content)
                .with_context(failed)?;
        }
        Some("zst") => {
            ruzstd::decoding::StreamingDecoder::new(Cursor::new(raw))
                .map_err(|e| anyhow::anyhow!("{e}"))
                .with_context(failed)?
                .read_to_end(&mut content)
                .with_context(failed)?;
        }
        Some("xz") => {
            lzma_rs::xz_decompress(&mut BufReader::new(Cursor::new(raw)), &mut content)
                .map_err(|e| anyhow::anyhow!("{e:?}"))
                .with_context(failed)?;
        }
        _ => content = raw,
    }
    Ok(content)
}

/// Returns the modules in `depends=` and `softdep=pre:` of a module's `.modinfo` section. Does not
/// need `modules.dep`, which a merely unpacked package lacks.
fn dependencies(module: &[u8]) -> anyhow::Result<Vec<String>> {
    let file = object::File::parse(module)?;
    let section = file
        .section_by_name(".modinfo")
        .context("it has no .modinfo")?;
    let mut names = Vec::new();
    for entry in section.data()?.split(|b| *b == 0) {
        let Ok(entry) = std::str::from_utf8(entry) else {
            continue;
        };
        if let Some(list) = entry.strip_prefix("depends=") {
            names.extend(list.split(',').filter(|n| !n.is_empty()).map(normal));
        } else if let Some(list) = entry.strip_prefix("softdep=") {
            let before = list.split("post:").next().unwrap_or_default();
            if let Some((_, before)) = before.split_once("pre:") {
                names.extend(before.split_whitespace().map(normal));
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_folders_endings_and_dashes() {
        assert_eq!(name_of("nf-log.ko").as_deref(), Some("nf_log"));
        assert_eq!(name_of("veth.ko.zst").as_deref(), Some("veth"));
        assert_eq!(name_of("modules.dep"), None);
    }

    #[test]
    fn the_list_is_well_formed() {
        let all: Vec<_> = wanted_modules().collect();
        assert!(all.contains(&(true, "overlay")) && all.contains(&(false, "9p")));
        for line in WANTED.lines() {
            assert!(
                line.is_empty() || ["#", "must ", "may "].iter().any(|p| line.starts_with(p)),
                "{line}"
            );
        }
    }

    #[test]
    fn what_the_kernel_has_built_in_is_not_missing() {
        let dir = tempfile::tempdir().unwrap();
        let all: String = wanted_modules()
            .map(|(_, n)| format!("kernel/x/{n}.ko\n"))
            .collect();
        fs::write(dir.path().join("modules.builtin"), all).unwrap();
        let modules = Modules::open(dir.path()).unwrap();
        assert!(modules.missing().is_empty());
        assert!(modules.for_a_node().unwrap().is_empty());
        fs::write(dir.path().join("modules.builtin"), "").unwrap();
        assert!(
            Modules::open(dir.path())
                .unwrap()
                .missing()
                .contains(&"veth")
        );
    }
}
