//! `rkube ctl file`: reads and replaces files of a node.

use std::path::{Path, PathBuf};

use rkube_failure::{Failure, Kind, Source};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Write a file to standard output
    Read {
        /// Path of the file
        path: PathBuf,
    },
    /// Replace a file by standard input
    Write {
        /// Permission bits, octal
        #[arg(long, value_parser = parse_mode)]
        mode: u32,
        /// Path of the file
        path: PathBuf,
    },
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| format!("'{text}' is not a mode such as 644"))
}

/// Reads or writes a file.
pub(super) fn run(command: Command) -> Result<(), Failure> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let failed = |path: &Path, e: &std::io::Error| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            std::io::ErrorKind::PermissionDenied => Kind::Permission,
            _ => Kind::Error,
        };
        Failure::new(Source::Guest, kind, format!("{}: {e}", path.display()))
    };
    match command {
        Command::Read { path } => {
            let copy = || {
                let mut file = std::fs::File::open(&path)?;
                let mut out = std::io::stdout().lock();
                std::io::copy(&mut file, &mut out)?;
                out.flush()
            };
            copy().map_err(|e| failed(&path, &e))
        }
        Command::Write { mode, path } => {
            if path.is_dir() {
                return Err(Failure::new(
                    Source::Guest,
                    Kind::Conflict,
                    format!("{} is a directory", path.display()),
                ));
            }
            let mut temporary = path.clone().into_os_string();
            temporary.push(".rkube-new");
            let temporary = PathBuf::from(temporary);
            let copy = || {
                let mut file = std::fs::File::options()
                    .create(true)
                    .write(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&temporary)?;
                std::io::copy(&mut std::io::stdin().lock(), &mut file)?;
                file.set_permissions(std::fs::Permissions::from_mode(mode))?;
                // Bind mounts such as /etc/hosts cannot be replaced, only written.
                match std::fs::rename(&temporary, &path) {
                    Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy => {
                        std::fs::copy(&temporary, &path)?;
                        std::fs::remove_file(&temporary)
                    }
                    renamed => renamed,
                }
            };
            copy().map_err(|e| {
                // The failure that led here is reported.
                let _ = std::fs::remove_file(&temporary);
                failed(&path, &e)
            })
        }
    }
}
