//! What the kernel says of a process and of those that it has started, and percentiles.

use std::fs::{read_dir, read_to_string};
use std::time::Duration;

/// CPU seconds, user and system, of all threads of a process and of its descendants.
pub fn cpu_seconds(pid: u32) -> f64 {
    let ticks = |pid: u32| -> f64 {
        let text = read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
        let fields: Vec<&str> = text.rsplit(") ").next().expect("fields").split(' ').collect();
        fields[11..13].iter().map(|field| field.parse::<f64>().expect("a number")).sum()
    };
    // USER_HZ is 100 on every Linux.
    family(pid).into_iter().map(ticks).sum::<f64>() / 100.0
}

/// Resident bytes of a process. Where it has descendants, all of them by their `Pss`, which counts a page that they share once.
pub fn resident_bytes(pid: u32) -> f64 {
    let family = family(pid);
    let (file, label) = if family.len() == 1 { ("status", "VmRSS:") } else { ("smaps_rollup", "Pss:") };
    let kib = |pid: u32| -> f64 {
        let text = read_to_string(format!("/proc/{pid}/{file}")).expect("a running process");
        let line = text.lines().find(|line| line.starts_with(label)).expect(label);
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    };
    family.into_iter().map(kib).sum::<f64>() * 1024.0
}

/// A process and its descendants.
fn family(pid: u32) -> Vec<u32> {
    let (mut family, mut at) = (vec![pid], 0);
    while at < family.len() {
        // A thread may end meanwhile.
        for task in read_dir(format!("/proc/{}/task", family[at])).expect("a running process").flatten() {
            let children = read_to_string(task.path().join("children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        at += 1;
    }
    family
}

/// The value below which this share of the times lies, in microseconds. Sorts.
pub fn percentile_us(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e6)
}
