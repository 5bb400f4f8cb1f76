//! "Mastering Cilium Network Policies", a case per sentence, with its Flask application and PostgreSQL as Deployments.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use sluice_e2e::lab::source_root;
use sluice_e2e::suite::Case;
use sluice_e2e::{Cluster, cases, wait};

use crate::bed::Installed;

pub const CASES: &[Case<Installed>] = cases![
    article_without_policy_every_pod_connects_to_postgres,
    article_without_policy_every_page_is_served,
    article_l3_policy_lets_flask_reach_postgres,
    article_l3_policy_lets_debug_of_the_same_namespace_time_out,
    article_l3_policy_lets_debug_of_another_namespace_time_out,
    article_l7_policy_serves_the_root_to_the_same_namespace,
    article_l7_policy_serves_the_root_to_another_namespace,
    article_l7_policy_denies_metrics_to_the_same_namespace,
    article_l7_policy_denies_metrics_to_another_namespace,
    article_l7_policy_holds_at_the_node_port_from_outside,
    article_kubectl_shows_both_policies_as_valid,
    article_removed_policies_allow_everything_again,
];

const L3: &str = "flask-app-to-db";
const L7: &str = "l7-rule";
const NODE_PORT: u16 = 30008;

/// What [`get`] says of a port that nobody listens at.
const REFUSED: &str = "curl exit Some(7)";
const SAME: &str = "db/debug";
const OTHER: &str = "dummy/debug";
const ROOT: &str = "200 temperatures";
const METRICS: &str = "200 metrics";
const DENIED: &str = "403 Access denied";

fn step(what: &str, expected: &str, seen: &str) -> Result<()> {
    let result = if expected == seen { "ok" } else { "FAILED" };
    println!("    {what:<56} expected {expected:<18} seen {seen:<18} {result}");
    ensure!(expected == seen, "{what}: expected {expected:?}, seen {seen:?}");
    Ok(())
}

/// Status and kind of the body of a GET, or how curl fails.
fn get(bed: &Installed, from: &str, url: &str) -> Result<String> {
    let command = [
        "curl",
        "-s",
        "-w",
        "\n%{http_code}",
        "--connect-timeout",
        "3",
        "--max-time",
        "10",
        url,
    ];
    let output = bed.run_at(from, &command)?;
    match output.status.code() {
        Some(0) => {}
        Some(28) => return Ok("timeout".into()),
        code => return Ok(format!("curl exit {code:?}")),
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, code) = text.rsplit_once('\n').context("curl prints no status")?;
    let body = match () {
        () if body == "Access denied\r\n" => "Access denied",
        // Served by a replica, with all eight readings that it has from PostgreSQL.
        () if body.starts_with("temperatures, served by flask-app-") && body.lines().count() == 9 => {
            "temperatures"
        }
        () if body.contains("flask_app_requests_total") => "metrics",
        () => body.get(..60).unwrap_or(body),
    };
    Ok(format!("{code} {body}"))
}

/// The deployed application.
struct Article {
    postgres: String,
    /// Name and address of each replica.
    flask: BTreeMap<String, String>,
    cluster_ip: String,
}

/// Deploys the application unless it is there, makes `policies` those that are applied, and waits until each is enforced.
fn article(bed: &mut Installed, policies: &[&str]) -> Result<Article> {
    let deployed = bed
        .cluster
        .try_kubectl(&["-n", "db", "get", "deployment", "flask-app"])?;
    if !deployed.status.success() {
        bed.cluster.load_image(Cluster::article_image()?.as_ref())?;
        let folder = source_root().join("kind-config/article-local");
        bed.kubectl(&["apply", "-k", &folder.display().to_string()])?;
        for what in ["deployment/postgres", "deployment/flask-app"] {
            bed.kubectl(&["-n", "db", "rollout", "status", what, "--timeout", "120s"])?;
        }
        for namespace in ["db", "dummy"] {
            bed.kubectl(&[
                "-n",
                namespace,
                "wait",
                "--for",
                "condition=Ready",
                "pod/debug",
                "--timeout",
                "60s",
            ])?;
        }
    }
    bed.remember_namespace("db");
    bed.remember_namespace("dummy");
    for policy in [L3, L7] {
        let file = source_root().join(format!("kind-config/article/policies/{policy}.yaml"));
        let file = file.display().to_string();
        if policies.contains(&policy) {
            bed.kubectl(&["apply", "-f", &file])?;
        } else {
            bed.kubectl(&["delete", "-f", &file, "--ignore-not-found"])?;
        }
    }
    let pods = |label: &str| -> Result<BTreeMap<String, String>> {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.status.podIP}{\"\\n\"}{end}";
        let text = bed.kubectl(&["-n", "db", "get", "pods", "-l", label, "-o", path])?;
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        Ok(pairs
            .map(|(name, address)| (name.to_owned(), address.to_owned()))
            .collect())
    };
    let article = Article {
        postgres: pods("app=postgres")?
            .into_values()
            .next()
            .context("no pod of PostgreSQL")?,
        flask: pods("app=flask-app")?,
        cluster_ip: bed.kubectl(&[
            "-n",
            "db",
            "get",
            "service",
            "flask-app-service",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])?,
    };
    ensure!(
        article.flask.len() == 3,
        "{} replicas of flask-app",
        article.flask.len()
    );
    let database = if policies.contains(&L3) { "timeout" } else { "open" };
    wait::until_equal("the L3 policy is enforced or gone", &database.to_owned(), || {
        bed.connect(SAME, &article.postgres, 5432)
    })?;
    let metrics = if policies.contains(&L7) { DENIED } else { METRICS };
    for address in article.flask.values() {
        wait::until_equal("the L7 policy is enforced or gone", &metrics.to_owned(), || {
            get(bed, SAME, &format!("http://{address}:5000/metrics"))
        })?;
    }
    Ok(article)
}

