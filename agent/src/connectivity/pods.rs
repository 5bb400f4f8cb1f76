//! The test's pods, and what each is for.

use serde_json::{Value, json};

/// The pods' namespace, and the other one.
pub const NAMESPACES: [&str; 2] = ["sluice-test", "sluice-test-2"];

/// The container of each pod.
pub const CONTAINER: &str = "test";

/// Port of pods of the host network: beyond those that usually serve, and below those that clients get.
const HOST_PORT: u16 = 18080;

/// Port of the node that leads to the pod `echo`.
pub const ECHO_HOST_PORT: u16 = 18081;

/// What a pod of the test is.
#[derive(Debug, Clone, Copy)]
pub struct PodPlan {
    /// Its name.
    pub name: &'static str,
    /// Its namespace.
    pub namespace: &'static str,
    app: &'static str,
    /// Whether it is on the other node.
    pub is_far: bool,
    is_host: bool,
    /// Port of its node that leads to its HTTP server.
    host_port: Option<u16>,
}

const fn plan(name: &'static str, app: &'static str) -> PodPlan {
    PodPlan {
        name,
        namespace: NAMESPACES[0],
        app,
        is_far: false,
        is_host: false,
        host_port: None,
    }
}

/// Every pod.
pub const PODS: [PodPlan; 7] = [
    plan("client", "client"),
    plan("client2", "client2"),
    PodPlan {
        host_port: Some(ECHO_HOST_PORT),
        ..plan("echo", "echo")
    },
    PodPlan {
        is_far: true,
        ..plan("echo-far", "echo")
    },
    PodPlan {
        namespace: NAMESPACES[1],
        ..plan("other", "client")
    },
    PodPlan {
        is_host: true,
        ..plan("host", "host")
    },
    PodPlan {
        is_host: true,
        is_far: true,
        ..plan("host-far", "host")
    },
];

/// A pod of the plan, on `node`.
#[must_use]
pub fn manifest(plan: &PodPlan, image: &str, node: &str) -> Value {
    let http = if plan.is_host { HOST_PORT } else { 8080 };
    let mut command = vec![
        "/usr/bin/sluice".to_owned(),
        "connectivity".into(),
        "serve".into(),
    ];
    command.extend(["--http".into(), http.to_string()]);
    let mut port = json!({"name": "http", "containerPort": http});
    if let Some(host_port) = plan.host_port {
        port["hostPort"] = host_port.into();
    }
    let mut ports = vec![port];
    if !plan.is_host {
        command.extend(["--http", "8081", "--udp", "8082"].map(str::to_owned));
        ports.push(json!({"name": "admin", "containerPort": 8081}));
        ports.push(json!({"name": "echo-udp", "containerPort": 8082, "protocol": "UDP"}));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": plan.name, "namespace": plan.namespace, "labels": {"app": plan.app}},
        "spec": {
            "nodeName": node,
            "hostNetwork": plan.is_host,
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 2,
            "containers": [{
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": command,
                "ports": ports,
                "readinessProbe": {
                    "httpGet": {"path": "/ready", "port": http},
                    "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2,
                },
                // For ICMP.
                "securityContext": {"capabilities": {"add": ["NET_RAW"]}},
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    })
}
