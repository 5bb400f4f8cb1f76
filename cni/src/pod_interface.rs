//! Finds the host's end of a pod's veth.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::link::{self, Link, Selector};
use crate::result::ContainerInterface;
use crate::wire::{Attachment, EndpointSpec, PodName};

/// The only kind of interface that sluice takes.
const VETH: &str = "veth";

/// A pod's interface cannot be found, or cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The network namespace cannot be entered.
    #[error("network namespace {}: {source}", netns.display())]
    Namespace {
        /// Its file.
        netns: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The interface is not there.
    #[error("`{name}` in {}: {source}", netns.display())]
    Missing {
        /// The interface's name.
        name: String,
        /// The file of its network namespace.
        netns: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Not one end of a veth.
    #[error(
        "`{name}` is of kind `{kind}`: sluice takes only pods that are connected by a veth pair, as those of `ptp` and `bridge`"
    )]
    NotVeth {
        /// The interface's name.
        name: String,
        /// Its kind; `hardware` for none.
        kind: String,
    },
    /// The other end is not in this network namespace.
    #[error("`{name}`: its other end is not in the node's network namespace")]
    ElsewherePeer {
        /// The interface's name.
        name: String,
    },
    /// The result says something else than the kernel.
    #[error("interfaces: `{name}` has MAC {actual}, and not {told}")]
    Mac {
        /// The interface's name.
        name: String,
        /// By the kernel.
        actual: String,
        /// By the result.
        told: String,
    },
}

impl InterfaceError {
    /// Whether there is nothing any more that could be taken.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        match self {
            // Without the folder it is not the namespace that is missing, but a mount.
            Self::Namespace { netns, source } => {
                source.kind() == io::ErrorKind::NotFound
                    && (netns.starts_with("/proc") || netns.parent().is_some_and(Path::exists))
            }
            Self::Missing { source, .. } => {
                source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
            }
            _ => false,
        }
    }
}

/// What the agent is to be told of the interface `name` in `netns`, which a chain of plugins has made as `told`.
///
/// The host's end is the one that the kernel has as the pod's peer; it must be in the calling thread's network namespace.
///
/// # Errors
/// [`InterfaceError`]
pub fn locate(
    pod: PodName,
    uid: Option<String>,
    attachment: Attachment,
    netns: &Path,
    name: &str,
    told: &ContainerInterface,
) -> Result<EndpointSpec, InterfaceError> {
    let netns = settled(netns);
    let netns = netns.as_path();
    let in_namespace = |source| InterfaceError::Namespace {
        netns: netns.to_owned(),
        source,
    };
    let file = File::open(netns).map_err(in_namespace)?;
    let inner =
        link::find_in(&file, Selector::Name(name.into())).map_err(|source| InterfaceError::Missing {
            name: name.into(),
            netns: netns.to_owned(),
            source,
        })?;
    if inner.kind != VETH {
        return Err(InterfaceError::NotVeth {
            name: name.into(),
            kind: match inner.kind.as_str() {
                "" => "hardware".into(),
                kind => kind.into(),
            },
        });
    }
    if !told.mac.is_empty() && !told.mac.eq_ignore_ascii_case(&inner.mac) {
        return Err(InterfaceError::Mac {
            name: name.into(),
            actual: inner.mac,
            told: told.mac.clone(),
        });
    }
    let nsid = link::nsid(file.as_fd()).map_err(in_namespace)?;
    let outer = inner
        .peer
        .and_then(|index| link::find(&Selector::Index(index)).ok())
        .filter(|outer| is_pair(outer, &inner, nsid))
        .ok_or_else(|| InterfaceError::ElsewherePeer { name: name.into() })?;
    Ok(EndpointSpec {
        pod,
        uid,
        interface: outer.name,
        ipv4: told.ipv4,
        ipv6: told.ipv6,
        mac: inner.mac,
        netns: Some(netns.to_owned()),
        attachment: Some(attachment),
    })
}

/// Runtimes write `/var/run`, which is `/run` on the node (FHS 3.0); an agent in a container has only the latter.
fn settled(netns: &Path) -> PathBuf {
    let run = netns
        .strip_prefix("/var/run")
        .map(|path| Path::new("/run").join(path));
    run.ok()
        .filter(|path| path.exists())
        .unwrap_or_else(|| netns.to_owned())
}

/// Indices are unique only within a namespace: the other end must refer back, to this very namespace.
fn is_pair(outer: &Link, inner: &Link, nsid: Option<i32>) -> bool {
    outer.kind == VETH
        && outer.peer == Some(inner.index)
        && outer.peer_nsid.is_some()
        && outer.peer_nsid == nsid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veth(index: u32, peer: u32, peer_nsid: Option<i32>) -> Link {
        Link {
            index,
            kind: VETH.into(),
            peer: Some(peer),
            peer_nsid,
            ..Link::default()
        }
    }

    #[test]
    fn a_namespace_without_its_folder_is_not_gone() {
        let error = |netns: &str| InterfaceError::Namespace {
            netns: netns.into(),
            source: io::ErrorKind::NotFound.into(),
        };
        assert!(error("/proc/4000000/ns/net").is_gone());
        assert!(error("/proc/self/none").is_gone() && error("/none").is_gone());
        assert!(!error("/nonexistent/netns/a").is_gone());
    }

    #[test]
    fn two_ends_refer_to_each_other_and_to_the_namespace() {
        let inner = veth(2, 7, Some(0));
        assert!(is_pair(&veth(7, 2, Some(3)), &inner, Some(3)));
        // Another pod's veth, whose own end has the same index there.
        assert!(!is_pair(&veth(7, 2, Some(4)), &inner, Some(3)));
        assert!(!is_pair(&veth(7, 3, Some(3)), &inner, Some(3)));
        // Both ends in this namespace.
        assert!(!is_pair(&veth(7, 2, None), &inner, None));
        let bridge = Link {
            kind: "bridge".into(),
            ..veth(7, 2, Some(3))
        };
        assert!(!is_pair(&bridge, &inner, Some(3)));
    }
}
