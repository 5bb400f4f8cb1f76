//! Peers of `cilium.io/v2` rules that are not plain label selectors.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::selector::LabelSelector;

/// Names of `fromEntities` and `toEntities`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Entity(
    #[schemars(extend("enum" = ["all", "world", "cluster", "cluster-mesh", "host", "init", "ingress", "unmanaged",
        "remote-node", "health", "none", "kube-apiserver"]))]
    pub String,
);

/// An address with prefix length, for instance 192.0.2.0/24 or 2001:db8::/32.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Cidr(#[schemars(length(min = 1, max = 49), extend("format" = "cidr"))] pub String);

/// Addresses outside the cluster: exactly one of cidr, cidrGroupRef and cidrGroupSelector.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(extend("oneOf" = [
    {"required": ["cidr"]}, {"required": ["cidrGroupRef"]}, {"required": ["cidrGroupSelector"]}]))]
#[serde(rename_all = "camelCase")]
pub struct CidrRule {
    /// A prefix.
    pub cidr: Option<Cidr>,
    /// Name of a CiliumCIDRGroup.
    #[schemars(length(max = 253))]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"))]
    pub cidr_group_ref: Option<String>,
    /// Selects CiliumCIDRGroups by their labels.
    pub cidr_group_selector: Option<LabelSelector>,
    /// Prefixes that this item does not cover.
    pub except: Option<Vec<Cidr>>,
}

/// A DNS name or a pattern of names.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Fqdn {
    /// Exactly this name.
    #[schemars(length(max = 255), regex(pattern = r"^([-a-zA-Z0-9_]+[.]?)+$"))]
    pub match_name: Option<String>,
    /// Names of this pattern: * is any run of characters within a label, a leading **. one or more labels; alone, * is every name.
    #[schemars(length(max = 255), regex(pattern = r"^([-a-zA-Z0-9_*]+[.]?)+$"))]
    pub match_pattern: Option<String>,
}

/// Services, by name or by labels; a peer is each of their backends.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Service {
    /// Selects a Service by name.
    pub k8s_service: Option<ServiceName>,
    /// Selects Services by labels.
    pub k8s_service_selector: Option<ServiceSelector>,
}

/// Name of a Service.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceName {
    /// The Service's name.
    pub service_name: Option<String>,
    /// The Service's namespace; empty is any.
    pub namespace: Option<String>,
}

/// Labels of Services.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct ServiceSelector {
    /// The Services' labels.
    pub selector: LabelSelector,
    /// The Services' namespace; empty is any.
    pub namespace: Option<String>,
}

/// Groups of a cloud provider. Not supported by sluice.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Groups {
    /// Groups of Amazon Web Services.
    pub aws: Option<AwsGroups>,
}

/// Security groups of Amazon Web Services.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AwsGroups {
    /// Tags of the instances.
    pub labels: Option<BTreeMap<String, String>>,
    /// Identifiers of security groups.
    pub security_groups_ids: Option<Vec<String>>,
    /// Names of security groups.
    pub security_groups_names: Option<Vec<String>>,
    /// The region.
    pub region: Option<String>,
}
