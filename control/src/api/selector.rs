//! LabelSelectors (`meta/v1 LabelSelector`).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Selects objects by their labels; all requirements must hold, and without any all objects are selected.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// Labels that must have these values. In Cilium's kinds a key may carry a source: `k8s:app`, `reserved:host`.
    pub match_labels: Option<BTreeMap<String, LabelValue>>,
    /// Further requirements.
    pub match_expressions: Option<Vec<LabelSelectorRequirement>>,
}

/// The value of a label.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct LabelValue(#[schemars(length(max = 63))] pub String);

/// One requirement on a label.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct LabelSelectorRequirement {
    /// Key of the label.
    pub key: String,
    /// How the label relates to the values.
    #[schemars(extend("enum" = ["In", "NotIn", "Exists", "DoesNotExist"]))]
    pub operator: String,
    /// At least one with In and NotIn, none with Exists and DoesNotExist.
    pub values: Option<Vec<String>>,
}
