//! The operations of the specification.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::{Agent, AgentError};
use crate::config::{Config, SUPPORTED_VERSIONS};
use crate::error::{CniError, ErrorCode};
use crate::invocation::{Invocation, Operation};
use crate::pod_interface::{self, InterfaceError};
use crate::result::{CniResult, ContainerInterface};
use crate::wire::{Attachment, Endpoint};

/// How long ADD waits for the pod's policy.
const READY: Duration = Duration::from_secs(10);

/// Between two looks at the endpoint.
const POLL: Duration = Duration::from_millis(50);

/// How long the other operations, and what ADD takes back, wait for the agent.
const ANSWER: Duration = Duration::from_secs(5);

/// Does what the runtime asks; `Some` is to be written to standard output.
///
/// # Errors
/// [`CniError`], to be written to standard output with exit status 1.
pub fn run(invocation: &Invocation, config: &Config) -> Result<Option<Value>, CniError> {
    match invocation.operation {
        Operation::Add => add(invocation, config).map(Some),
        Operation::Del => {
            delete(invocation, config);
            Ok(None)
        }
        Operation::Check => check(invocation, config).map(|()| None),
        Operation::Version => Ok(Some(versions(&config.cni_version))),
        Operation::Status => status(config).map(|()| None),
        Operation::Gc => collect(config).map(|()| None),
    }
}

/// The answer to VERSION.
#[must_use]
pub fn versions(version: &str) -> Value {
    json!({"cniVersion": version, "supportedVersions": SUPPORTED_VERSIONS})
}

fn agent(config: &Config, patience: Duration) -> Agent {
    Agent::new(&config.socket, Instant::now() + patience)
}

fn attachment(invocation: &Invocation, config: &Config) -> Attachment {
    Attachment {
        network: config.name.clone(),
        container_id: invocation.container_id.clone(),
    }
}

/// What the plugins before this one say of the container's interface.
fn previous(invocation: &Invocation, config: &Config) -> Result<ContainerInterface, CniError> {
    let invalid = |message: String| CniError::new(ErrorCode::InvalidConfig, message);
    let Some(previous) = &config.prev_result else {
        return Err(invalid(
            "prevResult: missing: sluice-cni makes no interfaces, it comes last in a list of plugins".into(),
        ));
    };
    let result: CniResult =
        serde_json::from_value(previous.clone()).map_err(|error| invalid(format!("prevResult: {error}")))?;
    result
        .container_interface(&invocation.interface)
        .map_err(|error| invalid(format!("prevResult: {error}")))
}

fn add(invocation: &Invocation, config: &Config) -> Result<Value, CniError> {
    let told = previous(invocation, config)?;
    let missing = |name: &str| CniError::new(ErrorCode::InvalidEnvironment, format!("{name}: missing"));
    let pod = invocation.pod.clone().ok_or_else(|| missing("CNI_ARGS"))?;
    let netns = invocation.netns.as_deref().ok_or_else(|| missing("CNI_NETNS"))?;
    let attachment = attachment(invocation, config);
    let spec = pod_interface::locate(
        pod.clone(),
        invocation.uid.clone(),
        attachment.clone(),
        netns,
        &invocation.interface,
        &told,
    )
    .map_err(|error| CniError::new(code_of_interface(&error), error))?;
    let deadline = Instant::now() + READY;
    let agent = Agent::new(&config.socket, deadline);
    let added = agent
        .add(spec)
        .and_then(|endpoint| until_ready(&agent, endpoint, &attachment, deadline));
    let added = match added {
        // Its network is what the plugins before this one have made.
        Err(AgentError::Refused(refusal)) if refusal.is_exclusion() => Ok(None),
        added => added,
    };
    let reason = match added {
        Ok(None) => {
            let mut result = config.prev_result.clone().unwrap_or_default();
            if let Some(object) = result.as_object_mut() {
                object.insert("cniVersion".into(), config.cni_version.clone().into());
            }
            return Ok(result);
        }
        Ok(Some(waits_for)) => CniError::new(
            ErrorCode::TryAgain,
            format!(
                "{pod} is not under policy after {} s: waits for {waits_for}",
                READY.as_secs()
            ),
        ),
        Err(error) => CniError::new(code_of_agent(&error), error),
    };
    // A request that was not answered may have been obeyed. Deleting is no error where it was not.
    if let Err(error) = self::agent(config, ANSWER).delete(pod, attachment) {
        eprintln!("sluice-cni: endpoint not taken back: {error}; it goes with its interface");
    }
    Err(reason)
}

