//! Memory that decoders share: each takes what its image needs at most, and waits where others have it.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that may be in use at once.
pub(super) struct Budget {
    total: u64,
    free: Mutex<u64>,
    returned: Condvar,
}

/// Bytes taken from a [`Budget`], until this is dropped.
pub(super) struct Grant<'b> {
    budget: &'b Budget,
    bytes: u64,
}

/// Most memory for decoding by default: more helps only sets of enormous images on machines with many threads.
const MOST: u64 = 8 << 30;

impl Budget {
    pub fn new(total: u64) -> Budget {
        Budget { total, free: Mutex::new(total), returned: Condvar::new() }
    }

    pub fn total(&self) -> u64 {
        self.total
    }

    /// Waits until `bytes` are free, and takes them; all there are where more is asked for, so that no image waits forever.
    pub fn take(&self, bytes: u64) -> Grant<'_> {
        let bytes = bytes.min(self.total);
        // A number is whole even where a thread panicked while it held it.
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free < bytes {
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= bytes;
        Grant { budget: self, bytes }
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        *self.budget.free.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.budget.returned.notify_all();
    }
}

/// Half of the memory that this process could still get, as far as the system says, and not more than [`MOST`].
pub(super) fn default_bytes() -> u64 {
    let limits = [meminfo(), control_group(), address_space()];
    let available = limits.into_iter().flatten().min().unwrap_or(MOST);
    (available / 2).clamp(64 << 20, MOST)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// What Linux could give without swapping.
fn meminfo() -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// What the process's container may still take.
fn control_group() -> Option<u64> {
    let number = |name: &str| read(&format!("/sys/fs/cgroup/{name}"))?.trim().parse::<u64>().ok();
    Some(number("memory.max")?.saturating_sub(number("memory.current")?))
}

/// What `ulimit -v` leaves.
fn address_space() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::As).current?;
    let pages: u64 = read("/proc/self/statm")?.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(pages * rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_in_use_than_there_is() {
        let budget = Budget::new(100);
        let (used, most) = (Mutex::new(0u64), Mutex::new(0u64));
        std::thread::scope(|scope| {
            for bytes in [60, 60, 30, 30, 30, 1000, 5, 100] {
                let (budget, used, most) = (&budget, &used, &most);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let grant = budget.take(bytes);
                        let now = {
                            let mut used = used.lock().unwrap();
                            *used += grant.bytes;
                            *used
                        };
                        let mut most = most.lock().unwrap();
                        *most = now.max(*most);
                        drop(most);
                        *used.lock().unwrap() -= grant.bytes;
                    }
                });
            }
        });
        assert!((60..=100).contains(&*most.lock().unwrap()));
        assert_eq!(*budget.free.lock().unwrap(), 100);
    }
}
