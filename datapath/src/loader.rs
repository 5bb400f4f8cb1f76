//! Puts the eBPF programs on interfaces so that they outlive the agent, and maps keys to sockets.
//!
//! Owns everything below `BPFFS/v1`: the two pinned maps, and `links/`, one pinned link per program and interface.
//! Invariants:
//! - Every link is pinned, and dropping a [`Loader`] detaches nothing: without an agent the XSKMAP slots are empty
//!   and the redirect program drops; the guard goes on dropping what the kernel sends.
//! - A link that exists is updated, never replaced: there is no moment without a program between two agents.
//! - A link belongs to a device, not to a name. A pin of a device that is gone, or that has another name by now, is
//!   never taken for one of its successor.
//!
//! Attach order of an endpoint: [`Loader::guard`], then [`Loader::attach`] with its slots empty, then routes, then the
//! socket, then [`Loader::set_socket`]. [`Loader::detach`] goes the other way.

mod bpffs;
mod error;
mod pin;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use aya::maps::{Map, MapData, MapType, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, LinkError, LinkOrder, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::xdp::{XdpLink, XdpMode as AyaMode};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use rustix::io::Errno;
use rustix::net::netdevice::index_to_name;

use self::bpffs::{require_bpffs, require_layout};
pub use self::error::LoadError;
use self::error::{errno, is_detached, lacks_native, link_error, program_error};
use self::pin::{LinkKind, Pin, PinDirectory};

/// Directory of this version's pins; a new number when maps or programs change incompatibly.
const VERSION: &str = "v1";

/// The values that a global may have: aya keeps references to them as long as its loader, and making a loader means
/// reading the kernel's whole type information, so one loader serves all interfaces.
static VALUES: [u32; xdp_redirect::XSK_ENTRIES as usize + 1] = {
    let mut values = [0; xdp_redirect::XSK_ENTRIES as usize + 1];
    let mut value = 0;
    while value <= xdp_redirect::XSK_ENTRIES {
        values[value as usize] = value;
        value += 1;
    }
    values
};

/// Where the kernel runs the redirect program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum XdpMode {
    /// In the driver, before a socket buffer exists.
    Native,
    /// In the network stack's receive path, where the driver cannot: slower, and offloads of the peer must be off.
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// What the guard has dropped on all interfaces since the map was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardDrops {
    /// Packets.
    pub packets: u64,
    /// Bytes, link-layer headers included.
    pub bytes: u64,
}

