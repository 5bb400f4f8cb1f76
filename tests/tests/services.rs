//! Services as pods' own kernels see them: who answers, and what a connection gets that nobody answers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_e2e::lab::{NODE, OUTSIDE};
use sluice_e2e::netns::Netns;
use sluice_e2e::suite::{self, Bed};
use sluice_e2e::{Lab, Pod, cases, wait};

const CLIENT: &str = "shop/client";
const VIP4: &str = "10.96.0.81";
const VIP6: &str = "fd00:10:96::81";
const EXTERNAL: &str = "203.0.113.81";

struct Shop {
    lab: Lab,
    client: Pod,
    servers: Vec<Pod>,
}

impl Bed for Shop {
    fn prepare() -> Result<Self> {
        let lab = Lab::up("services")?;
        lab.run(&["agent", "start"])?;
        let client = lab.add_pod(CLIENT, "app=client")?;
        let mut servers = Vec::new();
        for name in ["web-1", "web-2"] {
            let pod = format!("shop/{name}");
            servers.push(lab.add_pod(&pod, "app=web")?);
            let configuration = lab.files().join(format!("{name}.conf"));
            fs::write(&configuration, nginx_configuration(&lab, name))?;
            lab.spawn(&pod, &["nginx", "-c", &configuration.display().to_string()])?;
            wait::until(&format!("{pod} listens"), wait::LONG, || {
                let probe = lab.exec(&pod, &["nc", "-z", "127.0.0.1", "5000"])?;
                Ok(probe.status.success().then_some(()))
            })?;
        }
        Ok(Self { lab, client, servers })
    }

    fn log(&self) -> String {
        self.lab.agent_log()
    }
}

/// A server that answers with its name.
fn nginx_configuration(lab: &Lab, name: &str) -> String {
    let files = lab.files();
    let files = files.display();
    format!(
        "daemon off; worker_processes 1; pid {files}/{name}.pid; error_log stderr warn;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; default_type text/plain;\n\
         client_body_temp_path {files}/{name}-body; proxy_temp_path {files}/{name}-proxy;\n\
         fastcgi_temp_path {files}/{name}-fastcgi; uwsgi_temp_path {files}/{name}-uwsgi; scgi_temp_path {files}/{name}-scgi;\n\
         server {{ listen 5000; listen [::]:5000; location / {{ return 200 \"{name}\"; }} }} }}\n"
    )
}

fn main() -> ExitCode {
    suite::run::<Shop>(cases![
        every_backend_answers_at_every_frontend,
        one_backend_answers_a_client_with_session_affinity,
        service_without_endpoints_refuses_at_once,
        service_with_endpoints_elsewhere_only_is_silent_under_traffic_policy_local,
        terminating_endpoint_that_serves_answers_where_none_is_ready,
        connection_through_a_service_survives_a_restart_but_not_without_its_backend_and_not_a_kill,
        nodes_own_processes_are_served_without_kube_proxy,
    ])
}

/// What is written of one endpoint beside its addresses.
type Endpoint<'a> = (&'a Pod, &'a str);

/// Service `shop/web` with more of `spec`, and its endpoints in both families.
fn web(more: &str, endpoints: &[Endpoint<'_>]) -> String {
    let mut yaml = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec:
  clusterIPs: ['{VIP4}', '{VIP6}']
  ports:
  - {{name: http, port: 80, targetPort: http}}
  - {{name: dns, port: 53, protocol: UDP}}
{more}
"
    );
    for (family, number) in [("IPv4", 0), ("IPv6", 1)] {
        let name = family.to_lowercase();
        yaml.push_str(&format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-{name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
ports: [{{name: http, port: 5000, protocol: TCP}}, {{name: dns, port: 53, protocol: UDP}}]
endpoints:
"
        ));
        for (pod, said) in endpoints {
            yaml.push_str(&format!(
                "- {{addresses: ['{}']{said}}}\n",
                pod.addresses()[number]
            ));
        }
    }
    yaml
}

/// Who answers at a frontend, asked `times` times.
fn answers(shop: &Shop, frontend: &str, times: usize) -> Result<BTreeSet<String>> {
    let url = format!("http://{frontend}/");
    let command = ["curl", "-s", "--connect-timeout", "3", "--max-time", "10", &url];
    (0..times)
        .map(|_| {
            let output = shop.lab.exec(CLIENT, &command)?;
            ensure!(output.status.success(), "curl {frontend}: {:?}", output.status);
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        })
        .collect()
}

