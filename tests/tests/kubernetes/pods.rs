//! Kinds of pods, and the ends of their lives.

use anyhow::{Context, Result, ensure};
use sluice_e2e::suite::Case;
use sluice_e2e::{cases, wait};

use crate::bed::{Installed, PodSpec, WEB, allow_only, default_deny};

pub const CASES: &[Case<Installed>] = cases![
    both_families_connect_and_are_denied_alike,
    host_network_pods_are_their_nodes_and_pass_as_such,
    host_port_leads_to_its_pod_and_policy_holds_there,
    terminating_pod_is_under_policy_until_it_is_gone,
    address_of_a_finished_job_carries_nothing_of_it_to_the_next_pod,
];

fn both_families_connect_and_are_denied_alike(bed: &mut Installed) -> Result<()> {
    const NAMESPACE: &str = "e2e-families";
    bed.namespace(NAMESPACE)?;
    let [first, second] = [bed.nodes[0].clone(), bed.nodes[1].clone()];
    bed.pods(
        NAMESPACE,
        &[
            PodSpec::web("web-near", "app: web", &first),
            PodSpec::web("web-far", "app: web", &second),
            PodSpec::idle("friend", "app: friend", &first),
            PodSpec::idle("stranger", "app: stranger", &first),
        ],
    )?;
    bed.cluster.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {NAMESPACE}}}\n\
         spec: {{ipFamilyPolicy: RequireDualStack, selector: {{app: web}}, ports: [{{port: 80, targetPort: {WEB}}}]}}\n"
    ))?;
    let mut targets = Vec::new();
    for pod in ["web-near", "web-far"] {
        let addresses = bed.addresses(NAMESPACE, pod)?;
        ensure!(addresses.len() == 2, "{pod} has {addresses:?}");
        targets.extend(addresses.into_iter().map(|address| (address, WEB)));
    }
    let vips = bed.kubectl(&[
        "-n",
        NAMESPACE,
        "get",
        "service",
        "web",
        "-o",
        "jsonpath={.spec.clusterIPs[*]}",
    ])?;
    for vip in vips.split_whitespace() {
        targets.push((vip.parse()?, 80));
    }
    ensure!(
        targets.len() == 6,
        "not two pods and a Service in two families: {targets:?}"
    );
    let (friend, stranger) = (format!("{NAMESPACE}/friend"), format!("{NAMESPACE}/stranger"));
    for (to, port) in &targets {
        bed.until_connect(&stranger, *to, *port, "open")?;
    }
    bed.cluster
        .apply(&allow_only(NAMESPACE, "friends", "friend", "web"))?;
    for (to, port) in &targets {
        bed.until_connect(&stranger, *to, *port, "timeout")?;
        bed.expect_connect(&friend, *to, *port, "open")?;
    }
    bed.leave_namespace(NAMESPACE)
}

fn host_network_pods_are_their_nodes_and_pass_as_such(bed: &mut Installed) -> Result<()> {
    const NAMESPACE: &str = "e2e-host-network";
    const PORT: u16 = 18080;
    bed.namespace(NAMESPACE)?;
    let [first, second] = [bed.nodes[0].clone(), bed.nodes[1].clone()];
    let host = |name, node| PodSpec {
        script: format!("exec python3 -u -m http.server {PORT} --bind ::"),
        spec: "hostNetwork: true",
        container: "readinessProbe: {tcpSocket: {port: 18080}, periodSeconds: 1}",
        ..PodSpec::idle(name, "app: host", node)
    };
    bed.pods(
        NAMESPACE,
        &[
            host("host-near", &first),
            host("host-far", &second),
            PodSpec::web("web", "app: web", &first),
            PodSpec::idle("client", "app: client", &first),
        ],
    )?;
    let web = bed.address(NAMESPACE, "web")?;
    let client = format!("{NAMESPACE}/client");
    for node in [&first, &second] {
        for to in bed.node_addresses(node)? {
            bed.until_connect(&client, to, PORT, "open")?;
        }
    }
    // With nothing allowed, a node still reaches its own pods, and only the node does.
    bed.cluster.apply(&default_deny(NAMESPACE))?;
    bed.until_connect(&client, web, WEB, "timeout")?;
    bed.expect_connect(&format!("{NAMESPACE}/host-near"), web, WEB, "open")?;
    bed.until_connect(&format!("{NAMESPACE}/host-far"), web, WEB, "timeout")?;
    for node in [&first, &second] {
        for to in bed.node_addresses(node)? {
            bed.expect_connect(&client, to, PORT, "timeout")?;
        }
    }
    // Another node is `remote-node` to policies.
    bed.cluster.apply(&format!(
        "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {{name: nodes, namespace: {NAMESPACE}}}\n\
         spec: {{endpointSelector: {{matchLabels: {{app: web}}}}, ingress: [{{fromEntities: [remote-node]}}]}}\n"
    ))?;
    bed.until_connect(&format!("{NAMESPACE}/host-far"), web, WEB, "open")?;
    bed.expect_connect(&client, web, WEB, "timeout")?;
    bed.leave_namespace(NAMESPACE)
}

