//! Giving memory back that is no longer used.

use std::time::Duration;

/// How often a process on glibc's heap looks: what it finds takes a walk.
const PERIOD: Duration = Duration::from_secs(30);
/// How often jemalloc is reminded; it knows what there is to do.
#[cfg(target_env = "gnu")]
const REMIND: Duration = Duration::from_secs(2);
/// Resident memory beyond what is in use that is worth the walk, bytes.
const WORTH: usize = 16 << 20;

/// Returns free pages to the system from time to time. glibc keeps what was
/// freed below the last living allocation of an arena, which after a busy hour
/// is many times what is used.
pub async fn give_back() {
    #[cfg(target_env = "gnu")]
    if crate::allocator::is_jemalloc() {
        return every(REMIND, crate::allocator::give_back).await;
    }
    every(PERIOD, trim).await;
}

async fn every(period: Duration, work: fn()) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        work();
    }
}

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it may be called at any time from any thread.
    let info = unsafe { libc::mallinfo2() };
    let used = info.uordblks + info.hblkhd;
    if resident().is_some_and(|bytes| bytes > used + WORTH) {
        // SAFETY: as above.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Bytes of this process's own memory that are resident (proc(5), `statm`).
#[cfg(target_env = "gnu")]
fn resident() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut fields = text.split(' ').skip(1).map(str::parse::<usize>);
    let (all, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
    // SAFETY: it has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(all.saturating_sub(shared) * page)
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}
