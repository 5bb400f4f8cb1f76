use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::*;

const PTP: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"ptp"}]}"#;
const BRIDGE: &str = r#"{"cniVersion":"0.4.0","name":"net","plugins":[{"type":"bridge"}]}"#;

struct Node {
    dir: TempDir,
    installation: Installation,
}

fn node() -> Node {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("net.d")).unwrap();
    fs::write(path("plugin"), "#!plugin").unwrap();
    let installation = Installation {
        conf_dir: Some(path("net.d")),
        bin_dir: Some(path("bin")),
        plugin: path("plugin"),
        socket: "/run/sluice/sluice.sock".into(),
    };
    Node { dir, installation }
}

impl Node {
    fn write(&self, name: &str, contents: &str) {
        fs::write(self.dir.path().join("net.d").join(name), contents).unwrap();
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join(folder)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Types of the plugins in sluice's list; empty without one.
    fn plugins(&self) -> Vec<String> {
        let Ok(text) = fs::read(self.dir.path().join("net.d").join(conflist::FILE_NAME)) else {
            return Vec::new();
        };
        let list: Value = serde_json::from_slice(&text).unwrap();
        let plugins = list["plugins"].as_array().unwrap();
        let name = |plugin: &Value| plugin["type"].as_str().unwrap().to_owned();
        plugins.iter().map(name).collect()
    }
}

#[test]
fn list_and_plugin_are_written_once_and_nothing_of_others_changes() {
    let node = node();
    node.write("10-ptp.conflist", PTP);
    node.write("20-bridge.conflist", BRIDGE);
    node.write("README", "not a configuration");
    assert!(node.installation.apply().unwrap());
    assert_eq!(node.plugins(), ["ptp", "sluice-cni"]);
    assert_eq!(
        node.names("net.d"),
        [
            "00-sluice.conflist",
            "10-ptp.conflist",
            "20-bridge.conflist",
            "README"
        ]
    );
    assert_eq!(node.names("bin"), ["sluice-cni"]);
    let mode = |path: &str| {
        let metadata = fs::metadata(node.dir.path().join(path)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("bin/sluice-cni"), 0o755);
    assert_eq!(mode("net.d/00-sluice.conflist"), 0o600);
    let source = fs::read_to_string(node.dir.path().join("net.d/10-ptp.conflist")).unwrap();
    assert_eq!(source, PTP);
    assert!(!node.installation.apply().unwrap());

    fs::write(node.dir.path().join("plugin"), "#!newer plugin").unwrap();
    assert!(node.installation.apply().unwrap());
    let installed = fs::read_to_string(node.dir.path().join("bin/sluice-cni")).unwrap();
    assert_eq!(installed, "#!newer plugin");
}

#[test]
fn a_list_of_nothing_is_passed_over() {
    let node = node();
    node.write(
        "10-empty.conflist",
        r#"{"cniVersion":"1.0.0","name":"e","plugins":[]}"#,
    );
    node.write("20-bridge.conflist", BRIDGE);
    node.installation.apply().unwrap();
    assert_eq!(node.plugins(), ["bridge", "sluice-cni"]);
}

#[test]
fn the_list_stays_when_its_source_goes_or_cannot_be_used() {
    let node = node();
    assert!(matches!(
        node.installation.apply(),
        Err(InstallationError::NoSource { .. })
    ));
    assert!(node.plugins().is_empty());

    node.write("10-ptp.conflist", PTP);
    node.installation.apply().unwrap();
    for contents in [
        "{",
        r#"{"cniVersion":"1.0.0","name":"c","plugins":[{"type":"calico"}]}"#,
    ] {
        node.write("05-other.conflist", contents);
        let error = node.installation.apply().unwrap_err();
        assert!(error.to_string().contains("05-other.conflist"), "{error}");
        assert_eq!(node.plugins(), ["ptp", "sluice-cni"]);
    }
    fs::remove_file(node.dir.path().join("net.d/05-other.conflist")).unwrap();
    fs::remove_file(node.dir.path().join("net.d/10-ptp.conflist")).unwrap();
    assert!(node.installation.apply().is_err());
    assert_eq!(node.plugins(), ["ptp", "sluice-cni"]);
}

#[test]
fn a_refused_plugin_is_named_and_no_list_is_written() {
    let node = node();
    node.write(
        "05-cilium.conflist",
        r#"{"cniVersion":"0.3.1","name":"cilium","plugins":[{"type":"cilium-cni"}]}"#,
    );
    node.write("10-ptp.conflist", PTP);
    let error = node.installation.apply().unwrap_err().to_string();
    assert!(
        error.contains("05-cilium.conflist: plugin `cilium-cni` is not supported"),
        "{error}"
    );
    assert!(node.plugins().is_empty());
}

#[test]
fn a_file_that_the_runtime_takes_first_is_told() {
    let node = node();
    node.write("00-multus.conflist", PTP);
    let error = node.installation.apply().unwrap_err();
    assert!(matches!(&error, InstallationError::NotFirst { path } if path.ends_with("00-multus.conflist")));
}

#[test]
fn no_list_names_a_plugin_that_is_not_there() {
    let mut node = node();
    node.write("10-ptp.conflist", PTP);
    node.installation.plugin = node.dir.path().join("missing");
    let error = node.installation.apply().unwrap_err();
    assert!(error.to_string().contains("--cni-plugin"), "{error}");
    assert!(node.plugins().is_empty());
}

#[tokio::test]
async fn changes_of_the_source_are_followed_and_the_own_list_is_restored() {
    let node = node();
    node.write("10-ptp.conflist", PTP);
    let (sender, mut problem) = watch::channel(None);
    let following = tokio::spawn(node.installation.clone().follow(sender));
    // Well below the time of a look without a notification.
    let deadline = Instant::now() + RESCAN / 3;
    let until = async |expected: &[&str]| {
        while node.plugins() != expected {
            assert!(
                Instant::now() < deadline,
                "{:?}, not {expected:?}",
                node.plugins()
            );
            sleep(Duration::from_millis(10)).await;
        }
    };
    until(&["ptp", "sluice-cni"]).await;
    node.write("10-ptp.conflist", BRIDGE);
    until(&["bridge", "sluice-cni"]).await;
    fs::remove_file(node.dir.path().join("net.d").join(conflist::FILE_NAME)).unwrap();
    until(&["bridge", "sluice-cni"]).await;
    node.write("05-broken.conf", "{");
    tokio::time::timeout_at(deadline, problem.wait_for(Option::is_some))
        .await
        .unwrap()
        .unwrap();
    fs::remove_file(node.dir.path().join("net.d/05-broken.conf")).unwrap();
    tokio::time::timeout_at(deadline, problem.wait_for(Option::is_none))
        .await
        .unwrap()
        .unwrap();
    following.abort();
}

#[test]
fn only_own_files_are_removed() {
    let node = node();
    node.write("10-ptp.conflist", PTP);
    node.installation.apply().unwrap();
    fs::write(node.dir.path().join("bin/ptp"), "").unwrap();
    let dirs = (
        node.installation.conf_dir.as_deref(),
        node.installation.bin_dir.as_deref(),
    );
    assert_eq!(remove(dirs.0, dirs.1).unwrap().len(), 2);
    assert_eq!(node.names("net.d"), ["10-ptp.conflist"]);
    assert_eq!(node.names("bin"), ["ptp"]);
    assert!(remove(dirs.0, dirs.1).unwrap().is_empty());
    assert!(remove(None, None).unwrap().is_empty());
}
