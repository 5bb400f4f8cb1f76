//! `cilium.io/v2 CiliumCIDRGroup`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::peer::Cidr;

/// Prefixes outside the cluster that rules name by the group's name or labels.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct CiliumCIDRGroup {
    /// The prefixes.
    pub spec: CiliumCIDRGroupSpec,
}

/// The prefixes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct CiliumCIDRGroupSpec {
    /// The prefixes.
    #[serde(rename = "externalCIDRs")]
    pub external_cidrs: Vec<Cidr>,
}
