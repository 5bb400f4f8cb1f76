//! Endpoints by pod: which slot each has, and how often each slot was given away.
//!
//! Invariants: no two endpoints share an interface, an address or a slot; a slot's generation only grows, also across restarts,
//! so that nothing which belonged to a former occupant is ever taken for its successor's. Every change is on disk before it
//! takes effect, by a temporary file that is renamed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use datapath::interface::MacAddr;
use policy::{EndpointKey, PodName, Slot, SlotGeneration};
use serde::{Deserialize, Serialize};
pub use sluice_cni::wire::Attachment;

/// Name of the file in the run directory.
pub const FILE_NAME: &str = "endpoints.json";

/// Version of the file's layout.
const VERSION: u32 = 1;

/// Longest interface name (`IFNAMSIZ` less the terminating zero, uapi/linux/if.h).
const INTERFACE_NAME_BYTES: usize = 15;

/// What is to be known of a pod's interface; all of it comes from the CNI or an administrator, nothing from packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointSpec {
    /// The pod.
    pub pod: PodName,
    /// `metadata.uid` of the pod, where the caller knows it (`K8S_POD_UID` of CNI): then the endpoint is ready only with its object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Name of the host's end of the veth.
    pub interface: String,
    /// The pod's IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<Ipv4Addr>,
    /// The pod's IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// MAC of the pod's end of the veth.
    #[serde(with = "mac_text")]
    pub mac: MacAddr,
    /// A file of the pod's network namespace, for tuning its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// Which attachment of a container to a network this is, where a CNI plugin made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
}

impl EndpointSpec {
    /// The pod's addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.ipv4
            .map(IpAddr::V4)
            .into_iter()
            .chain(self.ipv6.map(IpAddr::V6))
    }

    fn check(&self) -> Result<(), RegistryError> {
        let is_name = !self.interface.is_empty()
            && self.interface.len() <= INTERFACE_NAME_BYTES
            && !matches!(self.interface.as_str(), "." | "..")
            && self
                .interface
                .chars()
                .all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
        if !is_name {
            return Err(RegistryError::InvalidInterface {
                interface: self.interface.clone(),
            });
        }
        if self.mac.is_group() || self.mac == MacAddr::default() {
            return Err(RegistryError::InvalidMac { mac: self.mac });
        }
        if self.ipv4.is_none() && self.ipv6.is_none() {
            return Err(RegistryError::NoAddress);
        }
        if let Some(addr) = self.ipv4
            && (addr.is_unspecified()
                || addr.is_loopback()
                || addr.is_multicast()
                || addr.is_broadcast()
                || addr.is_link_local())
        {
            return Err(RegistryError::InvalidAddress {
                field: "ipv4",
                addr: addr.into(),
            });
        }
        if let Some(addr) = self.ipv6
            && (addr.is_unspecified()
                || addr.is_loopback()
                || addr.is_multicast()
                || addr.is_unicast_link_local()
                || addr.to_ipv4_mapped().is_some())
        {
            return Err(RegistryError::InvalidAddress {
                field: "ipv6",
                addr: addr.into(),
            });
        }
        Ok(())
    }
}

/// Whether an endpoint's policy is audited: what it denies is forwarded and reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AuditMode {
    /// Audited.
    On,
    /// Enforced.
    Off,
    /// As the agent was started (`--policy-audit-mode`).
    #[default]
    Inherit,
}

impl AuditMode {
    /// Whether to audit, where `agent` is the agent's own mode.
    #[must_use]
    pub const fn audits(self, agent: bool) -> bool {
        match self {
            Self::On => true,
            Self::Off => false,
            Self::Inherit => agent,
        }
    }

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    const fn is_inherited(&self) -> bool {
        matches!(self, Self::Inherit)
    }
}

/// An endpoint with its place in the worker's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Slot and occupant.
    pub key: EndpointKey,
    /// What it was added with.
    #[serde(flatten)]
    pub spec: EndpointSpec,
    /// Set by `sluice endpoint config`.
    #[serde(default, skip_serializing_if = "AuditMode::is_inherited")]
    pub audit: AuditMode,
}

