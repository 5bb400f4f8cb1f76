//! Endpoints that were there before the agent: their connections are older than any entry, and may go on for a while.
//!
//! The agent restarts, or comes to a node on which pods run. For [`AdoptionLimits::window_ns`] from when an adopted endpoint has the
//! policy of its pod, a segment of a connection without an entry may make one (`stage::midstream`). Endpoints that are added later have no such
//! connections. Invariant: nothing but [`Adoptions::add`] opens a window, and each closes by itself.

use hashbrown::HashMap;
use policy::{EndpointKey, Identity, Snapshot};

/// How far connections without an entry may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdoptionLimits {
    /// How long from when an adopted endpoint has a policy, nanoseconds.
    pub window_ns: u64,
    /// Connections of one endpoint.
    pub flows_per_endpoint: u32,
}

impl Default for AdoptionLimits {
    fn default() -> Self {
        Self {
            window_ns: 60_000_000_000,
            flows_per_endpoint: 8192,
        }
    }
}

/// Whether connections of an endpoint may go on without an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// It was adopted, and its policy is not known yet.
    Waits,
    /// They may.
    Open,
    /// It has none, or had its time, or all that it may have.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct Adopted {
    /// When its window closes; `None` as long as it has no policy.
    until_ns: Option<u64>,
    /// Connections that it went on with by a segment of its own.
    flows: u32,
    /// Those that somebody beyond the node's stack went on with: anybody can make such segments up.
    from_outside: u32,
}

/// Adopted endpoints whose windows have not closed.
#[derive(Debug)]
pub struct Adoptions {
    limits: AdoptionLimits,
    endpoints: HashMap<EndpointKey, Adopted>,
}

impl Adoptions {
    /// None yet.
    #[must_use]
    pub fn new(limits: AdoptionLimits) -> Self {
        Self {
            limits,
            endpoints: HashMap::new(),
        }
    }

    /// How long a window stays open, nanoseconds.
    #[must_use]
    pub const fn window_ns(&self) -> u64 {
        self.limits.window_ns
    }

    /// An endpoint was adopted.
    pub fn add(&mut self, key: EndpointKey) {
        let adopted = Adopted {
            until_ns: None,
            flows: 0,
            from_outside: 0,
        };
        self.endpoints.insert(key, adopted);
    }

    /// Opens the windows of endpoints that have a policy now, and forgets those whose windows have closed.
    pub fn advance(&mut self, snapshot: &Snapshot, now_ns: u64) {
        let window = self.limits.window_ns;
        self.endpoints.retain(|key, adopted| {
            let policy = snapshot.endpoint(*key);
            if adopted.until_ns.is_none() && policy.is_some_and(|p| p.identity != Identity::INIT) {
                adopted.until_ns = Some(now_ns.saturating_add(window));
            }
            adopted.until_ns.is_none_or(|until| now_ns < until)
        });
    }

    /// Whether an adopted endpoint has no policy yet.
    #[must_use]
    pub fn any_waits(&self) -> bool {
        self.endpoints.values().any(|adopted| adopted.until_ns.is_none())
    }

    /// Whether nobody's window is or will be open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The endpoint's window.
    #[must_use]
    pub fn window(&self, key: EndpointKey, now_ns: u64) -> Window {
        let Some(adopted) = self.endpoints.get(&key) else {
            return Window::Closed;
        };
        match adopted.until_ns {
            None => Window::Waits,
            Some(until) if now_ns < until && adopted.flows < self.limits.flows_per_endpoint => Window::Open,
            Some(_) => Window::Closed,
        }
    }

    /// Whether segments from beyond the node's stack have made as many entries for the endpoint as they may: half of its own.
    #[must_use]
    pub fn is_full_from_outside(&self, key: EndpointKey) -> bool {
        let most = self.limits.flows_per_endpoint / 2;
        self.endpoints
            .get(&key)
            .is_some_and(|adopted| adopted.from_outside >= most)
    }

    /// A segment made an entry. Who sent it is charged, so that nobody closes the window of another.
    pub fn count(&mut self, sender: EndpointKey, receiver: EndpointKey) {
        if let Some(adopted) = self.endpoints.get_mut(&sender) {
            adopted.flows += 1;
        } else if let Some(adopted) = self.endpoints.get_mut(&receiver) {
            adopted.from_outside += 1;
        }
    }

    /// The endpoint is gone.
    pub fn forget(&mut self, key: EndpointKey) {
        self.endpoints.remove(&key);
    }
}
