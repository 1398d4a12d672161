//! Time and randomness of a simulation.
//!
//! The C library's functions are replaced in this program. On a thread that simulates, time
//! stands still while anything runs. When its runtime waits for a timer, time advances to the
//! timer at once. Random numbers follow from the seed. Other threads are not affected.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::time::Duration;

/// Start of simulated time: 2026-01-01, and a machine that has run for a while.
const WALL_START: u64 = 1_767_225_600 * NANOS;
const BOOT: u64 = 1_000_000 * NANOS;
const NANOS: u64 = 1_000_000_000;

#[derive(Clone, Copy)]
struct Simulated {
    /// Nanoseconds since the simulation began.
    now: u64,
    /// By how much the wall clock has been put forward, in nanoseconds.
    ahead: u64,
    random: u64,
}

thread_local! {
    // Without a destructor, so that it can be used at any time.
    static SIMULATED: Cell<Option<Simulated>> = const { Cell::new(None) };
}

fn change<T>(work: impl FnOnce(&mut Simulated) -> T) -> Option<T> {
    let mut simulated = SIMULATED.get()?;
    let result = work(&mut simulated);
    SIMULATED.set(Some(simulated));
    Some(result)
}

/// Begins simulated time on this thread, for as long as it lives.
pub fn begin(seed: u64) {
    SIMULATED.set(Some(Simulated {
        now: 0,
        ahead: 0,
        random: seed ^ 0x5851_f42d_4c95_7f2d,
    }));
}

/// Puts the wall clock forward.
pub fn jump(by: Duration) {
    change(|s| s.ahead += by.as_nanos() as u64).expect("simulated time");
}

/// Returns the time since the simulation began.
pub fn now() -> Duration {
    Duration::from_nanos(change(|s| s.now).expect("simulated time"))
}

/// Returns the wall clock's time, as RFC 3339 with microseconds.
pub fn wall() -> String {
    let now = jiff::Timestamp::now();
    format!("{now:.6}")
}

/// Replaces clock_gettime(2).
///
/// # Safety
/// As that function: `to` must be valid for a write.
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, to: *mut libc::timespec) -> c_int {
    let time = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            change(|s| WALL_START + s.ahead + s.now)
        }
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => change(|s| BOOT + s.now),
        _ => None,
    };
    let Some(time) = time else {
        // SAFETY: the caller's arguments are passed on.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, to) } as c_int;
    };
    let value = libc::timespec {
        tv_sec: (time / NANOS) as libc::time_t,
        tv_nsec: (time % NANOS) as _,
    };
    // SAFETY: the caller's contract.
    unsafe { to.write(value) };
    0
}

/// Replaces epoll_wait(2), in which a runtime waits.
///
/// # Safety
/// As that function: `events` must have room for `limit` events.
#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    epoll: c_int,
    events: *mut libc::epoll_event,
    limit: c_int,
    timeout: c_int,
) -> c_int {
    let wait = |timeout: c_int| {
        let mask = std::ptr::null::<c_void>();
        // SAFETY: the caller's arguments are passed on; there is no signal mask.
        let found = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait,
                epoll,
                events,
                limit,
                timeout,
                mask,
                8usize,
            )
        };
        found as c_int
    };
    // Without a timer, only another thread can end the wait.
    if timeout <= 0 || SIMULATED.get().is_none() {
        return wait(timeout);
    }
    match wait(0) {
        0 => {
            change(|s| s.now += timeout as u64 * 1_000_000);
            wait(0)
        }
        found => found,
    }
}

/// Replaces getrandom(2).
///
/// # Safety
/// As that function: `buffer` must be valid for writes of `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let filled = change(|s| {
        for at in 0..length {
            // SplitMix64.
            s.random = s.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = s.random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            // SAFETY: the caller's contract.
            unsafe { buffer.cast::<u8>().add(at).write((mixed >> 24) as u8) };
        }
        length as isize
    });
    filled.unwrap_or_else(|| {
        // SAFETY: the caller's arguments are passed on.
        unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize }
    })
}

/// Replaces dlsym(3), by which libraries look for getrandom(2). They do without others.
///
/// # Safety
/// As that function: `name` must be a C string.
#[unsafe(no_mangle)]
unsafe extern "C" fn dlsym(_: *mut c_void, name: *const c_char) -> *mut c_void {
    // SAFETY: the caller's contract.
    match unsafe { CStr::from_ptr(name) } == c"getrandom" {
        true => getrandom as *mut c_void,
        false => std::ptr::null_mut(),
    }
}
