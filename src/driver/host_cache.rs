//! The last-level cache of the processor that this program runs on, for what computes there.

use std::fs;
use std::path::Path;

/// Where Linux describes the caches of the first core.
const CACHES: &str = "/sys/devices/system/cpu/cpu0/cache";
/// What is assumed where the system does not say.
const USUAL: u64 = 32 << 20;
/// A server's cache is shared by many cores, and in a virtual machine by other machines: no more of it counts.
const MOST: u64 = 64 << 20;

/// The last cache before the memory, in bytes: at most 64 MiB, and 32 MiB where the system does not say.
pub fn host_cache_bytes() -> u64 {
    largest(Path::new(CACHES)).unwrap_or(USUAL).min(MOST)
}

/// The size of the cache of the highest level in a folder of Linux's `indexN` folders.
fn largest(folder: &Path) -> Option<u64> {
    let indices = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let sizes = indices.filter_map(|index| {
        let read = |name: &str| fs::read_to_string(index.join(name)).ok();
        let level: u32 = read("level")?.trim().parse().ok()?;
        Some((level, parse(read("size")?.trim())?))
    });
    sizes.max().map(|(_, size)| size)
}

/// `32768K`, `32M`.
fn parse(size: &str) -> Option<u64> {
    let (digits, unit) = match size.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => size.strip_suffix('M').map_or((size, 1), |digits| (digits, 1 << 20)),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_level_counts() {
        let folder = tempfile::TempDir::new().unwrap();
        assert_eq!(largest(folder.path()), None);
        for (index, level, size) in [("index0", "1", "48K"), ("index1", "3", "24576K"), ("index2", "2", "2M")] {
            let index = folder.path().join(index);
            fs::create_dir(&index).unwrap();
            fs::write(index.join("level"), format!("{level}\n")).unwrap();
            fs::write(index.join("size"), format!("{size}\n")).unwrap();
        }
        fs::write(folder.path().join("uevent"), "").unwrap();
        assert_eq!(largest(folder.path()), Some(24 << 20));
        assert_eq!(["", "K", "-4K", "0K", "99999999999999999999K"].map(parse), [None; 5]);
        assert!((1..=MOST).contains(&host_cache_bytes()));
    }
}