/// `None` once the endpoint is ready; what it waits for if it is not at the deadline.
fn until_ready(
    agent: &Agent,
    mut endpoint: Endpoint,
    attachment: &Attachment,
    deadline: Instant,
) -> Result<Option<String>, AgentError> {
    while !endpoint.is_ready {
        if Instant::now() + POLL >= deadline {
            return Ok(Some(endpoint.waits_for.unwrap_or_else(|| "the agent".into())));
        }
        thread::sleep(POLL);
        let mut endpoints = agent.endpoints()?.into_iter();
        match endpoints.find(|endpoint| endpoint.spec.attachment.as_ref() == Some(attachment)) {
            Some(found) => endpoint = found,
            None => return Ok(Some("its interface, which went away".into())),
        }
    }
    Ok(None)
}

/// Never fails: what the agent does not hear of goes with the interface, which the plugins before this one delete next.
fn delete(invocation: &Invocation, config: &Config) {
    let attachment = attachment(invocation, config);
    let agent = agent(config, ANSWER);
    let deleted = agent.endpoints().and_then(|endpoints| {
        // A pod's successor of the same name has another container.
        let endpoint = endpoints
            .into_iter()
            .find(|endpoint| endpoint.spec.attachment.as_ref() == Some(&attachment));
        endpoint.map_or(Ok(()), |endpoint| agent.delete(endpoint.spec.pod, attachment))
    });
    if let Err(error) = deleted {
        eprintln!("sluice-cni: endpoint not deleted: {error}; it goes with its interface");
    }
}

fn check(invocation: &Invocation, config: &Config) -> Result<(), CniError> {
    let told = previous(invocation, config)?;
    let attachment = attachment(invocation, config);
    let agent = agent(config, ANSWER);
    let error = |error: AgentError| CniError::new(code_of_agent(&error), error);
    let endpoints = agent.endpoints().map_err(error)?;
    let failed = |message: String| CniError::new(ErrorCode::CheckFailed, message);
    let endpoint = endpoints
        .into_iter()
        .find(|endpoint| endpoint.spec.attachment.as_ref() == Some(&attachment));
    let Some(endpoint) = endpoint else {
        let excluded = agent.status().map_err(error)?.excluded_namespaces;
        let namespace = invocation.pod.as_ref().map(|pod| &pod.namespace);
        if namespace.is_some_and(|namespace| excluded.contains(namespace)) {
            return Ok(());
        }
        let id = &attachment.container_id;
        return Err(failed(format!("container {id} is not under policy")));
    };
    let spec = &endpoint.spec;
    if (spec.ipv4, spec.ipv6) != (told.ipv4, told.ipv6) {
        return Err(failed(format!(
            "{} is under policy with other addresses than prevResult's",
            spec.pod
        )));
    }
    if !endpoint.is_ready {
        return Err(failed(format!(
            "{} is cut off: it waits for {}",
            spec.pod,
            endpoint.waits_for.as_deref().unwrap_or("the agent")
        )));
    }
    Ok(())
}

fn status(config: &Config) -> Result<(), CniError> {
    agent(config, ANSWER)
        .status()
        .map(drop)
        .map_err(|error| CniError::new(ErrorCode::NotAvailable, error))
}

/// Deletes the network's endpoints whose attachments are not in use. Those of other networks, and those added by hand, are not
/// the runtime's to judge here.
fn collect(config: &Config) -> Result<(), CniError> {
    let Some(valid) = &config.valid_attachments else {
        return Err(CniError::new(
            ErrorCode::InvalidConfig,
            "cni.dev/valid-attachments: missing: without it every endpoint would be deleted",
        ));
    };
    let agent = agent(config, ANSWER);
    let error = |error: AgentError| CniError::new(code_of_agent(&error), error);
    let mut failures = Vec::new();
    for endpoint in agent.endpoints().map_err(error)? {
        let Some(attachment) = endpoint.spec.attachment else {
            continue;
        };
        let is_valid = valid
            .iter()
            .any(|valid| valid.container_id == attachment.container_id);
        if attachment.network == config.name
            && !is_valid
            && let Err(failure) = agent.delete(endpoint.spec.pod, attachment)
        {
            failures.push(error(failure));
        }
    }
    failures.into_iter().next().map_or(Ok(()), Err)
}

fn code_of_agent(error: &AgentError) -> ErrorCode {
    match error {
        AgentError::Refused(refusal) if !refusal.is_temporary() => ErrorCode::Refused,
        _ => ErrorCode::TryAgain,
    }
}

fn code_of_interface(error: &InterfaceError) -> ErrorCode {
    match error {
        InterfaceError::Namespace { .. } => ErrorCode::InvalidEnvironment,
        InterfaceError::Missing { .. } | InterfaceError::Mac { .. } => ErrorCode::InvalidConfig,
        InterfaceError::NotVeth { .. } | InterfaceError::ElsewherePeer { .. } => ErrorCode::Unsupported,
    }
}
