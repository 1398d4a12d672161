//! Unpacking of layers: preserved metadata, and malicious layers.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use crate::support::*;

#[tokio::test]
async fn layers_keep_what_they_say() {
    if !is_root() {
        return;
    }
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let base = Tar::default()
        .entry(b'5', "own/", "", 0o700, 33, b"")
        .file("own/linked", b"content")
        .file("gone", b"x")
        .dir("hidden")
        .file("hidden/x", b"x")
        .end();
    let layer = Tar::default()
        .entry(b'0', "suid", "", 0o4755, 5, b"s")
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("mtime", b"1234.5"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("capable", b"c")
        .entry(b'1', "hard", "suid", 0o644, 0, b"")
        .entry(b'1', "from-below", "own/linked", 0o644, 0, b"")
        .entry(b'2', "soft", "/nowhere", 0o777, 9, b"")
        .entry(b'3', "null", "", 0o666, 0, b"")
        .entry(b'6', "fifo", "", 0o600, 0, b"")
        .file("own/new", b"n")
        .file(".wh.gone", b"")
        .file("hidden/.wh..wh..opq", b"")
        .file("twice", b"first")
        .file("twice", b"second")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let both = parts(HOST, &[base.clone(), layer.clone()], plain);
    load(dir.path(), &docker(&both)).await.map(drop).unwrap();
    let chain = format!("{} {}", digest(&base), digest(&layer));
    let root = dir
        .path()
        .join("images/layers/sha256")
        .join(hex(chain.as_bytes()))
        .join("fs");
    let stat = |name: &str| std::fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!(
        (
            stat("suid").mode() & 0o7777,
            stat("suid").uid(),
            stat("suid").gid()
        ),
        (0o4755, 5, 5)
    );
    assert_eq!(stat("suid").ino(), stat("hard").ino());
    assert_eq!(std::fs::read(root.join("from-below")).unwrap(), b"content");
    assert_eq!(
        (stat("capable").mtime(), stat("capable").mtime_nsec()),
        (1234, 500_000_000)
    );
    assert_eq!(
        xattr(&root.join("capable"), c"security.capability").as_deref(),
        Some(capability)
    );
    assert_eq!(
        xattr(&root.join("capable"), c"trusted.overlay.redirect"),
        None
    );
    assert_eq!(
        (
            stat("soft").uid(),
            std::fs::read_link(root.join("soft")).unwrap().to_str()
        ),
        (9, Some("/nowhere"))
    );
    assert!(
        stat("null").file_type().is_char_device() && stat("null").rdev() == libc::makedev(1, 3)
    );
    assert!(stat("fifo").file_type().is_fifo());
    // A directory that the layer omits has the metadata of the layer below.
    assert_eq!(
        (stat("own").mode() & 0o7777, stat("own").uid()),
        (0o700, 33)
    );
    assert!(stat("gone").file_type().is_char_device() && stat("gone").rdev() == 0);
    assert_eq!(
        xattr(&root.join("hidden"), c"trusted.overlay.opaque").as_deref(),
        Some(&b"y"[..])
    );
    assert_eq!(std::fs::read(root.join("twice")).unwrap(), b"second");
}

fn xattr(path: &Path, name: &std::ffi::CStr) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut buffer = vec![0; 100];
    // SAFETY: the pointers outlive the call and the length is the buffer's.
    let n = unsafe {
        libc::lgetxattr(
            path.as_ptr(),
            name.as_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
        )
    };
    (n >= 0).then(|| {
        buffer.truncate(n as usize);
        buffer
    })
}

