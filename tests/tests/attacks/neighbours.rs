//! ARP and neighbour discovery in another's name.

use crate::*;

pub fn forged_arp_is_dropped_and_poisons_nobody(bed: &mut Attacks) -> Result<()> {
    let (stranger, friend, server) = (&bed.stranger, &bed.friend, &bed.server);
    let gateway = Ipv4Addr::new(10, 244, 0, 1);
    let claims = [
        // "I am the friend", "I am the gateway", and "my address is at the friend's MAC".
        (stranger.mac, friend.ip4),
        (stranger.mac, gateway),
        (friend.mac, stranger.ip4),
    ];
    let mut frames = Vec::new();
    for (sender, (operation, destination)) in claims.iter().flat_map(|sender| {
        [
            (1, packets::BROADCAST),
            (2, server.mac),
            (2, stranger.gateway_mac),
        ]
        .map(|way| (sender, way))
    }) {
        let packet = packets::arp(operation, *sender, (server.mac, server.ip4));
        frames.push(packets::frame_of(
            destination,
            stranger.mac,
            packets::ETHERTYPE_ARP,
            &packet,
        ));
    }
    let tap = server.tap()?;
    bed.lab.agent().expect_drops(DropReason::ForgedNeighbour, || {
        stranger.injector()?.send_all(&frames)
    })?;
    let arrived = tap
        .frames()?
        .iter()
        .filter(|frame| frame[12..14] == packets::ETHERTYPE_ARP.to_be_bytes())
        .count();
    ensure!(arrived == 0, "{arrived} ARP packets arrived");
    bed.nothing_arrived(&stranger.netns, server, &tap)
}

pub fn forged_neighbour_discovery_is_dropped_and_poisons_nobody(bed: &mut Attacks) -> Result<()> {
    let (stranger, friend) = (&bed.stranger, &bed.friend);
    let option = |kind: u8, mac: Mac| [&[kind, 1][..], &mac].concat();
    let target = |address: Ipv6Addr, flags: u8| [&[flags, 0, 0, 0][..], &address.octets()].concat();
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let gateway: Ipv6Addr = "fd00:10:244::1".parse()?;
    // Solicitations that would bind the stranger's address to another's MAC.
    let solicitation = [target(gateway, 0), option(1, friend.mac)].concat();
    let solicited = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
    let forged: Vec<Vec<u8>> = [stranger.ip6, link_local(stranger.mac)]
        .into_iter()
        .map(|source| {
            let packet = packets::discovery(source, solicited, 135, &solicitation);
            packets::frame([0x33, 0x33, 0xff, 0, 0, 1], stranger.mac, &packet)
        })
        .collect();
    bed.stranger_fails(DropReason::ForgedNeighbour, &forged)?;
    // Advertisements in another's name.
    let claim = |address| [target(address, 0x60), option(2, stranger.mac)].concat();
    let spoofed = packets::discovery(friend.ip6, all_nodes, 136, &claim(friend.ip6));
    bed.stranger_fails(
        DropReason::InvalidSourceIp,
        &[packets::frame([0x33, 0x33, 0, 0, 0, 1], stranger.mac, &spoofed)],
    )?;
    // Advertisements in its own name about another's address end at the worker: nobody hears them.
    let taps = [bed.server.tap()?, friend.tap()?];
    let mut unheard = Vec::new();
    for (address, destination) in [
        (friend.ip6, all_nodes),
        (gateway, bed.server.ip6),
        (bed.server.ip6, friend.ip6),
    ] {
        unheard.push(stranger.framed(&packets::discovery(
            stranger.ip6,
            destination,
            136,
            &claim(address),
        )));
    }
    stranger.injector()?.send_all(&unheard)?;
    for (victim, tap) in [&bed.server, friend].into_iter().zip(&taps) {
        let mut frames = Vec::new();
        // Also discovery, which fences leave out: none may bear the stranger's address.
        wait::until("the fence arrives", wait::LONG, || {
            if frames.is_empty() {
                stranger.netns.enter(|| -> Result<()> {
                    UdpSocket::bind("[::]:0")?
                        .send_to(b"behind the advertisements", (victim.ip6, fence::PORT))?;
                    Ok(())
                })?;
            }
            frames.extend(tap.packets()?);
            Ok(frames
                .iter()
                .any(|packet| packet.payload.ends_with(b"behind the advertisements"))
                .then_some(()))
        })?;
        let heard = frames
            .iter()
            .filter(|packet| packet.protocol == packets::ICMPV6 && packet.source == stranger.ip6)
            .count();
        ensure!(heard == 0, "{} heard {heard} advertisements", victim.name);
    }
    Ok(())
}

pub fn rogue_router_advertisement_and_redirect_are_dropped(bed: &mut Attacks) -> Result<()> {
    let stranger = &bed.stranger;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // A router for half an hour, with a default route and a prefix.
    let prefix = [
        &[3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0][..],
        &Ipv6Addr::new(0xfd00, 0xbad, 0, 0, 0, 0, 0, 0).octets(),
    ]
    .concat();
    let advertisement = [&[64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0][..], &prefix].concat();
    let redirect = [&[0; 4][..], &stranger.ip6.octets(), &bed.friend.ip6.octets()].concat();
    let mut frames = Vec::new();
    for source in [stranger.ip6, link_local(stranger.mac)] {
        for (kind, body) in [(134, &advertisement), (137, &redirect)] {
            for (destination, to) in [
                (all_nodes, [0x33, 0x33, 0, 0, 0, 1]),
                (bed.server.ip6, stranger.gateway_mac),
            ] {
                frames.push(packets::frame(
                    to,
                    stranger.mac,
                    &packets::discovery(source, destination, kind, body),
                ));
            }
        }
    }
    bed.stranger_fails(DropReason::ForbiddenIcmpv6, &frames)
}
