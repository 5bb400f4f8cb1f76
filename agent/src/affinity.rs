//! CPUs: one for the worker, the others for everything else of the agent.
//!
//! A container with CPUs of its own (kubelet's static CPU manager) is told which by its affinity only. Threads inherit the mask of the
//! thread that makes them, so that the first one sets aside the worker's CPU for all.

use std::io;

use anyhow::Context;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};

/// Takes the last CPU from the calling thread, and from those that it will make; returns which. `None` where there is only one.
///
/// # Errors
/// The kernel refuses.
pub fn set_aside() -> anyhow::Result<Option<usize>> {
    let mut cpus = sched_getaffinity(None).context("CPUs of the agent")?;
    let last = (0..CpuSet::MAX_CPU).rev().find(|cpu| cpus.is_set(*cpu));
    let Some(last) = last.filter(|_| cpus.count() > 1) else {
        return Ok(None);
    };
    cpus.unset(last);
    sched_setaffinity(None, &cpus).context("CPUs of the agent")?;
    Ok(Some(last))
}

/// Has the calling thread run on one CPU.
///
/// # Errors
/// The kernel refuses.
pub fn pin(cpu: usize) -> io::Result<()> {
    pin_thread(None, cpu)
}

/// Has another thread run on one CPU; `None` is the calling one.
///
/// # Errors
/// There is no such thread, or the kernel refuses.
pub fn pin_thread(thread: Option<Pid>, cpu: usize) -> io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    Ok(sched_setaffinity(thread, &cpus)?)
}

/// Whether a thread runs on that CPU only.
#[must_use]
pub fn is_pinned(thread: Pid, cpu: usize) -> bool {
    sched_getaffinity(Some(thread)).is_ok_and(|cpus| cpus.count() == 1 && cpus.is_set(cpu))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn worker_alone_has_the_cpu_that_was_set_aside() {
        let all = sched_getaffinity(None).unwrap();
        let outcome = thread::spawn(move || {
            let Some(cpu) = set_aside()? else {
                return Ok(None);
            };
            let others = sched_getaffinity(None)?;
            let worker = thread::spawn(move || pin(cpu).and_then(|()| Ok(sched_getaffinity(None)?)));
            anyhow::Ok(Some((cpu, others, worker.join().unwrap()?)))
        })
        .join()
        .unwrap();
        let Some((cpu, others, worker)) = outcome.unwrap() else {
            assert_eq!(all.count(), 1);
            return;
        };
        assert!(all.is_set(cpu) && !others.is_set(cpu) && others.count() == all.count() - 1);
        assert!(worker.is_set(cpu) && worker.count() == 1);
    }
}
