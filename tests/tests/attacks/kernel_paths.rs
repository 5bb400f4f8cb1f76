//! Ways to a pod that somebody else gives to the node's kernel.

use crate::*;

fn prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

pub fn added_host_route_does_not_get_past_the_policy(bed: &mut Attacks) -> Result<()> {
    let (lab, server, outside) = (&bed.lab, &bed.server, bed.lab.outside());
    for address in server.addresses() {
        lab.on_node(&[
            "ip",
            "route",
            "replace",
            &prefix(address),
            "dev",
            &server.veth,
            "metric",
            "1",
        ])?;
    }
    let frames = outside_frames(bed, |from, _| {
        packets::syn(from, (server.address_like(from.ip()), TCP_PORT).into())
    })?;
    let outcome = bed.fails(
        DropReason::PolicyDenied,
        &Injector::open(&outside, "eth0")?,
        &outside,
        server,
        &frames,
    );
    for address in server.addresses() {
        lab.on_node(&[
            "ip",
            "route",
            "del",
            &prefix(address),
            "dev",
            &server.veth,
            "metric",
            "1",
        ])?;
    }
    outcome
}

/// Somebody puts a rule before sluice's own, and the node's processes send straight to the veth.
pub fn what_the_kernel_sends_to_the_veth_is_dropped_by_the_guard(bed: &mut Attacks) -> Result<()> {
    let (lab, server) = (&bed.lab, &bed.server);
    let tap = server.tap()?;
    let lladdr = server.mac.map(|byte| format!("{byte:02x}")).join(":");
    let host_side = link_local(server.mac);
    let targets = [server.addresses().to_vec(), vec![host_side.into()]].concat();
    for address in &targets {
        lab.on_node(&[
            "ip",
            "neigh",
            "replace",
            &address.to_string(),
            "lladdr",
            &lladdr,
            "dev",
            &server.veth,
            "nud",
            "permanent",
        ])?;
    }
    for (family, address) in ["-4", "-6"].into_iter().zip(server.addresses()) {
        lab.on_node(&[
            "ip",
            family,
            "route",
            "add",
            &prefix(address),
            "dev",
            &server.veth,
            "table",
            "99",
        ])?;
        lab.on_node(&["ip", family, "rule", "add", "pref", "10", "lookup", "99"])?;
    }
    let outcome = (|| -> Result<()> {
        let before = lab.agent().status()?.guarded;
        let mut sent = 0;
        for (place, count) in [(lab.outside(), 1), (lab.node(), 2)] {
            for address in server.addresses() {
                let any: SocketAddr = if address.is_ipv4() {
                    "0.0.0.0:0".parse()?
                } else {
                    "[::]:0".parse()?
                };
                place.enter(|| -> Result<()> {
                    let socket = UdpSocket::bind(any)?;
                    for _ in 0..EACH * count {
                        socket.send_to(b"past sluice", (address, fence::PORT))?;
                    }
                    Ok(())
                })?;
                sent += u64::from(EACH * count);
            }
        }
        let index: u32 = lab
            .on_node(&["ip", "-o", "link", "show", &server.veth])?
            .split(':')
            .next()
            .context("no index")?
            .parse()?;
        lab.node().enter(|| -> Result<()> {
            let socket = UdpSocket::bind("[::]:0")?;
            for _ in 0..EACH {
                socket.send_to(
                    b"past sluice",
                    std::net::SocketAddrV6::new(host_side, fence::PORT, 0, index),
                )?;
            }
            Ok(())
        })?;
        let injector = Injector::open(&lab.node(), &server.veth)?;
        for _ in 0..EACH {
            let frame = packets::frame(
                server.mac,
                server.gateway_mac,
                &allowed((NODE[0], 1).into(), server.ip4.into()),
            );
            // The guard's drop shows as a full queue.
            let refused = injector
                .send(&frame)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
            ensure!(refused, "the veth took a frame");
        }
        sent += u64::from(2 * EACH);
        wait::until_equal("the guard has dropped everything", &sent, || {
            Ok(lab.agent().status()?.guarded - before)
        })
    })();
    for (family, address) in ["-4", "-6"].into_iter().zip(server.addresses()) {
        lab.on_node(&["ip", family, "rule", "del", "pref", "10"])?;
        lab.on_node(&[
            "ip",
            family,
            "route",
            "del",
            &prefix(address),
            "dev",
            &server.veth,
            "table",
            "99",
        ])?;
    }
    for address in &targets {
        lab.on_node(&["ip", "neigh", "del", &address.to_string(), "dev", &server.veth])?;
    }
    outcome?;
    bed.nothing_arrived(&lab.outside(), server, &tap)
}
