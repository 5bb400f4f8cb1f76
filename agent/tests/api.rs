//! The API over a real socket, with an owner of the state that the test plays.
#![forbid(unsafe_code)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use agent::api::status::EndpointStatus;
use agent::api::{
    AgentState, ApiError, Client, ClientError, Command, ErrorCode, Reply, Request, Server, ServerError,
    Status,
};
use agent::capture::CapturedPacket;
use agent::endpoint_registry::{AuditMode, Endpoint, EndpointSpec};
use agent::flow_log::{FlowFilter, KEPT_RECORDS};
use agent::flow_record::{FlowPeer, FlowRecord, FlowVerdict};
use control::{Engine, Index, Question, RequestText};
use jiff::Timestamp;
use policy::{EndpointKey, Protocol, Slot, SlotGeneration};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

struct Agent {
    run_dir: tempfile::TempDir,
    state: AgentState,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn agent() -> Agent {
    let run_dir = tempfile::tempdir().unwrap();
    let (state, mut commands) = AgentState::new();
    let server = Server::bind(run_dir.path()).unwrap();
    let served = state.clone();
    let serving = tokio::spawn(async move { server.serve(served).await });
    let owning = tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Status(answer) => drop(answer.send(Status {
                    revision: 3,
                    ..Status::default()
                })),
                Command::AddEndpoint(spec, answer) => drop(answer.send(Ok(endpoint(spec)))),
                Command::ConfigureEndpoint(_, audit, answer) => {
                    let mut endpoint = endpoint(spec());
                    endpoint.endpoint.audit = audit;
                    endpoint.audits = audit.audits(false);
                    drop(answer.send(Ok(endpoint)));
                }
                Command::DeleteEndpoint(pod, _, answer) => {
                    let message = format!("pod: {pod} has no endpoint");
                    drop(answer.send(Err(ApiError {
                        code: ErrorCode::NotFound,
                        message,
                    })));
                }
                Command::ListEndpoints(answer) => drop(answer.send(vec![endpoint(spec())])),
                Command::Synchronise(answer) => drop(answer.send(3)),
                Command::ExplainPolicy(question, answer) => {
                    let index = Index::default();
                    drop(answer.send(Engine::new(&index).explain(&question)));
                }
            }
        }
    });
    Agent {
        run_dir,
        state,
        tasks: vec![serving, owning],
    }
}

fn spec() -> EndpointSpec {
    EndpointSpec {
        uid: None,
        pod: "db/a".parse().unwrap(),
        interface: "veth-a".into(),
        ipv4: Some("10.0.0.1".parse().unwrap()),
        ipv6: None,
        mac: "02:00:00:00:00:05".parse().unwrap(),
        netns: None,
        attachment: None,
    }
}

fn endpoint(spec: EndpointSpec) -> EndpointStatus {
    EndpointStatus {
        endpoint: Endpoint {
            key: EndpointKey {
                slot: Slot(8),
                generation: SlotGeneration(1),
            },
            spec,
            audit: AuditMode::Inherit,
        },
        is_ready: true,
        waits_for: None,
        audits: false,
        identity: Some(300),
        mode: None,
        forwarded: 1,
        dropped: 2,
        warnings: Vec::new(),
    }
}

