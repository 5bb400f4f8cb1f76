//! Tries scenarios: applies policies, probes until all is as it should be, removes them, probes again.
//!
//! A scenario holds if two rounds of all its probes in a row come out as expected before the time is over; what was different in
//! the last round is reported.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future;
use kube::Api;
use kube::api::DynamicObject;
use tokio::time::Instant;

use super::deployment::{Deployment, HERE, Targets, TestPod, bracketed};
use super::pods::CONTAINER;
use super::probe::{self, Outcome, ProbeSpec};
use super::report::{Report, Trial, failure, line};
use super::scenario::{Check, EXTERNAL, Held, Scenario};
use crate::cluster::{Exec, documents, objects, policies, status};
use crate::junit::{Case, Failure};

/// How long a probe waits for its answer: longer than TCP's first retransmission after 1 s, so that silence is no accident.
const PROBE: Duration = Duration::from_millis(2000);

/// How long a command in a pod may take.
const COMMAND: Duration = Duration::from_secs(20);

/// Between two rounds that are not as they should be.
const POLL: Duration = Duration::from_millis(200);

/// Probes of the kubelet that have to arrive.
const KUBELET_PROBES: u64 = 3;

/// What a scenario may need that is not everywhere.
const NEEDS: &str = "it needs a second node, an address outside (--external), node ports that are reached from here, or externalIPs that \
     the cluster does not forbid";

/// Flow records of each node that are shown with a failure.
const FLOWS: &str = "15";

/// Tries scenarios one after the other.
#[derive(Debug)]
pub struct Runner<'a> {
    deployment: &'a Deployment,
    targets: Targets,
    timeout: Duration,
    report: Report,
}

impl<'a> Runner<'a> {
    /// For the pods of `targets`; a policy may take `timeout` to be enforced.
    #[must_use]
    pub const fn new(deployment: &'a Deployment, targets: Targets, timeout: Duration) -> Self {
        Self {
            deployment,
            targets,
            timeout,
            report: Report { cases: Vec::new() },
        }
    }

    /// What has been tried.
    #[must_use]
    pub fn finish(self) -> Report {
        self.report
    }

    /// Tries a scenario and says what came of it.
    pub async fn run(&mut self, scenario: &Scenario) {
        let begin = Instant::now();
        let outcome = match self.prepare(scenario).await {
            Ok(Err(reason)) => Ok(Some(reason)),
            Ok(Ok(policies)) => self.attempt(scenario, &policies).await.map(|()| None),
            Err(error) => Err(failure(&format!("{error:#}"), Vec::new())),
        };
        let seconds = begin.elapsed().as_secs_f32();
        let name = scenario.name.clone();
        let (failure, skipped) = match outcome {
            Ok(None) => {
                println!("ok      {name} ({seconds:.1} s)");
                (None, None)
            }
            Ok(Some(reason)) => {
                println!("skipped {name}: {reason}");
                (None, Some(reason))
            }
            Err(mut failure) => {
                println!("FAILED  {name} ({seconds:.1} s): {}", failure.message);
                failure.explanation.push_str(&self.flows().await);
                for line in failure.explanation.lines() {
                    println!("          {line}");
                }
                (Some(failure), None)
            }
        };
        self.report.cases.push(Case {
            name,
            failure,
            skipped,
        });
    }

    /// The policies of a scenario, in versions that the cluster has; or why it cannot be tried here.
    async fn prepare(&self, scenario: &Scenario) -> anyhow::Result<Result<Vec<DynamicObject>, String>> {
        if scenario.policies.contains(EXTERNAL) && self.targets.external.is_none() {
            return Ok(Err(
                "no address outside the cluster is known; give --external".into()
            ));
        }
        let has_trials = |check: &Check| !self.trials(std::slice::from_ref(check)).is_empty();
        if !scenario.checks.iter().any(has_trials) {
            return Ok(Err(NEEDS.into()));
        }
        // Without what is denied a scenario would show nothing.
        let restricted = |check: &&Check| check.expect != check.expect.without_policies();
        let mut restricted = scenario.checks.iter().filter(restricted).peekable();
        if restricted.peek().is_some() && !restricted.any(has_trials) {
            return Ok(Err(NEEDS.into()));
        }
        let external = self.targets.external.map(|address| address.ip().to_string());
        let text = scenario
            .policies
            .replace(EXTERNAL, external.as_deref().unwrap_or("0.0.0.0"));
        let mut policies = documents(&text)?;
        let client = self.deployment.cluster.client();
        for types in policies.iter_mut().filter_map(|policy| policy.types.as_mut()) {
            let kind = policies::KINDS.into_iter().find(|kind| kind.name() == types.kind);
            let served = match kind {
                Some(kind) => objects::served(&client, kind).await?,
                None => None,
            };
            match served {
                Some(resource) => types.api_version = resource.api_version,
                None => return Ok(Err(format!("the cluster has no {}", types.kind))),
            }
        }
        Ok(Ok(policies))
    }

