//! The policy tools as users run them: the built binary over small folders of manifests, without root and without an agent.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

fn command(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.arg("policy").args(line.split(' ')).current_dir(DATA);
    command
}

/// Runs `sluice policy LINE` in the data folder with `input`; returns its exit status, output and errors.
fn run(line: &str, input: &str) -> (i32, String, String) {
    let mut child = command(line)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || {
        // A command that fails early does not read its input.
        let _unread = stdin.write_all(input.as_bytes());
    });
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    writer.join().unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

fn golden(name: &str) -> String {
    std::fs::read_to_string(Path::new(DATA).join(name)).unwrap()
}

fn verdicts(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn check_passes_a_good_folder_and_the_same_on_standard_input() {
    let (status, out, err) = run("check -f shop", "");
    assert_eq!(
        (status, out.as_str()),
        (0, "2 policies, 4 pods: 0 faults, 0 warnings\n"),
        "{err}"
    );
    let text = golden("shop/policies.yaml");
    let (status, out, _) = run("check -f -", &text);
    assert_eq!(
        (status, out.as_str()),
        (0, "2 policies, 0 pods: 0 faults, 0 warnings\n")
    );
    let (status, out, _) = run("check -f shop/policies.yaml", "");
    assert_eq!(
        (status, out.as_str()),
        (0, "2 policies, 0 pods: 0 faults, 0 warnings\n")
    );
}

#[test]
fn check_names_file_line_and_field_of_every_fault_and_warns() {
    let (status, out, _) = run("check -f faulty", "");
    assert_eq!(status, 1);
    assert_eq!(out, golden("faulty.txt"));
    let (status, out, _) = run("check -f faulty -o json", "");
    assert_eq!(status, 1);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["faults"][0]["line"], 12);
    assert_eq!(report["warnings"][0]["message"], "selects no pod");
    let (status, out, _) = run("check -f -", "a: [\n");
    assert_eq!(status, 1);
    assert!(out.starts_with("<stdin>:"), "{out}");
}

#[test]
fn what_cannot_be_read_or_has_faults_gives_no_answers() {
    for line in [
        "check -f nowhere",
        "matrix -f nowhere",
        "matrix -f faulty",
        "decide -f faulty",
        "decide -f -",
        "test -f faulty -t expectations.yaml",
        "test -f shop -t nowhere.yaml",
        "test -f shop -t shop/policies.yaml",
    ] {
        let (status, out, err) = run(line, "");
        assert_eq!((status, out.as_str()), (2, ""), "{line}: {err}");
        assert!(err.starts_with("sluice: "), "{line}: {err}");
    }
    let (_, _, err) = run("matrix -f faulty", "");
    assert!(
        err.contains("faulty/policies.yaml:12: CiliumNetworkPolicy shop/typo: spec.ingres:"),
        "{err}"
    );
    let (status, _, _) = run("explain -f faulty --from world --to shop/web --port 1", "");
    assert_eq!(status, 1);
}

#[test]
fn matrix_shows_every_pair_and_joins_pods_that_policies_cannot_tell_apart() {
    let (status, out, err) = run("matrix -f shop", "");
    assert_eq!(status, 0, "{err}");
    assert_eq!(out, golden("matrix.txt"));
    let (_, out, _) = run("matrix -f shop --port 5432 -o csv", "");
    assert_eq!(out, golden("matrix.csv"));
    let (_, out, _) = run("matrix -f shop --port 5432 --port 53/UDP -o json", "");
    let matrix: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(matrix["ports"], json!(["5432/TCP", "53/UDP"]));
    assert_eq!(matrix["cells"].as_array().unwrap().len(), 2 * 5 * 5);
    assert_eq!(matrix["groups"][2]["pods"].as_array().unwrap().len(), 2);
    let cell = matrix["cells"]
        .as_array()
        .unwrap()
        .iter()
        .find(|cell| cell["from"] == "shop/web-1" && cell["to"] == "shop/db")
        .unwrap();
    assert_eq!(
        (&cell["verdict"], &cell["rules"][0]),
        (&json!("allow"), &json!("cnp shop/db ingress[0]"))
    );
}

#[test]
fn expectations_that_hold_pass() {
    let (status, out, err) = run("test -f shop -t expectations.yaml", "");
    assert_eq!((status, out.as_str()), (0, "8 passed, 0 failed\n"), "{err}");
}

#[test]
fn expectations_that_do_not_hold_fail_with_an_explanation_and_a_junit_report() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.xml");
    let line = format!(
        "test -f shop -t broken-expectations.yaml --junit {}",
        report.display()
    );
    let (status, out, err) = run(&line, "");
    assert_eq!(status, 1, "{err}");
    for part in [
        "FAILED debug reads the database <1>: expected allow, got deny (default-deny)",
        "near miss: cnp shop/db ingress[0] allows other peers 5432/TCP",
        "FAILED the wrong rule: allow as expected, but not decided by a rule with `cnp shop/web`",
        "FAILED nobody of that name: from: pod shop/nobody is not known",
        "1 passed, 3 failed",
    ] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    assert_eq!(std::fs::read_to_string(report).unwrap(), golden("junit.xml"));
}

#[test]
fn unknown_fields_of_expectations_are_faults_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let tests = folder.path().join("t.yaml");
    std::fs::write(
        &tests,
        "- name: first\n  from: world\n  to: host\n  port: 1\n  expects: allow\n",
    )
    .unwrap();
    let (status, _, err) = run(&format!("test -f shop -t {}", tests.display()), "");
    assert_eq!(status, 2);
    assert!(err.contains("t.yaml:5: [0].expects: unknown field"), "{err}");
}

