//! How much memory the machine has left, and how much this process takes.

use std::fs;

/// Bytes that can be taken without swapping, and without passing the limit of the container that this process runs
/// in; `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let free = status_bytes("/proc/meminfo", "MemAvailable:")?;
    Some(container_bytes().map_or(free, |left| left.min(free)))
}

/// Memory that this process takes now.
pub fn resident_bytes() -> Option<u64> {
    status_bytes("/proc/self/status", "VmRSS:")
}

/// The most memory that this process took since it started, or since [`restart_peak`].
pub fn peak_bytes() -> Option<u64> {
    status_bytes("/proc/self/status", "VmHWM:")
}

/// Lets [`peak_bytes`] begin again at what is taken now; `false` where the system does not allow it.
pub fn restart_peak() -> bool {
    fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// A line `NAME  N kB` of one of the system's files.
fn status_bytes(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// What a cgroup (version 2) leaves, if there is one with a limit.
fn container_bytes() -> Option<u64> {
    let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok();
    left_in_container(
        &read("memory.max")?,
        &read("memory.current")?,
        &read("memory.stat").unwrap_or_default(),
    )
}

/// The limit less what is used, files that the kernel caches and gives up when asked not counted: whoever has read a
/// large file has not taken memory. `stat` is the text of `memory.stat`.
fn left_in_container(limit: &str, used: &str, stat: &str) -> Option<u64> {
    let limit: u64 = limit.trim().parse().ok()?;
    let used: u64 = used.trim().parse().ok()?;
    let cached = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
    let cached: u64 = cached.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn cached_files_do_not_fill_a_container() {
        let stat = "anon 300\nfile 600\ninactive_anon 7\nactive_file 200\ninactive_file 400\n";
        assert_eq!(left_in_container("1000\n", "900\n", stat), Some(500));
        assert_eq!(left_in_container("1000\n", "900\n", ""), Some(100));
        assert_eq!(left_in_container("1000\n", "300\n", stat), Some(1000));
        assert_eq!(left_in_container("max\n", "900\n", stat), None);
    }

    #[test]
    fn the_peak_sees_what_is_gone_again() {
        const SIZE: usize = 64 << 20;
        let before = resident_bytes().unwrap();
        drop(std::hint::black_box(vec![1_u8; SIZE]));
        let peak = peak_bytes().unwrap();
        assert!(peak >= before + SIZE as u64 / 2, "{peak} after {before}");
    }
}
