//! Where what a pod sends is received: in the sender's own time, or in a kernel thread beside the worker.
//!
//! A veth's NAPI runs as a softirq on the CPU that sent, once for each packet. Threaded, it is a kernel thread that may be placed: on
//! the worker's CPU it takes what has gathered while the worker was busy, and hands it over as one batch. `SCHED_BATCH` keeps its
//! wake-ups from interrupting the worker (`check_preempt_wakeup_fair`): it has its turn when the worker has nothing to do.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use rustix::thread::Pid;
use tokio::task::spawn_blocking;

use super::tuning::{self, TuningError};
use crate::affinity;

/// `PF_KTHREAD` (`linux/sched.h`): a kernel thread, which no process can pass for, whatever it calls itself.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// `SCHED_BATCH` (`linux/sched.h`), as `/proc/PID/stat` has it.
const BATCH: &str = "3";

/// Receives what comes by `interface` in kernel threads on `cpu`; without one in softirqs, as the kernel begins with.
///
/// # Errors
/// [`TuningError`]; it is received in softirqs then.
pub async fn place(interface: &str, cpu: Option<usize>) -> Result<(), TuningError> {
    let Some(cpu) = cpu else {
        return match is_threaded(interface) {
            Some(false) => Ok(()),
            _ => tuning::set_threaded(interface, false).await,
        };
    };
    tuning::set_threaded(interface, true).await?;
    let placed = place_threads(interface, cpu).await;
    if placed.is_err() {
        // A thread that runs anywhere is woken for each packet, and gains nothing.
        tuning::set_threaded(interface, false).await?;
    }
    placed
}

/// Whether the kernel's threads can be seen, which are those of the node's own PID namespace: the second process there is kthreadd.
#[must_use]
pub fn sees_kernel_threads() -> bool {
    let stat = fs::read("/proc/2/stat").unwrap_or_default();
    is_kernel_thread(&String::from_utf8_lossy(&stat)).unwrap_or(false)
}

fn is_kernel_thread(stat: &str) -> Option<bool> {
    let flags: u64 = stat.rsplit_once(") ")?.1.split(' ').nth(9 - 3)?.parse().ok()?;
    Some(flags & KERNEL_THREAD != 0)
}

async fn place_threads(interface: &str, cpu: usize) -> Result<(), TuningError> {
    let mut threads = all_threads().await;
    threads.retain(|thread| thread.interface == interface);
    if threads.is_empty() {
        return Err(TuningError::NoKernelThread);
    }
    for NapiThread { pid, .. } in threads {
        let number = pid.as_raw_nonzero().to_string();
        tuning::run("chrt", ["--batch", "--pid", "0", &number]).await?;
        affinity::pin_thread(Some(pid), cpu).map_err(|e| TuningError::Placement { reason: e.kind() })?;
    }
    Ok(())
}

/// Those of the interfaces that are not, or not only, received in threads as [`place`] leaves them: an interface that was down has new
/// threads, or none.
pub async fn misplaced(interfaces: BTreeSet<String>, cpu: usize) -> BTreeSet<String> {
    let (mut placed, mut misplaced) = (BTreeSet::new(), BTreeSet::new());
    for thread in all_threads().await {
        let is_placed = thread.is_batch && affinity::is_pinned(thread.pid, cpu);
        let found = if is_placed { &mut placed } else { &mut misplaced };
        found.insert(thread.interface);
    }
    let is_right = |interface: &String| {
        // Kernels before 6.17 keep the threads that they do not use any more.
        placed.contains(interface) && !misplaced.contains(interface) && is_threaded(interface) != Some(false)
    };
    interfaces.into_iter().filter(|i| !is_right(i)).collect()
}

/// Whether the interface's NAPI is threaded. `None` where the file is not seen: /sys may be of another network namespace.
fn is_threaded(interface: &str) -> Option<bool> {
    let now = fs::read_to_string(format!("/sys/class/net/{interface}/threaded")).ok()?;
    Some(now.trim() != "0")
}

