//! `policy.networking.k8s.io/v1beta1 ClusterNetworkPolicy` (kubernetes-sigs/network-policy-api, experimental channel).

use schemars::JsonSchema;
use serde::Deserialize;

use super::selector::LabelSelector;

/// A cluster-wide policy whose rules are asked before or after those of namespaces.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ClusterNetworkPolicy {
    /// What is wanted.
    pub spec: ClusterNetworkPolicySpec,
}

/// A set of pods and rules for them; the first rule that matches decides.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ClusterNetworkPolicySpec {
    /// Admin: asked before all policies of namespaces. Baseline: asked where those say nothing.
    #[schemars(extend("enum" = ["Admin", "Baseline"]))]
    pub tier: String,
    /// Order within the tier, lowest first.
    #[schemars(range(min = 0, max = 1000))]
    pub priority: i32,
    /// The pods.
    pub subject: Subject,
    /// What they receive.
    #[schemars(length(max = 25))]
    pub ingress: Option<Vec<ClusterIngressRule>>,
    /// What they send.
    #[schemars(length(max = 25))]
    pub egress: Option<Vec<ClusterEgressRule>>,
}

/// Pods that a policy is for; exactly one field must be set. Pods of the host's network are never selected.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Subject {
    /// All pods of namespaces with these labels.
    pub namespaces: Option<LabelSelector>,
    /// Pods by their labels and those of their namespaces.
    pub pods: Option<NamespacedPods>,
}

/// Pods by their labels and those of their namespaces.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NamespacedPods {
    /// The namespaces; empty is all.
    pub namespace_selector: Option<LabelSelector>,
    /// The pods; empty is all.
    pub pod_selector: LabelSelector,
}

/// A rule for what pods receive.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ClusterIngressRule {
    /// Name of the rule, for its readers.
    #[schemars(length(max = 100))]
    pub name: Option<String>,
    /// What is done with traffic that matches. Pass: the rest of the tier is skipped.
    #[schemars(extend("enum" = ["Accept", "Deny", "Pass"]))]
    pub action: String,
    /// Senders.
    #[schemars(length(min = 1, max = 25))]
    pub from: Vec<IngressPeer>,
    /// Protocols and ports; absent, all.
    #[schemars(length(min = 1, max = 25))]
    pub protocols: Option<Vec<ProtocolMatch>>,
}

/// A rule for what pods send.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!(self.to.exists(peer, has(peer.networks) || has(peer.nodes) || has(peer.domainNames)) && has(self.protocols) && self.protocols.exists(protocol, has(protocol.destinationNamedPort)))",
    "message": "networks/nodes/domainNames peer cannot be set with namedPorts since there are no namedPorts for networks/nodes/domainNames"}]))]
pub struct ClusterEgressRule {
    /// Name of the rule, for its readers.
    #[schemars(length(max = 100))]
    pub name: Option<String>,
    /// What is done with traffic that matches. Pass: the rest of the tier is skipped.
    #[schemars(extend("enum" = ["Accept", "Deny", "Pass"]))]
    pub action: String,
    /// Receivers.
    #[schemars(length(min = 1, max = 25))]
    pub to: Vec<EgressPeer>,
    /// Protocols and ports; absent, all.
    #[schemars(length(min = 1, max = 25))]
    pub protocols: Option<Vec<ProtocolMatch>>,
}

/// Senders; exactly one field must be set.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct IngressPeer {
    /// All pods of namespaces with these labels.
    pub namespaces: Option<LabelSelector>,
    /// Pods by their labels and those of their namespaces.
    pub pods: Option<NamespacedPods>,
}

/// Receivers; exactly one field must be set.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
#[serde(rename_all = "camelCase")]
pub struct EgressPeer {
    /// All pods of namespaces with these labels.
    pub namespaces: Option<LabelSelector>,
    /// Pods by their labels and those of their namespaces.
    pub pods: Option<NamespacedPods>,
    /// Nodes by labels; empty is all.
    pub nodes: Option<LabelSelector>,
    /// Addresses, those of pods and nodes included.
    #[schemars(length(min = 1, max = 25), extend("x-kubernetes-list-type" = "set"))]
    pub networks: Option<Vec<Network>>,
    /// Addresses that DNS gave for names; only with action Accept.
    #[schemars(length(min = 1, max = 25), extend("x-kubernetes-list-type" = "set"))]
    pub domain_names: Option<Vec<DomainName>>,
}

/// An address with prefix length.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Network(
    #[schemars(length(max = 43), extend("x-kubernetes-validations" = [
        {"rule": "isCIDR(self)", "message": "Invalid CIDR format provided"}]))]
    pub String,
);

/// A name, or `*.` and a name for everything below it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct DomainName(
    #[schemars(regex(
        pattern = r"^(\*\.)?([a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.)+[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?\.?$"
    ))]
    pub String,
);

/// A protocol and ports of it; exactly one field must be set.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
#[serde(rename_all = "camelCase")]
pub struct ProtocolMatch {
    /// TCP.
    pub tcp: Option<PortMatch>,
    /// UDP.
    pub udp: Option<PortMatch>,
    /// SCTP.
    pub sctp: Option<PortMatch>,
    /// Name of a container port of the receiver, whatever its protocol.
    pub destination_named_port: Option<String>,
}

/// Ports of a protocol.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1))]
#[serde(rename_all = "camelCase")]
pub struct PortMatch {
    /// The receiver's port.
    pub destination_port: Option<Port>,
}

/// A port or a range; exactly one field must be set.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub struct Port {
    /// A port.
    #[schemars(range(min = 1, max = 65535))]
    pub number: Option<i32>,
    /// A range.
    pub range: Option<PortRange>,
}

/// From start to end, both included.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.start < self.end", "message": "Start port must be less than End port"}]))]
pub struct PortRange {
    /// First port.
    #[schemars(range(min = 1, max = 65535))]
    pub start: i32,
    /// Last port.
    #[schemars(range(min = 1, max = 65535))]
    pub end: i32,
}
