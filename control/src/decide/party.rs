//! Sides of a flow as people and programs write them, and who they are.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use policy::{Identity, PodName};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Engine, Party};

/// One side of a flow as it is written: `namespace/pod`, an address, `host` or `world`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PartyName {
    /// A pod.
    Pod(PodName),
    /// An address: of a pod, a Service or anything.
    Addr(IpAddr),
    /// The node itself.
    Host,
    /// Anything outside of the cluster that no rule names by an address or a prefix narrower than `0.0.0.0/0`.
    World,
}

/// `text` is no [`PartyName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is none of: namespace/pod, an IP address, `host`, `world`")]
pub struct PartyNameError {
    /// What was given.
    pub text: String,
}

impl FromStr for PartyName {
    type Err = PartyNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "host" => Ok(Self::Host),
            "world" => Ok(Self::World),
            _ => text
                .parse()
                .map(Self::Addr)
                .or_else(|_not_an_address| text.parse().map(Self::Pod))
                .map_err(|_not_a_pod| PartyNameError { text: text.into() }),
        }
    }
}

impl fmt::Display for PartyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => pod.fmt(f),
            Self::Addr(addr) => addr.fmt(f),
            Self::Host => f.write_str("host"),
            Self::World => f.write_str("world"),
        }
    }
}

impl Serialize for PartyName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartyName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

/// A side that nobody is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartyError {
    /// Not of any form that names somebody.
    #[error(transparent)]
    Form(#[from] PartyNameError),
    /// No object and no endpoint has the name.
    #[error("pod {0} is not known")]
    UnknownPod(PodName),
}

impl Engine<'_> {
    /// Who `text` names. A known pod's name costs one lookup.
    ///
    /// # Errors
    /// [`PartyError`].
    pub fn party(&self, text: &str) -> Result<Party, PartyError> {
        match self.by_name.get(text) {
            Some(number) => Ok(self.party_of(*number)),
            None => self.party_named(&text.parse()?),
        }
    }

    /// Who `name` is.
    ///
    /// # Errors
    /// [`PartyError::UnknownPod`].
    pub fn party_named(&self, name: &PartyName) -> Result<Party, PartyError> {
        let reserved = |identity| Party {
            pod: None,
            identity,
            addr: None,
            by_addr: false,
        };
        match name {
            PartyName::Host => Ok(reserved(Identity::HOST)),
            PartyName::World => Ok(reserved(self.anywhere())),
            PartyName::Addr(addr) => Ok(self.party_at(*addr)),
            PartyName::Pod(pod) => match self.by_name.get(&pod.to_string()) {
                Some(number) => Ok(self.party_of(*number)),
                None => Err(PartyError::UnknownPod(pod.clone())),
            },
        }
    }

    /// The identity of an address outside that only the widest prefixes of rules cover.
    fn anywhere(&self) -> Identity {
        let widest: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
        let known = widest
            .into_iter()
            .filter(|prefix| self.index.prefixes().contains(prefix));
        let mut identities = known.filter_map(|prefix| self.index.identities().prefix(prefix));
        identities.next().unwrap_or(Identity::WORLD)
    }

    /// Who has an address.
    pub(crate) fn party_at(&self, addr: IpAddr) -> Party {
        let pod = self.by_addr.get(&addr).copied();
        let identity = pod
            .and_then(|number| self.pods.get(number))
            .map_or_else(|| self.snapshot.ipcache.lookup(addr), |pod| pod.identity_at(addr));
        Party {
            pod,
            identity,
            addr: Some(addr),
            by_addr: true,
        }
    }

    fn party_of(&self, number: usize) -> Party {
        let pod = self.pods.get(number);
        Party {
            pod: Some(number),
            identity: pod.map_or(Identity::UNKNOWN, |pod| pod.identity),
            addr: pod.and_then(|pod| pod.addresses.first().copied()),
            by_addr: false,
        }
    }
}
