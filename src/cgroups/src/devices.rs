//! Device access control.
//!
//! Version 1 has files for device rules. Version 2 has none: rules are compiled to an eBPF program of
//! the type `BPF_PROG_TYPE_CGROUP_DEVICE`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A rule that allows a device or a range of devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Whether it is a block device; otherwise a character device.
    pub block: bool,
    /// Major number; any if absent.
    pub major: Option<u32>,
    /// Minor number; any if absent.
    pub minor: Option<u32>,
    /// Allowed access: any of `r`, `w` and `m` (`mknod`).
    pub access: String,
}

/// Device types and access bits, as in `struct bpf_cgroup_dev_ctx`.
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;
const MAKE: i32 = 1;
const READ: i32 = 2;
const WRITE: i32 = 4;

/// Commands and constants of `bpf(2)` that the crate `libc` lacks.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_QUERY: libc::c_long = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// Returns the devices that all containers may use, as in other runtimes: `mknod` of any device,
/// and null, zero, full, random, urandom, tty, console, ptmx and pseudo-terminals.
pub fn defaults() -> Vec<DeviceRule> {
    let make = |block| DeviceRule {
        block,
        major: None,
        minor: None,
        access: "m".into(),
    };
    let mut rules = vec![make(true), make(false)];
    for (major, minor) in [
        (1, 3),
        (1, 5),
        (1, 7),
        (1, 8),
        (1, 9),
        (5, 0),
        (5, 1),
        (5, 2),
    ] {
        rules.push(DeviceRule::character(major, Some(minor)));
    }
    rules.push(DeviceRule::character(136, None));
    rules
}

impl DeviceRule {
    /// Returns a rule that allows everything with a character device, or with all of a major
    /// number.
    pub fn character(major: u32, minor: Option<u32>) -> Self {
        Self {
            block: false,
            major: Some(major),
            minor,
            access: "rwm".into(),
        }
    }

    /// Returns the rule as version 1 reads it: `c 1:3 rwm`.
    fn line(&self) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!(
            "{} {}:{} {}",
            if self.block { 'b' } else { 'c' },
            number(self.major),
            number(self.minor),
            self.access
        )
    }
}

/// Restricts the version 1 group at `dir` to `rules`. Must be called before the group has children,
/// which get its rules and cannot extend them. Rules that exceed those of the group's parent are left
/// out. A group that is restricted already gets the rules that it lacks, unless it has children.
///
/// After an error, a group without restrictions still has none, if the kernel permits that.
pub(crate) fn restrict_v1(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let list = fs::read_to_string(dir.join("devices.list"))?;
    if list.trim() == ALL_DEVICES {
        return restrict_all_v1(rules, |file, line| fs::write(dir.join(file), line));
    }
    // The process that restricted it may have been killed halfway.
    if has_children(dir)? {
        return Ok(());
    }
    allow_v1(rules, &mut |file, line| fs::write(dir.join(file), line))
}

/// Restricts a version 1 group that may use all devices. `write` writes to one of its files.
fn restrict_all_v1(
    rules: &[DeviceRule],
    mut write: impl FnMut(&str, &str) -> io::Result<()>,
) -> io::Result<()> {
    write(DENY, "a")?;
    allow_v1(rules, &mut write).map_err(|error| match write(ALLOW, "a") {
        Ok(()) => error,
        Err(undo) => io::Error::new(
            error.kind(),
            format!("{error}; and it cannot be undone: {undo}"),
        ),
    })
}

/// Adds rules to a version 1 group; those that it has change nothing.
fn allow_v1(
    rules: &[DeviceRule],
    write: &mut impl FnMut(&str, &str) -> io::Result<()>,
) -> io::Result<()> {
    for rule in rules {
        match write(ALLOW, &rule.line()) {
            // The parent does not have this device either.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            other => other?,
        }
    }
    Ok(())
}

