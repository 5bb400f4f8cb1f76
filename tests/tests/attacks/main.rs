//! What must not get through. Each case proves two things: the victim received nothing but a datagram sent behind the attack, and
//! exactly the packets sent were counted as dropped, for the right reason and no other.
//!
//! All attackers are in the namespaces of the lab.

mod connections;
mod flood;
mod kernel_paths;
mod malformed;
mod neighbours;
mod nodeport;
mod spoofing;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use policy::DropReason;
use sluice_e2e::fence::{self, fence};
use sluice_e2e::http::{self, Response, Server};
use sluice_e2e::lab::{NODE, OUTSIDE};
use sluice_e2e::loss::Losses;
use sluice_e2e::packets::{self, Mac, Seen, Segment};
use sluice_e2e::pod::{link_local, mac};
use sluice_e2e::suite::{self, Bed};
use sluice_e2e::tap::{Injector, Tap};
use sluice_e2e::{Drops, Lab, Netns, Pod, cases, wait};

use connections::*;
use flood::*;
use kernel_paths::*;
use malformed::*;
use neighbours::*;
use nodeport::*;
use spoofing::*;

/// TCP for friends.
const TCP_PORT: u16 = 5000;
/// UDP for friends.
const UDP_PORT: u16 = 5001;
/// `GET /` for friends.
const HTTP_PORT: u16 = 8080;
/// `GET /` for everybody.
const OPEN_HTTP_PORT: u16 = 8082;

const TCP_NODE_PORT: u16 = 30050;
const HTTP_NODE_PORT: u16 = 30080;
const OPEN_HTTP_NODE_PORT: u16 = 30082;

const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: app}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {role: friend}}]
      toPorts:
        - ports: [{port: "5000", protocol: TCP}, {port: "5001", protocol: UDP}]
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: /}]}
    - toPorts:
        - ports: [{port: "7", protocol: UDP}]
        - ports: [{port: "8082", protocol: TCP}]
          rules: {http: [{method: GET, path: /}]}
"#;

struct Attacks {
    lab: Lab,
    server: Pod,
    friend: Pod,
    stranger: Pod,
    open: Server,
    guarded: Server,
}

impl Bed for Attacks {
    fn prepare() -> Result<Self> {
        let mut lab = Lab::up("attacks")?;
        lab.run(&["agent", "start"])?;
        let server = lab.add_pod("app/server", "app=server")?;
        let friend = lab.add_pod("app/friend", "role=friend")?;
        let stranger = lab.add_pod("app/stranger", "role=stranger")?;
        for (name, vip, port, node_port) in [
            ("tcp", 50, TCP_PORT, TCP_NODE_PORT),
            ("http", 80, HTTP_PORT, HTTP_NODE_PORT),
            ("open-http", 82, OPEN_HTTP_PORT, OPEN_HTTP_NODE_PORT),
        ] {
            let (name, vip4, vip6) = (
                format!("app/{name}"),
                format!("10.96.2.{vip}"),
                format!("fd00:10:96::2:{vip}"),
            );
            let (port, node_port) = (format!("80:{port}"), node_port.to_string());
            lab.run(&[
                "service",
                "add",
                &name,
                "--vip",
                &vip4,
                "--vip6",
                &vip6,
                "--port",
                &port,
                "--node-port",
                &node_port,
                "--selector",
                "app=server",
            ])?;
        }
        lab.enforce(&[("server", POLICY)])?;
        let guarded = Server::start(&server.netns, HTTP_PORT)?;
        let open = Server::start(&server.netns, OPEN_HTTP_PORT)?;
        Ok(Self {
            lab,
            server,
            friend,
            stranger,
            open,
            guarded,
        })
    }

    fn log(&self) -> String {
        self.lab.agent_log()
    }
}

fn main() -> ExitCode {
    suite::run::<Attacks>(cases![
        friend_gets_what_the_policy_allows,
        nodeport_from_outside_does_not_get_past_an_l3_policy,
        nodeport_from_a_denied_pod_does_not_get_past_an_l3_policy,
        nodeport_does_not_get_past_an_l7_policy,
        spoofed_source_mac_is_dropped,
        spoofed_source_addresses_are_dropped,
        endpoint_address_from_outside_is_dropped,
        forged_arp_is_dropped_and_poisons_nobody,
        forged_neighbour_discovery_is_dropped_and_poisons_nobody,
        rogue_router_advertisement_and_redirect_are_dropped,
        link_local_addresses_of_a_pod_are_no_way_past_its_policy,
        icmp_error_forged_by_a_third_pod_is_dropped,
        added_host_route_does_not_get_past_the_policy,
        what_the_kernel_sends_to_the_veth_is_dropped_by_the_guard,
        midstream_segment_on_an_l7_port_is_dropped_and_reset,
        source_ports_of_servers_open_nothing,
        ip_options_are_dropped,
        tiny_fragments_are_dropped,
        overlapping_fragments_are_dropped,
        fragmented_syn_does_not_get_past_the_policy,
        bad_checksums_are_dropped,
        truncated_packets_are_dropped,
        extension_header_chains_are_dropped,
        multicast_and_broadcast_are_dropped,
        segments_that_rewrite_judged_bytes_are_dropped,
        moved_answer_to_a_syn_cookie_begins_no_connection,
        what_is_not_http_does_not_reach_an_http_server,
        flood_of_denied_packets_costs_an_allowed_flow_nothing,
        flood_of_allowed_packets_costs_another_pods_flow_nothing,
    ])
}

