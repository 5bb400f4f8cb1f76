//! Audit mode: a pod's policy can be tried before it is enforced.

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use policy::{DropReason, PodName};
use sluice_e2e::agent::Flow;
use sluice_e2e::http::{self, Response, Server};
use sluice_e2e::packets;
use sluice_e2e::suite::{self, Bed};
use sluice_e2e::{Lab, Pod, cases, wait};

const HTTP_PORT: u16 = 8080;

/// The friend may read `/`; nobody else may do anything.
const POLICY: &str = r#"
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: server, namespace: app}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {role: friend}}]
      toPorts:
        - ports: [{port: "8080", protocol: TCP}]
          rules: {http: [{method: GET, path: /}]}
"#;

struct Audit {
    lab: Lab,
    server: Pod,
    friend: Pod,
    stranger: Pod,
    http: Server,
}

impl Bed for Audit {
    fn prepare() -> Result<Self> {
        let mut lab = Lab::up("audit")?;
        let server = lab.add_pod("app/server", "app=server")?;
        let friend = lab.add_pod("app/friend", "role=friend")?;
        let stranger = lab.add_pod("app/stranger", "role=stranger")?;
        let http = Server::start(&server.netns, HTTP_PORT)?;
        lab.run(&["agent", "start"])?;
        lab.enforce(&[("server", POLICY)])?;
        Ok(Self {
            lab,
            server,
            friend,
            stranger,
            http,
        })
    }

    fn log(&self) -> String {
        self.lab.agent_log()
    }
}

fn main() -> ExitCode {
    // In this order: each one begins with the mode that the one before it leaves.
    suite::run::<Audit>(cases![
        pod_in_audit_mode_gets_what_its_policy_denies,
        audit_mode_of_a_pod_survives_a_restart,
        agent_in_audit_mode_audits_every_pod_that_does_not_enforce,
        connection_is_cut_when_audit_mode_ends,
    ])
}

impl Audit {
    /// Sets the server's mode, and waits until the worker follows it.
    fn audit(&self, mode: &str) -> Result<()> {
        let agent = self.lab.agent();
        agent.cli(&["endpoint", "config", "--pod", "app/server", "--audit", mode])?;
        agent.cli(&["status", "--wait"]).map(drop)
    }

    /// Everything passes, to the server and back, and the agent says what should not.
    fn is_audited(&self) -> Result<()> {
        let agent = self.lab.agent();
        let before = agent.drops()?;
        drop(self.http.take_requests());
        let mut expected = Vec::new();
        for pod in [&self.friend, &self.stranger] {
            for address in self.server.at(HTTP_PORT) {
                let mut client = http::Client::connect(&pod.netns, address)?;
                for path in ["/", "/secret", "/"] {
                    ensure!(
                        client.get(path)? == Response::served(path),
                        "{}: {path}",
                        pod.name
                    );
                    expected.push(path);
                }
            }
        }
        ensure!(self.http.take_requests() == expected);
        let dropped = agent.drops()?.since(&before);
        ensure!(dropped.get(DropReason::PolicyDenied) == 0, "{dropped:?}");
        ensure!(dropped.get(DropReason::HttpDenied) == 0, "{dropped:?}");
        // Per family: the friend's one denied request, the stranger's connection.
        for (pod, reason) in [
            (&self.friend, DropReason::HttpDenied),
            (&self.stranger, DropReason::PolicyDenied),
        ] {
            wait::until(&format!("{reason:?} is audited"), wait::LONG, || {
                let audits = self.audits(&pod.name.parse()?)?;
                let found = audits.iter().filter(|flow| {
                    flow.drop_reason.as_ref().is_some_and(|r| r.code == reason as u8)
                        && flow.http.is_some() == (reason == DropReason::HttpDenied)
                });
                Ok((found.count() >= 2).then_some(()))
            })?;
        }
        agent.expect_balanced_frames()
    }

    /// What was audited of a client.
    fn audits(&self, client: &PodName) -> Result<Vec<Flow>> {
        let lines = ["flows", "-o", "json", "--last", "1000", "--verdict", "audit"];
        let text = self.lab.agent().cli(&lines)?;
        let mut flows = Vec::new();
        for line in text.lines() {
            let flow: Flow = serde_json::from_str(line).with_context(|| line.to_owned())?;
            ensure!(flow.verdict == "audit", "{line}");
            if flow.source.pod.as_ref() == Some(client) {
                flows.push(flow);
            }
        }
        Ok(flows)
    }

    /// The policy denies as ever.
    fn is_enforced(&self) -> Result<()> {
        drop(self.http.take_requests());
        for address in self.server.at(HTTP_PORT) {
            let mut client = http::Client::connect(&self.friend.netns, address)?;
            ensure!(client.get("/")? == Response::served("/"));
            ensure!(client.get("/secret")? == Response::denied());
        }
        ensure!(self.http.take_requests() == ["/"; 2]);
        let (from, to) = (self.stranger.at4(40_000), self.server.at4(HTTP_PORT));
        self.lab.agent().expect_drops(DropReason::PolicyDenied, || {
            let syn = self.stranger.framed(&packets::syn(from, to));
            self.stranger.injector()?.send_all(&[syn])
        })
    }
}

fn pod_in_audit_mode_gets_what_its_policy_denies(bed: &mut Audit) -> Result<()> {
    bed.is_enforced()?;
    bed.audit("on")?;
    bed.is_audited()
}

fn audit_mode_of_a_pod_survives_a_restart(bed: &mut Audit) -> Result<()> {
    bed.lab.run(&["agent", "restart"])?;
    bed.is_audited()
}

fn agent_in_audit_mode_audits_every_pod_that_does_not_enforce(bed: &mut Audit) -> Result<()> {
    bed.audit("off")?;
    bed.lab.run(&["agent", "restart", "--", "--policy-audit-mode"])?;
    let warnings = bed.lab.agent().status()?.warnings;
    ensure!(
        warnings
            .iter()
            .any(|warning| warning.contains("--policy-audit-mode")),
        "{warnings:?}"
    );
    // Its own setting is to enforce, still.
    bed.is_enforced()?;
    bed.audit("inherit")?;
    bed.is_audited()?;
    bed.lab.run(&["agent", "restart"])?;
    bed.is_enforced()
}

fn connection_is_cut_when_audit_mode_ends(bed: &mut Audit) -> Result<()> {
    bed.audit("on")?;
    let mut stranger = http::Client::connect(&bed.stranger.netns, bed.server.at4(HTTP_PORT))?;
    ensure!(stranger.get("/secret")? == Response::served("/secret"));
    bed.audit("off")?;
    drop(bed.http.take_requests());
    let before = bed.lab.agent().drops()?;
    stranger.send("/secret")?;
    wait::until("the stranger's request is dropped", wait::LONG, || {
        let grown = bed.lab.agent().drops()?.since(&before);
        Ok((grown.get(DropReason::PolicyDenied) > 0).then_some(()))
    })?;
    ensure!(bed.http.take_requests().is_empty(), "the server was asked");
    bed.lab.agent().expect_balanced_frames()
}
