//! Packets that two readers could understand differently.

use crate::*;

pub fn ip_options_are_dropped(bed: &mut Attacks) -> Result<()> {
    let gateway = [10, 244, 0, 1];
    let route = |kind| [&[kind, 7, 4][..], &gateway, &[0]].concat();
    // Loose and strict source route, record route, timestamp, router alert, and padding only.
    let options = [
        route(0x83),
        route(0x89),
        route(7),
        vec![0x44, 8, 5, 0, 0, 0, 0, 0],
        vec![0x94, 4, 0, 0],
        vec![1, 1, 1, 0],
    ];
    let mut frames = Vec::new();
    for options in options {
        for packet in [
            allowed(bed.stranger.at4(27_000), bed.server.ip4.into()),
            packets::syn(bed.stranger.at4(27_000), bed.server.at4(TCP_PORT)),
        ] {
            frames.push(bed.stranger.framed(&packets::with_options(&packet, &options)));
        }
    }
    bed.stranger_fails(DropReason::IpOptions, &frames)
}

/// IP header length of a packet of this file.
fn header_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { 20 } else { 40 }
}

pub fn tiny_fragments_are_dropped(bed: &mut Attacks) -> Result<()> {
    let mut frames = Vec::new();
    for (id, (from, to)) in (100..).step_by(10).zip(
        bed.stranger
            .at(28_000)
            .into_iter()
            .zip(bed.server.at(OPEN_HTTP_PORT)),
    ) {
        let syn = packets::syn(from, to);
        let segment = &syn[header_len(&syn)..];
        // Flags in the second fragment; a second fragment that would overwrite them; a first one without any header.
        frames.push(packets::fragment(&syn, id, 0, true, &segment[..8]));
        frames.push(packets::fragment(&syn, id + 1, 8, false, &segment[8..]));
        frames.push(packets::fragment(&syn, id + 2, 0, true, &segment[..16]));
    }
    let frames: Vec<Vec<u8>> = frames.iter().map(|packet| bed.stranger.framed(packet)).collect();
    bed.stranger_fails(DropReason::TinyFragment, &frames)
}

pub fn overlapping_fragments_are_dropped(bed: &mut Attacks) -> Result<()> {
    let (stranger, server) = (&bed.stranger, &bed.server);
    let (mut firsts, mut overlaps) = (Vec::new(), Vec::new());
    for (id, from) in (200..).step_by(10).zip(stranger.at(29_000)) {
        let whole = packets::udp(
            from,
            (server.address_like(from.ip()), fence::PORT).into(),
            &[b'.'; 2000],
        );
        let payload = &whole[header_len(&whole)..];
        firsts.push(stranger.framed(&packets::fragment(&whole, id, 0, true, &payload[..800])));
        // Over the header, within the first, across its end; after the first overlap nothing of the datagram may pass.
        for (offset, more) in [(0, true), (400, true), (792, true), (800, false)] {
            overlaps.push(stranger.framed(&packets::fragment(&whole, id, offset, more, &[b'!'; 800])));
        }
    }
    let tap = server.tap()?;
    stranger.injector()?.send_all(&firsts)?;
    let mut seen = Vec::new();
    wait::until("the first fragments arrive", wait::LONG, || {
        seen.extend(tap.packets()?);
        let arrived = seen
            .iter()
            .filter(|packet| packet.payload.ends_with(b"...."))
            .count();
        Ok((arrived == firsts.len()).then_some(()))
    })?;
    bed.stranger_fails(DropReason::FragmentOverlap, &overlaps)
}

/// Whatever the order: no fragment of what the policy denies arrives.
pub fn fragmented_syn_does_not_get_past_the_policy(bed: &mut Attacks) -> Result<()> {
    let stranger = &bed.stranger;
    for (first_id, order) in (300..).step_by(100).zip([[0, 1, 2], [2, 1, 0], [1, 2, 0]]) {
        let mut frames = Vec::new();
        for (id, (from, to)) in (first_id..).zip(stranger.at(30_000).into_iter().zip(bed.server.at(TCP_PORT)))
        {
            let syn = packets::tcp(
                from,
                to,
                &Segment {
                    seq: 1,
                    ack: 0,
                    flags: packets::SYN,
                    data: &[b'x'; 100],
                },
            );
            let payload = &syn[header_len(&syn)..];
            let parts = [
                (0, true, 0..40),
                (40, true, 40..80),
                (80, false, 80..payload.len()),
            ];
            for n in order {
                let (offset, more, range) = parts[n].clone();
                frames.push(stranger.framed(&packets::fragment(&syn, id, offset, more, &payload[range])));
            }
        }
        let tap = bed.server.tap()?;
        let before = bed.lab.agent().drops()?;
        let sent = stranger.injector()?.send_all(&frames)?;
        // The first fragment is denied; the others are, too, or have no first one any more.
        let mut grown = Drops::default();
        wait::until("all fragments are dropped", wait::LONG, || {
            grown = bed.lab.agent().drops()?.since(&before);
            Ok((grown.total() >= sent).then_some(()))
        })?;
        let known = grown.get(DropReason::PolicyDenied) + grown.get(DropReason::FirstFragmentMissing);
        ensure!(
            known == sent && grown.total() == sent,
            "sent {sent}, dropped {grown:?}"
        );
        bed.nothing_arrived(&stranger.netns, &bed.server, &tap)?;
    }
    Ok(())
}