fn everyone() -> BTreeSet<String> {
    ["web-1", "web-2"].map(str::to_owned).into()
}

/// What nc says of a connection.
fn connect(shop: &Shop, addr: &str, port: &str) -> Result<String> {
    let output = shop
        .lab
        .exec(CLIENT, &["nc", "-v", "-z", "-w", "3", addr, port])?;
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn every_backend_answers_at_every_frontend(shop: &mut Shop) -> Result<()> {
    let more = format!(
        "  externalIPs: ['{EXTERNAL}']
  externalTrafficPolicy: Local
status: {{loadBalancer: {{ingress: [{{ip: 203.0.113.82}}]}}}}"
    );
    let yaml = web(&more, &[(&shop.servers[0], ""), (&shop.servers[1], "")]);
    shop.lab.enforce(&[("web", &yaml)])?;
    for frontend in [VIP4, &format!("[{VIP6}]"), EXTERNAL, "203.0.113.82"] {
        let seen = answers(shop, frontend, 30)?;
        ensure!(seen == everyone(), "{frontend}: {seen:?}");
    }
    Ok(())
}

fn one_backend_answers_a_client_with_session_affinity(shop: &mut Shop) -> Result<()> {
    let yaml = web(
        "  sessionAffinity: ClientIP",
        &[(&shop.servers[0], ""), (&shop.servers[1], "")],
    );
    shop.lab.enforce(&[("web", &yaml)])?;
    for frontend in [VIP4, &format!("[{VIP6}]")] {
        let seen = answers(shop, frontend, 20)?;
        ensure!(seen.len() == 1, "{frontend}: {seen:?}");
    }
    Ok(())
}

fn service_without_endpoints_refuses_at_once(shop: &mut Shop) -> Result<()> {
    shop.lab.enforce(&[("web", &web("", &[]))])?;
    for (addr, port) in [(VIP4, "80"), (VIP6, "80"), (VIP4, "81")] {
        let said = connect(shop, addr, port)?;
        ensure!(said.contains("refused"), "{addr} {port}: {said}");
    }
    for addr in [VIP4, VIP6] {
        let ask = format!("exec 3<>/dev/udp/{addr}/53 && echo query >&3 && read -r -t 3 -u 3");
        let output = shop.lab.exec(CLIENT, &["bash", "-c", &ask])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("refused"), "{addr}: {said}");
    }
    Ok(())
}

fn service_with_endpoints_elsewhere_only_is_silent_under_traffic_policy_local(shop: &mut Shop) -> Result<()> {
    let yaml = web(
        "  internalTrafficPolicy: Local",
        &[(&shop.servers[0], ", nodeName: elsewhere")],
    );
    shop.lab.enforce(&[("web", &yaml)])?;
    let said = connect(shop, VIP4, "80")?;
    ensure!(said.contains("timed out"), "{said}");
    Ok(())
}

fn terminating_endpoint_that_serves_answers_where_none_is_ready(shop: &mut Shop) -> Result<()> {
    let (unready, draining) = (
        ", conditions: {ready: false, serving: false}",
        ", conditions: {ready: false, serving: true, terminating: true}",
    );
    let yaml = web("", &[(&shop.servers[0], unready), (&shop.servers[1], draining)]);
    shop.lab.enforce(&[("web", &yaml)])?;
    let seen = answers(shop, VIP4, 10)?;
    ensure!(seen == ["web-2".to_owned()].into(), "{seen:?}");
    Ok(())
}

/// A connection of `client` to the Service, whose only endpoint is at `addr` in `place`: the client's end, and the endpoint's.
fn connected(shop: &mut Shop, client: &Netns, place: &Netns, addr: IpAddr) -> Result<(TcpStream, TcpStream)> {
    let listener = place.enter(|| TcpListener::bind(SocketAddr::new(addr, 0)))?;
    let (vip, family) = if addr.is_ipv4() {
        (VIP4, "IPv4")
    } else {
        (VIP6, "IPv6")
    };
    let yaml = format!(
        "{}---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
ports: [{{name: http, port: {}, protocol: TCP}}]
endpoints: [{{addresses: ['{addr}']}}]
",
        web("", &[]),
        listener.local_addr()?.port()
    );
    shop.lab.enforce(&[("web", &yaml)])?;
    let vip = SocketAddr::new(vip.parse()?, 80);
    let client = client
        .enter(|| TcpStream::connect_timeout(&vip, Duration::from_secs(5)))
        .with_context(|| format!("{vip}, served at {addr}"))?;
    let (server, _) = listener.accept()?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(wait::LONG))?;
    }
    Ok((client, server))
}

