//! The two eBPF programs: `sluice_redirect` hands everything that an interface receives to AF_XDP sockets,
//! `sluice_guard` drops everything that the kernel would send out of an endpoint's interface, or receive from it behind XDP.
//!
//! Neither knows of policy. Both fail closed: no path of either lets a packet continue to the kernel's stack or to
//! a pod. Names and layouts are repeated in the `xdp-redirect` library, whose tests compare them with the object.
#![no_std]
#![no_main]

use aya_ebpf::Global;
use aya_ebpf::bindings::{TC_ACT_SHOT, xdp_action};
use aya_ebpf::macros::{classifier, map, xdp};
use aya_ebpf::maps::{PerCpuArray, XskMap};
use aya_ebpf::programs::{TcContext, XdpContext};

/// AF_XDP sockets of all interfaces; an interface owns the keys `SLUICE_BASE .. SLUICE_BASE + SLUICE_QUEUES`.
#[map]
static SLUICE_XSK: XskMap = XskMap::pinned(4096, 0);

/// What the guard dropped: `[packets, bytes]`, per CPU.
#[map]
static SLUICE_GUARD: PerCpuArray<[u64; 2]> = PerCpuArray::pinned(1, 0);

/// First key of the interface that this instance is attached to; set by the loader.
#[unsafe(no_mangle)]
static SLUICE_BASE: Global<u32> = Global::new(0);

/// Receive queues of that interface; none until the loader says so, so that an instance nobody configured drops.
#[unsafe(no_mangle)]
static SLUICE_QUEUES: Global<u32> = Global::new(0);

/// Redirects to the socket of the receive queue. An empty slot, or a queue beyond the interface's share: drop.
#[xdp(frags)]
fn sluice_redirect(ctx: XdpContext) -> u32 {
    let queue = ctx.rx_queue_index();
    if queue >= SLUICE_QUEUES.load() {
        return xdp_action::XDP_DROP;
    }
    let key = SLUICE_BASE.load().wrapping_add(queue);
    match SLUICE_XSK.redirect(key, u64::from(xdp_action::XDP_DROP)) {
        Ok(_redirect) => xdp_action::XDP_REDIRECT,
        Err(_empty_slot) => xdp_action::XDP_DROP,
    }
}

/// Drops and counts. AF_XDP transmit does not pass here (`__dev_direct_xmit` in `net/core/dev.c`).
#[classifier]
fn sluice_guard(ctx: TcContext) -> i32 {
    if let Some(counter) = SLUICE_GUARD.get_ptr_mut(0) {
        // SAFETY: the pointer is this CPU's element of the map, valid while the program runs; programs of one
        // CPU do not interrupt each other at this hook.
        let counter = unsafe { &mut *counter };
        counter[0] += 1;
        counter[1] += u64::from(ctx.len());
    }
    TC_ACT_SHOT
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked: the programs above have no panicking path, and the verifier rejects an endless loop.
    loop {}
}