/// An endpoint was refused, or the registry cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Neither address was given.
    #[error("ipv4, ipv6: at least one address is required")]
    NoAddress,
    /// The address cannot be a pod's.
    #[error("{field}: {addr} cannot be a pod's address")]
    InvalidAddress {
        /// `ipv4` or `ipv6`.
        field: &'static str,
        /// The address.
        addr: IpAddr,
    },
    /// The MAC cannot be an interface's.
    #[error("mac: {mac} is a group address or zero")]
    InvalidMac {
        /// The MAC.
        mac: MacAddr,
    },
    /// The kernel knows no such names.
    #[error("interface: `{interface}` is not an interface name")]
    InvalidInterface {
        /// The name.
        interface: String,
    },
    /// Another endpoint has the address.
    #[error("{field}: {addr} belongs to {owner}")]
    AddressInUse {
        /// `ipv4` or `ipv6`.
        field: &'static str,
        /// The address.
        addr: IpAddr,
        /// Who has it.
        owner: PodName,
    },
    /// Another endpoint has the interface.
    #[error("interface: {interface} belongs to {owner}")]
    InterfaceInUse {
        /// The interface.
        interface: String,
        /// Who has it.
        owner: PodName,
    },
    /// The pod has an endpoint with other values.
    #[error("pod: {pod} has an endpoint on {interface} already; delete it first")]
    PodInUse {
        /// The pod.
        pod: PodName,
        /// Its interface.
        interface: String,
    },
    /// No such endpoint.
    #[error("pod: {pod} has no endpoint")]
    Unknown {
        /// The pod.
        pod: PodName,
    },
    /// All slots are taken.
    #[error("all {capacity} endpoint slots are in use")]
    Full {
        /// How many there are.
        capacity: u16,
    },
    /// The file cannot be read or written.
    #[error("cannot access {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} is damaged ({source}); generations are unknown without it: run `sluice cleanup`, then start again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// The file is of another version of sluice, or contradicts itself.
    #[error("{} has version {version} and not {VERSION}, or repeats a slot", path.display())]
    Incompatible {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// What is on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// Generation last given out, by slot; kept for slots that are free.
    generations: BTreeMap<u16, u32>,
    endpoints: Vec<Endpoint>,
}

/// All endpoints of the node. See the [module documentation](self).
#[derive(Debug)]
pub struct EndpointRegistry {
    path: PathBuf,
    capacity: u16,
    contents: Contents,
}

impl EndpointRegistry {
    /// Reads the registry at `path`, or starts an empty one when there is no such file. At most `capacity` endpoints.
    ///
    /// # Errors
    /// [`RegistryError::Io`], [`RegistryError::Damaged`] or [`RegistryError::Incompatible`].
    pub fn open(path: &Path, capacity: u16) -> Result<Self, RegistryError> {
        let path = path.to_owned();
        let contents = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| RegistryError::Damaged {
                path: path.clone(),
                source,
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Contents {
                version: VERSION,
                ..Contents::default()
            },
            Err(source) => return Err(RegistryError::Io { path, source }),
        };
        let registry = Self {
            path,
            capacity,
            contents,
        };
        if registry.contents.version != VERSION || !registry.is_consistent() {
            return Err(RegistryError::Incompatible {
                path: registry.path,
                version: registry.contents.version,
            });
        }
        Ok(registry)
    }

    fn is_consistent(&self) -> bool {
        self.endpoints().enumerate().all(|(i, endpoint)| {
            endpoint.key.slot.is_endpoint()
                && endpoint.spec.check().is_ok()
                && self.contents.generations.get(&endpoint.key.slot.0) == Some(&endpoint.key.generation.0)
                && self.endpoints().skip(i + 1).all(|other| {
                    endpoint.key.slot != other.key.slot
                        && endpoint.spec.pod != other.spec.pod
                        && endpoint.spec.interface != other.spec.interface
                        && endpoint
                            .spec
                            .addresses()
                            .all(|addr| other.spec.addresses().all(|a| a != addr))
                })
        })
    }

