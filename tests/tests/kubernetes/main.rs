//! A real Kubernetes with sluice on it, driven by `kubectl`: the article as its text has it, and what a cluster does to pods.
//!
//! `scripts/cluster.sh up`, `scripts/cluster.sh install`, then `SLUICE_CLUSTER_DRIVER=cluster cargo test -p sluice-e2e --test kubernetes`.
//! Every case works in namespaces of its own and says what it needs; the article's share one deployment.

mod access;
mod article;
mod bed;
mod churn;
mod node;
mod outage;
mod pods;
mod probes;
mod propagation;
mod rollout;

use std::process::ExitCode;

use bed::Installed;
use sluice_e2e::suite;

fn main() -> ExitCode {
    let cases: [&[suite::Case<Installed>]; 9] = [
        article::CASES,
        probes::CASES,
        pods::CASES,
        propagation::CASES,
        outage::CASES,
        churn::CASES,
        rollout::CASES,
        node::CASES,
        // Last: it looks at what all of the others made sluice ask for.
        access::CASES,
    ];
    suite::run_with_gaps(&cases.concat(), rollout::KNOWN_GAPS)
}
