//! `cilium.io/v2` CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy: the object and its rules.

use schemars::JsonSchema;
use serde::Deserialize;

use super::icmp::IcmpRule;
use super::peer::{Cidr, CidrRule, Entity, Fqdn, Groups, Service};
use super::port::{PortDenyRule, PortRule};
use super::selector::LabelSelector;

/// A policy for pods of its namespace: which traffic they may have.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "has(self.spec) || has(self.specs)", "message": "at least one of spec and specs must be given"}]))]
pub struct CiliumNetworkPolicy {
    /// A rule.
    pub spec: Option<Rule>,
    /// Further rules; they apply beside spec.
    pub specs: Option<Vec<Rule>>,
}

/// The same without a namespace: a policy for pods of the whole cluster.
pub type CiliumClusterwideNetworkPolicy = CiliumNetworkPolicy;

/// A set of pods and what they may exchange with whom. At least one of the four lists must not be empty.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [{"required": ["endpointSelector"]}, {"required": ["nodeSelector"]}]))]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The pods; exactly one of endpointSelector and nodeSelector must be given.
    pub endpoint_selector: Option<LabelSelector>,
    /// The nodes (host policy; CiliumClusterwideNetworkPolicy only). Not supported by sluice.
    pub node_selector: Option<LabelSelector>,
    /// What they may receive.
    pub ingress: Option<Vec<IngressRule>>,
    /// What they must not receive, whatever other rules allow.
    pub ingress_deny: Option<Vec<IngressDenyRule>>,
    /// What they may send.
    pub egress: Option<Vec<EgressRule>>,
    /// What they must not send, whatever other rules allow.
    pub egress_deny: Option<Vec<EgressDenyRule>>,
    /// Whether what no rule allows is denied.
    pub enable_default_deny: Option<DefaultDeny>,
    /// Labels of the rule, for its readers.
    pub labels: Option<Vec<RuleLabel>>,
    /// Text for the rule's readers.
    pub description: Option<String>,
    /// What is shown with flows that the rule decides.
    pub log: Option<Log>,
}

/// Whether what no rule allows is denied; absent, it is where the rule says anything about the direction.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct DefaultDeny {
    /// For what the pods receive.
    pub ingress: Option<bool>,
    /// For what the pods send.
    pub egress: Option<bool>,
}

/// A label of a rule.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct RuleLabel {
    /// The label's key.
    pub key: String,
    /// The label's value.
    pub value: Option<String>,
    /// The label's source.
    pub source: Option<String>,
}

/// What is shown with flows that the rule decides.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Log {
    /// At most 32 printable characters.
    #[schemars(length(max = 32), regex(pattern = r"^\PC*$"))]
    pub value: Option<String>,
}

/// Peers that must prove who they are. Not supported by sluice.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Authentication {
    /// How they prove it.
    #[schemars(extend("enum" = ["disabled", "required", "test-always-fail"]))]
    pub mode: String,
}

/// Senders and ports that are allowed; only one list of senders may be given. Without one it is everyone.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// Pods by labels; in a namespaced policy those of its namespace, unless another is named.
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// Must be empty (removed in Cilium 1.20).
    pub from_requires: Option<Vec<LabelSelector>>,
    /// Sets that have a name.
    pub from_entities: Option<Vec<Entity>>,
    /// Addresses outside the cluster.
    #[serde(rename = "fromCIDR")]
    pub from_cidr: Option<Vec<Cidr>>,
    /// Addresses outside the cluster, with exceptions or from CiliumCIDRGroups.
    #[serde(rename = "fromCIDRSet")]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// Groups of a cloud provider. Not supported by sluice.
    pub from_groups: Option<Vec<Groups>>,
    /// Other nodes by labels.
    pub from_nodes: Option<Vec<LabelSelector>>,
    /// Ports; without any item all ports and protocols.
    pub to_ports: Option<Vec<PortRule>>,
    /// Types of ICMP messages; not beside toPorts.
    pub icmps: Option<Vec<IcmpRule>>,
    /// Not supported by sluice.
    pub authentication: Option<Authentication>,
}