/// Says `text` from one end to the other.
fn say(mut from: &TcpStream, mut to: &TcpStream, text: &str) -> Result<()> {
    from.write_all(text.as_bytes())?;
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard).with_context(|| text.to_owned())?;
    ensure!(heard == text.as_bytes(), "{text}: {heard:02x?}");
    Ok(())
}

/// What the client says is answered with a reset, if what it had sent before was not already.
fn is_reset(mut client: &TcpStream) -> Result<()> {
    let said = client.write_all(b"anybody?");
    let heard = said
        .and_then(|()| client.read(&mut [0]))
        .map_err(|error| error.kind());
    ensure!(heard == Err(ErrorKind::ConnectionReset), "{heard:?}");
    Ok(())
}

fn connection_through_a_service_survives_a_restart_but_not_without_its_backend_and_not_a_kill(
    shop: &mut Shop,
) -> Result<()> {
    let (here, there) = (shop.client.netns.clone(), shop.servers[0].netns.clone());
    for addr in shop.servers[0].addresses() {
        let (client, server) = connected(shop, &here, &there, addr)?;
        say(&client, &server, "before")?;
        shop.lab.run(&["agent", "restart"])?;
        say(&client, &server, "the client speaks first")?;
        say(&server, &client, "and is answered")?;
        shop.lab.run(&["agent", "restart"])?;
        say(&server, &client, "the server speaks first")?;
        say(&client, &server, "and is answered")?;

        // Goes on with a backend that is removed, until the restart: before it, so that nothing sent again afterwards finds it.
        shop.lab
            .enforce(&[("web", &web("", &[(&shop.servers[1], "")]))])?;
        say(&client, &server, "to whom it had")?;
        shop.lab.run(&["agent", "restart"])?;
        is_reset(&client).context("its backend was removed")?;

        let (client, server) = connected(shop, &here, &there, addr)?;
        say(&client, &server, "before")?;
        shop.lab.run(&["agent", "kill"])?;
        shop.lab.run(&["agent", "start"])?;
        is_reset(&client).context("nobody has told of its backend")?;
        drop(server);
    }
    shop.lab.agent().expect_balanced_frames()
}

/// Who connects to the Service, as its only endpoint at `addr` in `place` sees it; a process of the node asks, and its connection
/// survives a restart.
fn seen_by(shop: &mut Shop, place: &Netns, addr: IpAddr) -> Result<IpAddr> {
    let node = shop.lab.node();
    let (client, server) = connected(shop, &node, place, addr)?;
    say(&server, &client, "served")?;
    shop.lab
        .run(&["agent", "restart", "--", "--kube-proxy-replacement"])?;
    say(&client, &server, "still here?")?;
    say(&server, &client, "still here")?;
    Ok(server.peer_addr()?.ip())
}

fn nodes_own_processes_are_served_without_kube_proxy(shop: &mut Shop) -> Result<()> {
    shop.lab
        .run(&["agent", "restart", "--", "--kube-proxy-replacement"])?;
    let yaml = web("", &[(&shop.servers[0], ""), (&shop.servers[1], "")]);
    shop.lab.enforce(&[("web", &yaml)])?;
    for frontend in [VIP4, &format!("[{VIP6}]")] {
        let url = format!("http://{frontend}/");
        let seen = wait::until(&format!("{frontend} answers the node"), wait::LONG, || {
            let output = shop.lab.exec("node", &["curl", "-s", "--max-time", "5", &url])?;
            Ok(output.status.success().then_some(output.stdout))
        })?;
        let seen = String::from_utf8_lossy(&seen).into_owned();
        ensure!(everyone().contains(&seen), "{frontend}: {seen}");
    }
    let (node, outside) = (shop.lab.node(), shop.lab.outside());
    for (family, hidden) in [(0, "169.254.42.2"), (1, "fd73:6c75:6963:6500::2")] {
        let seen = seen_by(shop, &node, NODE[family])?;
        ensure!(seen == hidden.parse::<IpAddr>()?, "the node sees {seen}");
        let seen = seen_by(shop, &outside, OUTSIDE[family])?;
        ensure!(seen == NODE[family], "the outside sees {seen}");
    }
    shop.lab.run(&["agent", "cleanup"])?;
    let tables = shop.lab.on_node(&["nft", "list", "tables"])?;
    ensure!(!tables.contains("sluice"), "left on the node: {tables}");
    Ok(())
}