fn record(revision: u64) -> FlowRecord {
    let peer = FlowPeer {
        pod: Some("db/a".parse().unwrap()),
        identity: 300,
        labels: Vec::new(),
        addr: "10.0.0.1".parse().unwrap(),
        port: 80,
    };
    FlowRecord {
        time: Timestamp::UNIX_EPOCH,
        verdict: if revision.is_multiple_of(2) {
            FlowVerdict::Dropped
        } else {
            FlowVerdict::Forwarded
        },
        drop_reason: None,
        direction: None,
        protocol: "TCP".into(),
        source: peer.clone(),
        destination: peer,
        service: None,
        is_reply: false,
        rules: Vec::new(),
        policy_log: Vec::new(),
        http: None,
        revision,
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("no answer in time")
}

async fn next_flow(client: &mut Client) -> u64 {
    match soon(client.next()).await.unwrap() {
        Some(Reply::Flow(record)) => record.revision,
        other => panic!("{other:?} is no flow"),
    }
}

#[tokio::test]
async fn requests_are_answered_by_the_owner_of_the_state() {
    let agent = agent();
    let ask = async |request| soon(Client::ask(agent.run_dir.path(), &request)).await;
    let Reply::Status(status) = ask(Request::Status).await.unwrap() else {
        panic!()
    };
    assert_eq!(status.revision, 3);
    let added = ask(Request::EndpointAdd(spec())).await.unwrap();
    assert_eq!(added, Reply::Endpoint(Box::new(endpoint(spec()))));
    assert_eq!(
        ask(Request::EndpointList).await.unwrap(),
        Reply::Endpoints(vec![endpoint(spec())])
    );
    let configured = ask(Request::EndpointConfig {
        pod: "db/a".parse().unwrap(),
        audit: AuditMode::On,
    });
    let Reply::Endpoint(configured) = configured.await.unwrap() else {
        panic!()
    };
    assert!(configured.audits && configured.endpoint.audit == AuditMode::On);
    let refused = ask(Request::EndpointDelete {
        pod: "db/x".parse().unwrap(),
        attachment: None,
    })
    .await
    .unwrap_err();
    assert_eq!(refused.to_string(), "pod: db/x has no endpoint");
}

#[tokio::test]
async fn explanations_cross_the_socket_as_they_are_made() {
    let agent = agent();
    let ask = async |question: Question| {
        let request = Request::PolicyExplain(question);
        soon(Client::ask(agent.run_dir.path(), &request)).await
    };
    let question = |to: &str| Question {
        from: "world".parse().unwrap(),
        to: to.parse().unwrap(),
        port: 22,
        protocol: Protocol::TCP,
        http: Some(RequestText::default()),
    };
    let index = Index::default();
    let made = Engine::new(&index).explain(&question("host")).unwrap();
    assert_eq!(ask(question("host")).await.unwrap(), Reply::Explanations(made));
    let refused = ask(question("db/x")).await.unwrap_err();
    assert_eq!(refused.to_string(), "to: pod db/x is not known");
}

#[tokio::test]
async fn socket_is_for_its_owner_only_and_one_agent_at_a_time() {
    let agent = agent();
    let path = agent.run_dir.path().join("sluice.sock");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(matches!(
        Server::bind(agent.run_dir.path()),
        Err(ServerError::Running { .. })
    ));
    assert_eq!(
        std::fs::read_dir(agent.run_dir.path()).unwrap().count(),
        1,
        "a temporary directory was left"
    );
}

#[tokio::test]
async fn folder_that_an_agent_killed_while_it_bound_has_left_is_no_obstacle() {
    let run_dir = tempfile::tempdir().unwrap();
    // In a container every agent has the same process id.
    let private = run_dir.path().join(format!("sluice.sock.{}", std::process::id()));
    std::fs::create_dir(&private).unwrap();
    drop(std::os::unix::net::UnixListener::bind(private.join("sluice.sock")).unwrap());
    let _server = Server::bind(run_dir.path()).unwrap();
    assert!(!private.exists() && run_dir.path().join("sluice.sock").exists());
}

#[tokio::test]
async fn socket_of_a_killed_agent_is_taken_over() {
    let run_dir = tempfile::tempdir().unwrap();
    let path = run_dir.path().join("sluice.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(
        Client::ask(run_dir.path(), &Request::Status).await,
        Err(ClientError::Connect { .. })
    ));
    let server = Server::bind(run_dir.path()).unwrap();
    drop(server);
    assert!(!path.exists());
}

async fn raw(run_dir: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(run_dir.join("sluice.sock")).await.unwrap();
    // The server may answer and close before it has read everything.
    let _closed = stream.write_all(request).await;
    let mut line = String::new();
    soon(BufReader::new(stream).read_line(&mut line)).await.unwrap();
    line
}

#[tokio::test]
async fn unknown_and_oversized_requests_are_refused() {
    let agent = agent();
    let oversized = vec![b' '; 64 * 1024 + 1];
    for request in [
        &b"{\"request\":\"reboot\"}\n"[..],
        b"hello\n",
        b"{\"request\":\"status\"\n",
        &oversized,
    ] {
        let answer = raw(agent.run_dir.path(), request).await;
        assert!(answer.contains("invalid_request"), "{answer}");
    }
    let answer = raw(agent.run_dir.path(), b"{\"request\":\"status\"}\n").await;
    assert!(answer.starts_with("{\"reply\":\"status\""), "{answer}");
}