    /// Every endpoint, in the order of addition.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.contents.endpoints.iter()
    }

    /// The endpoint of a pod.
    #[must_use]
    pub fn get(&self, pod: &PodName) -> Option<&Endpoint> {
        self.endpoints().find(|endpoint| endpoint.spec.pod == *pod)
    }

    /// The endpoint on a host interface.
    #[must_use]
    pub fn by_interface(&self, interface: &str) -> Option<&Endpoint> {
        self.endpoints()
            .find(|endpoint| endpoint.spec.interface == interface)
    }

    /// The endpoint that occupies a slot now, if it is this occupant.
    #[must_use]
    pub fn by_key(&self, key: EndpointKey) -> Option<&Endpoint> {
        self.endpoints().find(|endpoint| endpoint.key == key)
    }

    /// Adds an endpoint in the lowest free slot. Adding the very same again returns it as it is.
    ///
    /// # Errors
    /// Any [`RegistryError`]; nothing changed then.
    pub fn add(&mut self, spec: EndpointSpec) -> Result<Endpoint, RegistryError> {
        spec.check()?;
        if let Some(present) = self.get(&spec.pod) {
            if present.spec == spec {
                return Ok(present.clone());
            }
            return Err(RegistryError::PodInUse {
                interface: present.spec.interface.clone(),
                pod: spec.pod,
            });
        }
        for other in self.endpoints() {
            if other.spec.interface == spec.interface {
                return Err(RegistryError::InterfaceInUse {
                    interface: spec.interface,
                    owner: other.spec.pod.clone(),
                });
            }
            if let Some(addr) = spec
                .addresses()
                .find(|addr| other.spec.addresses().any(|a| a == *addr))
            {
                return Err(RegistryError::AddressInUse {
                    field: if addr.is_ipv4() { "ipv4" } else { "ipv6" },
                    addr,
                    owner: other.spec.pod.clone(),
                });
            }
        }
        let key = self.free_key().ok_or(RegistryError::Full {
            capacity: self.capacity,
        })?;
        let endpoint = Endpoint {
            key,
            spec,
            audit: AuditMode::default(),
        };
        let mut contents = self.contents.clone();
        contents.generations.insert(key.slot.0, key.generation.0);
        contents.endpoints.push(endpoint.clone());
        self.store(contents)?;
        Ok(endpoint)
    }

    /// Sets whether an endpoint audits, and returns it as it is now.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] or [`RegistryError::Io`]; nothing changed then.
    pub fn set_audit(&mut self, pod: &PodName, audit: AuditMode) -> Result<Endpoint, RegistryError> {
        let mut contents = self.contents.clone();
        let endpoint = contents.endpoints.iter_mut().find(|e| e.spec.pod == *pod);
        let endpoint = endpoint.ok_or_else(|| RegistryError::Unknown { pod: pod.clone() })?;
        endpoint.audit = audit;
        let endpoint = endpoint.clone();
        self.store(contents)?;
        Ok(endpoint)
    }

    /// Gives endpoints the names that their interfaces have now, by the former ones. Endpoints whose name is another's now, and that have
    /// no other, have lost their interface: they are removed and returned.
    ///
    /// # Errors
    /// [`RegistryError::Io`]; nothing changed then.
    pub fn follow_renames(
        &mut self,
        renamed: &BTreeMap<String, String>,
    ) -> Result<Vec<Endpoint>, RegistryError> {
        let mut contents = self.contents.clone();
        let taken: BTreeSet<&String> = renamed.values().collect();
        let is_lost = |endpoint: &Endpoint| match renamed.get(&endpoint.spec.interface) {
            Some(_) => false,
            None => taken.contains(&endpoint.spec.interface),
        };
        let (lost, mut kept): (Vec<_>, Vec<_>) = contents.endpoints.into_iter().partition(is_lost);
        for Endpoint { spec, .. } in &mut kept {
            if let Some(name) = renamed.get(&spec.interface) {
                spec.interface.clone_from(name);
            }
        }
        contents.endpoints = kept;
        self.store(contents)?;
        Ok(lost)
    }

    /// Removes a pod's endpoint and returns it.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] or [`RegistryError::Io`]; nothing changed then.
    pub fn remove(&mut self, pod: &PodName) -> Result<Endpoint, RegistryError> {
        let at = self
            .endpoints()
            .position(|endpoint| endpoint.spec.pod == *pod)
            .ok_or_else(|| RegistryError::Unknown { pod: pod.clone() })?;
        let mut contents = self.contents.clone();
        let endpoint = contents.endpoints.remove(at);
        self.store(contents)?;
        Ok(endpoint)
    }

    /// The lowest free slot whose generations are not used up.
    fn free_key(&self) -> Option<EndpointKey> {
        (Slot::FIRST_ENDPOINT.0..Slot::NONE.0)
            .take(usize::from(self.capacity))
            .filter(|slot| self.endpoints().all(|endpoint| endpoint.key.slot.0 != *slot))
            .find_map(|slot| {
                let last = self.contents.generations.get(&slot).copied().unwrap_or(0);
                let generation = SlotGeneration(last.checked_add(1)?);
                Some(EndpointKey {
                    slot: Slot(slot),
                    generation,
                })
            })
    }

    fn store(&mut self, contents: Contents) -> Result<(), RegistryError> {
        let error = |source| RegistryError::Io {
            path: self.path.clone(),
            source,
        };
        let temporary = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, &contents)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(error)?;
        self.contents = contents;
        Ok(())
    }
}

