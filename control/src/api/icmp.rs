//! `icmps` of `cilium.io/v2` rules.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// Types of ICMP messages.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct IcmpRule {
    /// The types.
    #[schemars(length(max = 40))]
    pub fields: Option<Vec<IcmpField>>,
}

/// One type of ICMP messages.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct IcmpField {
    /// Without it, IPv4.
    #[schemars(extend("enum" = ["IPv4", "IPv6"]))]
    pub family: Option<String>,
    /// The number of the type (0 to 255) or its name, for instance EchoRequest.
    #[serde(rename = "type")]
    #[schemars(schema_with = "int_or_string")]
    pub kind: IntOrString,
}

fn int_or_string(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"x-kubernetes-int-or-string": true})
}
