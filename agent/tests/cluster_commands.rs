//! Commands for a whole cluster, where there is none: what they say of it. What they do on one is tried by hand and by
//! `sluice connectivity test` itself.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn sluice(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .env_remove("KUBECONFIG")
        .env("HOME", home)
        .output()
        .unwrap()
}

/// A kubeconfig of an API server that is not there: port 9 (discard) of the loopback.
fn absent_cluster() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: absent\n\
        clusters: [{name: c, cluster: {server: 'https://127.0.0.1:9'}}]\n\
        users: [{name: u, user: {}}]\n\
        contexts: [{name: absent, context: {cluster: c, user: u}}]\n";
    std::fs::write(&path, text).unwrap();
    (dir, path.display().to_string())
}

fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_api_server_that_is_away_is_an_error_of_every_command() {
    let (dir, kubeconfig) = absent_cluster();
    for command in [
        &["status", "--cluster"][..],
        &["status", "--cluster", "--wait", "--timeout", "1"],
        &["connectivity", "test"],
        &["preflight", "--cluster"],
        &["uninstall", "--yes"],
    ] {
        let arguments = [command, &["--kubeconfig", &kubeconfig]].concat();
        let output = sluice(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        let error = error_of(&output);
        assert!(
            error.contains("127.0.0.1:9")
                || error.contains("error trying to connect")
                || error.contains("client error"),
            "{command:?}: {error}"
        );
    }
}

#[test]
fn a_context_that_is_not_there_is_named() {
    let (dir, kubeconfig) = absent_cluster();
    let output = sluice(
        dir.path(),
        &["status", "--kubeconfig", &kubeconfig, "--context", "nowhere"],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(error_of(&output).contains("nowhere"), "{}", error_of(&output));
}

#[test]
fn status_without_a_kubeconfig_asks_the_nodes_agent() {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().display().to_string();
    let output = sluice(dir.path(), &["status", "--run-dir", &run_dir]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error_of(&output).contains("no agent answers on"),
        "{}",
        error_of(&output)
    );
}

#[test]
fn a_sysdump_of_a_cluster_that_is_away_is_a_list_of_what_is_missing() {
    let (dir, kubeconfig) = absent_cluster();
    let file = dir.path().join("dump.tar.gz");
    let name = file.display().to_string();
    let output = sluice(
        dir.path(),
        &[
            "sysdump",
            "--kubeconfig",
            &kubeconfig,
            "--output-file",
            &name,
            "--timeout",
            "5",
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{}", error_of(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(": 0 parts, "), "{text}");
    assert!(file.metadata().unwrap().len() > 0);
}

#[test]
fn scenarios_are_listed_and_filtered_without_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let list = |arguments: &[&str]| {
        let output = sluice(
            dir.path(),
            &[&["connectivity", "test", "--list"], arguments].concat(),
        );
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, all) = list(&[]);
    assert_eq!(code, Some(0));
    let (_, http) = list(&["--test", "http$"]);
    assert!(
        all.lines().count() > 20 && http.lines().count() == 1,
        "{all}\n{http}"
    );
    assert_eq!(list(&["--test", "no-such-thing"]).0, Some(1));
}