pub fn bad_checksums_are_dropped(bed: &mut Attacks) -> Result<()> {
    let broken = |at: fn(&[u8]) -> usize, make: fn(SocketAddr, SocketAddr) -> Vec<u8>| {
        move |from, to| {
            let mut packet = make(from, to);
            let at = at(&packet);
            packet[at] ^= 0x55;
            packet
        }
    };
    let datagram = |from: SocketAddr, to: SocketAddr| allowed(from, to.ip());
    let mut frames = bed.frames_of_stranger(broken(|packet| header_len(packet) + 6, datagram), fence::PORT);
    frames.extend(bed.frames_of_stranger(
        broken(|packet| header_len(packet) + 16, packets::syn),
        OPEN_HTTP_PORT,
    ));
    let header = bed.frames_of_stranger(broken(|_| 10, datagram), fence::PORT);
    frames.extend(
        header
            .into_iter()
            .filter(|frame| frame[12..14] == packets::ETHERTYPE_IPV4.to_be_bytes()),
    );
    bed.stranger_fails(DropReason::BadChecksum, &frames)
}

pub fn truncated_packets_are_dropped(bed: &mut Attacks) -> Result<()> {
    let (stranger, server) = (&bed.stranger, &bed.server);
    let mut frames = Vec::new();
    for from in stranger.at(31_000) {
        let to = server.address_like(from.ip());
        for packet in [allowed(from, to), packets::syn(from, (to, OPEN_HTTP_PORT).into())] {
            let whole = stranger.framed(&packet);
            frames.extend((packets::ETHERNET_LEN..whole.len()).map(|len| whole[..len].to_vec()));
        }
    }
    let tap = server.tap()?;
    let injector = stranger.injector()?;
    // In portions that a worker which has just slept has room for.
    for portion in frames.chunks(16) {
        let before = bed.lab.agent().drops()?;
        let sent = injector.send_all(portion)?;
        let mut grown = Drops::default();
        let dropped = wait::until("all are dropped", wait::LONG, || {
            grown = bed.lab.agent().drops()?.since(&before);
            Ok((grown.total() >= sent).then_some(()))
        });
        let known = grown.get(DropReason::TruncatedHeader) + grown.get(DropReason::InvalidPacket);
        ensure!(
            known == sent && grown.total() == sent,
            "sent {sent}, dropped {grown:?}"
        );
        dropped?;
    }
    bed.nothing_arrived(&stranger.netns, server, &tap)
}

pub fn extension_header_chains_are_dropped(bed: &mut Attacks) -> Result<()> {
    let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
    let chains: Vec<Vec<(u8, Vec<u8>)>> = vec![
        vec![(60, padding.clone()); 20],
        // Type 0 routing header with a segment left, by way of the friend (RFC 5095).
        vec![(
            43,
            [&[0, 2, 0, 1, 0, 0, 0, 0][..], &bed.friend.ip6.octets()].concat(),
        )],
        // A home address option: the source is another than the header says.
        vec![(
            60,
            [&[0, 2, 1, 2, 0, 0, 0xc9, 16][..], &bed.friend.ip6.octets()].concat(),
        )],
        // Hop-by-hop options anywhere but first.
        vec![(60, padding.clone()), (0, padding.clone())],
        // One header as long as can be.
        vec![(60, [vec![0, 127, 1, 250], vec![0; 1020]].concat())],
    ];
    let (from, to) = (bed.stranger.at6(32_000), bed.server.ip6.into());
    let frames: Vec<Vec<u8>> = chains
        .iter()
        .flat_map(|chain| {
            [allowed(from, to), packets::syn(from, (to, OPEN_HTTP_PORT).into())]
                .map(|packet| packets::with_extensions(&packet, chain))
        })
        .map(|packet| bed.stranger.framed(&packet))
        .collect();
    bed.stranger_fails(DropReason::InvalidExtensionHeader, &frames)
}
