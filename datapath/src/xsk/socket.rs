//! AF_XDP sockets by `xsk-rs`, in copy mode: veth has no zero-copy.
//!
//! libxdp's first socket owns the UMEM's descriptor for good, so it sits on the keeper device, which lives as long as the process
//! (`xsk.c`, `xsk_socket__delete`). Sockets are opened and closed off the worker: either takes 8 to 40 ms.

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, RawFd};
use std::str::FromStr;
use std::sync::Arc;

use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::umem::frame::FrameDesc;
use xsk_rs::{CompQueue, FillQueue, RxQueue, Socket, TxQueue, Umem};

use super::frame::{Frames, IoId, Packet, Region};
use super::{FRAME_BYTES, HEADROOM_BYTES, IoStatistics, PacketIo};

/// Descriptors of each ring of a socket.
pub const RING: u32 = 2048;

/// Descriptor option: the packet goes on in the next descriptor (`linux/if_xdp.h`).
const XDP_PKT_CONTD: u32 = 1;

/// `setsockopt` level of AF_XDP (`linux/socket.h`).
const SOL_XDP: libc::c_int = 283;

/// Packets that one `sendto` may send in copy mode (`linux/if_xdp.h`, `XDP_MAX_TX_SKB_BUDGET`); 32 where the kernel lacks it.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Bytes of packets in flight per socket: the default allows about 90 full frames.
const SEND_BUFFER_BYTES: libc::c_int = 4 << 20;

/// Frames of 4 KiB in a huge page of 2 MiB.
const FRAMES_PER_HUGE_PAGE: u32 = 512;

/// Why a UMEM or a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A size is not one that AF_XDP takes.
    #[error("invalid AF_XDP size {value}: {what}")]
    Size {
        /// The size.
        value: u32,
        /// What it is.
        what: &'static str,
    },
    /// The UMEM could not be registered.
    #[error("UMEM of {frames} frames{}: {source}", if *.huge_pages { " in huge pages, of which vm.nr_hugepages must reserve enough" } else { "" })]
    Umem {
        /// Frames asked for.
        frames: u32,
        /// Whether they were to be in huge pages.
        huge_pages: bool,
        /// What the kernel said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The socket could not be bound.
    #[error("AF_XDP socket on {interface} queue {queue}: {message}")]
    Bind {
        /// Interface name.
        interface: String,
        /// Receive queue.
        queue: u32,
        /// What libxdp and the kernel said.
        message: String,
        /// `errno`, when the kernel refused.
        errno: Option<i32>,
    },
}

#[derive(Debug)]
struct UmemRegion {
    base: usize,
    _umem: Umem,
}

impl Region for UmemRegion {
    fn base(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.base)
    }
}

/// Opens sockets that share one UMEM.
#[derive(Debug, Clone)]
pub struct SocketFactory {
    umem: Umem,
    descriptors: Arc<[FrameDesc]>,
}

