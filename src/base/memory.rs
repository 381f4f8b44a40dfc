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
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_peak_sees_what_is_gone_again() {
        const SIZE: usize = 64 << 20;
        let before = resident_bytes().unwrap();
        drop(std::hint::black_box(vec![1_u8; SIZE]));
        let peak = peak_bytes().unwrap();
        assert!(peak >= before + SIZE as u64 / 2, "{peak} after {before}");
    }
}
