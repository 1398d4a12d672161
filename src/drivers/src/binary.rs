//! Selects the binary that nodes run: on Linux the running program, otherwise one that was built
//! for Linux and is in the same directory.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use object::elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_INTERP};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use rkube_failure::{Failure, Kind, Source};

/// Environment variable with the path of the nodes' binary, which takes precedence.
const OVERRIDE: &str = "RKUBE_NODE_BINARY";

/// Converts a kernel's name of an architecture to the notation of images and downloads.
pub(crate) fn architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Returns the path of the running program.
pub(crate) fn own_path() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot find the running rkube: {e}"),
        )
    })
}

/// Returns the binary for nodes of the architecture `wanted`.
pub(crate) fn for_nodes(wanted: &str) -> Result<PathBuf, Failure> {
    let own_runs_there =
        cfg!(target_os = "linux") && architecture(std::env::consts::ARCH) == architecture(wanted);
    find(
        std::env::var_os(OVERRIDE).filter(|v| !v.is_empty()),
        &own_path()?,
        own_runs_there,
        architecture(wanted),
    )
}

fn find(
    named: Option<OsString>,
    own: &Path,
    own_runs_there: bool,
    wanted: &str,
) -> Result<PathBuf, Failure> {
    if let Some(path) = named {
        // Absolute, so that later uses do not depend on the working directory.
        let path = std::path::absolute(&path).unwrap_or_else(|_| path.into());
        check(&path, wanted).map_err(|f| f.context(OVERRIDE))?;
        return Ok(path);
    }
    if own_runs_there {
        return Ok(own.to_path_buf());
    }
    let name = format!("rkube-linux-{wanted}");
    let beside = own.with_file_name(&name);
    if !beside.is_file() {
        return Err(Failure::new(
            Source::Program,
            Kind::NotFound,
            format!(
                "nodes run the rkube of Linux on {wanted}, and there is none at {}",
                beside.display()
            ),
        )
        .advise(format!(
            "build it on Linux with `cargo build --release` and copy it there, \
             or name it with {OVERRIDE}=FILE"
        )));
    }
    check(&beside, wanted)?;
    Ok(beside)
}

/// Fails unless the file is a program that nodes of the architecture `wanted` can run.
fn check(path: &Path, wanted: &str) -> Result<(), Failure> {
    let failed = |kind, why: String| {
        Failure::new(
            Source::Program,
            kind,
            format!("{} cannot run in nodes: {why}", path.display()),
        )
        .advise(format!(
            "it is to be the static rkube of Linux on {wanted}: `cargo build --release` there"
        ))
    };
    let file = File::open(path).map_err(|e| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied => Kind::Permission,
            _ => Kind::Error,
        };
        failed(kind, e.to_string())
    })?;
    let found = describe(file)
        .ok_or_else(|| failed(Kind::Unsupported, "it is no program of Linux".into()))?;
    match found.machine {
        Some(machine) if machine != wanted => Err(failed(
            Kind::Unsupported,
            format!("it was built for {machine}, the nodes are {wanted}"),
        )),
        // A node's root file system contains no libraries.
        _ if found.dynamic => Err(failed(
            Kind::Unsupported,
            "it is not linked statically".into(),
        )),
        _ => Ok(()),
    }
}

/// The relevant properties of an executable.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    /// Its architecture, if it is one of the two that rkube supports.
    machine: Option<&'static str>,
    /// Whether it needs a dynamic loader.
    dynamic: bool,
}

/// Reads an executable's headers; returns `None` unless it is a 64-bit ELF file.
fn describe(file: File) -> Option<Program> {
    let data = ReadCache::new(file);
    let header = FileHeader64::<object::Endianness>::parse(&data).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, &data).ok()?;
    Some(Program {
        machine: match header.e_machine(endian) {
            EM_X86_64 => Some("amd64"),
            EM_AARCH64 => Some("arm64"),
            _ => None,
        },
        dynamic: segments.iter().any(|s| s.p_type(endian) == PT_INTERP),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a minimal executable: an ELF header and one program header of type `segment`.
    fn program(path: &Path, machine: u16, segment: u32) {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16..18].copy_from_slice(&2u16.to_le_bytes()); // an executable
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[20..24].copy_from_slice(&1u32.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes()); // offset of the program headers
        for (at, size) in [(52, 64u16), (54, 56), (56, 1)] {
            bytes[at..at + 2].copy_from_slice(&size.to_le_bytes());
        }
        bytes[64..68].copy_from_slice(&segment.to_le_bytes());
        std::fs::write(path, bytes).unwrap();
    }

    const LOAD: u32 = 1;

    #[test]
    fn the_running_one_is_taken_where_it_runs_in_nodes() {
        let own = Path::new("/opt/rkube");
        assert_eq!(find(None, own, true, "amd64").unwrap(), own);
    }

    #[test]
    fn elsewhere_it_lies_beside_the_running_one() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("rkube.exe");
        let told = find(None, &own, false, "arm64").unwrap_err();
        assert_eq!(told.kind, Kind::NotFound);
        let beside = dir.path().join("rkube-linux-arm64");
        assert!(told.message.contains(&beside.display().to_string()));
        assert!(told.advice.unwrap().contains(OVERRIDE));
        program(&beside, EM_AARCH64, LOAD);
        assert_eq!(find(None, &own, false, "arm64").unwrap(), beside);
        // The binary for another architecture is not used instead.
        assert!(find(None, &own, false, "amd64").is_err());
    }

    #[test]
    fn the_environment_comes_first_and_names_what_nodes_can_run() {
        let dir = tempfile::tempdir().unwrap();
        let named = dir.path().join("x");
        let ask = || {
            find(
                Some(named.clone().into()),
                Path::new("/opt/rkube"),
                true,
                "amd64",
            )
        };
        assert_eq!(ask().unwrap_err().kind, Kind::NotFound);
        std::fs::write(&named, "#!/bin/sh\n").unwrap();
        let told = ask().unwrap_err().message;
        assert!(
            told.starts_with(OVERRIDE) && told.contains("no program of Linux"),
            "{told}"
        );
        program(&named, EM_AARCH64, LOAD);
        assert!(ask().unwrap_err().message.contains("arm64"));
        program(&named, EM_X86_64, PT_INTERP);
        assert!(ask().unwrap_err().message.contains("statically"));
        program(&named, EM_X86_64, LOAD);
        assert_eq!(ask().unwrap(), named);
    }

    #[test]
    fn architectures_have_one_name() {
        assert_eq!(architecture("x86_64"), architecture("amd64"));
        assert_eq!(architecture("aarch64"), "arm64");
        assert_eq!(architecture("riscv64"), "riscv64");
    }
}