#[tokio::test]
async fn past_flows_are_filtered_and_the_stream_ends() {
    let agent = agent();
    (0..10).for_each(|i| agent.state.flows.push(record(i)));
    let filter = FlowFilter {
        verdict: Some(FlowVerdict::Dropped),
        pod: None,
    };
    let request = Request::Flows {
        follow: false,
        last: 2,
        filter,
    };
    let mut client = Client::send(agent.run_dir.path(), &request).await.unwrap();
    assert_eq!(next_flow(&mut client).await, 6);
    assert_eq!(next_flow(&mut client).await, 8);
    assert!(soon(client.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn followed_flows_come_once_each_and_in_order() {
    let agent = agent();
    (0..3).for_each(|i| agent.state.flows.push(record(i)));
    let request = Request::Flows {
        follow: true,
        last: 2,
        filter: FlowFilter::default(),
    };
    let mut client = Client::send(agent.run_dir.path(), &request).await.unwrap();
    assert_eq!(next_flow(&mut client).await, 1);
    assert_eq!(next_flow(&mut client).await, 2);
    (3..6).for_each(|i| agent.state.flows.push(record(i)));
    for expected in 3..6 {
        assert_eq!(next_flow(&mut client).await, expected);
    }
}

#[tokio::test]
async fn slow_reader_is_told_exactly_how_many_flows_it_lost() {
    let agent = agent();
    agent.state.flows.push(record(0));
    let request = Request::Flows {
        follow: true,
        last: 1,
        filter: FlowFilter::default(),
    };
    let mut client = Client::send(agent.run_dir.path(), &request).await.unwrap();
    // The first record proves that the server follows.
    assert_eq!(next_flow(&mut client).await, 0);
    let total = 20 * KEPT_RECORDS as u64;
    // Without a pause in between: the server cannot keep up.
    (1..=total).for_each(|i| agent.state.flows.push(record(i)));
    let (mut received, mut lost, mut last) = (0, 0, 0);
    while last < total {
        match soon(client.next()).await.unwrap() {
            Some(Reply::Flow(record)) => {
                assert_eq!(record.revision, last + 1);
                received += 1;
                last = record.revision;
            }
            Some(Reply::Lost { events }) => {
                lost += events;
                last += events;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(received + lost, total);
    assert!(lost > 0);
}

#[tokio::test]
async fn capture_cuts_packets_filters_pods_and_stops_with_the_client() {
    let agent = agent();
    let request = Request::Capture {
        snaplen: 20,
        pod: Some("db/a".parse().unwrap()),
    };
    let mut client = Client::send(agent.run_dir.path(), &request).await.unwrap();
    let wait_until = async |active: bool| {
        soon(async {
            while agent.state.captures.is_active() != active {
                tokio::task::yield_now().await;
            }
        })
        .await;
    };
    wait_until(true).await;
    let packet = |pod: &str| CapturedPacket {
        time_ns: 1,
        interface: "veth-a".into(),
        pods: vec![pod.parse().unwrap()],
        verdict: FlowVerdict::Forwarded,
        drop_reason: None,
        original_len: 100,
        data: vec![7; 100],
    };
    agent.state.captures.push(packet("db/other"));
    agent.state.captures.push(packet("db/a"));
    let Some(Reply::Packet(received)) = soon(client.next()).await.unwrap() else {
        panic!()
    };
    assert_eq!(
        *received,
        CapturedPacket {
            data: vec![7; 20],
            ..packet("db/a")
        }
    );
    drop(client);
    wait_until(false).await;
}

#[tokio::test]
async fn agent_whose_owner_is_gone_answers_that_it_stops() {
    let mut agent = agent();
    let owning = agent.tasks.pop().unwrap();
    owning.abort();
    let _aborted = owning.await;
    let error = soon(Client::ask(agent.run_dir.path(), &Request::Status))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ClientError::Refused(ApiError {
                code: ErrorCode::Unavailable,
                ..
            })
        ),
        "{error}"
    );
}
