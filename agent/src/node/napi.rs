//! Where what a pod sends is received: in the sender's own time, or in a kernel thread beside the worker.
//!
//! A veth's NAPI runs as a softirq on the CPU that sent, once for each packet. Threaded, it is a kernel thread that may be placed: on
//! the worker's CPU it takes what has gathered while the worker was busy, and hands it over as one batch. `SCHED_BATCH` keeps its
//! wake-ups from interrupting the worker (`check_preempt_wakeup_fair`): it has its turn when the worker has nothing to do.

use std::path::Path;
use std::{fs, io};

use rustix::thread::Pid;
use tokio::task::spawn_blocking;

use super::tuning::{self, TuningError};
use crate::affinity;

/// Parent of all kernel threads. A process cannot have it as its parent, whatever it calls itself.
const KTHREADD: u32 = 2;

/// Receives what comes by `interface` in kernel threads on `cpu`; without one in softirqs, as the kernel begins with.
///
/// # Errors
/// [`TuningError`]; it is received in softirqs then.
pub async fn place(interface: &str, cpu: Option<usize>) -> Result<(), TuningError> {
    let Some(cpu) = cpu else {
        // Where the file is not seen it may be the sysfs of another namespace.
        let now = fs::read_to_string(format!("/sys/class/net/{interface}/threaded"));
        return match now.as_deref().map(str::trim) {
            Ok("0") => Ok(()),
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

async fn place_threads(interface: &str, cpu: usize) -> Result<(), TuningError> {
    let name = interface.to_owned();
    let found = spawn_blocking(move || threads(Path::new("/proc"), &name)).await;
    let threads = found.unwrap_or_default();
    if threads.is_empty() {
        return Err(TuningError::NoKernelThread);
    }
    for thread in threads {
        let number = thread.as_raw_nonzero().to_string();
        tuning::run("chrt", ["--batch", "--pid", "0", &number]).await?;
        affinity::pin_thread(Some(thread), cpu).map_err(|e| TuningError::Placement { reason: e.kind() })?;
    }
    Ok(())
}

/// The kernel threads that run an interface's NAPI instances.
fn threads(proc: &Path, interface: &str) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir(proc) else {
        return Vec::new();
    };
    let number = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    entries
        .filter_map(number)
        .filter(|pid: &i32| {
            // Processes come and go meanwhile. Names may be any bytes.
            let stat = fs::read(proc.join(pid.to_string()).join("stat")).unwrap_or_default();
            napi_interface(&String::from_utf8_lossy(&stat)) == Some(interface)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

/// The interface that a thread polls, out of its `/proc/PID/stat`: a kernel thread named `napi/INTERFACE-ID`
/// (`napi_kthread_create`).
fn napi_interface(stat: &str) -> Option<&str> {
    // The name may have parentheses and spaces itself (proc_pid_stat(5)); what follows has none.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
    let parent: u32 = rest.split(' ').nth(1)?.parse().ok()?;
    let (interface, id) = name.strip_prefix("napi/")?.rsplit_once('-')?;
    let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
    (parent == KTHREADD && is_id).then_some(interface)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_thread_is_told_by_its_name_and_its_parent() {
        assert_eq!(
            napi_interface("713 (napi/veth1912964a-8194) S 2 0 0 0 -1 2129984"),
            Some("veth1912964a")
        );
        assert_eq!(napi_interface("713 (napi/a-b-8194) R 2 0 0"), Some("a-b"));
    }

    #[test]
    fn process_that_calls_itself_a_kernel_thread_is_none() {
        for stat in [
            "713 (napi/veth0-8194) S 1 713 713 0 -1 4194560",
            "713 (napi/veth0-8194) S 2 ) S 900 713 713 0",
            "713 (napi/veth0) S 2 0 0 0",
            "713 (napi/veth0-) S 2 0 0 0",
            "713 (napi/veth0-x) S 2 0 0 0",
            "713 (kworker/0:1) I 2 0 0 0",
            "",
            "713 (",
            "713 (napi/veth0-1)",
        ] {
            assert_eq!(napi_interface(stat), None, "{stat}");
        }
    }

    #[test]
    fn threads_of_one_interface_are_found_among_processes_that_come_and_go() {
        let proc = tempfile::tempdir().unwrap();
        for (pid, stat) in [
            ("11", Some("11 (napi/veth0-1) S 2 0 0")),
            ("12", Some("12 (napi/veth00-2) S 2 0 0")),
            ("13", Some("13 (napi/veth0-3) S 2 0 0")),
            ("14", None),
            ("self", Some("11 (napi/veth0-1) S 2 0 0")),
        ] {
            fs::create_dir(proc.path().join(pid)).unwrap();
            if let Some(stat) = stat {
                fs::write(proc.path().join(pid).join("stat"), stat).unwrap();
            }
        }
        let mut found: Vec<i32> = threads(proc.path(), "veth0")
            .iter()
            .map(|pid| pid.as_raw_nonzero().get())
            .collect();
        found.sort_unstable();
        assert_eq!(found, [11, 13]);
        assert!(threads(&proc.path().join("none"), "veth0").is_empty());
    }
}
