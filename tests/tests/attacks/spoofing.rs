//! Packets that claim to be from another, or go where no pod may send.

use crate::*;

pub fn spoofed_source_mac_is_dropped(bed: &mut Attacks) -> Result<()> {
    let mut frames = Vec::new();
    for source in [bed.friend.mac, bed.stranger.gateway_mac, [0; 6]] {
        for from in bed.stranger.at(23_000) {
            let to = bed.server.address_like(from.ip());
            frames.push(packets::frame(
                bed.stranger.gateway_mac,
                source,
                &allowed(from, to),
            ));
        }
    }
    bed.stranger_fails(DropReason::InvalidSourceIp, &frames)
}

pub fn spoofed_source_addresses_are_dropped(bed: &mut Attacks) -> Result<()> {
    let mut sources = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        Ipv4Addr::UNSPECIFIED.into(),
        Ipv4Addr::new(10, 244, 0, 1).into(),
        Ipv4Addr::new(10, 244, 7, 7).into(),
        Ipv6Addr::LOCALHOST.into(),
        Ipv6Addr::UNSPECIFIED.into(),
        link_local(bed.stranger.mac).into(),
        link_local(bed.friend.mac).into(),
    ];
    sources.extend(bed.friend.addresses());
    sources.extend(bed.server.addresses());
    sources.extend(NODE);
    sources.extend(OUTSIDE);
    let frames: Vec<Vec<u8>> = sources
        .into_iter()
        .flat_map(|source| {
            let to = bed.server.address_like(source);
            [
                allowed((source, 24_000).into(), to),
                packets::syn((source, 24_000).into(), (to, TCP_PORT).into()),
            ]
        })
        .map(|packet| bed.stranger.framed(&packet))
        .collect();
    bed.stranger_fails(DropReason::InvalidSourceIp, &frames)
}

/// IPv6 only: the kernel's reverse path filter already stops the IPv4 ones.
pub fn endpoint_address_from_outside_is_dropped(bed: &mut Attacks) -> Result<()> {
    let outside = bed.lab.outside();
    let injector = Injector::open(&outside, "eth0")?;
    let (friend, server) = (bed.friend.ip6, bed.server.ip6);
    let frames = outside_frames(bed, |from, _| {
        allowed((friend, from.port()).into(), server.into())
    })?;
    bed.fails(
        DropReason::SpoofedEndpoint,
        &injector,
        &outside,
        &bed.server,
        &frames,
    )
}

pub fn link_local_addresses_of_a_pod_are_no_way_past_its_policy(bed: &mut Attacks) -> Result<()> {
    let stranger = &bed.stranger;
    let mut frames = Vec::new();
    // The pod's own, the one of its veth on the node, and of the attacker's.
    for target in [bed.server.mac, bed.server.gateway_mac, stranger.gateway_mac] {
        for n in 0..EACH {
            let from = SocketAddr::new(stranger.ip6.into(), 25_000 + n);
            frames.push(stranger.framed(&allowed(from, link_local(target).into())));
            frames.push(stranger.framed(&packets::syn(from, (link_local(target), TCP_PORT).into())));
        }
    }
    bed.stranger_fails(DropReason::Unroutable, &frames)
}

pub fn icmp_error_forged_by_a_third_pod_is_dropped(bed: &mut Attacks) -> Result<()> {
    let (friend, stranger) = (&bed.friend, &bed.stranger);
    for to in bed.server.at(UDP_PORT) {
        // A live flow of others.
        let tap = bed.server.tap()?;
        let from = friend.netns.enter(|| -> Result<SocketAddr> {
            let any: SocketAddr = if to.is_ipv4() {
                "0.0.0.0:0".parse()?
            } else {
                "[::]:0".parse()?
            };
            let socket = UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.send(b"a flow")?;
            Ok(socket.local_addr()?)
        })?;
        wait::until("the flow's datagram arrives", wait::LONG, || {
            Ok(tap
                .packets()?
                .iter()
                .any(|packet| packet.payload.ends_with(b"a flow"))
                .then_some(()))
        })?;
        let quoted = packets::udp(from, to, b"a flow");
        let me = stranger.address_like(to.ip());
        let errors = if to.is_ipv4() {
            vec![(3, 3), (3, 4), (11, 0)]
        } else {
            vec![(1, 4), (2, 0), (3, 0)]
        };
        let mut to_friend = Vec::new();
        let mut to_server = Vec::new();
        for (kind, code) in errors {
            let body = [&[0, 0, 0x02, 0x40][..], &quoted].concat();
            to_friend.push(stranger.framed(&packets::icmp(me, from.ip(), kind, code, &body)));
            to_server.push(stranger.framed(&packets::icmp(me, to.ip(), kind, code, &body)));
        }
        for (victim, frames) in [(friend, to_friend), (&bed.server, to_server)] {
            bed.fails(
                DropReason::UnrelatedIcmp,
                &stranger.injector()?,
                &stranger.netns,
                victim,
                &frames,
            )?;
        }
    }
    Ok(())
}

/// Counted by the flow log: pods' kernels send multicast of their own.
pub fn multicast_and_broadcast_are_dropped(bed: &mut Attacks) -> Result<()> {
    let stranger = &bed.stranger;
    let groups: [IpAddr; 4] = [
        "239.7.7.7".parse()?,
        "255.255.255.255".parse()?,
        "ff02::7777".parse()?,
        "ff0e::7777".parse()?,
    ];
    let mut frames = Vec::new();
    for group in groups {
        let from = if group.is_ipv4() {
            stranger.at4(33_000)
        } else {
            stranger.at6(33_000)
        };
        frames.push(packets::frame(
            packets::BROADCAST,
            stranger.mac,
            &allowed(from, group),
        ));
        frames.push(stranger.framed(&allowed(from, group)));
    }
    let server = bed.server.at4(fence::PORT);
    // To everybody on the link, but for one address.
    frames.push(packets::frame(
        packets::BROADCAST,
        stranger.mac,
        &packets::udp(stranger.at4(33_001), server, b"attack"),
    ));
    let tap = bed.server.tap()?;
    let before = bed.lab.agent().drops()?;
    stranger.injector()?.send_all(&frames)?;
    wait::until_equal("all are in the flow log as multicast", &frames.len(), || {
        let is_ours = |flow: &&sluice_e2e::agent::Flow| {
            let reason = flow
                .drop_reason
                .as_ref()
                .is_some_and(|reason| reason.code == DropReason::Multicast as u8);
            let to = flow.destination.addr;
            reason && (groups.contains(&to) || to == server.ip())
        };
        Ok(bed.lab.agent().flows(1000)?.iter().filter(is_ours).count())
    })?;
    ensure!(bed.lab.agent().drops()?.since(&before) == Drops::default());
    bed.nothing_arrived(&stranger.netns, &bed.server, &tap)
}
