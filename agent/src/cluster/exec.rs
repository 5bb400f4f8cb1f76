//! A command within a container, as `kubectl exec` does it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use kube::{Api, Client};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::reason;

/// Most that is kept of standard error, bytes: enough for what is wrong.
const MOST_STDERR: u64 = 64 * 1024;

/// A command that gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The API server or the kubelet refused.
    #[error("cannot run a command in pod {pod}: {}", reason(error))]
    Api {
        /// The pod.
        pod: String,
        /// Why not.
        error: Box<kube::Error>,
    },
    /// It did not end.
    #[error("the command in pod {pod} did not end within {} s", limit.as_secs())]
    TimedOut {
        /// The pod.
        pod: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// It wrote too much.
    #[error("the command in pod {pod} wrote more than {limit} bytes")]
    TooLarge {
        /// The pod.
        pod: String,
        /// How much is taken.
        limit: u64,
    },
    /// It ended otherwise than with status 0, or was never started.
    #[error("the command in pod {pod} failed: {message}")]
    Failed {
        /// The pod.
        pod: String,
        /// What the kubelet says, and the last of standard error.
        message: String,
        /// Standard output until then.
        stdout: Vec<u8>,
    },
}

/// Where a command runs, and its bounds.
#[derive(Debug, Clone)]
pub struct Exec<'a> {
    namespace: &'a str,
    pod: &'a str,
    container: &'a str,
    limit: Duration,
    most_bytes: u64,
}

impl<'a> Exec<'a> {
    /// In a container of a pod; at most 10 s and 16 MiB of output.
    #[must_use]
    pub const fn new(namespace: &'a str, pod: &'a str, container: &'a str) -> Self {
        Self {
            namespace,
            pod,
            container,
            limit: Duration::from_secs(10),
            most_bytes: 16 << 20,
        }
    }

    /// With another limit of time.
    #[must_use]
    pub const fn within(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// Runs `command`; its standard output.
    ///
    /// # Errors
    /// [`ExecError`]
    pub async fn run(&self, client: Client, command: &[&str]) -> Result<Vec<u8>, ExecError> {
        tokio::time::timeout(self.limit, self.attach(client, command))
            .await
            .unwrap_or_else(|_| {
                Err(ExecError::TimedOut {
                    pod: self.pod.into(),
                    limit: self.limit,
                })
            })
    }

    async fn attach(&self, client: Client, command: &[&str]) -> Result<Vec<u8>, ExecError> {
        let api: Api<Pod> = Api::namespaced(client, self.namespace);
        let parameters = AttachParams {
            container: Some(self.container.into()),
            stdout: true,
            stderr: true,
            max_stdout_buf_size: Some(64 * 1024),
            ..AttachParams::default()
        };
        let attached = api.exec(self.pod, command.iter().copied(), &parameters).await;
        let mut process = attached.map_err(|error| ExecError::Api {
            pod: self.pod.into(),
            error: Box::new(error),
        })?;
        let (stdout, stderr, status) = (process.stdout(), process.stderr(), process.take_status());
        let too_large = || ExecError::TooLarge {
            pod: self.pod.into(),
            limit: self.most_bytes,
        };
        let output = async { read(stdout, self.most_bytes).await.ok_or_else(too_large) };
        let errors = async { Ok(read(stderr, MOST_STDERR).await.unwrap_or_default()) };
        let status = async {
            Ok(match status {
                Some(status) => status.await,
                None => None,
            })
        };
        let (stdout, stderr, status) = tokio::try_join!(output, errors, status)?;
        match failure(status.as_ref()) {
            None => Ok(stdout),
            Some(reason) => {
                let stderr = String::from_utf8_lossy(&stderr);
                let stderr = stderr.trim();
                let message = if stderr.is_empty() {
                    reason
                } else {
                    format!("{reason}: {stderr}")
                };
                Err(ExecError::Failed {
                    pod: self.pod.into(),
                    message,
                    stdout,
                })
            }
        }
    }
}

/// Everything from `stream`; `None` if it is more than `most` bytes. A connection that breaks ends it: the status tells.
async fn read(stream: Option<impl AsyncRead + Unpin>, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(most + 1).read_to_end(&mut bytes).await.ok();
    }
    (bytes.len() as u64 <= most).then_some(bytes)
}

/// What the kubelet says of a command that did not succeed.
fn failure(status: Option<&Status>) -> Option<String> {
    let Some(status) = status else {
        return Some("the connection broke off".into());
    };
    if status.status.as_deref() == Some("Success") {
        return None;
    }
    // The kubelet's own words for a command that ran say the same twice.
    let mut causes = status
        .details
        .iter()
        .flat_map(|details| details.causes.iter().flatten());
    let exit = causes.find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    if let Some(code) = exit.and_then(|cause| cause.message.as_ref()) {
        return Some(format!("exit status {code}"));
    }
    Some(status.message.clone().unwrap_or_else(|| "no reason given".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_ran_is_told_by_its_exit_status() {
        let status = |text: serde_json::Value| -> Status { serde_json::from_value(text).unwrap() };
        let failed = status(serde_json::json!({
            "status": "Failure", "reason": "NonZeroExitCode",
            "message": "command terminated with non-zero exit code: command terminated with exit code 3",
            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]},
        }));
        assert_eq!(failure(Some(&failed)).unwrap(), "exit status 3");
        assert_eq!(
            failure(Some(&status(serde_json::json!({"status": "Success"})))),
            None
        );
        let absent = status(serde_json::json!({"status": "Failure", "message": "no such program"}));
        assert_eq!(failure(Some(&absent)).unwrap(), "no such program");
        assert!(failure(None).is_some());
    }
}
