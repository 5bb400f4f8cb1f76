//! `toPorts` of `cilium.io/v2` rules.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::http::{HttpRule, Secret};
use super::peer::Fqdn;

/// Ports, and what may be said on them.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortRule {
    /// The ports; an item without any covers nothing.
    #[schemars(length(max = 40))]
    pub ports: Option<Vec<PortProtocol>>,
    /// Requests that are allowed on the ports.
    pub rules: Option<L7Rules>,
    /// Names of servers that clients may ask for (TLS SNI).
    #[schemars(length(min = 1))]
    pub server_names: Option<Vec<ServerName>>,
    /// A listener of Envoy that takes the traffic. Not supported by sluice.
    pub listener: Option<Listener>,
    /// The certificate that is shown to the client. Not supported by sluice.
    #[serde(rename = "terminatingTLS")]
    pub terminating_tls: Option<TlsContext>,
    /// The certificates that the server is expected to have. Not supported by sluice.
    #[serde(rename = "originatingTLS")]
    pub originating_tls: Option<TlsContext>,
}

/// Ports of a deny rule.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct PortDenyRule {
    /// The ports; an item without any covers nothing.
    #[schemars(length(max = 40))]
    pub ports: Option<Vec<PortProtocol>>,
}

/// One port or range of ports.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortProtocol {
    /// A number (0 is every port) or the name of a container port.
    #[schemars(regex(
        pattern = r"^(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4})$|^([a-zA-Z0-9]-?)*[a-zA-Z](-?[a-zA-Z0-9])*$"
    ))]
    pub port: Option<String>,
    /// Last port of a range that starts at port.
    #[schemars(range(min = 0, max = 65535))]
    pub end_port: Option<i32>,
    /// TCP, UDP or SCTP; ANY and absent are all three.
    pub protocol: Option<String>,
}

/// Rules for one protocol of layer 7.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct L7Rules {
    /// HTTP requests that are allowed.
    pub http: Option<Vec<HttpRule>>,
    /// DNS names that may be asked for.
    pub dns: Option<Vec<Fqdn>>,
    /// Requests to Kafka. Not supported by sluice (removed in Cilium 1.20).
    pub kafka: Option<Vec<Map<String, Value>>>,
    /// Name of a parser. Not supported by sluice (removed in Cilium 1.20).
    pub l7proto: Option<String>,
    /// Rules of that parser. Not supported by sluice (removed in Cilium 1.20).
    pub l7: Option<Vec<Map<String, Value>>>,
}

/// Name of a server; `*` is any run of characters within a label, `**` across labels.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ServerName(
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^([-a-zA-Z0-9_*]+[.]?)+$"))] pub String,
);

/// A listener of Envoy.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// The object that defines the listener.
    pub envoy_config: EnvoyConfig,
    /// The listener's name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Which listener takes what several cover, lowest first.
    #[schemars(range(min = 1, max = 100))]
    pub priority: Option<i32>,
}

/// Name of an Envoy configuration.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct EnvoyConfig {
    /// The object's kind; absent, that of the policy's own scope.
    #[schemars(extend("enum" = ["CiliumEnvoyConfig", "CiliumClusterwideEnvoyConfig"]))]
    pub kind: Option<String>,
    /// The object's name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// Certificates for the interception of TLS.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct TlsContext {
    /// The Secret that holds them.
    pub secret: Secret,
    /// Key of the authorities' certificates in the Secret; absent, ca.crt.
    #[serde(rename = "trustedCA")]
    pub trusted_ca: Option<String>,
    /// Key of the certificate in the Secret; absent, tls.crt.
    pub certificate: Option<String>,
    /// Key of the private key in the Secret; absent, tls.key.
    #[serde(rename = "privateKey")]
    pub private_key: Option<String>,
}