/// A kernel thread that runs a NAPI instance.
#[derive(Debug, PartialEq, Eq)]
struct NapiThread {
    pid: Pid,
    interface: String,
    is_batch: bool,
}

async fn all_threads() -> Vec<NapiThread> {
    spawn_blocking(|| threads(Path::new("/proc")))
        .await
        .unwrap_or_default()
}

fn threads(proc: &Path) -> Vec<NapiThread> {
    let Ok(entries) = fs::read_dir(proc) else {
        return Vec::new();
    };
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    let thread = |number: i32| {
        // Processes come and go meanwhile. Names may be any bytes.
        let stat = fs::read(proc.join(number.to_string()).join("stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        let (interface, is_batch) = parse(&stat)?;
        Some(NapiThread {
            pid: Pid::from_raw(number)?,
            interface: interface.to_owned(),
            is_batch,
        })
    };
    entries.filter_map(number).filter_map(thread).collect()
}

/// The interface that a thread polls, out of its `/proc/PID/stat`, and whether it is `SCHED_BATCH`: a kernel thread named
/// `napi/INTERFACE-ID` (`napi_kthread_create`).
fn parse(stat: &str) -> Option<(&str, bool)> {
    // The name may have parentheses and spaces itself; of what follows, the first is field 3 (proc_pid_stat(5)).
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let field = |number: usize| rest.split(' ').nth(number - 3);
    let (interface, id) = name.strip_prefix("napi/")?.rsplit_once('-')?;
    let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    (is_kernel_thread(stat)? && is_id).then(|| (interface, field(41) == Some(BATCH)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line of `/proc/PID/stat`.
    fn stat(name: &str, flags: u64, policy: &str) -> String {
        let zeros = |n: usize| vec!["0"; n].join(" ");
        format!(
            "713 ({name}) S 2 0 0 0 -1 {flags} {} {policy} {}\n",
            zeros(31),
            zeros(11)
        )
    }

    #[test]
    fn kernel_thread_is_told_by_its_name_and_its_flag() {
        assert_eq!(
            parse(&stat("napi/veth1912964a-8194", 0x20_8040, "3")),
            Some(("veth1912964a", true))
        );
        assert_eq!(
            parse(&stat("napi/a-b-8194", 0x20_8040, "0")),
            Some(("a-b", false))
        );
    }

    #[test]
    fn process_that_calls_itself_a_kernel_thread_is_none() {
        for line in [
            stat("napi/veth0-8194", 0x40_0000, "3"),
            stat("napi/veth0-8194) S 2 0 0 0 -1 2129984 0 0 (x", 0x40_0000, "3"),
            stat("napi/veth0", 0x20_8040, "3"),
            stat("napi/veth0-", 0x20_8040, "3"),
            stat("napi/veth0-x", 0x20_8040, "3"),
            stat("kworker/0:1-events", 0x20_8040, "3"),
            String::new(),
            "713 (".to_owned(),
            "713 (napi/veth0-1)".to_owned(),
            "713 (napi/veth0-1) S 2".to_owned(),
        ] {
            assert_eq!(parse(&line), None, "{line}");
        }
    }

    #[test]
    fn threads_are_found_among_processes_that_come_and_go() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, name) in [
            ("11", Some("napi/veth0-1")),
            ("12", Some("bash")),
            ("13", Some("napi/veth1-3")),
            ("14", None),
            ("self", Some("napi/veth0-1")),
        ] {
            fs::create_dir(proc.path().join(pid)).unwrap();
            if let Some(name) = name {
                fs::write(proc.path().join(pid).join("stat"), stat(name, 0x20_8040, "3")).unwrap();
            }
        }
        let mut found: Vec<(i32, String)> = threads(proc.path())
            .into_iter()
            .map(|thread| (thread.pid.as_raw_nonzero().get(), thread.interface))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(11, "veth0".to_owned()), (13, "veth1".to_owned())]);
        assert_eq!(threads(&proc.path().join("none")), []);
    }
}
