//! Returns unused memory to the system.

use std::time::Duration;

/// The period of the checks of glibc's heap; trimming walks the whole heap.
const TRIM_PERIOD: Duration = Duration::from_secs(30);
/// The period after which jemalloc purges pages whose decay time has passed.
#[cfg(target_env = "gnu")]
const PURGE_PERIOD: Duration = Duration::from_secs(2);
/// Unused resident memory above which glibc's heap is trimmed, in bytes.
const TRIM_THRESHOLD: usize = 16 << 20;

/// Returns free pages to the system periodically; never ends.
///
/// glibc does not return memory that was freed below the last live allocation of an arena. That can
/// be many times the memory in use.
pub async fn release_periodically() {
    #[cfg(target_env = "gnu")]
    if crate::allocator::is_jemalloc() {
        return every(PURGE_PERIOD, crate::allocator::purge).await;
    }
    every(TRIM_PERIOD, trim).await;
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
    // SAFETY: mallinfo2(3) may be called at any time from any thread.
    let info = unsafe { libc::mallinfo2() };
    let used = info.uordblks + info.hblkhd;
    if resident().is_some_and(|bytes| bytes > used + TRIM_THRESHOLD) {
        // SAFETY: malloc_trim(3) may be called at any time from any thread.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Returns the resident private memory of this process in bytes, from `statm` (proc(5)).
#[cfg(target_env = "gnu")]
fn resident() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut fields = text.split(' ').skip(1).map(str::parse::<usize>);
    let (all, shared) = (fields.next()?.ok()?, fields.next()?.ok()?);
    // SAFETY: sysconf(3) has no preconditions.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    Some(all.saturating_sub(shared) * page)
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}
