//! The watchdog, on a real worker in a process of its own: this test binary, run again.
#![forbid(unsafe_code)]

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use agent::watchdog::watch_over;
use datapath::worker::{Worker, WorkerConfig};
use datapath::xsk::memory::heap_frames;
use nix::sys::signal::Signal;

/// Tells the child what its worker does.
const ROLE: &str = "SLUICE_WATCHDOG_ROLE";

/// How long a worker may stand still here.
const STALL: Duration = Duration::from_secs(1);

/// How long a child that must live is watched.
const LIFE: Duration = Duration::from_secs(4);

/// How long a child that must die may take.
const DEADLINE: Duration = Duration::from_secs(30);

fn child(role: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process_with_a_worker", "--nocapture"])
        .env(ROLE, role)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn end_of(mut child: Child) -> ExitStatus {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("still alive after {} s", DEADLINE.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The child's side; without a role it does nothing.
#[test]
fn process_with_a_worker() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (mut worker, handle) = Worker::new(&WorkerConfig::default(), heap_frames(256)).unwrap();
    watch_over(Arc::clone(&handle.counters), STALL).unwrap();
    if role == "stopped" {
        drop((worker, handle));
        thread::sleep(LIFE);
        std::process::exit(0);
    }
    thread::spawn(move || {
        while worker.turn().unwrap() {
            if role == "stalls" && handle.counters.loops.get() > 10 {
                loop {
                    thread::park();
                }
            }
        }
    });
    // As long as a worker that stands still would not live.
    thread::sleep(if std::env::var(ROLE).as_deref() == Ok("stalls") {
        2 * DEADLINE
    } else {
        LIFE
    });
    std::process::exit(0);
}

#[test]
fn process_whose_worker_stands_still_is_aborted() {
    let begin = Instant::now();
    let status = end_of(child("stalls"));
    assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{status}");
    assert!(begin.elapsed() >= STALL, "it had no time to stand still");
}

#[test]
fn process_whose_worker_goes_on_lives() {
    let status = end_of(child("turns"));
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{status}");
}

#[test]
fn process_whose_worker_was_stopped_lives() {
    let status = end_of(child("stopped"));
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{status}");
}