/// Returns whether there are groups below the one at `dir`.
fn has_children(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        if entry?.file_type()?.is_dir() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Restricts the version 2 group at `dir` to `rules`, unless it is restricted already.
pub(crate) fn restrict_v2(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    if programs(dir)? == 0 {
        attach(dir, rules)?;
    }
    Ok(())
}

/// The files of version 1 that take rules.
const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";
/// The list of a version 1 group without restrictions.
const ALL_DEVICES: &str = "a *:* rwm";

/// One eBPF instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination register in the low four bits, source register in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

/// Returns an instruction with its registers packed.
fn op(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}

/// Compiles the rules to a program that returns 1 if a rule allows the access, otherwise 0.
fn compile(rules: &[DeviceRule]) -> Vec<Instruction> {
    // r2: type, r3: access, r4: major, r5: minor. r1: the context, later scratch.
    let mut code = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE_REGISTER, 3, 2, 0, 0),
        op(AND, 2, 0, 0, 0xffff),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules {
        let mut access = 0;
        for letter in rule.access.bytes() {
            access |= match letter {
                b'r' => READ,
                b'w' => WRITE,
                b'm' => MAKE,
                _ => 0,
            };
        }
        let kind = if rule.block { BLOCK } else { CHARACTER };
        let mut block = vec![op(JUMP_NOT_EQUAL, 2, 0, 0, kind)];
        // The requested access must not exceed the rule's.
        block.push(op(MOVE_REGISTER, 1, 3, 0, 0));
        block.push(op(AND, 1, 0, 0, !access));
        block.push(op(JUMP_NOT_EQUAL, 1, 0, 0, 0));
        if let Some(major) = rule.major {
            block.push(op(JUMP_NOT_EQUAL, 4, 0, 0, major as i32));
        }
        if let Some(minor) = rule.minor {
            block.push(op(JUMP_NOT_EQUAL, 5, 0, 0, minor as i32));
        }
        block.push(op(MOVE, 0, 0, 0, 1));
        block.push(op(EXIT, 0, 0, 0, 0));
        let length = block.len();
        for (at, instruction) in block.iter_mut().enumerate() {
            if instruction.code == JUMP_NOT_EQUAL {
                instruction.offset = (length - at - 1) as i16;
            }
        }
        code.extend(block);
    }
    code.push(op(MOVE, 0, 0, 0, 0));
    code.push(op(EXIT, 0, 0, 0, 0));
    code
}

