//! The built plugin against an agent that the test plays: everything that needs no interface.
#![forbid(unsafe_code)]

mod fixture;

use std::path::Path;

use fixture::{AgentState, FakeAgent, config, endpoint, plugin};
use serde_json::{Value, json};

/// A socket that nobody listens on.
const NOBODY: &str = "/nonexistent/sluice.sock";

fn with_endpoints(endpoints: Vec<Value>) -> FakeAgent {
    FakeAgent::start(AgentState {
        endpoints,
        ..AgentState::default()
    })
}

#[test]
fn version_tells_what_is_supported_whatever_the_configuration() {
    let supported = json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]);
    for (input, version) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.0.0"}"#, "1.0.0"),
        ("", "1.0.0"),
    ] {
        let answer = plugin("VERSION", "", input);
        assert_eq!(answer.status, 0);
        assert_eq!(
            answer.output,
            json!({"cniVersion": version, "supportedVersions": supported})
        );
    }
}

#[test]
fn errors_have_the_specifications_form_and_the_configurations_version() {
    let answer = plugin(
        "ADD",
        "/run/netns/a",
        r#"{"cniVersion":"0.4.0","name":"net","type":"sluice-cni"}"#,
    );
    let (code, message) = answer.error();
    assert_eq!((code, answer.output["cniVersion"].as_str()), (7, Some("0.4.0")));
    assert!(message.starts_with("prevResult: missing: "), "{message}");

    assert_eq!(plugin("ADD", "/n", r#"{"cniVersion":"9.0.0"}"#).error().0, 1);
    assert_eq!(plugin("ADD", "/n", "nonsense").error().0, 6);
    assert_eq!(plugin("REMOVE", "/n", "{}").error().0, 4);
    let (code, message) = (4, "CNI_NETNS: missing");
    assert_eq!(
        plugin("ADD", "", &config(Path::new(NOBODY)).to_string()).error(),
        (code, message)
    );
}

#[test]
fn a_pod_whose_namespace_is_gone_is_not_added() {
    let agent = with_endpoints(Vec::new());
    let answer = plugin("ADD", "/nonexistent/netns", &config(&agent.socket()).to_string());
    let (code, message) = answer.error();
    assert_eq!(code, 4);
    assert!(message.contains("/nonexistent/netns"), "{message}");
    assert!(agent.requests().is_empty());
}

#[test]
fn a_deletion_removes_the_containers_own_endpoint() {
    let agent = with_endpoints(vec![endpoint("a", "net", "c1"), endpoint("b", "net", "c2")]);
    let answer = plugin("DEL", "", &config(&agent.socket()).to_string());
    assert_eq!((answer.status, answer.output), (0, Value::Null));
    assert_eq!(agent.pods(), ["b"]);
}

#[test]
fn a_late_deletion_leaves_the_successor_of_the_same_name() {
    let agent = with_endpoints(vec![endpoint("a", "net", "c2")]);
    assert_eq!(plugin("DEL", "", &config(&agent.socket()).to_string()).status, 0);
    assert_eq!(agent.pods(), ["a"]);
    assert_eq!(agent.requests(), ["endpoint_list"]);
}

#[test]
fn a_deletion_succeeds_without_the_agent_and_when_it_refuses() {
    assert_eq!(
        plugin("DEL", "", &config(Path::new(NOBODY)).to_string()).status,
        0
    );
    let agent = FakeAgent::start(AgentState {
        refusal: Some(json!({"code": "unavailable", "message": "the agent is stopping"})),
        ..AgentState::default()
    });
    assert_eq!(plugin("DEL", "", &config(&agent.socket()).to_string()).status, 0);
}

#[test]
fn a_check_needs_the_containers_endpoint_ready_and_with_its_addresses() {
    let check = |endpoints| {
        let agent = with_endpoints(endpoints);
        plugin("CHECK", "/run/netns/a", &config(&agent.socket()).to_string())
    };
    assert_eq!(check(vec![endpoint("a", "net", "c1")]).status, 0);

    let other = check(vec![endpoint("a", "net", "c2")]);
    assert_eq!(other.error(), (101, "container c1 is not under policy"));
    let agent = with_endpoints(Vec::new());
    agent.state.lock().unwrap().excluded = vec!["web".into(), "db".into()];
    let excluded = plugin("CHECK", "/run/netns/a", &config(&agent.socket()).to_string());
    assert_eq!(excluded.status, 0, "left to the node's own network");
    let mut moved = endpoint("a", "net", "c1");
    moved["ipv4"] = "10.0.0.6".into();
    assert_eq!(check(vec![moved]).error().0, 101);
    let mut waiting = endpoint("a", "net", "c1");
    waiting["is_ready"] = false.into();
    waiting["waits_for"] = "its policy".into();
    assert_eq!(
        check(vec![waiting]).error(),
        (101, "db/a is cut off: it waits for its policy")
    );
    let away = plugin("CHECK", "/run/netns/a", &config(Path::new(NOBODY)).to_string());
    assert_eq!(away.error().0, 11);
}

#[test]
fn status_is_whether_the_agent_answers() {
    let agent = with_endpoints(Vec::new());
    let answer = plugin("STATUS", "", &config(&agent.socket()).to_string());
    assert_eq!((answer.status, answer.output), (0, Value::Null));
    assert_eq!(
        plugin("STATUS", "", &config(Path::new(NOBODY)).to_string())
            .error()
            .0,
        50
    );
    agent.state.lock().unwrap().refusal = Some(json!({"code": "unavailable", "message": "busy"}));
    assert_eq!(
        plugin("STATUS", "", &config(&agent.socket()).to_string())
            .error()
            .0,
        50
    );
}

#[test]
fn collection_deletes_what_is_not_in_use_in_its_network() {
    let mut by_hand = endpoint("by-hand", "net", "c9");
    by_hand.as_object_mut().unwrap().remove("attachment");
    let agent = with_endpoints(vec![
        endpoint("stale", "net", "c0"),
        endpoint("used", "net", "c1"),
        endpoint("elsewhere", "other", "c0"),
        by_hand,
    ]);
    let mut config = config(&agent.socket());
    let unknown = plugin("GC", "", &config.to_string());
    assert_eq!(unknown.error().0, 7);
    assert_eq!(agent.pods().len(), 4);

    config["cni.dev/valid-attachments"] = json!([{"containerID": "c1", "ifname": "eth0"}]);
    let answer = plugin("GC", "", &config.to_string());
    assert_eq!((answer.status, answer.output), (0, Value::Null));
    assert_eq!(agent.pods(), ["used", "elsewhere", "by-hand"]);

    config["socket"] = NOBODY.into();
    assert_eq!(plugin("GC", "", &config.to_string()).error().0, 11);
}

#[test]
fn every_call_leaves_a_line_in_the_log_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("cni.log");
    let mut config = config(Path::new(NOBODY));
    config["logFile"] = log.display().to_string().into();
    plugin("DEL", "", &config.to_string());
    plugin("STATUS", "", &config.to_string());
    let text = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("Del pod=db/a container=c1") && lines[0].ends_with(": ok"));
    assert!(lines[1].contains("Status") && lines[1].contains("no agent answers"));
}