/// The pinned maps, and the means to put programs on interfaces of the network namespace it was opened in.
pub struct Loader {
    links: PinDirectory,
    object: EbpfLoader<'static>,
    shared: Ebpf,
    sockets: XskMap<MapData>,
    drops: PerCpuArray<MapData, xdp_redirect::GuardCount>,
    /// Device names are asked through it.
    control: UnixDatagram,
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

impl Loader {
    /// Opens or creates the pinned maps below `bpffs`, a directory on a BPF file system (created if need be), and
    /// loads the guard.
    ///
    /// # Errors
    /// [`LoadError::NotBpffs`], [`LoadError::MapLayout`] when another version's maps are pinned there, or what the
    /// kernel refused.
    pub fn open(bpffs: &Path) -> Result<Self, LoadError> {
        require_bpffs(bpffs)?;
        let root = bpffs.join(VERSION);
        let links = PinDirectory::new(root.join("links"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(links.path())
            .map_err(|source| LoadError::Pins {
                step: "create",
                path: links.path().into(),
                source,
            })?;
        let sockets_layout = (MapType::XskMap, 4, 4, xdp_redirect::XSK_ENTRIES);
        let drops_layout = (MapType::PerCpuArray, 4, 16, 1);
        require_layout(&root.join(xdp_redirect::XSK_MAP), sockets_layout)?;
        require_layout(&root.join(xdp_redirect::GUARD_MAP), drops_layout)?;

        let mut object = EbpfLoader::new();
        object.btf(None).default_map_pin_directory(&root);
        let mut shared = object
            .load(xdp_redirect::OBJECT)
            .map_err(|source| LoadError::Object {
                interface: None,
                source: source.into(),
            })?;
        let sockets = take_map(&mut shared, xdp_redirect::XSK_MAP)?;
        let drops = take_map(&mut shared, xdp_redirect::GUARD_MAP)?;
        guard_program(&mut shared)?
            .load()
            .map_err(|source| LoadError::Program {
                interface: "*".into(),
                step: "load the guard",
                source: source.into(),
            })?;
        let control = UnixDatagram::unbound().map_err(|source| LoadError::Pins {
            step: "open a socket to ask for the devices of",
            path: links.path().into(),
            source,
        })?;
        Ok(Self {
            links,
            object,
            shared,
            sockets,
            drops,
            control,
        })
    }

    /// Makes the kernel drop everything that it would send to the interface, and everything that it would receive from there: XDP comes
    /// before, so that as long as the redirect program is in its place nothing does. AF_XDP transmit is not affected.
    /// Idempotent: an existing guard is updated in place.
    ///
    /// # Errors
    /// [`LoadError::NoInterface`] and the steps of attaching; the interface is then as guarded as before.
    pub fn guard(&mut self, ifindex: u32, name: &str) -> Result<(), LoadError> {
        self.guard_direction(ifindex, name, LinkKind::Guard, TcAttachType::Egress)?;
        self.guard_direction(ifindex, name, LinkKind::IngressGuard, TcAttachType::Ingress)
    }

    fn guard_direction(
        &mut self,
        ifindex: u32,
        name: &str,
        kind: LinkKind,
        direction: TcAttachType,
    ) -> Result<(), LoadError> {
        self.require_device(ifindex, name)?;
        for pin in self.pins_of_device(ifindex, name, |pinned| pinned == kind)? {
            let Some(link) = self.open_pin(&pin)? else {
                continue;
            };
            let link =
                SchedClassifierLink::try_from(link).map_err(link_error(name, "adopt the pinned guard"))?;
            match guard_program(&mut self.shared)?.attach_to_link(link) {
                Ok(id) => {
                    // The pin keeps the link; the program would keep its descriptor open for good.
                    let updated = guard_program(&mut self.shared)?.take_link(id);
                    return updated.map(drop).map_err(program_error(name, "update the guard"));
                }
                Err(error) if is_detached(&error) => drop(self.links.remove(&pin)?),
                Err(error) => return Err(program_error(name, "update the guard")(error)),
            }
        }
        let program = guard_program(&mut self.shared)?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let link = program
            .attach_with_options(name, direction, options)
            .and_then(|id| program.take_link(id))
            .map_err(program_error(name, "attach the guard"))?;
        // It was attached by name; had the name moved on, the link dies here.
        self.require_device(ifindex, name)?;
        let link = FdLink::try_from(link).map_err(link_error(name, "keep the guard's link"))?;
        self.pin(link, &Pin::new(kind, ifindex, name), xdp_redirect::GUARD)
    }

    /// Redirects everything the interface receives on queues `0..queues` to the sockets of keys `base..base + queues`,
    /// and drops what has no socket. Idempotent: an existing link gets the new program atomically and keeps its mode.
    ///
    /// # Errors
    /// [`LoadError::Busy`] when somebody else's XDP program is there, [`LoadError::Keys`], [`LoadError::NoInterface`],
    /// and the steps of attaching. An interface that had a link keeps its old program then; one that had none is closed
    /// only if it is guarded.
    pub fn attach(&mut self, ifindex: u32, name: &str, base: u32, queues: u32) -> Result<XdpMode, LoadError> {
        self.require_device(ifindex, name)?;
        let mut instance = self.load_redirect(name, base, queues)?;
        let program = redirect_program(&mut instance)?;
        program
            .load()
            .map_err(program_error(name, "load the redirect program"))?;
        for pin in self.pins_of_device(ifindex, name, |kind| matches!(kind, LinkKind::Redirect(_)))? {
            let LinkKind::Redirect(mode) = pin.kind else {
                continue;
            };
            let Some(link) = self.open_pin(&pin)? else {
                continue;
            };
            let link = XdpLink::try_from(link).map_err(link_error(name, "adopt the pinned XDP link"))?;
            match program.attach_to_link(link) {
                Ok(_id) => return Ok(mode),
                Err(error) if is_detached(&error) => drop(self.links.remove(&pin)?),
                Err(error) => return Err(program_error(name, "update the redirect program")(error)),
            }
        }
        let (link, mode) = match attach_redirect(program, ifindex, AyaMode::Driver) {
            Err(error) if lacks_native(&error) => {
                tracing::warn!(interface = name, %error, "no native XDP here; attaching in generic mode");
                (attach_redirect(program, ifindex, AyaMode::Skb), XdpMode::Generic)
            }
            native => (native, XdpMode::Native),
        };
        let link = link.map_err(|error| match errno(&error) {
            // EEXIST: a program in the other mode (`dev_xdp_attach` in `net/core/dev.c`).
            Some(Errno::BUSY | Errno::EXIST) => LoadError::Busy {
                interface: name.into(),
            },
            _other => program_error(name, "attach the redirect program")(error),
        })?;
        let link = FdLink::try_from(link).map_err(link_error(name, "keep the XDP link"))?;
        self.pin(
            link,
            &Pin::new(LinkKind::Redirect(mode), ifindex, name),
            xdp_redirect::REDIRECT,
        )?;
        Ok(mode)
    }

    /// Lets the socket receive what is redirected to `key`. It must be bound to the interface and queue of that key,
    /// or the kernel drops (`xsk_rcv_check` in `net/xdp/xsk.c`). The kernel clears the slot when the socket is closed.
    ///
    /// # Errors
    /// [`LoadError::Slot`] for a key outside the map or a descriptor that is no AF_XDP socket.
    pub fn set_socket(&mut self, key: u32, fd: &impl AsRawFd) -> Result<(), LoadError> {
        self.sockets
            .set(key, fd.as_raw_fd(), 0)
            .map_err(|source| LoadError::Slot {
                key,
                step: "set",
                source,
            })
    }

    /// Empties a slot: packets for `key` are dropped from now on. Idempotent.
    ///
    /// # Errors
    /// [`LoadError::Slot`] for a key outside the map.
    pub fn clear_socket(&mut self, key: u32) -> Result<(), LoadError> {
        self.sockets.unset(key).map_err(|source| LoadError::Slot {
            key,
            step: "clear",
            source,
        })
    }

    /// Takes the programs off the interface pinned under `name`, its device existing or not, and returns when the
    /// kernel has let go of them. Idempotent. The redirect program goes first.
    ///
    /// # Errors
    /// [`LoadError::Pins`] or [`LoadError::Release`].
    pub fn detach(&mut self, name: &str) -> Result<(), LoadError> {
        self.links.remove_all(name, |pin| pin.interface == name)
    }

    /// Removes what is pinned of devices that are gone, and returns the names that it was pinned under. A device that lives on under
    /// another name is not gone: its programs stay.
    ///
    /// # Errors
    /// [`LoadError::Pins`].
    pub fn detach_vanished(&mut self) -> Result<BTreeSet<String>, LoadError> {
        let mut names = BTreeSet::new();
        for pin in self.links.list()? {
            if self.device_name(pin.ifindex)?.is_none() {
                self.links.remove(&pin)?;
                names.insert(pin.interface);
            }
        }
        Ok(names)
    }

    /// The names that devices have now, by the other ones that their links are pinned under: what belongs to such a name belongs to
    /// that device, whoever has taken the name.
    ///
    /// # Errors
    /// [`LoadError::Pins`].
    pub fn renamed(&self) -> Result<BTreeMap<String, String>, LoadError> {
        let (mut renamed, mut kept) = (BTreeMap::new(), BTreeSet::new());
        for pin in self.links.list()? {
            match self.device_name(pin.ifindex)? {
                Some(current) if current == pin.interface => drop(kept.insert(current)),
                Some(current) => drop(renamed.insert(pin.interface, current)),
                None => {}
            }
        }
        // Pinned since: the name is its present device's.
        renamed.retain(|name, _| !kept.contains(name));
        Ok(renamed)
    }

    /// Pins the links of renamed devices under the names that they have now.
    ///
    /// # Errors
    /// [`LoadError::Pins`].
    pub fn follow_renames(&mut self) -> Result<(), LoadError> {
        for pin in self.links.list()? {
            match self.device_name(pin.ifindex)? {
                Some(current) if current != pin.interface => drop(self.links.rename(&pin, &current)?),
                _same_or_gone => {}
            }
        }
        Ok(())
    }

    /// Removes every link and map below `bpffs`, and the directories. Idempotent; needs no open loader, and an open one
    /// is useless afterwards.
    ///
    /// # Errors
    /// [`LoadError::Pins`] or [`LoadError::Release`].
    pub fn remove_all(bpffs: &Path) -> Result<(), LoadError> {
        let root = bpffs.join(VERSION);
        PinDirectory::new(root.join("links")).remove_all("*", |_pin| true)?;
        ignore_missing(fs::remove_dir_all(&root), "remove", &root)?;
        match fs::remove_dir(bpffs) {
            // A mount point, or something of somebody else in it: not ours to remove.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Ok(())
            }
            result => ignore_missing(result, "remove", bpffs),
        }
    }

    /// What the guards of all interfaces have dropped.
    ///
    /// # Errors
    /// [`LoadError::Counters`].
    pub fn guard_drops(&self) -> Result<GuardDrops, LoadError> {
        let counts = self
            .drops
            .get(&0, 0)
            .map_err(|source| LoadError::Counters { source })?;
        Ok(counts
            .iter()
            .fold(GuardDrops::default(), |sum, count| GuardDrops {
                packets: sum.packets.wrapping_add(count[xdp_redirect::GUARD_PACKETS]),
                bytes: sum.bytes.wrapping_add(count[xdp_redirect::GUARD_BYTES]),
            }))
    }

    fn load_redirect(&mut self, interface: &str, base: u32, queues: u32) -> Result<Ebpf, LoadError> {
        let keys = || LoadError::Keys {
            interface: interface.into(),
            base,
            queues,
        };
        let end = base
            .checked_add(queues)
            .filter(|end| queues > 0 && *end <= xdp_redirect::XSK_ENTRIES);
        end.ok_or_else(keys)?;
        let value = |number: u32| {
            usize::try_from(number)
                .ok()
                .and_then(|index| VALUES.get(index))
                .ok_or_else(keys)
        };
        self.object
            .override_global(xdp_redirect::BASE_GLOBAL, value(base)?, true)
            .override_global(xdp_redirect::QUEUES_GLOBAL, value(queues)?, true)
            .load(xdp_redirect::OBJECT)
            .map_err(|source| LoadError::Object {
                interface: Some(interface.into()),
                source: source.into(),
            })
    }

    fn require_device(&self, ifindex: u32, name: &str) -> Result<(), LoadError> {
        match self.device_name(ifindex)? {
            Some(current) if current == name => Ok(()),
            _other => Err(LoadError::NoInterface {
                interface: name.into(),
                ifindex,
            }),
        }
    }

    fn device_name(&self, ifindex: u32) -> Result<Option<String>, LoadError> {
        match index_to_name(&self.control, ifindex) {
            Ok(name) => Ok(Some(name)),
            Err(Errno::NODEV | Errno::NXIO) => Ok(None),
            Err(error) => Err(LoadError::Pins {
                step: "ask for the device behind a pin in",
                path: self.links.path().into(),
                source: error.into(),
            }),
        }
    }

    /// The pins of a kind that are attached to the device, after the pins that concern it were put in order: those of
    /// the name's former devices are removed, or renamed when the device lives on under another name.
    fn pins_of_device(
        &self,
        ifindex: u32,
        name: &str,
        kind: impl Fn(LinkKind) -> bool,
    ) -> Result<Vec<Pin>, LoadError> {
        let mut found = Vec::new();
        for pin in self.links.list()? {
            if !kind(pin.kind) || (pin.ifindex != ifindex && pin.interface != name) {
                continue;
            }
            match self.device_name(pin.ifindex)? {
                None => drop(self.links.remove(&pin)?),
                Some(current) => {
                    let pin = if current == pin.interface {
                        pin
                    } else {
                        self.links.rename(&pin, &current)?
                    };
                    if pin.ifindex == ifindex {
                        found.push(pin);
                    }
                }
            }
        }
        Ok(found)
    }

    fn open_pin(&self, pin: &Pin) -> Result<Option<FdLink>, LoadError> {
        match PinnedLink::from_pin(self.links.file(pin)) {
            Ok(link) => Ok(Some(link.into())),
            Err(LinkError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(link_error(&pin.interface, "open the pinned link")(error)),
        }
    }

    fn pin(&self, link: FdLink, pin: &Pin, program: &'static str) -> Result<(), LoadError> {
        let pinned = link.pin(self.links.file(pin));
        pinned.map(drop).map_err(|source| LoadError::PinLink {
            interface: pin.interface.clone(),
            program,
            source,
        })
    }
}

fn redirect_program(ebpf: &mut Ebpf) -> Result<&mut Xdp, LoadError> {
    let program = ebpf
        .program_mut(xdp_redirect::REDIRECT)
        .and_then(|program| program.try_into().ok());
    program.ok_or(LoadError::Missing {
        item: xdp_redirect::REDIRECT,
    })
}

fn guard_program(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, LoadError> {
    let program = ebpf
        .program_mut(xdp_redirect::GUARD)
        .and_then(|program| program.try_into().ok());
    program.ok_or(LoadError::Missing {
        item: xdp_redirect::GUARD,
    })
}

fn take_map<M: TryFrom<Map>>(ebpf: &mut Ebpf, item: &'static str) -> Result<M, LoadError> {
    ebpf.take_map(item)
        .and_then(|map| map.try_into().ok())
        .ok_or(LoadError::Missing { item })
}

fn attach_redirect(program: &mut Xdp, ifindex: u32, mode: AyaMode) -> Result<XdpLink, ProgramError> {
    let id = program.attach_to_if_index(ifindex, mode)?;
    program.take_link(id)
}

fn ignore_missing(result: io::Result<()>, step: &'static str, path: &Path) -> Result<(), LoadError> {
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoadError::Pins {
            step,
            path: path.into(),
            source,
        }),
        _done => Ok(()),
    }
}