fn host_port_leads_to_its_pod_and_policy_holds_there(bed: &mut Installed) -> Result<()> {
    const NAMESPACE: &str = "e2e-host-port";
    const PORT: u16 = 18081;
    bed.namespace(NAMESPACE)?;
    let node = bed.nodes[0].clone();
    let web = PodSpec {
        container: "readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n\
                    ports: [{containerPort: 8080, hostPort: 18081}]",
        ..PodSpec::web("web", "app: web", &node)
    };
    bed.pods(NAMESPACE, &[web])?;
    let to = *bed.node_addresses(&node)?.first().context("no address")?;
    bed.until_connect("outside", to, PORT, "open")?;
    bed.cluster.apply(&default_deny(NAMESPACE))?;
    bed.until_connect("outside", to, PORT, "timeout")?;
    bed.leave_namespace(NAMESPACE)
}

fn terminating_pod_is_under_policy_until_it_is_gone(bed: &mut Installed) -> Result<()> {
    const NAMESPACE: &str = "e2e-terminating";
    bed.namespace(NAMESPACE)?;
    let [first, second] = [bed.nodes[0].clone(), bed.nodes[1].clone()];
    bed.cluster
        .apply(&allow_only(NAMESPACE, "friends", "friend", "web"))?;
    let web = PodSpec {
        // It goes on serving, and is killed when it has finished /tmp/done.
        script: format!(
            "trap 'until [ -e /tmp/done ]; do sleep 0.1; done; exit 0' TERM; \
             setsid python3 -u -m http.server {WEB} --bind :: & while :; do wait; done"
        ),
        spec: "",
        ..PodSpec::web("web", "app: web", &first)
    };
    bed.pods(
        NAMESPACE,
        &[
            web,
            PodSpec::idle("friend", "app: friend", &second),
            PodSpec::idle("stranger", "app: stranger", &first),
        ],
    )?;
    let (friend, stranger) = (format!("{NAMESPACE}/friend"), format!("{NAMESPACE}/stranger"));
    let to = bed.address(NAMESPACE, "web")?;
    bed.until_connect(&friend, to, WEB, "open")?;
    bed.kubectl(&[
        "-n",
        NAMESPACE,
        "delete",
        "pod",
        "web",
        "--wait=false",
        "--grace-period",
        "60",
    ])?;
    wait::until("the pod is terminating", wait::LONG, || {
        let pod = bed.get(&["-n", NAMESPACE, "pod", "web"])?;
        Ok(pod["metadata"]["deletionTimestamp"].is_string().then_some(()))
    })?;
    bed.expect_connect(&friend, to, WEB, "open")?;
    bed.expect_connect(&stranger, to, WEB, "timeout")?;
    bed.expect_connect(&friend, to, WEB, "open")?;
    bed.kubectl(&["-n", NAMESPACE, "exec", "web", "--", "touch", "/tmp/done"])?;
    bed.kubectl(&[
        "-n",
        NAMESPACE,
        "wait",
        "--for",
        "delete",
        "pod/web",
        "--timeout",
        "60s",
    ])?;
    let gone = format!("{NAMESPACE}/web");
    wait::until("the agent has let go of the pod", wait::LONG, || {
        let status = bed.status(&first)?;
        let is_there = status["endpoints"]
            .as_array()
            .is_some_and(|endpoints| endpoints.iter().any(|endpoint| endpoint["pod"] == gone.as_str()));
        Ok((!is_there).then_some(()))
    })?;
    ensure!(
        bed.connect(&friend, &to.to_string(), WEB)? != "open",
        "{to} answers without its pod"
    );
    bed.leave_namespace(NAMESPACE)
}

/// The CNI hands addresses out in turn; without the mark of the last one it begins anew with the lowest that is free.
fn begin_addresses_anew(bed: &Installed, node: &str) -> Result<()> {
    let script = "rm -f /var/lib/cni/networks/*/last_reserved_ip* /run/cni-ipam-state/*/last_reserved_ip*";
    bed.node_shell(node, script).map(drop)
}