    async fn attempt(&self, scenario: &Scenario, policies: &[DynamicObject]) -> Result<(), Failure> {
        let of_error = |error: anyhow::Error| failure(&format!("{error:#}"), Vec::new());
        let trials = self.trials(&scenario.checks);
        let held = match &scenario.held {
            Some(held) => Some(self.hold(held).await?),
            None => None,
        };
        for policy in policies {
            self.deployment.apply(policy.clone()).await.map_err(of_error)?;
        }
        let mut outcome = self.converge(&trials, "").await;
        if outcome.is_ok()
            && let Some(pod) = &scenario.kubelet_probes
        {
            outcome = self.await_kubelet(pod).await;
        }
        if let Some(held) = held {
            let held = held.await;
            if outcome.is_ok() {
                outcome = was_cut(held);
            }
        }
        for policy in policies {
            self.deployment.delete(policy).await.map_err(of_error)?;
        }
        if policies.is_empty() {
            return outcome;
        }
        let open = |trial: Trial| Trial {
            expect: trial.expect.without_policies(),
            ..trial
        };
        let trials: Vec<_> = trials.into_iter().map(open).collect();
        let restored = self.converge(&trials, "after the policies were removed: ").await;
        outcome.and(restored)
    }

    /// The probes of checks, for every address. Those that need what is not there (a second node) are left out.
    fn trials(&self, checks: &[Check]) -> Vec<Trial> {
        let mut trials = Vec::new();
        for check in checks {
            let present = check
                .from
                .iter()
                .filter(|from| self.targets.pods.contains_key(*from));
            for from in present {
                for url in check.to.iter().flat_map(|to| self.urls(to)) {
                    trials.push(Trial {
                        from: from.clone(),
                        spec: ProbeSpec {
                            url,
                            method: check.method.clone(),
                            headers: check.headers.clone(),
                            hold_ms: None,
                            times: check.times,
                        },
                        expect: check.expect.clone(),
                    });
                }
            }
        }
        trials
    }