/// How many of each packet: a count that goes wrong by one shows.
const EACH: u16 = 5;

impl Attacks {
    fn policy_of_friends(&self, address: SocketAddr) -> Result<()> {
        ensure!(http::get(&self.friend.netns, address, "/")? == Response::served("/"));
        Ok(())
    }

    /// Sends frames from the stranger and demands that exactly they are dropped, for `reason`, and that the server sees none of them.
    fn stranger_fails(&self, reason: DropReason, frames: &[Vec<u8>]) -> Result<()> {
        self.fails(
            reason,
            &self.stranger.injector()?,
            &self.stranger.netns,
            &self.server,
            frames,
        )
    }

    /// The same for any attacker and victim.
    fn fails(
        &self,
        reason: DropReason,
        attacker: &Injector,
        place: &Netns,
        victim: &Pod,
        frames: &[Vec<u8>],
    ) -> Result<()> {
        let tap = victim.tap()?;
        self.lab
            .agent()
            .expect_drops(reason, || attacker.send_all(frames))?;
        self.nothing_arrived(place, victim, &tap)?;
        self.lab.agent().expect_balanced_frames()
    }

    fn nothing_arrived(&self, place: &Netns, victim: &Pod, tap: &Tap) -> Result<()> {
        // Only the server's policy knows fences; other victims are under no policy.
        for address in victim.addresses() {
            let seen = fence(place, address, tap)?;
            ensure!(seen.is_empty(), "{} received {seen:?}", victim.name);
        }
        Ok(())
    }

    /// One frame per source port, in both families, from the stranger to the server.
    fn frames_of_stranger(
        &self,
        make: impl Fn(SocketAddr, SocketAddr) -> Vec<u8>,
        port: u16,
    ) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for n in 0..EACH {
            for (from, to) in self.stranger.at(20_000 + n).into_iter().zip(self.server.at(port)) {
                frames.push(self.stranger.framed(&make(from, to)));
            }
        }
        frames
    }
}

/// A datagram that every policy here allows: what is dropped is dropped for another reason.
fn allowed(from: SocketAddr, to: IpAddr) -> Vec<u8> {
    packets::udp(from, (to, fence::PORT).into(), b"attack")
}

fn friend_gets_what_the_policy_allows(bed: &mut Attacks) -> Result<()> {
    for address in bed.server.at(HTTP_PORT) {
        bed.policy_of_friends(address)?;
    }
    for address in bed.server.at(OPEN_HTTP_PORT) {
        ensure!(http::get(&bed.stranger.netns, address, "/")? == Response::served("/"));
        ensure!(http::get(&bed.stranger.netns, address, "/secret")? == Response::denied());
    }
    ensure!(bed.guarded.ended_requests()? == ["/"; 2]);
    ensure!(bed.open.ended_requests()? == ["/"; 2]);
    Ok(())
}

fn outside_frames(bed: &Attacks, make: impl Fn(SocketAddr, IpAddr) -> Vec<u8>) -> Result<Vec<Vec<u8>>> {
    let from = link_mac(
        &bed.lab
            .run(&["outside-exec", "--", "ip", "-o", "link", "show", "eth0"])?,
    )?;
    let to = link_mac(&bed.lab.on_node(&["ip", "-o", "link", "show", "uplink0"])?)?;
    let mut frames = Vec::new();
    for n in 0..EACH {
        for (source, node) in OUTSIDE.into_iter().zip(NODE) {
            frames.push(packets::frame(to, from, &make((source, 21_000 + n).into(), node)));
        }
    }
    Ok(frames)
}

/// The MAC in a line of `ip -o link`.
fn link_mac(line: &str) -> Result<Mac> {
    mac(line
        .split_whitespace()
        .skip_while(|word| *word != "link/ether")
        .nth(1)
        .context("no MAC")?)
}