#[test]
fn decide_answers_each_line_and_goes_on_after_a_bad_one() {
    let input = r#"{"from":"shop/web-1","to":"shop/db","port":5432,"proto":"TCP"}
{"from":"other/debug","to":"shop/db","port":5432}
{"from":"192.0.2.1","to":"shop/web-1","port":8080}
{"from":"world","to":"10.96.0.20","port":80,"http":{"method":"GET","path":"/","host":"shop","headers":{"A":"b","C":["d","e"]}}}
{"from":"world","to":"shop/web-2","port":8080,"http":{"method":"POST","path":"/"}}
nonsense

{"from":"world","to":"shop/db","port":5432,"sport":1}
{"from":"shop/nobody","to":"shop/db","port":5432}
{"from":"here","to":"shop/db","port":5432}
{"from":"world","to":"shop/db","port":8,"proto":"icmp"}"#;
    let (status, out, _) = run("decide -f shop", input);
    assert_eq!(status, 1, "some lines were no flows");
    let answers = verdicts(&out);
    let short: Vec<_> = answers
        .iter()
        .map(|answer| match answer.get("line") {
            Some(line) => format!("bad {line}"),
            None => format!(
                "{} {}",
                answer["verdict"].as_str().unwrap(),
                answer["reason"].as_str().unwrap()
            ),
        })
        .collect();
    assert_eq!(
        short,
        [
            "allow allowed",
            "deny default-deny",
            "deny deny-rule",
            "allow allowed",
            "l7-deny http-denied",
            "bad 6",
            "bad 8",
            "deny unknown-pod",
            "bad 10",
            "deny default-deny",
        ]
    );
    assert_eq!(answers[0]["rules"], json!(["cnp shop/db ingress[0]"]));
    assert_eq!(answers[2]["rules"], json!(["cnp shop/web ingressDeny[0]"]));
    assert_eq!(answers[3]["backend"], "10.244.0.11:8080");
    assert_eq!(answers[5]["error"], "line 6: expected ident at column 2");
}

#[test]
fn decide_answers_ten_thousand_lines_in_order() {
    let (mut input, mut expected) = (String::new(), Vec::new());
    for n in 0..10_000u16 {
        input.push_str(&format!(
            "{{\"from\":\"shop/web-1\",\"to\":\"shop/db\",\"port\":{n}}}\n"
        ));
        expected.push(if n == 5432 { "allow" } else { "deny" });
    }
    let (status, out, _) = run("decide -f shop", &input);
    assert_eq!(status, 0);
    let answers = verdicts(&out);
    let words: Vec<_> = answers
        .iter()
        .map(|answer| answer["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(words, expected);
}

#[test]
fn decide_answers_before_it_waits_for_the_next_line_and_refuses_endless_ones() {
    let mut child = command("decide -f shop")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut ask = |line: &str| {
        stdin.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stdout.read_line(&mut answer).unwrap();
        answer
    };
    let flow = "{\"from\":\"world\",\"to\":\"shop/db\",\"port\":1}\n";
    assert!(ask(flow).contains("default-deny"));
    assert!(ask(&format!("{}\n", "x".repeat(3 << 20))).contains("is longer than"));
    assert!(ask(flow).contains("default-deny"));
    drop(stdin);
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn explain_shows_policies_rules_and_near_misses() {
    let (status, out, err) = run("explain -f shop --from shop/web-1 --to shop/db --port 5433", "");
    assert_eq!(status, 2, "{err}");
    for part in [
        "  egress of shop/web-1: allowed, no policy selects this direction\n",
        "  ingress of shop/db: denied, Policy denied (133): no rule allows it\n    selected by cnp shop/db\n",
        "    near miss: cnp shop/db ingress[0] allows this peer 5432/TCP\n",
        "\ndeny: default-deny\n",
    ] {
        assert!(out.contains(part), "{part} is not in {out}");
    }
    let (status, out, _) = run(
        "explain -f shop --from world --to 10.96.0.20 --port 80 --path / -o json",
        "",
    );
    assert_eq!(status, 0);
    let explained: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(explained.as_array().unwrap().len(), 2, "one per backend");
    assert_eq!(explained[0]["ingress"]["verdict"], "http-allowed");
    let (status, _, err) = run("explain -f shop --from world --to shop/nobody --port 80", "");
    assert_eq!(status, 1);
    assert!(err.contains("to: pod shop/nobody is not known"), "{err}");
}

#[test]
fn options_say_what_manifests_do_not() {
    let flow = |from: &str| format!("{{\"from\":\"{from}\",\"to\":\"shop/db\",\"port\":1}}\n");
    let verdict = |line: &str, from: &str| verdicts(&run(line, &flow(from)).1)[0]["verdict"].clone();
    assert_eq!(verdict("decide -f shop", "172.18.0.2"), "deny");
    assert_eq!(
        verdict("decide -f shop --node-address 172.18.0.2", "172.18.0.2"),
        "allow"
    );
    // An address of a pod CIDR that is nobody's is not the world.
    let policy = "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {namespace: ns, name: p}\nspec:\n  \
        endpointSelector: {}\n  ingress: [{fromEntities: [world]}]\n---\napiVersion: v1\nkind: Pod\n\
        metadata: {namespace: ns, name: a}\n";
    let from = |options: &str| {
        let line = format!("explain -f - --from 10.9.0.1 --to ns/a --port 1{options}");
        run(&line, policy).0
    };
    assert_eq!(from(""), 0);
    assert_eq!(from(" --pod-cidr 10.9.0.0/16"), 2);
    // The agent has its own.
    let (status, _, err) = run("explain --from world --to host --port 1 --node-name a", "");
    assert_eq!(status, 2);
    assert!(err.contains("--manifests"), "{err}");
}