impl SocketFactory {
    /// Registers a UMEM of `frames` frames, in huge pages a multiple of 512, and binds its first socket to queue 0 of the `keeper` device.
    ///
    /// The keeper's rings are returned so that the caller keeps them alive; they carry no packets.
    ///
    /// # Errors
    /// [`SocketError`]: sizes, memory, or privileges (CAP_NET_RAW, CAP_BPF, CAP_NET_ADMIN).
    pub fn new(frames: u32, huge_pages: bool, keeper: &str) -> Result<(Self, Frames, XskIo), SocketError> {
        if huge_pages && !frames.is_multiple_of(FRAMES_PER_HUGE_PAGE) {
            return Err(SocketError::Size {
                value: frames,
                what: "UMEM in huge pages, 512 frames each",
            });
        }
        #[expect(clippy::cast_possible_truncation, reason = "4096")]
        let frame_size = FRAME_BYTES as u32;
        let ring = QueueSize::new(RING).map_err(|_invalid| SocketError::Size {
            value: RING,
            what: "ring",
        })?;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(frame_size).map_err(|_invalid| SocketError::Size {
                value: frame_size,
                what: "frame",
            })?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|_invalid| SocketError::Size {
                value: frame_size,
                what: "frame",
            })?;
        let count = NonZeroU32::new(frames).ok_or(SocketError::Size {
            value: frames,
            what: "UMEM",
        })?;
        let (umem, mut descriptors) =
            Umem::new(config, count, huge_pages).map_err(|source| SocketError::Umem {
                frames,
                huge_pages,
                source: Box::new(source),
            })?;
        let first = descriptors.first_mut().ok_or(SocketError::Size {
            value: frames,
            what: "UMEM",
        })?;
        // SAFETY: the descriptor is the UMEM's own and no ring has it yet.
        let data = unsafe { umem.data_mut(first) };
        let base = data.contents().as_ptr().expose_provenance() - HEADROOM_BYTES;
        let region = UmemRegion {
            base,
            _umem: umem.clone(),
        };
        let factory = Self {
            umem,
            descriptors: descriptors.into(),
        };
        let keeper = factory.open(IoId(0), keeper, 0)?;
        Ok((factory, Frames::new(Box::new(region), frames), keeper))
    }

    /// Opens a socket on a queue of an interface of the caller's network namespace.
    ///
    /// # Errors
    /// [`SocketError::Bind`]; `EBUSY` while the kernel still tears a former socket of the queue down (about 20 ms): try again.
    pub fn open(&self, id: IoId, interface: &str, queue: u32) -> Result<XskIo, SocketError> {
        let bind = |message: String, errno| SocketError::Bind {
            interface: interface.into(),
            queue,
            message,
            errno,
        };
        let ring = QueueSize::new(RING).map_err(|_invalid| SocketError::Size {
            value: RING,
            what: "ring",
        })?;
        // libxdp passes the flags on for the first socket only; the others inherit them with the UMEM.
        let config = SocketConfig::builder()
            .rx_queue_size(ring)
            .tx_queue_size(ring)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP | BindFlags::XDP_USE_SG)
            .build();
        let name = Interface::from_str(interface).map_err(|nul| bind(nul.to_string(), None))?;
        // SAFETY: each (interface, queue) gets one socket of this UMEM; fill and completion rings come with it, and frames go only
        // to rings of this UMEM because `Frames` and the factory are made together.
        let opened = unsafe { Socket::new(config, &self.umem, &name, queue) };
        let (tx, rx, rings) = opened.map_err(|error| {
            let source = std::error::Error::source(&error).and_then(|s| s.downcast_ref::<io::Error>());
            let errno = source.and_then(io::Error::raw_os_error);
            bind(
                source.map_or_else(|| error.to_string(), |s| format!("{error}: {s}")),
                errno,
            )
        })?;
        let (fill, completion) =
            rings.ok_or_else(|| bind("a socket of this UMEM is on the queue already".into(), None))?;
        let io = XskIo {
            id,
            umem: self.umem.clone(),
            tx,
            rx,
            fill,
            completion,
            descriptors: Arc::clone(&self.descriptors),
            scratch: vec![FrameDesc::default(); 64],
            partial: None,
            skipping: false,
            posted: 0,
            transmitting: 0,
            statistics: IoStatistics::default(),
        };
        io.set_option(SOL_XDP, XDP_MAX_TX_SKB_BUDGET, 256);
        if !io.set_option(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER_BYTES) {
            io.set_option(libc::SOL_SOCKET, libc::SO_SNDBUF, SEND_BUFFER_BYTES);
        }
        Ok(io)
    }
}

/// The rings of one AF_XDP socket. Dropping it unmaps the rings and closes the socket; do that off the worker.
#[derive(Debug)]
pub struct XskIo {
    id: IoId,
    umem: Umem,
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Descriptors by frame, as the UMEM was laid out: the template of what goes into a ring.
    descriptors: Arc<[FrameDesc]>,
    scratch: Vec<FrameDesc>,
    /// Chain whose last descriptors have not been read yet.
    partial: Option<Packet>,
    /// The rest of a chain that was too long is being thrown away.
    skipping: bool,
    posted: usize,
    transmitting: usize,
    statistics: IoStatistics,
}

// SAFETY: the rings are memory shared with the kernel and used by one thread at a time; nothing in them is tied to a thread.
unsafe impl Send for XskIo {}

impl XskIo {
    fn set_option(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> bool {
        let size = size_of::<libc::c_int>();
        let length = libc::socklen_t::try_from(size).unwrap_or(4);
        // SAFETY: the descriptor is open for the life of `self` and the value outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.tx.fd().as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                length,
            )
        };
        result == 0
    }

    /// Takes completed frames back.
    fn reap(&mut self, frames: &mut Frames) {
        loop {
            // SAFETY: the ring belongs to this socket; descriptors are only read by address below, and checked.
            let count = unsafe { self.completion.consume(&mut self.scratch) };
            for desc in self.scratch.iter().take(count) {
                if frames.completed(self.id, desc.addr() as u64) {
                    self.transmitting = self.transmitting.saturating_sub(1);
                } else {
                    self.statistics.invalid_descriptors += 1;
                }
            }
            if count < self.scratch.len() {
                return;
            }
        }
    }

    /// Appends a received frame to the chain under way; returns the packet when it is whole.
    fn chain(&mut self, frames: &mut Frames, index: u32, more: bool) -> Option<Packet> {
        if self.skipping {
            let surplus = frames.packet(index);
            frames.release(surplus);
            self.skipping = more;
            return None;
        }
        let packet = match self.partial.take() {
            None => frames.packet(index),
            Some(mut packet) => {
                if frames.append(&mut packet, index).is_err() {
                    self.statistics.invalid_descriptors += 1;
                    self.skipping = more;
                    frames.release(packet);
                    return None;
                }
                packet
            }
        };
        if more {
            self.partial = Some(packet);
            return None;
        }
        Some(packet)
    }
}

