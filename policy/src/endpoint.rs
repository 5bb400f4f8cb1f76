//! Endpoints: local pod interfaces under policy (never Kubernetes Endpoints: those are *backends*).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Index of an interface in the worker's tables and base key of its sockets in the XSKMAP.
///
/// [`Slot::HOST`] and [`Slot::FORWARD`] are the node's two host pairs; endpoints start at [`Slot::FIRST_ENDPOINT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slot(pub u16);

impl Slot {
    /// No interface.
    pub const NONE: Self = Self(u16::MAX);
    /// The pair on which the node's own processes reach pods; the only source of identity `host`.
    pub const HOST: Self = Self(0);
    /// The pair on which the kernel forwards everything else to pods and pods reach everything that is no local pod.
    pub const FORWARD: Self = Self(1);
    /// The device that owns the UMEM for the life of the process; carries no packets.
    pub const KEEPER: Self = Self(2);
    /// First slot of an endpoint.
    pub const FIRST_ENDPOINT: Self = Self(8);

    /// Whether the slot is an endpoint's.
    #[must_use]
    pub const fn is_endpoint(self) -> bool {
        self.0 >= Self::FIRST_ENDPOINT.0 && self.0 != Self::NONE.0
    }

    /// The slot as a table index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Counts the occupants of a slot: it changes when a slot is given to another pod, so that frames and conntrack entries of the
/// former occupant die.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct SlotGeneration(pub u32);

/// Who sent or receives a packet: never an address, always (slot, generation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EndpointKey {
    /// The interface's slot.
    pub slot: Slot,
    /// The occupant of the slot.
    pub generation: SlotGeneration,
}

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodName {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// `text` is not `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not of the form namespace/name")]
pub struct PodNameError {
    /// What was given.
    pub text: String,
}

impl std::str::FromStr for PodName {
    type Err = PodNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self {
                    namespace: namespace.into(),
                    name: name.into(),
                })
            }
            _ => Err(PodNameError { text: text.into() }),
        }
    }
}
