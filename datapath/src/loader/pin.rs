//! The directory of pinned links: one file per link, named after what it is and where it is attached.
//!
//! A name is `KIND-IFINDEX-INTERFACE`. The index is in it because names are reused: a pin whose index is another one's
//! belongs to another device. bpffs refuses dots in names (`bpf_lookup` in `kernel/bpf/inode.c`) and interfaces refuse
//! colons (`dev_valid_name` in `net/core/dev.c`), so dots are written as colons.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::TcError;
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, loaded_links, loaded_programs};

use super::{LoadError, XdpMode};

/// How long the kernel may take to detach a link after its pin is gone (an RCU grace period and a work item).
const DETACH_DEADLINE: Duration = Duration::from_secs(5);

/// What a pinned link attaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LinkKind {
    /// The redirect program; removed before the guards, so that an interruption leaves the pod cut off.
    Redirect(XdpMode),
    /// The guard of what the kernel sends to the pod.
    Guard,
    /// The guard of what the pod sends, were there no redirect program.
    IngressGuard,
}

impl LinkKind {
    const ALL: [Self; 4] = [
        Self::Redirect(XdpMode::Native),
        Self::Redirect(XdpMode::Generic),
        Self::Guard,
        Self::IngressGuard,
    ];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Redirect(XdpMode::Native) => "xdp_native",
            Self::Redirect(XdpMode::Generic) => "xdp_generic",
            Self::Guard => "guard",
            Self::IngressGuard => "guard_ingress",
        }
    }
}

/// Name of a pinned link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pin {
    pub(super) kind: LinkKind,
    pub(super) ifindex: u32,
    pub(super) interface: String,
}

impl Pin {
    pub(super) fn new(kind: LinkKind, ifindex: u32, interface: &str) -> Self {
        Self {
            kind,
            ifindex,
            interface: interface.into(),
        }
    }

    fn file_name(&self) -> String {
        format!(
            "{}-{}-{}",
            self.kind.prefix(),
            self.ifindex,
            self.interface.replace('.', ":")
        )
    }

    fn parse(file_name: &str) -> Option<Self> {
        let mut parts = file_name.splitn(3, '-');
        let prefix = parts.next()?;
        let kind = LinkKind::ALL.into_iter().find(|kind| kind.prefix() == prefix)?;
        let ifindex = parts.next()?.parse().ok()?;
        let interface = parts.next().filter(|name| !name.is_empty())?.replace(':', ".");
        Some(Self {
            kind,
            ifindex,
            interface,
        })
    }
}

/// The directory that holds the pinned links.
#[derive(Debug, Clone)]
pub(super) struct PinDirectory {
    path: PathBuf,
}

impl PinDirectory {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, pin: &Pin) -> PathBuf {
        self.path.join(pin.file_name())
    }

    /// All pins, redirect programs before guards; none when the directory does not exist. Files with other names are
    /// not ours to judge and left out.
    pub(super) fn list(&self) -> Result<Vec<Pin>, LoadError> {
        let error = |source| LoadError::Pins {
            step: "list",
            path: self.path.clone(),
            source,
        };
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(error(source)),
        };
        let mut pins = Vec::new();
        for entry in entries {
            let entry = entry.map_err(error)?;
            pins.extend(entry.file_name().to_str().and_then(Pin::parse));
        }
        pins.sort();
        Ok(pins)
    }

    /// Renames a pin after its device was renamed.
    pub(super) fn rename(&self, pin: &Pin, interface: &str) -> Result<Pin, LoadError> {
        let renamed = Pin::new(pin.kind, pin.ifindex, interface);
        let path = self.file(pin);
        match fs::rename(&path, self.file(&renamed)) {
            Ok(()) => Ok(renamed),
            Err(source) => Err(LoadError::Pins {
                step: "rename",
                path,
                source,
            }),
        }
    }

    /// Removes a pin and says what it held; `None` if it was gone already or not readable as a link.
    pub(super) fn remove(&self, pin: &Pin) -> Result<Option<Removed>, LoadError> {
        let path = self.file(pin);
        let link = PinnedLink::from_pin(&path).ok().map(FdLink::from);
        let info = link.and_then(|link| link.info().ok());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoadError::Pins {
                step: "remove",
                path,
                source,
            }),
            _removed => Ok(info.map(|info| Removed {
                pin: pin.clone(),
                link: info.id(),
                program: info.program_id(),
            })),
        }
    }

    /// Removes the chosen pins, and returns when their links are detached; `interface` is for the error.
    pub(super) fn remove_all(&self, interface: &str, chosen: impl Fn(&Pin) -> bool) -> Result<(), LoadError> {
        let mut removed = Vec::new();
        for pin in self.list()?.iter().filter(|pin| chosen(pin)) {
            removed.extend(self.remove(pin)?);
        }
        await_release(&removed).map_err(|source| LoadError::Release {
            interface: interface.into(),
            source,
        })
    }
}

/// A link whose pin was removed; the kernel detaches it some time later.
#[derive(Debug)]
pub(super) struct Removed {
    pin: Pin,
    link: u32,
    program: u32,
}

impl Removed {
    /// Whether the kernel may still run the program. A link loses its id before it is detached (`bpf_link_free` in
    /// `kernel/bpf/syscall.c`), and a veth needs some grace periods for that, so the id says too little.
    fn is_attached(&self) -> bool {
        // What vanishes while the list is read shows as an error of that one element.
        if loaded_links().flatten().any(|info| info.id() == self.link) {
            return true;
        }
        let hook = match self.pin.kind {
            // The link alone holds the program, until it is detached.
            LinkKind::Redirect(_) => {
                return loaded_programs().flatten().any(|info| info.id() == self.program);
            }
            LinkKind::Guard => TcAttachType::Egress,
            LinkKind::IngressGuard => TcAttachType::Ingress,
        };
        // One program serves all guards.
        match SchedClassifier::query_tcx(&self.pin.interface, hook) {
            Ok((_revision, programs)) => programs.iter().any(|info| info.id() == self.program),
            Err(ProgramError::TcError(TcError::IoError(_no_such_device))) => false,
            Err(_program_that_vanished_meanwhile) => true,
        }
    }
}

/// Waits until the kernel has detached `links`: a device that still has one refuses the next one, and loses packets.
fn await_release(links: &[Removed]) -> io::Result<()> {
    let deadline = Instant::now() + DETACH_DEADLINE;
    while links.iter().any(Removed::is_attached) {
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn foreign_names_are_no_pins() {
        for name in [
            "",
            "guard",
            "guard-",
            "guard-1",
            "guard-1-",
            "guard-x-eth0",
            "xdp-1-eth0",
            "guard--1-eth0",
        ] {
            assert_eq!(Pin::parse(name), None, "{name}");
        }
    }

    #[test]
    fn redirect_is_removed_before_the_guard() {
        for kind in [LinkKind::Guard, LinkKind::IngressGuard] {
            let guard = Pin::new(kind, 1, "a");
            for mode in [XdpMode::Native, XdpMode::Generic] {
                assert!(Pin::new(LinkKind::Redirect(mode), 9, "z") < guard);
            }
        }
    }

    proptest! {
        #[test]
        fn file_name_identifies_the_pin(
            kind in proptest::sample::select(LinkKind::ALL.to_vec()),
            ifindex: u32,
            interface in "[!-.0-9;-~]{1,15}",
        ) {
            let pin = Pin::new(kind, ifindex, &interface);
            let name = pin.file_name();
            prop_assert!(!name.contains(['.', '/']));
            prop_assert_eq!(Pin::parse(&name), Some(pin));
        }
    }
}