fn address_of_a_finished_job_carries_nothing_of_it_to_the_next_pod(bed: &mut Installed) -> Result<()> {
    const NAMESPACE: &str = "e2e-reuse";
    const ROUNDS: usize = 2;
    bed.namespace(NAMESPACE)?;
    let [first, second] = [bed.nodes[0].clone(), bed.nodes[1].clone()];
    bed.cluster.apply(&allow_only(NAMESPACE, "jobs", "job", "web"))?;
    bed.pods(
        NAMESPACE,
        &[
            PodSpec::web("web-near", "app: web", &first),
            PodSpec::web("web-far", "app: web", &second),
        ],
    )?;
    let [near, far] = [
        bed.address(NAMESPACE, "web-near")?,
        bed.address(NAMESPACE, "web-far")?,
    ];
    let mut lags = Vec::new();
    for round in 0..ROUNDS {
        begin_addresses_anew(bed, &first)?;
        let name = format!("job-{round}");
        // It is done when it has reached both, and so proves that its identity was known everywhere.
        bed.cluster.apply(&format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  backoffLimit: 0\n  \
             template:\n    metadata: {{labels: {{app: job}}}}\n    spec:\n      nodeName: {first}\n      restartPolicy: Never\n      \
             automountServiceAccountToken: false\n      containers:\n      - name: main\n        image: {}\n        \
             imagePullPolicy: IfNotPresent\n        \
             command: [sh, -c, 'until nc -z -w 1 {near} {WEB} && nc -z -w 1 {far} {WEB}; do :; done']\n",
            crate::bed::IMAGE
        ))?;
        let job = format!("job/{name}");
        bed.kubectl(&[
            "-n",
            NAMESPACE,
            "wait",
            "--for",
            "condition=Complete",
            &job,
            "--timeout",
            "60s",
        ])?;
        let selector = format!("job-name={name}");
        let pods = bed.get(&["-n", NAMESPACE, "pods", "-l", &selector])?;
        let pod = &pods["items"][0];
        let (job_pod, address) = (
            pod["metadata"]["name"]
                .as_str()
                .context("no pod of the Job")?
                .to_owned(),
            pod["status"]["podIP"]
                .as_str()
                .context("the Job had no address")?
                .to_owned(),
        );
        // The finished pod object stays; its address is free as soon as its sandbox has ended.
        wait::until("the Job's address is free", wait::LONG, || {
            let script = format!(
                "ls /var/lib/cni/networks/*/{address} /run/cni-ipam-state/*/{address} 2>/dev/null; true"
            );
            Ok(bed.node_shell(&first, &script)?.is_empty().then_some(()))
        })?;
        begin_addresses_anew(bed, &first)?;
        let next = format!("next-{round}");
        let probe = PodSpec {
            // Tries from its first moment on, each for 0.2 s, and says when it has got through.
            script: format!("exec python3 -u -c '{PROBE}' {near} {far}"),
            ..PodSpec::idle(&next, "app: next", &first)
        };
        bed.pods(NAMESPACE, &[probe])?;
        let reused = bed.address(NAMESPACE, &next)?;
        ensure!(
            reused.to_string() == address,
            "{next} got {reused}, not {address} of {job_pod}: nothing is shown"
        );
        // Denied in the end, and a while of tries to look at.
        let log = wait::until("the new pod has tried for 3 s", wait::LONG, || {
            let log = bed.kubectl(&["-n", NAMESPACE, "logs", &next])?;
            Ok(log.contains("done").then_some(log))
        })?;
        let mut lag: f64 = 0.0;
        for line in log.lines().filter(|line| line.starts_with("open")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            ensure!(
                words.get(1) != Some(&near.to_string().as_str()),
                "round {round}: {next} reached {near} of its own node with the address of {job_pod}"
            );
            let after: f64 = words.get(2).context("no time")?.parse()?;
            lag = lag.max(after);
        }
        lags.push(lag);
        bed.kubectl(&["-n", NAMESPACE, "delete", "pod", &next, "--wait=true"])?;
        bed.kubectl(&["-n", NAMESPACE, "delete", &job, "--wait=true"])?;
    }
    println!(
        "    a reused address: seconds of the new pod's life in which the other node still took it for the former: {lags:.2?}"
    );
    for lag in lags {
        ensure!(
            lag < 2.5,
            "the other node took the new pod for the Job for {lag:.2} s"
        );
    }
    bed.leave_namespace(NAMESPACE)
}

/// Connects to each address for three seconds; prints `open ADDRESS SECONDS-SINCE-START`, and `done`.
const PROBE: &str = "\
import socket, sys, time
start = time.time()
while time.time() - start < 3:
    for address in sys.argv[1:]:
        s = socket.socket()
        s.settimeout(0.2)
        try:
            s.connect((address, 8080))
            print(\"open\", address, time.time() - start)
        except OSError:
            pass
        s.close()
print(\"done\")
time.sleep(3600)
";