    /// `url` with every address that its host stands for.
    fn urls(&self, url: &str) -> Vec<String> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Vec::new();
        };
        let end = rest.find([':', '/']).unwrap_or(rest.len());
        let (host, rest) = rest.split_at(end);
        let addresses = match (self.targets.pods.get(host), self.targets.hosts.get(host)) {
            (Some(pod), _) => pod.addresses.iter().map(|address| bracketed(address)).collect(),
            (None, Some(hosts)) => hosts.clone(),
            (None, None) => Vec::new(),
        };
        let with = |address: String| format!("{scheme}://{address}{rest}");
        addresses.into_iter().map(with).collect()
    }

    /// Probes until two rounds in a row are as expected.
    async fn converge(&self, trials: &[Trial], when: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut right = 0;
        loop {
            let wrong = self.round(trials).await;
            right = if wrong.is_empty() { right + 1 } else { 0 };
            if right == 2 {
                return Ok(());
            }
            if Instant::now() >= deadline && !wrong.is_empty() {
                let message = format!("{when}{} of {} probes differ", wrong.len(), trials.len());
                return Err(failure(&message, wrong));
            }
            if right == 0 {
                tokio::time::sleep(POLL).await;
            }
        }
    }

    /// One round of all probes; a line for each that is not as expected.
    async fn round(&self, trials: &[Trial]) -> Vec<String> {
        let mut by_pod: BTreeMap<&str, Vec<&Trial>> = BTreeMap::new();
        for trial in trials {
            by_pod.entry(&trial.from).or_default().push(trial);
        }
        let rounds = by_pod.into_iter().map(|(from, trials)| async move {
            let Some(pod) = self.targets.pods.get(from) else {
                return Vec::new();
            };
            let specs: Vec<_> = trials.iter().map(|trial| &trial.spec).collect();
            match self.probe(from, pod, &specs).await {
                Err(error) => vec![format!("{from}: {error}")],
                Ok(outcomes) => {
                    let differs =
                        |(trial, outcome): &(&&Trial, &Outcome)| !trial.expect.holds(outcome, &pod.addresses);
                    let pairs = trials.iter().zip(&outcomes).filter(differs);
                    pairs.map(|(trial, outcome)| line(trial, outcome)).collect()
                }
            }
        });
        future::join_all(rounds).await.concat()
    }

    async fn probe(&self, name: &str, pod: &TestPod, specs: &[&ProbeSpec]) -> Result<Vec<Outcome>, String> {
        if name == HERE {
            let probes = specs.iter().map(|spec| probe::run(spec, PROBE));
            return Ok(future::join_all(probes).await);
        }
        let hold = specs.iter().filter_map(|spec| spec.hold_ms).max().unwrap_or(0);
        let texts: Vec<_> = specs
            .iter()
            .filter_map(|spec| serde_json::to_string(spec).ok())
            .collect();
        let timeout = format!("--timeout-ms={}", PROBE.as_millis());
        let mut command = vec!["/usr/bin/sluice", "connectivity", "probe", timeout.as_str()];
        command.extend(texts.iter().map(String::as_str));
        let output = Exec::new(&pod.namespace, name, CONTAINER)
            .within(COMMAND + Duration::from_millis(hold))
            .run(self.deployment.cluster.client(), &command)
            .await
            .map_err(|error| error.to_string())?;
        let lines = output
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty());
        let outcomes: Result<Vec<Outcome>, _> = lines.map(serde_json::from_slice).collect();
        match outcomes {
            Ok(outcomes) if outcomes.len() == specs.len() => Ok(outcomes),
            Ok(outcomes) => Err(format!(
                "{} of {} probes were answered",
                outcomes.len(),
                specs.len()
            )),
            Err(error) => Err(format!("outcomes that cannot be understood: {error}")),
        }
    }

    /// What a pod's server says, asked within the pod.
    async fn stats(&self, name: &str) -> Result<super::serve::Echo, String> {
        let pod = self.targets.pods.get(name).ok_or("no such pod")?;
        let spec = ProbeSpec {
            url: "http://127.0.0.1:8080/stats".into(),
            ..ProbeSpec::default()
        };
        match self.probe(name, pod, &[&spec]).await?.pop() {
            Some(Outcome::Answered { echo: Some(echo), .. }) => Ok(echo),
            outcome => Err(format!("pod {name} does not answer itself: {outcome:?}")),
        }
    }

    /// Opens a connection that asks again and again, and waits until it was answered.
    async fn hold(
        &self,
        held: &Held,
    ) -> Result<impl Future<Output = Result<Vec<Outcome>, String>> + use<'_, 'a>, Failure> {
        let (Some(pod), Some(url)) = (
            self.targets.pods.get(&held.from),
            self.urls(&held.to).into_iter().next(),
        ) else {
            return Err(failure("no pod to hold a connection", Vec::new()));
        };
        let server = held
            .to
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split([':', '/']).next());
        let server = server.unwrap_or_default().to_owned();
        let spec = ProbeSpec {
            url,
            hold_ms: Some(u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)),
            ..ProbeSpec::default()
        };
        let from = held.from.clone();
        let mut probe = Box::pin(async move { self.probe(&from, pod, &[&spec]).await });
        let deadline = Instant::now() + self.timeout;
        let arrival = async {
            loop {
                match self.stats(&server).await {
                    Ok(echo) if echo.held_requests > 0 => return Ok(()),
                    _ if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                    Ok(_) => return Err("no request arrived by it".to_owned()),
                    Err(error) => return Err(error),
                }
            }
        };
        tokio::select! {
            outcome = &mut probe => {
                Err(failure("the connection did not last until there was a policy", vec![format!("{outcome:?}")]))
            }
            arrived = arrival => match arrived {
                Ok(()) => Ok(probe),
                Err(error) => Err(failure("the connection to be cut", vec![error])),
            }
        }
    }

    /// Waits until the kubelet has probed a pod some times more, and the pod is ready.
    async fn await_kubelet(&self, name: &str) -> Result<(), Failure> {
        let of_error = |error: String| failure("the kubelet's probes", vec![error]);
        let before = self.stats(name).await.map_err(of_error)?.kubelet_probes;
        let namespace = self
            .targets
            .pods
            .get(name)
            .map_or("", |pod| pod.namespace.as_str());
        let api: Api<k8s_openapi::api::core::v1::Pod> =
            Api::namespaced(self.deployment.cluster.client(), namespace);
        let deadline = Instant::now() + self.timeout;
        loop {
            let probes = self.stats(name).await.map_err(of_error)?.kubelet_probes - before;
            let pod = api.get(name).await.map_err(|error| of_error(error.to_string()))?;
            let problem = status::problem(&pod);
            if probes >= KUBELET_PROBES && problem.is_none() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let problem = problem.unwrap_or_else(|| "ready".into());
                let seen = format!("{probes} probes arrived at pod {name}, which is: {problem}");
                return Err(failure("the kubelet's probes do not arrive", vec![seen]));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last flow records of the agents of the test's nodes.
    async fn flows(&self) -> String {
        let cluster = &self.deployment.cluster;
        let pods = match cluster.daemon_set().await {
            Ok(Some(daemon_set)) => cluster.pods_of(&daemon_set).await.unwrap_or_default(),
            _ => BTreeMap::new(),
        };
        let mut text = String::new();
        for (node, pod) in pods {
            if !self.targets.pods.values().any(|test| test.node == node) {
                continue;
            }
            let name = pod.metadata.name.unwrap_or_default();
            let arguments = ["flows", "--verdict", "dropped", "--last", FLOWS];
            let flows = match cluster.agent_exec(&name, &arguments).await {
                Ok(flows) => String::from_utf8_lossy(&flows).into_owned(),
                Err(error) => error.to_string(),
            };
            text.push_str(&format!("last denials on {node}:\n"));
            for line in flows.lines() {
                text.push_str(&format!("  {line}\n"));
            }
        }
        text
    }
}

fn was_cut(held: Result<Vec<Outcome>, String>) -> Result<(), Failure> {
    let seen = match held.as_deref() {
        Ok([Outcome::Cut { rounds: 1.. }]) => return Ok(()),
        Ok(outcomes) => format!("{outcomes:?}"),
        Err(error) => error.clone(),
    };
    Err(failure("the connection was not cut", vec![seen]))
}
