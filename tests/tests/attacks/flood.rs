//! A pod that sends as much as it can costs only itself.

use crate::*;

/// Requests and responses that a measured flow exchanges while the flood goes on.
const EXCHANGES: u32 = 2000;

/// Floods with `packet` from the stranger while the friend and the server exchange datagrams, one at a time: each must come through.
fn flood(bed: &Attacks, packet: &[u8]) -> Result<u64> {
    let injector = bed.stranger.injector()?;
    let frame = bed.stranger.framed(packet);
    let stop = AtomicBool::new(false);
    let echo = bed.server.netns.enter(|| {
        UdpSocket::bind((
            "::".parse::<Ipv6Addr>().unwrap_or(Ipv6Addr::UNSPECIFIED),
            UDP_PORT,
        ))
    })?;
    let client = bed.friend.netns.enter(|| UdpSocket::bind("0.0.0.0:0"))?;
    for socket in [&echo, &client] {
        socket.set_read_timeout(Some(wait::LONG))?;
    }
    client.connect(bed.server.at4(UDP_PORT))?;
    thread::scope(|scope| {
        let flooded = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                match injector.send(&frame) {
                    Ok(()) => sent += 1,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(sent)
        });
        let exchange = || -> Result<()> {
            let mut buffer = [0; 64];
            for number in 0..EXCHANGES {
                client.send(&number.to_le_bytes())?;
                let (len, from) = echo
                    .recv_from(&mut buffer)
                    .with_context(|| format!("request {number} was lost"))?;
                ensure!(
                    buffer[..len] == number.to_le_bytes(),
                    "request {number} is another"
                );
                echo.send_to(&buffer[..len], from)?;
                let len = client
                    .recv(&mut buffer)
                    .with_context(|| format!("response {number} was lost"))?;
                ensure!(
                    buffer[..len] == number.to_le_bytes(),
                    "response {number} is another"
                );
            }
            Ok(())
        };
        let outcome = exchange();
        stop.store(true, Ordering::Relaxed);
        let sent = flooded
            .join()
            .unwrap_or_else(|_panicked| Err(anyhow::anyhow!("the flood panicked")))?;
        outcome?;
        ensure!(sent > u64::from(EXCHANGES), "only {sent} packets of flood");
        Ok(sent)
    })
}

pub fn flood_of_denied_packets_costs_an_allowed_flow_nothing(bed: &mut Attacks) -> Result<()> {
    let tap = bed.server.tap()?;
    let (agent, node) = (bed.lab.agent(), bed.lab.node());
    let before = (agent.drops()?, Losses::count(&agent, &node, &[&bed.stranger])?);
    let sent = flood(
        bed,
        &packets::udp(bed.stranger.at4(35_000), bed.server.at4(UDP_PORT), &[b'x'; 64]),
    )?;
    // What the worker had no time for was dropped at the flooding pod's own interface.
    let mut losses = Losses::default();
    wait::until("the flood is accounted for", wait::LONG, || {
        losses = Losses::count(&agent, &node, &[&bed.stranger])?.since(&before.1);
        Ok((losses.total() >= sent).then_some(()))
    })
    .with_context(|| format!("sent {sent}, counted {losses:?}"))?;
    let grown = agent.drops()?.since(&before.0);
    println!("    flood of {sent} packets, counted {losses:?}");
    ensure!(losses.total() == sent, "sent {sent}, counted {losses:?}");
    ensure!(
        grown == Drops::of(DropReason::PolicyDenied, grown.total()),
        "{grown:?}"
    );
    let from = IpAddr::from(bed.stranger.ip4);
    let arrived = tap
        .packets()?
        .iter()
        .filter(|packet| packet.source == from)
        .count();
    ensure!(arrived == 0, "{arrived} packets of the flood arrived");
    agent.expect_balanced_frames()
}

pub fn flood_of_allowed_packets_costs_another_pods_flow_nothing(bed: &mut Attacks) -> Result<()> {
    let sink = bed.lab.add_pod("app/sink", "role=sink")?;
    let sent = flood(
        bed,
        &packets::udp(bed.stranger.at4(36_000), sink.at4(9), &[b'x'; 64]),
    );
    bed.lab.run(&["pod", "del", "app/sink"])?;
    println!("    flood of {} packets", sent?);
    thread::yield_now();
    bed.lab.agent().expect_balanced_frames()?;
    // The flow log survives it, too.
    wait::until("the flow log answers", Duration::from_secs(30), || {
        Ok(bed.lab.agent().flows(1)?.pop())
    })?;
    Ok(())
}
