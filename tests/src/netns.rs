//! Code inside a network namespace: a thread enters it and makes its sockets there.

use std::fs::File;
use std::panic;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};

/// A named network namespace (`ip netns`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    path: PathBuf,
}

impl Netns {
    /// The namespace of that name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            path: PathBuf::from("/run/netns").join(name),
        }
    }

    /// Runs `work` inside and waits for it; sockets that it returns stay there.
    ///
    /// # Panics
    /// With `work`, or when the namespace cannot be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                self.set();
                work()
            });
            entered
                .join()
                .unwrap_or_else(|panicked| panic::resume_unwind(panicked))
        })
    }

    /// Starts `work` inside, on a thread of its own.
    ///
    /// # Panics
    /// In the new thread, when the namespace cannot be entered.
    pub fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let this = self.clone();
        thread::spawn(move || {
            this.set();
            work()
        })
    }

    fn set(&self) {
        let entered = File::open(&self.path)
            .and_then(|namespace| setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        if let Err(error) = entered {
            panic!("cannot enter {}: {error}", self.path.display());
        }
    }
}