/// A MAC address as text.
mod mac_text {
    use datapath::interface::MacAddr;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(mac: &MacAddr, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(mac)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MacAddr, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(pod: &str, interface: &str, ipv4: &str) -> EndpointSpec {
        EndpointSpec {
            uid: None,
            pod: pod.parse().unwrap(),
            interface: interface.into(),
            ipv4: Some(ipv4.parse().unwrap()),
            ipv6: None,
            mac: "02:00:00:00:00:05".parse().unwrap(),
            netns: None,
            attachment: None,
        }
    }

    fn registry(capacity: u16) -> (tempfile::TempDir, PathBuf, EndpointRegistry) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("endpoints.json");
        let registry = EndpointRegistry::open(&path, capacity).unwrap();
        (folder, path, registry)
    }

    #[test]
    fn endpoints_follow_their_interfaces_and_one_whose_name_another_has_taken_is_lost() {
        let (_dir, path, mut registry) = registry(8);
        for (n, (pod, interface)) in [("a/swaps", "one"), ("a/swapped", "two"), ("a/moved", "three")]
            .into_iter()
            .chain([("a/lost", "four"), ("a/stays", "five")])
            .enumerate()
        {
            registry
                .add(spec(pod, interface, &format!("10.0.0.{}", n + 1)))
                .unwrap();
        }
        let renamed = [
            ("one", "two"),
            ("two", "one"),
            ("three", "four"),
            ("unknown", "six"),
        ];
        let renamed = renamed.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
        let lost = registry.follow_renames(&renamed).unwrap();
        let names = |registry: &EndpointRegistry| -> Vec<(String, String)> {
            let endpoints = registry.endpoints();
            let names = endpoints.map(|e| (e.spec.pod.name.clone(), e.spec.interface.clone()));
            names.collect()
        };
        assert_eq!(
            lost.iter().map(|e| e.spec.pod.name.as_str()).collect::<Vec<_>>(),
            ["lost"]
        );
        let expected = [
            ("swaps", "two"),
            ("swapped", "one"),
            ("moved", "four"),
            ("stays", "five"),
        ];
        let expected = expected.map(|(pod, interface)| (pod.to_owned(), interface.to_owned()));
        assert_eq!(names(&registry), expected);
        assert_eq!(names(&EndpointRegistry::open(&path, 8).unwrap()), expected);
    }

    #[test]
    fn lowest_free_slot_is_given_with_a_generation_that_was_never_used() {
        let (_folder, path, mut registry) = registry(8);
        let a = registry.add(spec("db/a", "veth-a", "10.0.0.1")).unwrap().key;
        let b = registry.add(spec("db/b", "veth-b", "10.0.0.2")).unwrap().key;
        assert_eq!((a.slot, b.slot), (Slot(8), Slot(9)));
        registry.remove(&"db/a".parse().unwrap()).unwrap();
        let c = registry.add(spec("db/c", "veth-a", "10.0.0.1")).unwrap().key;
        assert_eq!(c.slot, a.slot);
        assert!(c.generation > a.generation);
        assert!(registry.by_key(a).is_none());
        registry.remove(&"db/c".parse().unwrap()).unwrap();
        drop(registry);

        let mut registry = EndpointRegistry::open(&path, 8).unwrap();
        assert_eq!(
            registry.by_key(b).unwrap().spec,
            spec("db/b", "veth-b", "10.0.0.2")
        );
        let d = registry.add(spec("db/d", "veth-d", "10.0.0.9")).unwrap().key;
        assert_eq!(d.slot, a.slot);
        assert!(d.generation > c.generation, "a restart reused a generation");
    }

    #[test]
    fn slot_with_used_up_generations_is_not_given_again() {
        let (_folder, _path, mut registry) = registry(2);
        registry.contents.generations.insert(8, u32::MAX);
        assert_eq!(
            registry.add(spec("db/a", "veth-a", "10.0.0.1")).unwrap().key.slot,
            Slot(9)
        );
        assert!(matches!(
            registry.add(spec("db/b", "veth-b", "10.0.0.2")),
            Err(RegistryError::Full { capacity: 2 })
        ));
    }

    #[test]
    fn same_endpoint_added_twice_stays_as_it_is() {
        let (_folder, _path, mut registry) = registry(8);
        let first = registry.add(spec("db/a", "veth-a", "10.0.0.1")).unwrap();
        assert_eq!(registry.add(spec("db/a", "veth-a", "10.0.0.1")).unwrap(), first);
        assert_eq!(registry.endpoints().count(), 1);
    }

