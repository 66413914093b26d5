//! Resident memory of this process.

/// Largest resident set so far, in bytes; `None` where the system does not tell (only Linux is asked).
pub(crate) fn peak_rss_bytes() -> Option<u64> {
    status_kibibytes("VmHWM:")
}

/// Resident set now, in bytes.
pub(crate) fn rss_bytes() -> Option<u64> {
    status_kibibytes("VmRSS:")
}

fn status_kibibytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}
