//! Selects the allocator of a process.
//!
//! The control plane constantly allocates and frees trees of small values and keeps some
//! of them in caches and histories. In glibc's heap the kept values pin their pages: 22 MB
//! in use were 85 MB resident after a busy minute, and 63 MB after trimming. jemalloc
//! groups values by size, which leaves a quarter less resident, and needs a tenth to a
//! half less CPU time for writes. All other roles allocate little, and glibc's heap is
//! smaller for them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ffi::c_char;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tikv_jemallocator::Jemalloc;

/// The role that uses jemalloc, as `argv[1]`.
const ROLE: &[u8] = rkube_config::roles::CONTROL_PLANE.as_bytes();
/// The page size that every build of jemalloc can work with: it is compiled for
/// the builder's, which may be larger than this and must not be smaller than the
/// machine's.
const PAGE: libc::c_long = 4096;

/// jemalloc's options (its manual, TUNING): one arena, since the process has two
/// threads that work; pages that are not needed go back after a fifth of a second.
#[unsafe(export_name = "_rjem_malloc_conf")]
static OPTIONS: Options = Options(c"narenas:1,dirty_decay_ms:200,muzzy_decay_ms:0".as_ptr());

#[repr(transparent)]
struct Options(*const c_char);

// SAFETY: it points to a constant.
unsafe impl Sync for Options {}

#[global_allocator]
static ALLOCATOR: ByRole = ByRole;

/// Forwards to one of the allocators, always the same one in a process.
struct ByRole;

/// 0 until the first allocation, then which one it was.
static CHOICE: AtomicU8 = AtomicU8::new(0);
const SYSTEM: u8 = 1;
const JEMALLOC: u8 = 2;

/// Whether jemalloc is this process's allocator.
pub fn is_jemalloc() -> bool {
    match CHOICE.load(Relaxed) {
        0 => choose() == JEMALLOC,
        choice => choice == JEMALLOC,
    }
}

/// The first allocation comes before the first thread; were there two at once,
/// both would find the same.
#[cold]
fn choose() -> u8 {
    // SAFETY: it has no preconditions.
    let fits = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } == PAGE;
    let choice = if fits && role_is(ROLE) {
        JEMALLOC
    } else {
        SYSTEM
    };
    CHOICE.store(choice, Relaxed);
    choice
}

/// Whether `argv[1]` of this process is `role`, found without allocating. Where it
/// cannot be known (no `/proc` yet) it is not.
fn role_is(role: &[u8]) -> bool {
    let mut line = [0u8; 256];
    // SAFETY: the path is a C string, and the buffer as long as is said.
    let read = unsafe {
        let file = libc::open(
            c"/proc/self/cmdline".as_ptr(),
            libc::O_RDONLY | libc::O_CLOEXEC,
        );
        if file < 0 {
            return false;
        }
        let read = libc::read(file, line.as_mut_ptr().cast(), line.len());
        libc::close(file);
        read
    };
    names(&line[..usize::try_from(read).unwrap_or(0)], role)
}

/// Whether a command line as proc(5) gives it has `role` as its second word.
fn names(line: &[u8], role: &[u8]) -> bool {
    line.split(|byte| *byte == 0).nth(1) == Some(role)
}

/// Purges unused pages whose decay time has passed. By itself jemalloc does so only during
/// allocations.
pub fn purge() {
    let code = decay();
    if code != 0 {
        tracing::warn!(code, "jemalloc cannot purge unused pages");
    }
}

/// Calls jemalloc; returns 0 or an error number (errno(3)).
fn decay() -> libc::c_int {
    // "arena.<all>.decay": 4096 stands for all arenas (`MALLCTL_ARENAS_ALL`). It
    // takes no value and gives none.
    // SAFETY: the name is a C string, and null is what stands for no value.
    unsafe {
        tikv_jemalloc_sys::mallctl(
            c"arena.4096.decay".as_ptr(),
            null_mut(),
            null_mut(),
            null_mut(),
            0,
        )
    }
}

// Not inlined, or each place that allocates would have the code of both.
// SAFETY: every call of a process goes to the same allocator, with its arguments.
unsafe impl GlobalAlloc for ByRole {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            if is_jemalloc() {
                Jemalloc.alloc(layout)
            } else {
                System.alloc(layout)
            }
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            if is_jemalloc() {
                Jemalloc.alloc_zeroed(layout)
            } else {
                System.alloc_zeroed(layout)
            }
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe {
            if is_jemalloc() {
                Jemalloc.dealloc(at, layout);
            } else {
                System.dealloc(at, layout);
            }
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe {
            if is_jemalloc() {
                Jemalloc.realloc(at, layout, size)
            } else {
                System.realloc(at, layout, size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_word_is_the_role() {
        assert!(names(b"/usr/local/bin/rkube\0control-plane\0", ROLE));
        assert!(names(b"rkube\0control-plane", ROLE));
        for other in [
            &b""[..],
            b"rkube\0",
            b"control-plane\0",
            b"rkube\0control-plane2\0",
            b"rkube\0logs\0control-plane\0",
        ] {
            assert!(!names(other, ROLE));
        }
    }

    #[test]
    fn a_process_keeps_to_one_allocator() {
        assert!(!is_jemalloc());
        let text = String::from("a word") + " and more";
        assert_eq!(text.len(), 15);
        assert_eq!(CHOICE.load(Relaxed), SYSTEM);
    }

    #[test]
    fn pages_can_be_purged_at_any_time() {
        assert_eq!(decay(), 0);
    }
}