    #[test]
    fn refusal_names_the_field_and_changes_nothing() {
        let (_folder, path, mut registry) = registry(8);
        registry.add(spec("db/a", "veth-a", "10.0.0.1")).unwrap();
        let before = fs::read(&path).unwrap();
        let no_address = EndpointSpec {
            ipv4: None,
            ..spec("db/b", "veth-b", "10.0.0.2")
        };
        let group = EndpointSpec {
            mac: MacAddr([1; 6]),
            ..spec("db/b", "veth-b", "10.0.0.2")
        };
        let link_local = EndpointSpec {
            ipv6: Some("fe80::1".parse().unwrap()),
            ..spec("db/b", "veth-b", "10.0.0.2")
        };
        for (spec, message) in [
            (
                spec("db/b", "veth-a", "10.0.0.2"),
                "interface: veth-a belongs to db/a",
            ),
            (
                spec("db/b", "veth-b", "10.0.0.1"),
                "ipv4: 10.0.0.1 belongs to db/a",
            ),
            (
                spec("db/a", "veth-b", "10.0.0.2"),
                "pod: db/a has an endpoint on veth-a already; delete it first",
            ),
            (
                spec("db/b", "../x", "10.0.0.2"),
                "interface: `../x` is not an interface name",
            ),
            (
                spec("db/b", "", "10.0.0.2"),
                "interface: `` is not an interface name",
            ),
            (
                spec("db/b", "veth-b", "224.0.0.1"),
                "ipv4: 224.0.0.1 cannot be a pod's address",
            ),
            (link_local, "ipv6: fe80::1 cannot be a pod's address"),
            (no_address, "ipv4, ipv6: at least one address is required"),
            (group, "mac: 01:01:01:01:01:01 is a group address or zero"),
        ] {
            assert_eq!(registry.add(spec).unwrap_err().to_string(), message);
        }
        assert!(matches!(
            registry.remove(&"db/b".parse().unwrap()),
            Err(RegistryError::Unknown { .. })
        ));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn audit_mode_survives_a_restart_and_ends_with_the_endpoint() {
        let (_folder, path, mut registry) = registry(8);
        let pod: PodName = "db/a".parse().unwrap();
        registry.add(spec("db/a", "veth-a", "10.0.0.1")).unwrap();
        assert_eq!(registry.get(&pod).unwrap().audit, AuditMode::Inherit);
        for audit in [AuditMode::Off, AuditMode::Inherit, AuditMode::On] {
            assert_eq!(registry.set_audit(&pod, audit).unwrap().audit, audit);
            registry = EndpointRegistry::open(&path, 8).unwrap();
            assert_eq!(registry.get(&pod).unwrap().audit, audit);
        }
        assert!(matches!(
            registry.set_audit(&"db/b".parse().unwrap(), AuditMode::On),
            Err(RegistryError::Unknown { .. })
        ));
        registry.remove(&pod).unwrap();
        let again = registry.add(spec("db/a", "veth-a", "10.0.0.1")).unwrap();
        assert_eq!(again.audit, AuditMode::Inherit, "another pod of the same name");
    }

    #[test]
    fn only_an_endpoint_that_inherits_follows_the_agent() {
        let modes = [AuditMode::On, AuditMode::Off, AuditMode::Inherit];
        assert_eq!(modes.map(|mode| mode.audits(false)), [true, false, false]);
        assert_eq!(modes.map(|mode| mode.audits(true)), [true, false, true]);
    }

    #[test]
    fn endpoint_that_cannot_be_stored_is_not_added() {
        let (folder, _path, mut registry) = registry(8);
        drop(folder);
        assert!(matches!(
            registry.add(spec("db/a", "veth-a", "10.0.0.1")),
            Err(RegistryError::Io { .. })
        ));
        assert_eq!(registry.endpoints().count(), 0);
    }

    #[test]
    fn damaged_or_contradictory_file_is_refused() {
        let (_folder, path, mut registry) = registry(8);
        registry.add(spec("db/a", "veth-a", "10.0.0.1")).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
        assert!(matches!(
            EndpointRegistry::open(&path, 8),
            Err(RegistryError::Damaged { .. })
        ));
        let mut contents = registry.contents.clone();
        contents.endpoints.push(contents.endpoints[0].clone());
        fs::write(&path, serde_json::to_vec(&contents).unwrap()).unwrap();
        assert!(matches!(
            EndpointRegistry::open(&path, 8),
            Err(RegistryError::Incompatible { .. })
        ));
    }
}
