//! `rkube kubectl`: the kubectl of this machine, for one cluster.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rkube_cluster::{Home, Kubeconfig, Profile, default_kubeconfig};
use rkube_failure::{Failure, Kind, Source, command};

use super::Global;

#[derive(clap::Args)]
pub struct Args {
    /// Arguments of kubectl; flags of rkube come before them
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENTS"
    )]
    arguments: Vec<OsString>,
}

/// Runs kubectl with the context of the cluster. Returns its exit code.
pub fn run(home: &Home, global: &Global, args: &Args) -> Result<ExitCode, Failure> {
    let profile = Profile::load(home, &global.profile)?;
    let kubeconfig = Kubeconfig::at(default_kubeconfig()?);
    let server = rkube_cluster::server(home, &profile)?;
    if !kubeconfig.has(&profile.context(), &server) {
        return Err(Failure::new(
            Source::Program,
            Kind::Config,
            format!(
                "{} does not refer to the cluster '{}'",
                kubeconfig.path().display(),
                profile.name
            ),
        )
        .advise(format!(
            "add it with: {}",
            command("update-context", &profile.name)
        )));
    }
    let kubectl = find().ok_or_else(|| {
        Failure::new(
            Source::Program,
            Kind::NotFound,
            "there is no kubectl in PATH",
        )
        .advise("install it (https://kubernetes.io/docs/tasks/tools/); rkube needs it for this command only")
    })?;
    let mut process = Command::new(&kubectl);
    process
        .arg("--context")
        .arg(profile.context())
        .args(&args.arguments);
    // The file that was checked: with sudo it is the user's, not root's.
    if std::env::var_os("KUBECONFIG").is_none_or(|list| list.is_empty()) {
        process.env("KUBECONFIG", kubeconfig.path());
    }
    let status = become_or_run(&mut process).map_err(|e| {
        Failure::new(
            Source::Host,
            Kind::Error,
            format!("cannot run {}: {e}", kubectl.display()),
        )
    })?;
    Ok(ExitCode::from(
        status.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
    ))
}

/// Replaces this process, so that signals and the terminal are kubectl's. Returns only on failure.
#[cfg(unix)]
fn become_or_run(process: &mut Command) -> std::io::Result<Option<i32>> {
    use std::os::unix::process::CommandExt as _;
    Err(process.exec())
}

/// Runs the program and returns its exit code.
#[cfg(not(unix))]
fn become_or_run(process: &mut Command) -> std::io::Result<Option<i32>> {
    Ok(process.status()?.code())
}

/// Returns the first kubectl in PATH that is not rkube itself.
pub fn find() -> Option<PathBuf> {
    find_program("kubectl")
}

/// Returns the first program of a name in `PATH` that is not rkube itself.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let name = match cfg!(windows) {
        true => format!("{name}.exe"),
        false => name.to_owned(),
    };
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(&name))
        .filter(|path| is_executable(path))
        .find(|path| own.as_ref().is_none_or(|own| !is_same(path, own)))
}

fn is_executable(path: &Path) -> bool {
    let Ok(meta) = path.metadata() else {
        return false;
    };
    #[cfg(unix)]
    let allowed = std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 != 0;
    #[cfg(not(unix))]
    let allowed = true;
    meta.is_file() && allowed
}

/// Whether two files are the same program: one file, or a copy.
fn is_same(a: &Path, b: &Path) -> bool {
    if a.canonicalize().ok() == b.canonicalize().ok() {
        return true;
    }
    let size = |path: &Path| path.metadata().ok().map(|meta| meta.len());
    size(a) == size(b) && std::fs::read(a).ok() == std::fs::read(b).ok()
}

/// Whether this program was called as `kubectl`, by a link or a copy of that name.
pub fn is_called(program: Option<&OsStr>) -> bool {
    let stem = program.map(Path::new).and_then(Path::file_stem);
    stem.is_some_and(|stem| stem == "kubectl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_decides() {
        assert!(is_called(Some(OsStr::new("/usr/local/bin/kubectl"))));
        assert!(is_called(Some(OsStr::new("kubectl.exe"))));
        assert!(!is_called(Some(OsStr::new("/usr/bin/rkube"))));
        assert!(!is_called(None));
    }
}