/// Senders and ports that are denied; only one list of senders may be given. Without one it is everyone.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IngressDenyRule {
    /// Pods by labels; in a namespaced policy those of its namespace, unless another is named.
    pub from_endpoints: Option<Vec<LabelSelector>>,
    /// Must be empty (removed in Cilium 1.20).
    pub from_requires: Option<Vec<LabelSelector>>,
    /// Sets that have a name.
    pub from_entities: Option<Vec<Entity>>,
    /// Addresses outside the cluster.
    #[serde(rename = "fromCIDR")]
    pub from_cidr: Option<Vec<Cidr>>,
    /// Addresses outside the cluster, with exceptions or from CiliumCIDRGroups.
    #[serde(rename = "fromCIDRSet")]
    pub from_cidr_set: Option<Vec<CidrRule>>,
    /// Groups of a cloud provider. Not supported by sluice.
    pub from_groups: Option<Vec<Groups>>,
    /// Other nodes by labels.
    pub from_nodes: Option<Vec<LabelSelector>>,
    /// Ports; without any item all ports and protocols.
    pub to_ports: Option<Vec<PortDenyRule>>,
    /// Types of ICMP messages; not beside toPorts.
    pub icmps: Option<Vec<IcmpRule>>,
}

/// Receivers and ports that are allowed; only one list of receivers may be given. Without one it is everyone.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// Pods by labels; in a namespaced policy those of its namespace, unless another is named.
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// Must be empty (removed in Cilium 1.20).
    pub to_requires: Option<Vec<LabelSelector>>,
    /// Sets that have a name.
    pub to_entities: Option<Vec<Entity>>,
    /// Addresses outside the cluster.
    #[serde(rename = "toCIDR")]
    pub to_cidr: Option<Vec<Cidr>>,
    /// Addresses outside the cluster, with exceptions or from CiliumCIDRGroups.
    #[serde(rename = "toCIDRSet")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// Groups of a cloud provider. Not supported by sluice.
    pub to_groups: Option<Vec<Groups>>,
    /// Other nodes by labels.
    pub to_nodes: Option<Vec<LabelSelector>>,
    /// Backends of Services.
    pub to_services: Option<Vec<Service>>,
    /// Addresses outside the cluster that DNS gave for names.
    #[serde(rename = "toFQDNs")]
    pub to_fqdns: Option<Vec<Fqdn>>,
    /// Ports; without any item all ports and protocols.
    pub to_ports: Option<Vec<PortRule>>,
    /// Types of ICMP messages; not beside toPorts.
    pub icmps: Option<Vec<IcmpRule>>,
    /// Not supported by sluice.
    pub authentication: Option<Authentication>,
}

/// Receivers and ports that are denied; only one list of receivers may be given. Without one it is everyone.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressDenyRule {
    /// Pods by labels; in a namespaced policy those of its namespace, unless another is named.
    pub to_endpoints: Option<Vec<LabelSelector>>,
    /// Must be empty (removed in Cilium 1.20).
    pub to_requires: Option<Vec<LabelSelector>>,
    /// Sets that have a name.
    pub to_entities: Option<Vec<Entity>>,
    /// Addresses outside the cluster.
    #[serde(rename = "toCIDR")]
    pub to_cidr: Option<Vec<Cidr>>,
    /// Addresses outside the cluster, with exceptions or from CiliumCIDRGroups.
    #[serde(rename = "toCIDRSet")]
    pub to_cidr_set: Option<Vec<CidrRule>>,
    /// Groups of a cloud provider. Not supported by sluice.
    pub to_groups: Option<Vec<Groups>>,
    /// Other nodes by labels.
    pub to_nodes: Option<Vec<LabelSelector>>,
    /// Backends of Services.
    pub to_services: Option<Vec<Service>>,
    /// Ports; without any item all ports and protocols.
    pub to_ports: Option<Vec<PortDenyRule>>,
    /// Types of ICMP messages; not beside toPorts.
    pub icmps: Option<Vec<IcmpRule>>,
}
