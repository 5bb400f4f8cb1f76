//! The plugin's idea of the agent's API against the agent's own.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use agent::api::status::EndpointStatus;
use agent::api::{AgentState, ApiError, Command, ErrorCode, Server, Status};
use agent::endpoint_registry::{Endpoint, EndpointRegistry};
use sluice_cni::agent::{Agent, AgentError};
use sluice_cni::wire::{Attachment, EndpointSpec, PodName};

fn shown(endpoint: Endpoint) -> EndpointStatus {
    EndpointStatus {
        endpoint,
        is_ready: false,
        waits_for: Some("its Pod object".into()),
        audits: false,
        identity: None,
        mode: None,
        forwarded: 0,
        dropped: 0,
        warnings: Vec::new(),
    }
}

fn attachment(container: &str) -> Attachment {
    Attachment {
        network: "net".into(),
        container_id: container.into(),
    }
}

fn spec() -> EndpointSpec {
    EndpointSpec {
        pod: PodName {
            namespace: "db".into(),
            name: "a".into(),
        },
        uid: Some("u-1".into()),
        interface: "veth-a".into(),
        ipv4: Some("10.0.0.5".parse().unwrap()),
        ipv6: Some("fd00::5".parse().unwrap()),
        mac: "02:00:00:00:00:05".into(),
        netns: Some("/run/netns/a".into()),
        attachment: Some(attachment("c1")),
    }
}

/// Runs the plugin's client against the agent's server, with a real registry and no interfaces.
async fn with_agent(client: impl FnOnce(Agent) + Send + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let (state, mut commands) = AgentState::new();
    let server = Server::bind(dir.path()).unwrap();
    let serving = tokio::spawn(async move { server.serve(state).await });
    let mut registry = EndpointRegistry::open(&dir.path().join("endpoints.json"), 16).unwrap();
    let owning = tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Status(answer) => drop(answer.send(Status::default())),
                Command::ListEndpoints(answer) => {
                    drop(answer.send(registry.endpoints().cloned().map(shown).collect()));
                }
                Command::AddEndpoint(spec, answer) => {
                    let added = registry.add(spec).map(shown);
                    let added = added.map_err(|error| ApiError::new(ErrorCode::Conflict, &error));
                    drop(answer.send(added));
                }
                Command::DeleteEndpoint(pod, attachment, answer) => {
                    let known = registry.get(&pod).cloned();
                    let deleted = known
                        .filter(|known| attachment.is_none() || known.spec.attachment == attachment)
                        .ok_or_else(|| ApiError::new(ErrorCode::NotFound, &"no such endpoint"));
                    if deleted.is_ok() {
                        registry.remove(&pod).unwrap();
                    }
                    drop(answer.send(deleted.map(shown)));
                }
                other => panic!("the plugin sent {other:?}"),
            }
        }
    });
    let socket = dir.path().join(agent::api::SOCKET_NAME);
    let agent = Agent::new(&socket, Instant::now() + Duration::from_secs(20));
    tokio::task::spawn_blocking(move || client(agent)).await.unwrap();
    serving.abort();
    owning.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn plugin_and_agent_understand_each_other() {
    with_agent(|agent| {
        agent.status().unwrap();
        assert!(agent.endpoints().unwrap().is_empty());

        let added = agent.add(spec()).unwrap();
        assert_eq!(added.spec, spec());
        assert_eq!(
            (added.is_ready, added.waits_for.as_deref()),
            (false, Some("its Pod object"))
        );
        let listed = agent.endpoints().unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].spec, spec());

        let successor = EndpointSpec {
            attachment: Some(attachment("c2")),
            ..spec()
        };
        match agent.add(successor).unwrap_err() {
            AgentError::Refused(refusal) => assert!(refusal.is_temporary(), "{refusal:?}"),
            other => panic!("{other}"),
        }
        // A deletion of another container's is none, and no error.
        agent.delete(spec().pod, attachment("c2")).unwrap();
        assert_eq!(agent.endpoints().unwrap().len(), 1);
        agent.delete(spec().pod, attachment("c1")).unwrap();
        assert!(agent.endpoints().unwrap().is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_for_good() {
    with_agent(|agent| {
        let no_mac = EndpointSpec {
            mac: "no MAC".into(),
            ..spec()
        };
        match agent.add(no_mac).unwrap_err() {
            AgentError::Refused(refusal) => {
                assert_eq!(refusal.code, "invalid_request");
                assert!(!refusal.is_temporary() && refusal.message.contains("MAC"));
            }
            other => panic!("{other}"),
        }
    })
    .await;
}
