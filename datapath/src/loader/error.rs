//! What can go wrong, and how kernel answers are told apart.

use std::fmt;
use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::pin::PinError;
use aya::programs::ProgramError;
use aya::programs::links::LinkError;
use aya::programs::tc::TcError;
use aya::sys::SyscallError;
use rustix::io::Errno;

/// Why a program, pin or map operation failed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The directory for pins is not on a BPF file system.
    #[error("{} is not on a BPF file system; mount one (mount -t bpf bpf DIR)", path.display())]
    NotBpffs {
        /// What was given.
        path: PathBuf,
    },
    /// A file operation on the pins failed.
    #[error("cannot {step} {}", path.display())]
    Pins {
        /// What was attempted.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A pinned map is not the one that this version makes.
    #[error("the map pinned at {} has another layout; remove it with `sluice cleanup`", path.display())]
    MapLayout {
        /// The pin.
        path: PathBuf,
    },
    /// The object could not be loaded.
    #[error("cannot load the eBPF object{}", OfInterface(interface.as_deref()))]
    Object {
        /// For which interface; `None` for what all share.
        interface: Option<String>,
        /// Why.
        source: Box<EbpfError>,
    },
    /// The object lacks a program or map: it is not the one that this version was built with.
    #[error("the eBPF object has no usable `{item}`")]
    Missing {
        /// Name of the program or map.
        item: &'static str,
    },
    /// The keys asked for are not within the XSKMAP, or none were asked for.
    #[error(
        "interface {interface}: keys {base}+{queues} are not within the {} of the map",
        xdp_redirect::XSK_ENTRIES
    )]
    Keys {
        /// For which interface.
        interface: String,
        /// First key.
        base: u32,
        /// Number of keys.
        queues: u32,
    },
    /// The device does not exist, or has another name.
    #[error("interface {interface} (index {ifindex}) does not exist, or the index has another name")]
    NoInterface {
        /// Its name.
        interface: String,
        /// Its index.
        ifindex: u32,
    },
    /// Another XDP program holds the interface, as with Cilium's or another agent's.
    #[error(
        "interface {interface}: another XDP program is attached; only one agent can enforce policy there"
    )]
    Busy {
        /// Which interface.
        interface: String,
    },
    /// A program could not be loaded, attached or updated.
    #[error("interface {interface}: cannot {step}")]
    Program {
        /// Which interface.
        interface: String,
        /// What was attempted.
        step: &'static str,
        /// Why it failed.
        source: Box<ProgramError>,
    },
    /// A link could not be opened, or is of the wrong type.
    #[error("interface {interface}: cannot {step}")]
    Link {
        /// Which interface.
        interface: String,
        /// What was attempted.
        step: &'static str,
        /// Why it failed.
        source: LinkError,
    },
    /// A link could not be pinned; it was detached.
    #[error("interface {interface}: cannot pin the {program} link")]
    PinLink {
        /// Which interface.
        interface: String,
        /// Name of the program.
        program: &'static str,
        /// Why it failed.
        source: PinError,
    },
    /// The kernel did not let go of links whose pins were removed.
    #[error("interface {interface}: the kernel still holds its links")]
    Release {
        /// Which interface, or `*`.
        interface: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A socket slot could not be changed.
    #[error("cannot {step} the socket of key {key}")]
    Slot {
        /// The key.
        key: u32,
        /// `set` or `clear`.
        step: &'static str,
        /// Why it failed.
        source: MapError,
    },
    /// The guard's counters could not be read.
    #[error("cannot read what the guard dropped")]
    Counters {
        /// Why it failed.
        source: MapError,
    },
}

/// ` of interface NAME`, or nothing.
struct OfInterface<'a>(Option<&'a str>);

impl fmt::Display for OfInterface<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |name| write!(f, " of interface {name}"))
    }
}

pub(super) fn program_error(interface: &str, step: &'static str) -> impl FnOnce(ProgramError) -> LoadError {
    move |source| LoadError::Program {
        interface: interface.into(),
        step,
        source: source.into(),
    }
}

pub(super) fn link_error(interface: &str, step: &'static str) -> impl FnOnce(LinkError) -> LoadError {
    move |source| LoadError::Link {
        interface: interface.into(),
        step,
        source,
    }
}

/// What the kernel answered, where it was the kernel that refused.
pub(super) fn errno(error: &ProgramError) -> Option<Errno> {
    let (ProgramError::SyscallError(SyscallError { io_error, .. })
    | ProgramError::TcError(TcError::IoError(io_error))) = error
    else {
        return None;
    };
    Errno::from_io_error(io_error)
}

/// The link's device is gone (`bpf_xdp_link_update` in `net/core/dev.c`, `tcx_link_update` in `kernel/bpf/tcx.c`).
pub(super) fn is_detached(error: &ProgramError) -> bool {
    errno(error) == Some(Errno::NOLINK)
}

/// The driver has no XDP at all, too few queues for the peer's, or buffers too small for the MTU (`veth_xdp_set` in
/// `drivers/net/veth.c`). Anything else is no reason for another mode.
pub(super) fn lacks_native(error: &ProgramError) -> bool {
    matches!(errno(error), Some(Errno::OPNOTSUPP | Errno::NOSPC | Errno::RANGE))
}
