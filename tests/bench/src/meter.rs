//! What processes use, read from /proc.

use std::fs;

/// Ticks of /proc a second; Linux has had no other number on these machines for decades.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time of a process, in seconds, all its threads included and its children that it has waited for.
pub(crate) fn cpu_s(pid: u32) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // The name stands in parentheses and may have spaces.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12) + ticks(13) + ticks(14)) / TICKS_PER_SECOND
}

/// Processor time of a process and its children, in seconds.
pub(crate) fn cpu_with_children_s(pid: u32) -> f64 {
    cpu_s(pid) + children(pid).into_iter().map(cpu_s).sum::<f64>()
}

/// Resident memory of a process in MiB: now, and the most there ever was.
pub(crate) fn memory_mib(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
