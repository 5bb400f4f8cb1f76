//! A real Kubernetes with sluice on it, driven by `kubectl`: the article as its text has it, and what a cluster does to pods.
//!
//! `scripts/cluster.sh up`, `scripts/cluster.sh install`, then `SLUICE_CLUSTER_DRIVER=cluster cargo test -p sluice-e2e --test kubernetes`.
//! Every case works in namespaces of its own and says what it needs; the article's share one deployment. `SLUICE_CLUSTER_CASES=quick`
//! leaves out those that take minutes: what happens when parts of the cluster end.

mod access;
mod article;
mod bed;
mod churn;
mod commands;
mod first_instant;
mod node;
mod outage;
mod plugin;
mod pods;
mod probes;
mod propagation;
mod rollout;

use std::env;
use std::process::ExitCode;

use bed::Installed;
use sluice_e2e::suite;

fn main() -> ExitCode {
    let quick: [&[suite::Case<Installed>]; 6] = [
        article::CASES,
        probes::CASES,
        pods::CASES,
        first_instant::CASES,
        plugin::CASES,
        commands::CASES,
    ];
    let long: [&[suite::Case<Installed>]; 5] = [
        propagation::CASES,
        outage::CASES,
        churn::CASES,
        rollout::CASES,
        node::CASES,
    ];
    let is_quick = env::var("SLUICE_CLUSTER_CASES").is_ok_and(|cases| cases == "quick");
    let mut cases = quick.concat();
    if !is_quick {
        cases.extend_from_slice(&long.concat());
    }
    // Last: it looks at what all of the others made sluice ask for.
    cases.extend_from_slice(access::CASES);
    let known_gaps = if is_quick { &[] } else { rollout::KNOWN_GAPS };
    suite::run_with_gaps(&cases, known_gaps)
}
