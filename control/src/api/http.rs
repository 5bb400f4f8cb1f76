//! `rules.http` of `cilium.io/v2` rules.

use schemars::JsonSchema;
use serde::Deserialize;

/// Requests that are allowed: every field that is given must match.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpRule {
    /// Regular expression (RE2) that the whole request target must match, query included.
    pub path: Option<String>,
    /// Regular expression (RE2) that the whole method must match.
    pub method: Option<String>,
    /// Regular expression (RE2) that the whole Host must match, port included.
    pub host: Option<String>,
    /// Headers that must be there: a name, or a name, a space and the exact value.
    pub headers: Option<Vec<String>>,
    /// Headers that must be there, and what to do if they are not.
    pub header_matches: Option<Vec<HeaderMatch>>,
}

/// A header with this value.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct HeaderMatch {
    /// What to do with a request that lacks the header or has another value: absent, the rule does not match.
    #[schemars(extend("enum" = ["LOG", "ADD", "DELETE", "REPLACE"]))]
    pub mismatch: Option<String>,
    /// Name of the header.
    #[schemars(length(min = 1))]
    pub name: String,
    /// A Secret with the value.
    pub secret: Option<Secret>,
    /// The value; without one and without a secret, the header must be there.
    pub value: Option<String>,
}

/// Name of a Secret.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Secret {
    /// The Secret's namespace.
    pub namespace: Option<String>,
    /// The Secret's name.
    #[schemars(length(min = 1))]
    pub name: String,
}
