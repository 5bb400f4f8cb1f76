//! HTTP rules.

use serde_json::{Value, json};

use super::super::Verdict::{Allow, L7Deny};
use super::super::{Http, Verdict};
use super::{cluster, db, peer, to_db};

fn get(path: &str, host: &str, headers: &[(&str, &str)]) -> Http {
    let headers = headers
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    Http {
        method: "GET".into(),
        path: path.into(),
        host: host.into(),
        headers,
    }
}

/// Whether an HTTP rule lets a request to a/db pass.
fn http(rule: Value, request: &Http) -> Verdict {
    let to_ports = json!([{"ports": [{"port": "5432", "protocol": "TCP"}], "rules": {"http": [rule]}}]);
    let cluster = cluster(json!([db(json!({"ingress": [{"toPorts": to_ports}]}))]));
    cluster.decide(&peer("a/web"), &peer("a/db"), "TCP", 5432, Some(request))
}

#[test]
fn empty_http_rules_restrict_nothing_and_an_empty_rule_allows_every_request() {
    let ports = json!([{"port": "5432", "protocol": "TCP"}]);
    to_db(
        json!({"ingress": [{"toPorts": [{"ports": ports, "rules": {"http": []}}]}]}),
        &[("world", Allow)],
    );
    to_db(
        json!({"ingress": [{"toPorts": [{"ports": ports, "rules": {}}]}]}),
        &[("world", Allow)],
    );
    assert_eq!(http(json!({}), &get("/", "x", &[])), Allow);
}

#[test]
fn the_local_node_reaches_its_pods_and_http_rules_do_not_restrict_it() {
    let rules =
        json!([{"ports": [{"port": "5432", "protocol": "TCP"}], "rules": {"http": [{"path": "/x"}]}}]);
    to_db(
        json!({"ingress": [{"toPorts": rules}]}),
        &[
            ("host", Allow),
            ("a/hostnet", Allow),
            ("172.18.0.3", L7Deny),
            ("b/hostfar", L7Deny),
        ],
    );
}

#[test]
fn any_plain_allow_of_the_peer_lifts_http_rules_and_http_rules_are_united() {
    let port = json!([{"port": "5432", "protocol": "TCP"}]);
    let rule = |path: &str, app: &str| json!({"fromEndpoints": [{"matchLabels": {"app": app}}], "toPorts": [{"ports": port, "rules": {"http": [{"path": path}]}}]});
    let verdict = |items: Value, path: &str| {
        let cluster = cluster(json!([db(json!({"ingress": items}))]));
        cluster.decide(
            &peer("a/web"),
            &peer("a/db"),
            "TCP",
            5432,
            Some(&get(path, "x", &[])),
        )
    };
    let two = json!([rule("/a", "web"), rule("/b", "web"), rule("/c", "other")]);
    assert_eq!(
        ["/a", "/b", "/c"].map(|path| verdict(two.clone(), path)),
        [Allow, Allow, L7Deny]
    );
    let lifted = json!([rule("/a", "web"), {"fromEndpoints": [{}]}]);
    assert_eq!(verdict(lifted, "/z"), Allow);
    let other_port =
        json!([rule("/a", "web"), {"fromEndpoints": [{}], "toPorts": [{"ports": [{"port": "1"}]}]}]);
    assert_eq!(verdict(other_port, "/z"), L7Deny);
}

#[test]
fn http_patterns_cover_the_whole_text() {
    let path = |pattern: &str, path: &str| http(json!({"path": pattern}), &get(path, "x", &[]));
    assert_eq!(path("/public", "/public"), Allow);
    assert_eq!(path("/public", "/public/"), L7Deny);
    assert_eq!(path("/public", "/public?x=1"), L7Deny);
    assert_eq!(path("/a|/b", "/b"), Allow);
    assert_eq!(path("/a|/b", "/bc"), L7Deny);
    assert_eq!(
        http(json!({"method": "GET|HEAD", "path": ""}), &get("/", "x", &[])),
        Allow
    );
    assert_eq!(http(json!({"method": "get"}), &get("/", "x", &[])), L7Deny);
    assert_eq!(
        http(
            json!({"host": "api\\.example\\.com"}),
            &get("/", "api.example.com:80", &[])
        ),
        L7Deny
    );
}

#[test]
fn http_header_strings_split_at_the_first_space() {
    let with =
        |text: &str, headers: &[(&str, &str)]| http(json!({"headers": [text]}), &get("/", "x", headers));
    for text in ["X-A 1", "X-A: 1"] {
        assert_eq!(with(text, &[("x-a", "1")]), Allow);
        assert_eq!(with(text, &[("x-a", "2")]), L7Deny);
        assert_eq!(with(text, &[("x-a", "1"), ("X-A", "1")]), L7Deny);
    }
    assert_eq!(with("X-A", &[("x-a", "2")]), Allow);
    assert_eq!(with("X-A:1", &[("x-a", "1")]), L7Deny);
    assert_eq!(with("X-A 1,2", &[("x-a", "1"), ("x-a", "2")]), Allow);
}

#[test]
fn http_header_matches_fail_or_log() {
    let with = |entry: Value| http(json!({"headerMatches": [entry]}), &get("/", "x", &[("x-a", "1")]));
    assert_eq!(with(json!({"name": "X-A", "value": "1"})), Allow);
    assert_eq!(with(json!({"name": "X-A", "value": "2"})), L7Deny);
    assert_eq!(with(json!({"name": "X-A"})), Allow);
    assert_eq!(with(json!({"name": "X-B"})), L7Deny);
    assert_eq!(
        with(json!({"name": "X-B", "value": "1", "mismatch": "LOG"})),
        Allow
    );
    assert_eq!(
        with(json!({"name": "X-A", "secret": {"namespace": "a", "name": "s"}})),
        L7Deny
    );
}
