//! The initramfs of a cluster's machines: rkube, kernel modules and CA certificates.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rkube_config::machine as vm;

use super::cpio::Archive;
use super::kernel::Kernel;
use super::modules::Modules;

/// Candidates for the nodes' programs if the kernel cannot mount the host's `/usr`.
const BUSYBOX: [&str; 4] = [
    "/usr/bin/busybox",
    "/bin/busybox",
    "/usr/sbin/busybox",
    "/usr/local/bin/busybox",
];

/// Candidates for the host's CA bundle, which nodes use for registries.
const TRUST: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// Creates the initramfs in `folder` unless the existing one has the same inputs. Returns its path.
pub fn make(folder: &Path, kernel: &Kernel, binary: &Path) -> anyhow::Result<PathBuf> {
    let image = folder.join("initramfs");
    let mark = folder.join("initramfs.of");
    let tools = tools();
    let made_of = made_of(kernel, binary, tools.as_deref())?;
    if image.exists() && fs::read_to_string(&mark).is_ok_and(|m| m == made_of) {
        return Ok(image);
    }
    let temporary = folder.join("initramfs.new");
    let out = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .with_context(|| format!("cannot write {}", temporary.display()))?;
    write(BufWriter::new(out), kernel, binary, tools.as_deref())
        .and_then(|()| Ok(fs::rename(&temporary, &image)?))
        .and_then(|()| Ok(fs::write(&mark, made_of)?))
        .with_context(|| format!("cannot create {}", image.display()))?;
    Ok(image)
}

/// Returns a text that changes whenever an input of the initramfs changes.
fn made_of(kernel: &Kernel, binary: &Path, tools: Option<&Path>) -> anyhow::Result<String> {
    let mut text = String::from(concat!(env!("CARGO_PKG_VERSION"), "\n"));
    for path in [
        Some(kernel.modules.as_path()),
        Some(&kernel.modules.join("modules.builtin")),
        Some(binary),
        tools,
        trust(),
    ]
    .into_iter()
    .flatten()
    {
        let data = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        text += &format!(
            "{} {} {}.{}\n",
            path.display(),
            data.len(),
            data.mtime(),
            data.mtime_nsec()
        );
    }
    text += include_str!("../../../../images/vm/modules");
    Ok(text)
}

fn write(
    out: impl Write,
    kernel: &Kernel,
    binary: &Path,
    tools: Option<&Path>,
) -> anyhow::Result<()> {
    let modules = Modules::open(&kernel.modules)?.for_a_node()?;
    let mut archive = Archive::new(out);
    for name in ["dev", "proc", "sys", "new", "lib", "lib/modules"] {
        archive.folder(name, 0o755)?;
    }
    archive.folder("root", 0o700)?;
    // The kernel opens the console for the messages of PID 1.
    archive.device("dev/console", 0o600, 5, 1)?;
    let place = vm::MODULES.trim_start_matches('/');
    archive.folder(place, 0o755)?;
    let mut order = String::new();
    for module in modules {
        let file = format!("{}.ko", module.name);
        let size = module.content.len() as u64;
        archive.file(&format!("{place}/{file}"), 0o644, size, &module.content[..])?;
        order += &file;
        order.push('\n');
    }
    let size = order.len() as u64;
    archive.file(
        &format!("{place}/{}", vm::MODULES_ORDER),
        0o644,
        size,
        order.as_bytes(),
    )?;
    if let Some(busybox) = tools {
        let place = vm::TOOLS.trim_start_matches('/');
        archive.folder(place, 0o755)?;
        add(&mut archive, &format!("{place}/busybox"), busybox)?;
    }
    if let Some(bundle) = trust() {
        for name in ["etc", "etc/ssl", "etc/ssl/certs"] {
            archive.folder(name, 0o755)?;
        }
        add(&mut archive, "etc/ssl/certs/ca-certificates.crt", bundle)?;
    }
    add(&mut archive, "init", binary)?;
    archive.finish()?.flush()?;
    Ok(())
}

fn add(archive: &mut Archive<impl Write>, name: &str, path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let size = file.metadata()?.len();
    archive.file(name, 0o755, size, file)?;
    Ok(())
}

fn trust() -> Option<&'static Path> {
    TRUST.iter().map(Path::new).find(|p| p.is_file())
}

/// Returns the host's busybox if it is linked statically.
fn tools() -> Option<PathBuf> {
    use object::{Object, ObjectSection};
    BUSYBOX.iter().map(PathBuf::from).find(|path| {
        let Ok(content) = fs::read(path) else {
            return false;
        };
        object::File::parse(content.as_slice())
            .is_ok_and(|file| !file.sections().any(|s| s.name() == Ok(".interp")))
    })
}
