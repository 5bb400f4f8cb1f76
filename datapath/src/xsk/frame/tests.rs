use proptest::prelude::*;

use super::super::memory::heap_frames;
use super::*;

const TOTAL: u32 = 64;
const RINGS: IoId = IoId(7);

/// A chain of frames with these bytes, as the rings would build it.
fn chain(frames: &mut Frames, bytes: &[u8]) -> Option<Packet> {
    if frames.available() < bytes.len().div_ceil(FRAME_CAPACITY) {
        return None;
    }
    let mut packet: Option<Packet> = None;
    for part in bytes.chunks(FRAME_CAPACITY) {
        let mut frame = frames.allocate(part.len())?;
        frames.linear_mut(&mut frame).copy_from_slice(part);
        match &mut packet {
            None => packet = Some(frame),
            Some(packet) => frames.append(packet, frame.first).unwrap(),
        }
    }
    packet
}

fn contents(frames: &Frames, packet: &Packet) -> Vec<u8> {
    frames.segments(packet).flatten().copied().collect()
}

#[derive(Debug, Clone)]
enum Op {
    Build(usize),
    Release(usize),
    Truncate(usize, usize),
    Post,
    Receive(usize),
    Transmit(usize),
    Complete(u64),
    Reclaim,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..12_000_usize).prop_map(Op::Build),
        3 => (0..8_usize).prop_map(Op::Release),
        2 => (0..8_usize, 0..12_000_usize).prop_map(|(n, len)| Op::Truncate(n, len)),
        3 => Just(Op::Post),
        3 => (0..FRAME_CAPACITY + 100).prop_map(Op::Receive),
        3 => (0..8_usize).prop_map(Op::Transmit),
        3 => (0..u64::from(TOTAL) + 4).prop_map(Op::Complete),
        1 => Just(Op::Reclaim),
    ]
}

proptest! {
    /// The oracle is a list of the packets in hand with their bytes, and the sets of posted and transmitting frames.
    #[test]
    fn every_frame_has_one_owner_and_every_packet_its_bytes(ops in prop::collection::vec(op(), 1..80)) {
        let mut frames = heap_frames(TOTAL);
        let mut hand: Vec<(Packet, Vec<u8>)> = Vec::new();
        let mut posted: Vec<u32> = Vec::new();
        let mut transmitting: Vec<u32> = Vec::new();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Build(len) => {
                    let bytes: Vec<u8> = (0_u8..251).cycle().skip(n % 251).take(len).collect();
                    if let Some(packet) = chain(&mut frames, &bytes) {
                        hand.push((packet, bytes));
                    }
                }
                Op::Release(n) if n < hand.len() => frames.release(hand.swap_remove(n).0),
                Op::Truncate(n, len) if n < hand.len() => {
                    let (packet, bytes) = &mut hand[n];
                    frames.truncate(packet, len);
                    if len > 0 {
                        bytes.truncate(len);
                    }
                }
                Op::Post => posted.extend(frames.post(RINGS)),
                Op::Receive(len) => {
                    let Some(index) = posted.last().copied() else { continue };
                    let addr = u64::from(index) * FRAME_BYTES as u64 + HEADROOM_BYTES as u64;
                    prop_assert_eq!(frames.received(RINGS, addr + 1, len), None, "shifted address");
                    prop_assert_eq!(frames.received(IoId(8), addr, len), None, "other rings");
                    let received = frames.received(RINGS, addr, len);
                    prop_assert_eq!(received.is_some(), len <= FRAME_CAPACITY);
                    if let Some(index) = received {
                        posted.pop();
                        let packet = frames.packet(index);
                        let bytes = contents(&frames, &packet);
                        hand.push((packet, bytes));
                    }
                }
                Op::Transmit(n) if n < hand.len() => {
                    let (packet, bytes) = hand.swap_remove(n);
                    let (mut sent, mut last) = (0, false);
                    frames.transmit(RINGS, packet, |index, len, more| {
                        transmitting.push(index);
                        sent += len;
                        last = !more;
                    });
                    prop_assert!(last && sent == bytes.len());
                }
                Op::Complete(index) => {
                    let known = transmitting.iter().position(|i| u64::from(*i) == index);
                    prop_assert_eq!(frames.completed(RINGS, index * FRAME_BYTES as u64), known.is_some());
                    known.map(|at| transmitting.swap_remove(at));
                }
                Op::Reclaim => {
                    prop_assert_eq!(frames.reclaim(RINGS), posted.len() + transmitting.len());
                    posted.clear();
                    transmitting.clear();
                }
                Op::Release(_) | Op::Truncate(..) | Op::Transmit(_) => {}
            }
            let in_hand = hand.iter().map(|(packet, _)| packet.frames()).sum();
            let audit = frames.audit();
            prop_assert!(audit.is_balanced(in_hand), "{:?}, {} in hand", audit, in_hand);
            prop_assert_eq!((audit.posted, audit.transmitting), (posted.len(), transmitting.len()));
            for (packet, bytes) in &hand {
                prop_assert_eq!(packet.len(), bytes.len());
                prop_assert_eq!(&contents(&frames, packet), bytes);
            }
        }
    }
}

#[test]
fn chain_of_more_than_eighteen_frames_is_refused() {
    let mut frames = heap_frames(TOTAL);
    let mut packet = chain(&mut frames, &vec![1; MAX_CHAIN * FRAME_CAPACITY]).unwrap();
    let extra = frames.allocate(1).unwrap();
    assert_eq!(frames.append(&mut packet, extra.first), Err(ChainTooLong));
    assert!(frames.audit().is_balanced(MAX_CHAIN));
}

#[test]
fn posting_leaves_a_reserve_for_the_workers_own_packets() {
    let mut frames = heap_frames(TOTAL);
    while frames.post(RINGS).is_some() {}
    assert!(frames.available() > 0);
    assert!(frames.allocate(100).is_some());
}
