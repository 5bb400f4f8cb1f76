//! NodePorts are no way past a policy, from wherever.

use crate::*;

pub fn nodeport_from_outside_does_not_get_past_an_l3_policy(bed: &mut Attacks) -> Result<()> {
    let outside = bed.lab.outside();
    let injector = Injector::open(&outside, "eth0")?;
    for port in [TCP_NODE_PORT, HTTP_NODE_PORT] {
        let frames = outside_frames(bed, |from, node| packets::syn(from, (node, port).into()))?;
        bed.fails(
            DropReason::PolicyDenied,
            &injector,
            &outside,
            &bed.server,
            &frames,
        )?;
    }
    Ok(())
}

pub fn nodeport_from_a_denied_pod_does_not_get_past_an_l3_policy(bed: &mut Attacks) -> Result<()> {
    for port in [TCP_NODE_PORT, HTTP_NODE_PORT] {
        let mut frames = Vec::new();
        for n in 0..EACH {
            for (from, node) in bed.stranger.at(22_000 + n).into_iter().zip(NODE) {
                frames.push(bed.stranger.framed(&packets::syn(from, (node, port).into())));
            }
        }
        bed.stranger_fails(DropReason::PolicyDenied, &frames)?;
    }
    Ok(())
}

pub fn nodeport_does_not_get_past_an_l7_policy(bed: &mut Attacks) -> Result<()> {
    for (place, node) in [bed.lab.outside(), bed.stranger.netns.clone()]
        .iter()
        .flat_map(|place| NODE.map(|node| (place, node)))
    {
        let address = SocketAddr::new(node, OPEN_HTTP_NODE_PORT);
        drop(bed.open.ended_requests()?);
        ensure!(
            http::get(place, address, "/")? == Response::served("/"),
            "{address}"
        );
        ensure!(
            http::get(place, address, "/secret")? == Response::denied(),
            "{address}"
        );
        ensure!(bed.open.ended_requests()? == ["/"]);
    }
    Ok(())
}
