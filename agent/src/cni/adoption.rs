//! Pods that were there before sluice: found in the results that libcni keeps of every attachment.
//!
//! A file per attachment, of `kind` `cniCacheV1`. It says whose the interface is and what addresses it has; which interface of
//! the node that is, and whether it is still there, is asked of the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use sluice_cni::pod_interface::{self, InterfaceError};
use sluice_cni::result::{CniResult, ResultError};
use sluice_cni::wire;

use super::conflist::{self, ConflistError};
use crate::endpoint_registry::{Attachment, EndpointSpec};

/// Where runtimes keep the results.
pub const CACHE_DIR: &str = "/var/lib/cni/results";

/// The only kind of file that is understood.
const KIND: &str = "cniCacheV1";

/// Longest file, bytes.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// A pod of the cache cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// No cached result.
    #[error("not a cached result: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Of another kind.
    #[error("kind: `{0}` is not known")]
    Kind(String),
    /// Too long.
    #[error("longer than {FILE_BYTES} bytes")]
    TooLong,
    /// The configuration is not base64.
    #[error("config: {0}")]
    Base64(#[from] base64::DecodeError),
    /// The configuration is not one that sluice comes after.
    #[error("config: {0}")]
    Config(#[from] ConflistError),
    /// The result does not tell enough.
    #[error("result: {0}")]
    Result(#[from] ResultError),
    /// The interface.
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    /// The kernel's MAC address is none.
    #[error("mac: {0}")]
    Mac(#[from] datapath::interface::MacAddrError),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedResult {
    kind: String,
    container_id: String,
    /// The configuration, of one plugin or of a list, in base64.
    #[serde(default)]
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    result: CniResult,
}

impl CachedResult {
    fn argument(&self, name: &str) -> Option<String> {
        let arguments = self.cni_args.iter().flatten();
        arguments
            .filter(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.clone())
            .next()
    }

    fn pod(&self) -> Option<wire::PodName> {
        Some(wire::PodName {
            namespace: self.argument("K8S_POD_NAMESPACE")?,
            name: self.argument("K8S_POD_NAME")?,
        })
    }
}

/// What a look into the cache came to.
#[derive(Debug, Default)]
pub struct Cached {
    /// Pods whose interface is there.
    pub pods: Vec<EndpointSpec>,
    /// Files that could not be used, with the reason.
    pub problems: Vec<String>,
}

/// Reads the cache in `dir`. Left out are attachments that `is_known`, pods of namespaces that are `is_excluded`, interfaces other
/// than `interface` (the loopback, secondary networks), containers that are no pods, and pods that are gone.
pub fn scan(
    dir: &Path,
    interface: &str,
    is_known: impl Fn(&Attachment) -> bool,
    is_excluded: impl Fn(&str) -> bool,
) -> Cached {
    let mut cached = Cached::default();
    let mut paths: Vec<PathBuf> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        // No runtime has kept anything yet.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return cached,
        Err(error) => {
            cached.problems.push(format!("{}: {error}", dir.display()));
            return cached;
        }
    };
    paths.sort();
    for path in paths {
        match read(&path, interface, &is_known, &is_excluded) {
            Ok(Some(spec)) => cached.pods.push(spec),
            Ok(None) => {}
            // The pod went away meanwhile.
            Err(AdoptionError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {}
            Err(AdoptionError::Interface(error)) if error.is_gone() => {
                tracing::debug!(path = %path.display(), %error, "cached pod is gone");
            }
            Err(error) => cached.problems.push(format!("{}: {error}", path.display())),
        }
    }
    cached
}

fn read(
    path: &Path,
    interface: &str,
    is_known: impl Fn(&Attachment) -> bool,
    is_excluded: impl Fn(&str) -> bool,
) -> Result<Option<EndpointSpec>, AdoptionError> {
    if fs::metadata(path)?.len() > FILE_BYTES {
        return Err(AdoptionError::TooLong);
    }
    let file: CachedResult = serde_json::from_slice(&fs::read(path)?)?;
    if file.kind != KIND {
        return Err(AdoptionError::Kind(file.kind));
    }
    let Some(pod) = file.pod().filter(|_| file.if_name == interface) else {
        return Ok(None);
    };
    let attachment = Attachment {
        network: file.network_name.clone(),
        container_id: file.container_id.clone(),
    };
    if is_known(&attachment) || is_excluded(&pod.namespace) {
        return Ok(None);
    }
    let told = file.result.container_interface(interface)?;
    let uid = file.argument("K8S_POD_UID");
    let found = match pod_interface::locate(pod, uid, attachment, &told.netns, interface, &told) {
        // Whichever plugin made it: a file that was left behind is no pod without policy.
        Err(error) if error.is_gone() => return Err(error.into()),
        found => found,
    };
    conflist::check_used(&BASE64_STANDARD.decode(&file.config)?)?;
    let found = found?;
    Ok(Some(EndpointSpec {
        pod: policy::PodName {
            namespace: found.pod.namespace,
            name: found.pod.name,
        },
        uid: found.uid,
        interface: found.interface,
        ipv4: found.ipv4,
        ipv6: found.ipv6,
        mac: found.mac.parse()?,
        netns: found.netns,
        attachment: found.attachment,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn file(netns: &str, plugin: &str) -> Value {
        let config = format!(r#"{{"cniVersion":"1.0.0","name":"net","plugins":[{{"type":"{plugin}"}}]}}"#);
        json!({
            "kind": "cniCacheV1",
            "containerId": "c1",
            "config": BASE64_STANDARD.encode(config),
            "ifName": "eth0",
            "networkName": "net",
            "cniArgs": [["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "db"], ["K8S_POD_NAME", "a"]],
            "capabilityArgs": {"portMappings": []},
            "result": {
                "cniVersion": "1.0.0",
                "interfaces": [{"name": "veth-a"}, {"name": "eth0", "mac": "02:00:00:00:00:05", "sandbox": netns}],
                "ips": [{"interface": 1, "address": "10.0.0.5/24"}],
                "dns": {},
            },
        })
    }

    /// Problems of one file, its path left out.
    fn problems(contents: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net-c1-eth0");
        fs::write(&path, contents).unwrap();
        let cached = scan(dir.path(), "eth0", |_| false, |_| false);
        assert!(cached.pods.is_empty());
        let place = format!("{}: ", path.display());
        let reason = |problem: String| problem.strip_prefix(&place).unwrap().to_owned();
        cached.problems.into_iter().map(reason).collect()
    }

    #[test]
    fn a_file_that_cannot_be_used_is_told_with_the_reason() {
        let mut no_address = file("/n", "ptp");
        no_address["result"]["ips"] = json!([]);
        let mut other_kind = file("/n", "ptp");
        other_kind["kind"] = "cniCacheV9".into();
        let mut no_base64 = file("/proc/self/status", "ptp");
        no_base64["config"] = "{}".into();
        // A file that is no network namespace.
        let no_namespace = file("/proc/self/status", "ptp");
        for (contents, reason) in [
            ("{".into(), "not a cached result: "),
            (r#"{"kind":"cniCacheV1"}"#.into(), "not a cached result: "),
            (other_kind.to_string(), "kind: `cniCacheV9` is not known"),
            (no_base64.to_string(), "config: "),
            (no_address.to_string(), "result: ips: none belongs to `eth0`"),
            (
                file("/proc/self/status", "calico").to_string(),
                "config: plugin `calico` is not supported",
            ),
            (no_namespace.to_string(), "`eth0` in /proc/self/status: "),
            // A folder that is not mounted: the pod may well be there.
            (
                file("/nonexistent/netns", "ptp").to_string(),
                "network namespace /nonexistent/netns: ",
            ),
        ] {
            let problems = problems(&contents);
            assert_eq!(problems.len(), 1, "{contents}");
            assert!(problems[0].starts_with(reason), "{}", problems[0]);
        }
    }

    #[test]
    fn what_is_gone_or_no_pods_own_interface_is_left_out_quietly() {
        let mut loopback = file("/n", "ptp");
        loopback["ifName"] = "lo".into();
        let mut container = file("/n", "ptp");
        container["cniArgs"] = Value::Null;
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("cni-1");
        let [gone, of_another_plugin] =
            ["ptp", "calico"].map(|plugin| file(&gone.display().to_string(), plugin));
        for contents in [loopback, container, gone, of_another_plugin] {
            assert_eq!(problems(&contents.to_string()), Vec::<String>::new());
        }
        let missing = scan(Path::new("/nonexistent/results"), "eth0", |_| false, |_| false);
        assert!(missing.pods.is_empty() && missing.problems.is_empty());
    }

    #[test]
    fn a_pod_of_an_excluded_namespace_is_not_looked_at_and_others_are() {
        let dir = tempfile::tempdir().unwrap();
        // One that could not be taken.
        let contents = file("/proc/self/status", "ptp").to_string();
        fs::write(dir.path().join("net-c1-eth0"), contents).unwrap();
        for (excluded, problems) in [("db", 0), ("web", 1)] {
            let cached = scan(dir.path(), "eth0", |_| false, |namespace| namespace == excluded);
            assert_eq!(
                (cached.pods.len(), cached.problems.len()),
                (0, problems),
                "{excluded}"
            );
        }
    }

    #[test]
    fn a_known_attachment_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let contents = file("/proc/self/status", "ptp").to_string();
        fs::write(dir.path().join("net-c1-eth0"), contents).unwrap();
        let known = Attachment {
            network: "net".into(),
            container_id: "c1".into(),
        };
        let cached = scan(dir.path(), "eth0", |attachment| *attachment == known, |_| false);
        assert!(cached.pods.is_empty() && cached.problems.is_empty());
    }
}
