//! The watchdog: a worker that stands still ends the process, so that its pods are cut off, visibly, instead of half alive.

use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use datapath::counters::Counters;

/// How long the worker may stand still. An idle one makes a turn at least every 100 ms.
pub const STALL: Duration = Duration::from_secs(10);

/// Looks so often within the time that the worker may stand still.
const LOOKS: u32 = 10;

/// Watches over the worker that writes `counters`, and aborts the process (`SIGABRT`) when its loop stands still for longer
/// than `stall`. Ends when nobody else has the counters any more: the dataplane was stopped.
///
/// # Errors
/// The thread cannot be made.
pub fn watch_over(counters: Arc<Counters>, stall: Duration) -> io::Result<()> {
    thread::Builder::new()
        .name("sluice-watchdog".into())
        .spawn(move || {
            let (mut loops, mut moved) = (counters.loops.get(), Instant::now());
            loop {
                thread::sleep(stall / LOOKS);
                let now = counters.loops.get();
                if now != loops {
                    (loops, moved) = (now, Instant::now());
                } else if Arc::strong_count(&counters) == 1 {
                    return;
                } else if moved.elapsed() > stall {
                    tracing::error!("the worker stands still: ending");
                    std::process::abort();
                }
            }
        })?;
    Ok(())
}
