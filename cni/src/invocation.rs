//! What the runtime says in environment variables.

use std::path::PathBuf;

use crate::error::{CniError, ErrorCode};
use crate::wire::PodName;

/// What the plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A pod came up.
    Add,
    /// A pod goes away.
    Del,
    /// Is all as ADD left it?
    Check,
    /// Which versions are supported?
    Version,
    /// Could ADD be served?
    Status,
    /// Forget what is not in use any more.
    Gc,
}

/// The environment of one call; what it does not say is empty or `None`.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// `CNI_COMMAND`
    pub operation: Operation,
    /// `CNI_CONTAINERID`
    pub container_id: String,
    /// `CNI_NETNS`: a file of the container's network namespace; DEL may come without.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`: the interface inside the container.
    pub interface: String,
    /// `K8S_POD_NAMESPACE` and `K8S_POD_NAME` of `CNI_ARGS`
    pub pod: Option<PodName>,
    /// `K8S_POD_UID` of `CNI_ARGS`
    pub uid: Option<String>,
}

impl Invocation {
    /// Reads the environment with `variable`.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidEnvironment`] with the name of the variable that the operation needs and that is not there or not valid.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let invalid = |message: String| CniError::new(ErrorCode::InvalidEnvironment, message);
        let value = |name: &str| variable(name).filter(|value| !value.is_empty());
        let operation = match value("CNI_COMMAND").as_deref() {
            Some("ADD") => Operation::Add,
            Some("DEL") => Operation::Del,
            Some("CHECK") => Operation::Check,
            Some("VERSION") => Operation::Version,
            Some("STATUS") => Operation::Status,
            Some("GC") => Operation::Gc,
            Some(other) => return Err(invalid(format!("CNI_COMMAND: `{other}` is not known"))),
            None => return Err(invalid("CNI_COMMAND: missing".into())),
        };
        let needed = |name: &str, operations: &[Operation]| match value(name) {
            None if operations.contains(&operation) => Err(invalid(format!("{name}: missing"))),
            value => Ok(value),
        };
        let for_pods = [Operation::Add, Operation::Del, Operation::Check];
        let container_id = needed("CNI_CONTAINERID", &for_pods)?.unwrap_or_default();
        let interface = needed("CNI_IFNAME", &for_pods)?.unwrap_or_default();
        let netns = needed("CNI_NETNS", &[Operation::Add, Operation::Check])?;
        let arguments = value("CNI_ARGS").unwrap_or_default();
        let argument = |name: &str| {
            arguments
                .split(';')
                .filter_map(|pair| pair.split_once('='))
                .find_map(|(key, value)| (key == name && !value.is_empty()).then(|| value.to_owned()))
        };
        let pod = argument("K8S_POD_NAMESPACE")
            .zip(argument("K8S_POD_NAME"))
            .map(|(namespace, name)| PodName { namespace, name });
        if pod.is_none() && operation == Operation::Add {
            return Err(invalid(
                "CNI_ARGS: K8S_POD_NAMESPACE and K8S_POD_NAME are missing: this is no pod of Kubernetes"
                    .into(),
            ));
        }
        Ok(Self {
            operation,
            container_id,
            netns: netns.map(PathBuf::from),
            interface,
            pod,
            uid: argument("K8S_POD_UID"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Invocation, CniError> {
        Invocation::read(|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    const ADD: [(&str, &str); 5] = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/x"),
        ("CNI_IFNAME", "eth0"),
        (
            "CNI_ARGS",
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=db;K8S_POD_NAME=postgres-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1",
        ),
    ];

    #[test]
    fn pod_and_uid_come_from_the_arguments() {
        let invocation = read(&ADD).unwrap();
        assert_eq!(invocation.pod.unwrap().to_string(), "db/postgres-0");
        assert_eq!(invocation.uid.as_deref(), Some("u-1"));
        assert_eq!(invocation.interface, "eth0");
    }

    #[test]
    fn a_missing_variable_is_named() {
        for (at, (name, _)) in ADD.iter().enumerate() {
            let mut variables = ADD;
            variables[at].1 = "";
            let error = read(&variables).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidEnvironment);
            assert!(error.message.starts_with(&format!("{name}: ")), "{name}: {error}");
        }
        assert!(read(&[("CNI_COMMAND", "FOO")]).is_err());
    }

    #[test]
    fn a_deletion_needs_neither_namespace_nor_pod() {
        let variables = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
        ];
        let invocation = read(&variables).unwrap();
        assert!(invocation.netns.is_none() && invocation.pod.is_none() && invocation.uid.is_none());
        for operation in ["VERSION", "STATUS", "GC"] {
            assert!(read(&[("CNI_COMMAND", operation)]).is_ok());
        }
    }
}