/// No layer may change anything outside its directory.
#[tokio::test]
async fn hostile_layers_stay_inside() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap().to_string();
    std::fs::write(outside.path().join("victim"), "untouched").unwrap();
    let up = format!("../../../../../../../../..{target}");
    let t = Tar::default;
    let attacks: Vec<Vec<u8>> = vec![
        t().file(&format!("{up}/new"), b"x").end(),
        t().file(&format!("{target}/victim"), b"x").end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .file("l/new", b"x")
            .end(),
        t().entry(b'2', "l", &up, 0o777, 0, b"")
            .file("l/victim", b"x")
            .end(),
        t().entry(b'2', "l", &format!("{target}/victim"), 0o777, 0, b"")
            .file("l", b"x")
            .end(),
        t().entry(b'1', "h", &format!("{target}/victim"), 0, 0, b"")
            .end(),
        t().entry(b'1', "h", &format!("{up}/victim"), 0, 0, b"")
            .end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .entry(b'1', "h", "l/victim", 0, 0, b"")
            .end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .file("l/.wh.victim", b"")
            .end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .file("l/.wh..wh..opq", b"")
            .end(),
        t().entry(b'2', "l", &target, 0o777, 0, b"")
            .entry(b'5', "l/", "", 0o777, 12, b"")
            .end(),
        t().file(".wh...", b"").end(),
        t().file(".wh.", b"").end(),
        t().entry(b'2', "l", "l", 0, 0, b"").file("l/x", b"").end(),
        t().entry(b'5', "..", "", 0, 12, b"").end(),
    ];
    let before = std::fs::metadata(outside.path()).unwrap();
    for (i, layer) in attacks.iter().enumerate() {
        let dir = tempfile::tempdir_in(outside.path().parent().unwrap()).unwrap();
        let archive = docker(&parts(HOST, std::slice::from_ref(layer), plain));
        // A rejected layer is as good as a confined one.
        let _ = load(dir.path(), &archive).await;
        let names: Vec<_> = std::fs::read_dir(outside.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["victim"], "attack {i}");
        let victim = std::fs::metadata(outside.path().join("victim")).unwrap();
        assert_eq!((victim.nlink(), victim.uid()), (1, 0), "attack {i}");
        assert_eq!(
            std::fs::read(outside.path().join("victim")).unwrap(),
            b"untouched",
            "attack {i}"
        );
        let after = std::fs::metadata(outside.path()).unwrap();
        assert_eq!(
            (after.uid(), after.mode()),
            (before.uid(), before.mode()),
            "attack {i}"
        );
    }
}

#[tokio::test]
async fn metadata_of_entries_is_limited() {
    if !is_root() {
        return;
    }
    let kib = |n: usize| vec![b'a'; n << 10];
    let record = |n: usize| {
        Tar::default()
            .pax(&[("SCHILY.xattr.user.note", &kib(n))])
            .file("file", b"x")
            .end()
    };
    let long = |kind: u8| {
        Tar::default()
            .entry(kind, "././@LongLink", "", 0o644, 0, &kib(2048))
            .file("file", b"x")
            .end()
    };
    // Unread content of an entry is no metadata of the next one.
    let large = Tar::default()
        .file(".wh.gone", &kib(3072))
        .file("large", &kib(3072))
        .file("small", b"x")
        .end();
    let dir = tempfile::tempdir().unwrap();
    for (layer, fits) in [
        (record(2), true),
        (record(2048), false),
        (long(b'L'), false),
        (long(b'K'), false),
        (large, true),
    ] {
        let archive = docker(&parts(HOST, &[layer], gzip));
        match load(dir.path(), &archive).await {
            Ok(_) => assert!(fits),
            Err(e) => assert!(!fits && e.to_string().contains("one mebibyte"), "{e}"),
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(40))]
    /// Random sequences of entries that create links, climb directories and replace each other.
    #[test]
    fn random_layers_stay_inside(
        entries in proptest::collection::vec(
            (proptest::sample::select(&b"0125"[..]), "(\\.\\./|/|a/|b/|l/){0,4}(a|b|l|\\.wh\\.a|\\.\\.)", "(\\.\\./){0,9}(OUT|a|b|l|/OUT)(/victim)?"),
            0..12,
        )
    ) {
        if !is_root() {
            return Ok(());
        }
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("victim"), "untouched").unwrap();
        let absolute = outside.path().to_str().unwrap();
        let mut tar = Tar::default();
        for (kind, name, link) in &entries {
            let link = link.replace("/OUT", absolute).replace("OUT", absolute.trim_start_matches('/'));
            let content: &[u8] = if *kind == b'0' { b"x" } else { b"" };
            let link = if matches!(kind, b'1' | b'2') { link } else { String::new() };
            tar = tar.entry(*kind, name, &link, 0o777, 3, content);
        }
        let layer = tar.end();
        let dir = tempfile::tempdir().unwrap();
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = tokio.block_on(load(dir.path(), &docker(&parts(HOST, std::slice::from_ref(&layer), plain))));
        let names: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        proptest::prop_assert_eq!(names, ["victim"]);
        let victim = std::fs::metadata(outside.path().join("victim")).unwrap();
        proptest::prop_assert_eq!((victim.nlink(), victim.uid(), victim.mode() & 0o777), (1, 0, 0o644));
        proptest::prop_assert_eq!(std::fs::read(outside.path().join("victim")).unwrap(), b"untouched");
    }
}