impl Article {
    fn database(&self, bed: &Installed, from: &str, expected: &str) -> Result<()> {
        for to in [self.postgres.as_str(), "mydb-service.db"] {
            let what = format!("{from}: nc -v -z -w 2 {to} 5432");
            step(&what, expected, &bed.connect(from, to, 5432)?)?;
        }
        Ok(())
    }

    /// `path` by every replica's address, by ClusterIP, by the Service's name and by the NodePort of every node.
    fn page(&self, bed: &Installed, from: &str, path: &str, expected: &str) -> Result<()> {
        let mut bases: Vec<String> = self
            .flask
            .values()
            .map(|address| format!("http://{address}:5000"))
            .collect();
        bases.push(format!("http://{}:80", self.cluster_ip));
        bases.push("http://flask-app-service.db".into());
        bases.extend(node_port_bases(bed)?);
        for base in bases {
            let url = format!("{base}{path}");
            step(&format!("{from}: GET {url}"), expected, &get(bed, from, &url)?)?;
        }
        Ok(())
    }

    /// From outside, which is kube-proxy's work: without it nobody listens.
    fn node_ports(bed: &Installed, metrics: &str) -> Result<()> {
        let (root, metrics) = match bed.replaces_kube_proxy()? {
            true => (REFUSED, REFUSED),
            false => (ROOT, metrics),
        };
        for base in node_port_bases(bed)? {
            for (path, expected) in [("/", root), ("/metrics", metrics)] {
                let url = format!("{base}{path}");
                let what = format!("outside: GET {url}");
                step(&what, expected, &get(bed, "outside", &url)?)?;
            }
        }
        Ok(())
    }
}

fn node_port_bases(bed: &Installed) -> Result<Vec<String>> {
    let base = |node: &String| {
        let addresses = bed.node_addresses(node)?;
        let address = addresses.first().context("a node without address")?;
        Ok(format!("http://{address}:{NODE_PORT}"))
    };
    bed.nodes.iter().map(base).collect()
}

fn article_without_policy_every_pod_connects_to_postgres(bed: &mut Installed) -> Result<()> {
    let article = article(bed, &[])?;
    for from in [SAME, OTHER] {
        article.database(bed, from, "open")?;
    }
    for replica in article.flask.keys() {
        article.database(bed, &format!("db/{replica}"), "open")?;
    }
    Ok(())
}

fn article_without_policy_every_page_is_served(bed: &mut Installed) -> Result<()> {
    let article = article(bed, &[])?;
    for from in [SAME, OTHER] {
        article.page(bed, from, "/", ROOT)?;
        article.page(bed, from, "/metrics", METRICS)?;
    }
    Article::node_ports(bed, METRICS)
}

fn article_l3_policy_lets_flask_reach_postgres(bed: &mut Installed) -> Result<()> {
    let article = article(bed, &[L3])?;
    for replica in article.flask.keys() {
        article.database(bed, &format!("db/{replica}"), "open")?;
    }
    // What the application reads from it is served.
    article.page(bed, SAME, "/", ROOT)
}

fn article_l3_policy_lets_debug_of_the_same_namespace_time_out(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3])?.database(bed, SAME, "timeout")
}

fn article_l3_policy_lets_debug_of_another_namespace_time_out(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3])?.database(bed, OTHER, "timeout")
}

fn article_l7_policy_serves_the_root_to_the_same_namespace(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3, L7])?.page(bed, SAME, "/", ROOT)
}

fn article_l7_policy_serves_the_root_to_another_namespace(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3, L7])?.page(bed, OTHER, "/", ROOT)
}

fn article_l7_policy_denies_metrics_to_the_same_namespace(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3, L7])?.page(bed, SAME, "/metrics", DENIED)
}

fn article_l7_policy_denies_metrics_to_another_namespace(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3, L7])?.page(bed, OTHER, "/metrics", DENIED)
}

fn article_l7_policy_holds_at_the_node_port_from_outside(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3, L7])?;
    Article::node_ports(bed, DENIED)
}

fn article_kubectl_shows_both_policies_as_valid(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3, L7])?;
    // The value of column VALID, in the row of a policy.
    let valid = |policy: &str| -> Result<String> {
        let table = bed.kubectl(&["-n", "db", "get", "cnp"])?;
        let mut lines = table.lines();
        let column = lines
            .next()
            .and_then(|header| header.split_whitespace().position(|word| word == "VALID"))
            .context("`kubectl get cnp` has no column VALID")?;
        let row = lines.find(|line| line.split_whitespace().next() == Some(policy));
        let row = row.with_context(|| format!("`kubectl get cnp` has no row of {policy}"))?;
        let value = row.split_whitespace().nth(column);
        Ok(value.unwrap_or("nothing").to_owned())
    };
    for policy in [L3, L7] {
        let outcome = wait::until_equal(policy, &"True".to_owned(), || valid(policy));
        step(
            &format!("kubectl get cnp: VALID of {policy}"),
            "True",
            &valid(policy)?,
        )?;
        outcome?;
    }
    Ok(())
}

fn article_removed_policies_allow_everything_again(bed: &mut Installed) -> Result<()> {
    article(bed, &[L3, L7])?;
    let article = article(bed, &[])?;
    for from in [SAME, OTHER] {
        article.database(bed, from, "open")?;
        article.page(bed, from, "/", ROOT)?;
        article.page(bed, from, "/metrics", METRICS)?;
    }
    Article::node_ports(bed, METRICS)
}
