//! What sluice asks the API server for, by its audit log, and what it may ask for, by its ClusterRoles.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::Installed;

pub const CASES: &[Case<Installed>] = cases![
    no_request_of_sluice_is_forbidden,
    sluice_uses_every_verb_that_it_is_granted_and_no_other,
];

/// Uses that a run need not have: a pod is asked for by name where the watch lags behind the runtime
/// (`pod_that_was_asked_for_is_known_and_the_watch_that_catches_up_is_believed`).
const SOMETIMES: &[&str] = &["/pods get"];

/// `GROUP/RESOURCE VERB`.
type Uses = BTreeSet<String>;

/// Names of the service accounts whose ClusterRoleBindings or RoleBindings name a role of sluice's.
fn service_accounts(bed: &Installed) -> Result<BTreeSet<String>> {
    let accounts = bed.get(&["-n", "kube-system", "serviceaccounts"])?;
    let accounts = accounts["items"].as_array().context("items")?;
    let names = accounts
        .iter()
        .filter_map(|account| account["metadata"]["name"].as_str())
        .filter(|name| *name == "sluice" || name.starts_with("sluice-"))
        .map(str::to_owned);
    Ok(names.collect())
}

/// The requests of each service account.
fn requests(bed: &Installed) -> Result<BTreeMap<String, Vec<Value>>> {
    let accounts = service_accounts(bed)?;
    ensure!(!accounts.is_empty(), "no service account of sluice");
    let mut requests: BTreeMap<String, Vec<Value>> = accounts
        .into_iter()
        .map(|account| (account, Vec::new()))
        .collect();
    for line in bed.cluster.audit_log()?.lines() {
        // The last line may be being written.
        let Ok(request) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let user = request["user"]["username"].as_str().unwrap_or_default();
        let account = user.strip_prefix("system:serviceaccount:kube-system:");
        if let Some(list) = account.and_then(|account| requests.get_mut(account)) {
            list.push(request);
        }
    }
    for (account, requests) in &requests {
        ensure!(!requests.is_empty(), "the audit log has no request of {account}");
    }
    Ok(requests)
}

fn no_request_of_sluice_is_forbidden(bed: &mut Installed) -> Result<()> {
    for (account, requests) in requests(bed)? {
        let may = rights(bed, &account)?;
        // A starting API server forbids what it grants a moment later, when it has read the roles: that is not ours.
        let forbidden: BTreeSet<String> = requests
            .iter()
            .filter(|request| request["responseStatus"]["code"] == 403)
            .filter_map(used)
            .filter(|used| !may.contains(used))
            .collect();
        println!(
            "    {account}: {} requests, forbidden {forbidden:?}",
            requests.len()
        );
        ensure!(forbidden.is_empty(), "{account}: 403: {forbidden:?}");
    }
    Ok(())
}

/// What a request uses; nothing for those that everybody may make (discovery, version, health).
fn used(request: &Value) -> Option<String> {
    let object = &request["objectRef"];
    let mut resource = object["resource"].as_str()?.to_owned();
    if let Some(subresource) = object["subresource"].as_str() {
        resource = format!("{resource}/{subresource}");
    }
    let group = object["apiGroup"].as_str().unwrap_or_default();
    let verb = request["verb"].as_str()?;
    Some(format!("{group}/{resource} {verb}"))
}

fn granted(rules: &Value) -> Uses {
    let words = |value: &Value| -> Vec<String> {
        let list = value.as_array().cloned().unwrap_or_default();
        list.iter()
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    let mut granted = Uses::new();
    for rule in rules.as_array().into_iter().flatten() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                for verb in words(&rule["verbs"]) {
                    granted.insert(format!("{group}/{resource} {verb}"));
                }
            }
        }
    }
    granted
}

/// What the roles that are bound to a service account grant.
fn rights(bed: &Installed, account: &str) -> Result<Uses> {
    let mut may = Uses::new();
    for bindings in ["clusterrolebindings", "rolebindings"] {
        let all = bed.get(&["-A", bindings])?;
        for binding in all["items"].as_array().context("items")? {
            let subjects = binding["subjects"].as_array().cloned().unwrap_or_default();
            let is_bound = subjects.iter().any(|subject| {
                subject["kind"] == "ServiceAccount"
                    && subject["namespace"] == "kube-system"
                    && subject["name"] == account
            });
            if !is_bound {
                continue;
            }
            let kind = binding["roleRef"]["kind"].as_str().context("roleRef")?;
            let name = binding["roleRef"]["name"].as_str().context("roleRef")?;
            let namespace = binding["metadata"]["namespace"].as_str().unwrap_or("kube-system");
            let role = bed.get(&["-n", namespace, kind, name])?;
            may.extend(granted(&role["rules"]));
        }
    }
    Ok(may)
}

/// Makes the operator do what no other case has made it do: take its taint off a node, say that a policy is valid, and that one is
/// rejected.
fn exercise_operator(bed: &Installed) -> Result<()> {
    if !service_accounts(bed)?.contains("sluice-operator") {
        return Ok(());
    }
    let node = bed.nodes[0].as_str();
    let taint = "node.sluice.io/agent-not-ready";
    bed.kubectl(&[
        "taint",
        "node",
        node,
        &format!("{taint}=:NoSchedule"),
        "--overwrite",
    ])?;
    wait::until("the operator takes the taint off", wait::LONG, || {
        let taints = bed.kubectl(&["get", "node", node, "-o", "jsonpath={.spec.taints[*].key}"])?;
        Ok((!taints.contains(taint)).then_some(()))
    })?;
    bed.cluster.apply(POLICIES)?;
    let seen = wait::until("the operator judges both policies", wait::LONG, || {
        let valid = bed.get(&["ciliumclusterwidenetworkpolicy", "e2e-valid"])?;
        let events = bed.kubectl(&["get", "events.events.k8s.io", "-A"])?;
        let is_done = valid["status"]["conditions"][0]["status"] == "True" && events.contains("e2e-rejected");
        Ok(is_done.then_some(()))
    });
    bed.cluster.kubectl_with(&["delete", "-f", "-"], POLICIES)?;
    seen
}

/// One that selects nothing, and one whose domain names are in a rule that denies.
const POLICIES: &str = "\
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: e2e-valid}
spec: {endpointSelector: {matchLabels: {e2e: nothing}}, ingress: [{}]}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: e2e-rejected}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {matchLabels: {e2e: nothing}}}
  egress: [{action: Deny, to: [{domainNames: [example.com]}]}]
";

fn sluice_uses_every_verb_that_it_is_granted_and_no_other(bed: &mut Installed) -> Result<()> {
    exercise_operator(bed)?;
    let mut faults = Vec::new();
    for (account, requests) in requests(bed)? {
        let used: Uses = requests.iter().filter_map(used).collect();
        let may = rights(bed, &account)?;
        println!("    {account}: {} uses granted, {} used", may.len(), used.len());
        faults.extend(
            may.difference(&used)
                .filter(|unused| !SOMETIMES.contains(&unused.as_str()))
                .map(|unused| format!("{account} never uses {unused}")),
        );
        faults.extend(
            used.difference(&may)
                .map(|used| format!("{account} asks for {used} without a right")),
        );
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}