impl PacketIo for XskIo {
    fn id(&self) -> IoId {
        self.id
    }

    fn receive(&mut self, frames: &mut Frames, out: &mut Vec<Packet>, limit: usize) -> usize {
        let mut count = 0;
        while count < limit {
            let room = (limit - count).min(self.scratch.len());
            // SAFETY: the ring belongs to this socket; each descriptor is range-checked by `Frames::received` before use.
            let read = unsafe { self.rx.consume(&mut self.scratch[..room]) };
            for position in 0..read {
                let desc = self.scratch[position];
                self.posted = self.posted.saturating_sub(1);
                match frames.received(self.id, desc.addr() as u64, desc.lengths().data()) {
                    None => self.statistics.invalid_descriptors += 1,
                    Some(index) => {
                        if let Some(packet) = self.chain(frames, index, desc.has_more_frames()) {
                            out.push(packet);
                            count += 1;
                        }
                    }
                }
            }
            if read < room {
                break;
            }
        }
        self.statistics.rx_packets += count as u64;
        count
    }

    fn refill(&mut self, frames: &mut Frames, level: usize) -> usize {
        let level = level.min(RING as usize);
        while self.posted < level {
            let want = (level - self.posted).min(self.scratch.len());
            let mut taken = 0;
            while taken < want {
                let Some(index) = frames.post(self.id) else { break };
                self.scratch[taken] = self.descriptors[index as usize];
                taken += 1;
            }
            if taken == 0 {
                break;
            }
            // SAFETY: the descriptors are of this UMEM and `Frames::post` made the ring their only owner.
            let produced = unsafe { self.fill.produce(&self.scratch[..taken]) };
            // The ring holds RING descriptors and at most that many are posted, so all fit.
            debug_assert_eq!(produced, taken);
            self.posted += taken;
        }
        self.posted
    }

    fn transmit(&mut self, frames: &mut Frames, packet: Packet) -> Result<(), Packet> {
        let needed = packet.frames();
        let Ok(wanted) = u32::try_from(needed) else {
            return Err(packet);
        };
        if self.tx.nb_free(wanted) < wanted {
            return Err(packet);
        }
        let (umem, descriptors, scratch) = (&self.umem, &self.descriptors, &mut self.scratch);
        let mut position = 0;
        frames.transmit(self.id, packet, |index, len, more| {
            let mut desc = descriptors[index as usize];
            desc.set_options(if more { XDP_PKT_CONTD } else { 0 });
            // SAFETY: the frame is of this UMEM; it was the packet's until now and is not in any ring yet.
            unsafe { umem.data_mut(&mut desc) }.cursor().set_pos(len);
            scratch[position] = desc;
            position += 1;
        });
        // SAFETY: the descriptors are of this UMEM and `Frames::transmit` made the ring their only owner.
        let produced = unsafe { self.tx.produce(&self.scratch[..needed]) };
        debug_assert_eq!(produced, needed);
        self.transmitting += needed;
        self.statistics.tx_packets += 1;
        Ok(())
    }

    fn flush(&mut self, frames: &mut Frames) -> io::Result<()> {
        if self.transmitting == 0 {
            return Ok(());
        }
        let mut queued = RING - self.tx.nb_free_exact();
        while queued > 0 {
            // SAFETY: `sendto` without data on an open socket; the kernel reads the tx ring.
            let result = unsafe {
                libc::sendto(
                    self.tx.fd().as_raw_fd(),
                    std::ptr::null(),
                    0,
                    libc::MSG_DONTWAIT,
                    std::ptr::null(),
                    0,
                )
            };
            let error = if result < 0 {
                io::Error::last_os_error().raw_os_error()
            } else {
                None
            };
            self.reap(frames);
            let left = RING - self.tx.nb_free_exact();
            match error {
                // One packet was dropped by the device and its frames completed; the rest waits (`__xsk_generic_xmit`).
                Some(libc::EBUSY) => self.statistics.tx_dropped += 1,
                None | Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => {}
                // The link is down and may come back.
                Some(libc::ENETDOWN) => break,
                Some(errno) => return Err(io::Error::from_raw_os_error(errno)),
            }
            if left == queued {
                break;
            }
            queued = left;
        }
        self.reap(frames);
        Ok(())
    }

    fn abandon(&mut self, frames: &mut Frames) {
        if let Some(packet) = self.partial.take() {
            frames.release(packet);
        }
    }

    fn posted(&self) -> usize {
        self.posted
    }

    fn transmitting(&self) -> usize {
        self.transmitting
    }

    fn fd(&self) -> Option<RawFd> {
        Some(self.rx.fd().as_raw_fd())
    }

    fn statistics(&self) -> IoStatistics {
        let kernel = self.rx.fd().xdp_statistics().unwrap_or_default();
        IoStatistics {
            rx_dropped: kernel.rx_dropped() + kernel.rx_ring_full(),
            ..self.statistics
        }
    }
}