/// Returns the number of device programs that are attached to a version 2 group itself.
fn programs(dir: &Path) -> io::Result<u32> {
    #[repr(C)]
    struct Query {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
    }
    let cgroup = File::open(dir)?;
    let mut query = Query {
        target: number(cgroup.as_raw_fd()),
        kind: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: 0,
        count: 0,
        padding: 0,
    };
    // SAFETY: the struct has the layout of `bpf_attr` for this command. Without room for their
    // numbers, the kernel only counts the programs.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    if result == 0 {
        Ok(query.count)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Restricts the version 2 group at the directory `dir` to `rules`, besides its other restrictions.
pub fn attach(dir: &Path, rules: &[DeviceRule]) -> io::Result<()> {
    let program = load(&compile(rules))?;
    let cgroup = File::open(dir)?;
    #[repr(C)]
    struct Attach {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
    }
    let attach = Attach {
        target: number(cgroup.as_raw_fd()),
        program: number(program.as_raw_fd()),
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    // SAFETY: the struct has the layout of `bpf_attr` for this command.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_ATTACH,
            &raw const attach,
            size_of::<Attach>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Loads a program into the kernel.
fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
    }
    let load = Load {
        kind: TYPE_CGROUP_DEVICE,
        count: code.len() as u32,
        instructions: code.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the struct has the layout of `bpf_attr` for this command, and its pointers outlive
    // the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn number(fd: RawFd) -> u32 {
    // Open descriptors are never negative.
    fd as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Interprets a program like the kernel.
    fn run(code: &[Instruction], kind: i32, access: i32, major: u32, minor: u32) -> bool {
        let mut r = [0u64; 11];
        let mut pc = 0usize;
        loop {
            let i = code[pc];
            pc += 1;
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            match i.code {
                LOAD_WORD => {
                    r[to] = match i.offset {
                        0 => (access as u64) << 16 | kind as u64,
                        4 => u64::from(major),
                        8 => u64::from(minor),
                        other => panic!("offset {other}"),
                    }
                }
                MOVE_REGISTER => r[to] = r[from],
                MOVE => r[to] = i.immediate as i64 as u64,
                AND => r[to] &= i.immediate as i64 as u64,
                SHIFT_RIGHT => r[to] >>= i.immediate,
                JUMP_NOT_EQUAL => {
                    if r[to] != i.immediate as i64 as u64 {
                        pc = pc.wrapping_add_signed(isize::from(i.offset));
                    }
                }
                EXIT => return r[0] == 1,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    proptest! {
        #[test]
        fn programs_mean_what_rules_say(
            rules in prop::collection::vec(
                (any::<bool>(), prop::option::of(0u32..3), prop::option::of(0u32..3), "[rwm]{0,3}"), 0..6),
            block in any::<bool>(),
            access in 1i32..8,
            major in 0u32..4,
            minor in 0u32..4,
        ) {
            let rules: Vec<DeviceRule> = rules
                .into_iter()
                .map(|(block, major, minor, access)| DeviceRule { block, major, minor, access })
                .collect();
            let expected = rules.iter().any(|r| {
                let has = |letter, bit| access & bit == 0 || r.access.contains(letter);
                r.block == block
                    && r.major.is_none_or(|m| m == major)
                    && r.minor.is_none_or(|m| m == minor)
                    && has('r', READ) && has('w', WRITE) && has('m', MAKE)
            });
            let kind = if block { BLOCK } else { CHARACTER };
            prop_assert_eq!(run(&compile(&rules), kind, access, major, minor), expected);
        }
    }

    /// Checks that the kernel accepts and enforces the program, if a v2 hierarchy is mounted.
    #[test]
    fn the_kernel_obeys() {
        // SAFETY: no memory is involved.
        let root = unsafe { libc::geteuid() } == 0;
        let mounted = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .iter()
            .map(Path::new)
            .find(|p| p.join("cgroup.controllers").exists());
        let (true, Some(mounted)) = (root, mounted) else {
            rkube_testing::not_applicable("not root, or no cgroup v2");
            return;
        };
        let dir = mounted.join(format!("rkube-test-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let result = restrict_v2(&dir, &defaults());
        let again = restrict_v2(&dir, &defaults());
        let count = programs(&dir);
        let script = format!(
            "echo $$ > {}/cgroup.procs && cat /dev/null && ! cat /dev/kmsg 2>/dev/null && mknod $0/n c 1 11 && ! head -c 1 $0/n 2>/dev/null",
            dir.display()
        );
        let scratch = tempfile::tempdir_in("/var/tmp").unwrap();
        let status = std::process::Command::new("sh")
            .arg("-c")
            .arg(script)
            .arg(scratch.path())
            .status();
        std::fs::remove_dir(&dir).unwrap();
        if let Err(e) = result {
            rkube_testing::not_applicable(&format!(
                "the kernel does not load device programs: {e}"
            ));
            return;
        }
        assert!(status.unwrap().success());
        again.unwrap();
        assert_eq!(count.unwrap(), 1, "one program is enough");
    }

    #[test]
    fn version_1_is_restricted_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        fs::write(file("devices.list"), "a *:* rwm\n").unwrap();
        let rules = [DeviceRule::character(136, None)];
        restrict_v1(dir.path(), &rules).unwrap();
        assert_eq!(fs::read_to_string(file("devices.deny")).unwrap(), "a");
        let allowed = || fs::read_to_string(file("devices.allow")).unwrap();
        assert_eq!(allowed(), "c 136:* rwm");
        // The kernel lists exceptions from then on.
        fs::write(file("devices.list"), "c 136:* rwm\n").unwrap();
        fs::remove_file(file("devices.deny")).unwrap();
        restrict_v1(dir.path(), &rules).unwrap();
        assert!(!file("devices.deny").exists());
    }

    #[test]
    fn a_half_restricted_group_gets_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        let rules = [DeviceRule::character(136, None)];
        fs::write(file("devices.list"), "c 1:3 rwm\n").unwrap();
        restrict_v1(dir.path(), &rules).unwrap();
        assert!(!file(DENY).exists());
        assert_eq!(fs::read_to_string(file(ALLOW)).unwrap(), "c 136:* rwm");
        // Groups below would not get them.
        fs::remove_file(file(ALLOW)).unwrap();
        fs::create_dir(file("child")).unwrap();
        restrict_v1(dir.path(), &rules).unwrap();
        assert!(!file(ALLOW).exists());
    }

    #[test]
    fn a_failed_restriction_is_undone() {
        let rules = [(1, 3), (1, 5)].map(|(a, b)| DeviceRule::character(a, Some(b)));
        let mut written = Vec::new();
        let mut restrict = |undone: bool| {
            written.clear();
            restrict_all_v1(&rules, |file, line| {
                written.push(format!("{file} {line}"));
                match line {
                    "c 1:5 rwm" => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
                    "a" if file == ALLOW && !undone => {
                        Err(io::Error::from_raw_os_error(libc::EINVAL))
                    }
                    _ => Ok(()),
                }
            })
            .unwrap_err()
        };
        assert_eq!(restrict(true).raw_os_error(), Some(libc::ENOMEM));
        let error = restrict(false);
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
        assert!(error.to_string().contains("cannot be undone"), "{error}");
        assert_eq!(
            written,
            [
                "devices.deny a",
                "devices.allow c 1:3 rwm",
                "devices.allow c 1:5 rwm",
                "devices.allow a"
            ]
        );
    }

    /// Checks that a group below a restricted one has what containers get, if version 1 is mounted.
    #[test]
    fn containers_fit_into_a_restricted_group() {
        // SAFETY: no memory is involved.
        let root = unsafe { libc::geteuid() } == 0;
        let mounted = Path::new("/sys/fs/cgroup/devices");
        if !root || !mounted.join("devices.list").exists() {
            rkube_testing::not_applicable("not root, or no cgroup v1 with devices");
            return;
        }
        let dir = mounted.join(format!("rkube-test-devices-{}", std::process::id()));
        let child = dir.join("child");
        fs::create_dir(&dir).unwrap();
        let result = restrict_v1(&dir, &defaults()).and_then(|()| {
            fs::create_dir(&child)?;
            fs::write(child.join("devices.deny"), "a")?;
            for rule in defaults() {
                fs::write(child.join("devices.allow"), rule.line())?;
            }
            let disk = fs::write(child.join("devices.allow"), "b 8:0 rwm");
            let all = fs::write(child.join("devices.allow"), "a");
            Ok((disk.is_err(), all.is_err()))
        });
        let _ = fs::remove_dir(&child);
        fs::remove_dir(&dir).unwrap();
        assert_eq!(result.unwrap(), (true, true));
    }
}
