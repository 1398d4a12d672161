//! Layers of images: whatever their entries are called and lead to, nothing outside of the layer's
//! directory changes, and the directory can be removed.

#![no_main]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rkube_fuzz::Source;
use rkube_runtime::fuzzing;

/// A directory with one for layers, the layer below, and what nobody may change.
static ROOM: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let room = tempfile::tempdir().expect("a directory");
    let path = room.path();
    for directory in ["below/a/b", "below/c", "outside/a"] {
        std::fs::create_dir_all(path.join(directory)).expect("a directory");
    }
    for file in ["below/a/f", "below/c/f", "outside/f", "outside/a/f"] {
        std::fs::write(path.join(file), file).expect("a file");
    }
    std::os::unix::fs::symlink("../outside", path.join("below/out")).expect("a link");
    room
});

const NAMES: [&str; 22] = [
    "a",
    "a/b",
    "a/b/c",
    "a/f",
    "b",
    "c/f",
    "out",
    "out/f",
    "out/a/f",
    ".",
    "..",
    "../outside/f",
    "a/../../outside/f",
    "/outside/f",
    "/",
    "",
    "a/.wh.f",
    ".wh.a",
    "a/.wh..wh..opq",
    ".wh..",
    ".wh..wh.x",
    "a//b/./d/",
];
const TARGETS: [&str; 12] = [
    "a",
    "a/f",
    "../outside",
    "../outside/f",
    "../../outside",
    "/",
    "..",
    "out/f",
    "a/b",
    "/outside/f",
    "",
    "c/f",
];
const KINDS: [u8; 14] = *b"0512346LKxg7S0";
const RECORDS: [(&str, &str); 12] = [
    ("path", "../outside/f"),
    ("path", "a/b"),
    ("linkpath", "../../outside/f"),
    ("size", "18446744073709551615"),
    ("size", "3"),
    ("mtime", "-9223372036854775808.5"),
    ("mtime", "1.999999999999"),
    ("uid", "4294967296"),
    ("SCHILY.xattr.user.a", "b"),
    ("SCHILY.xattr.trusted.overlay.redirect", "/outside"),
    ("SCHILY.xattr.trusted.overlay.opaque", "y"),
    ("SCHILY.xattr.security.capability", "x"),
];

/// Returns a record of a PAX header, which begins with its own length.
fn record(name: &str, value: &str) -> String {
    let rest = format!(" {name}={value}\n");
    let mut length = rest.len() + 1;
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

fn entry(source: &mut Source<'_>, tar: &mut Vec<u8>) {
    let mut header = match source.chance(2) {
        true => tar::Header::new_ustar(),
        false => tar::Header::new_gnu(),
    };
    let kind = *source.one_of(&KINDS);
    let content = match kind {
        b'x' | b'g' => {
            let (name, value) = *source.one_of(&RECORDS);
            record(name, value).into_bytes()
        }
        b'L' | b'K' => source.one_of(&NAMES).as_bytes().to_vec(),
        b'0' | b'7' => vec![b'x'; source.below(40)],
        _ => Vec::new(),
    };
    let old = header.as_old_mut();
    let name = source.one_of(&NAMES).as_bytes();
    old.name[..name.len()].copy_from_slice(name);
    let target = source.one_of(&TARGETS).as_bytes();
    old.linkname[..target.len()].copy_from_slice(target);
    old.linkflag[0] = kind;
    header.set_size(content.len() as u64);
    header.set_mode(*source.one_of(&[0o755, 0o4777, 0, 0o7777]));
    header.set_uid(source.number());
    header.set_gid(source.number());
    header.set_mtime(source.number());
    if source.chance(8) {
        header.set_size(source.number());
    }
    // One of the older kind has no device.
    let _ = header.set_device_major(source.below(3) as u32);
    let _ = header.set_device_minor(source.below(3) as u32);
    header.set_cksum();
    tar.extend(header.as_bytes());
    tar.extend(&content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Returns what is in a directory: modes, owners, links and contents by path.
fn state(directory: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut all = BTreeMap::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(path) = left.pop() {
        let meta = path.symlink_metadata().expect("it is there");
        let mut text = format!("{:o} {} {}", meta.mode(), meta.uid(), meta.nlink());
        if meta.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory");
            left.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else if meta.is_file() {
            text += &String::from_utf8_lossy(&std::fs::read(&path).expect("a file"));
        }
        all.insert(path, text);
    }
    all
}

fuzz_target!(|data: &[u8]| {
    let (room, mut source) = (ROOM.path(), Source::new(data));
    let mut tar = Vec::new();
    for _ in 0..source.below(12) {
        entry(&mut source, &mut tar);
    }
    for edit in source.take(30).chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([edit[0], edit[1]]));
        if let Some(byte) = tar.get_mut(at) {
            *byte = edit[2];
        }
    }
    tar.extend(source.rest());
    tar.extend([0; 1024]);

    let (outside, below) = (room.join("outside"), room.join("below"));
    let before = (state(&outside), state(&below));
    let target = room.join("layer");
    std::fs::create_dir(&target).expect("a directory");
    let _ = fuzzing::layer(&tar, &target, &below);
    rkube_fsutil::remove_tree(&target).expect("a layer can be removed");
    assert_eq!((state(&outside), state(&below)), before);
    assert_eq!(std::fs::read_dir(room).expect("a directory").count(), 2);
});
