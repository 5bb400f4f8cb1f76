//! CustomResourceDefinitions of the kinds, as `deploy/crds` has them.

use serde_json::{Value, json};

use super::status::{CiliumPolicyStatus, ClusterNetworkPolicyStatus};
use super::{
    CiliumCIDRGroup, CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy, ClusterNetworkPolicy, schema,
};

/// A column that `kubectl get` shows.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    /// Its heading.
    pub name: &'static str,
    /// Type of its values (OpenAPI).
    pub kind: &'static str,
    /// Where the values are.
    pub path: &'static str,
}

/// One kind's definition.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// API group.
    pub group: &'static str,
    /// Versions in the group, all served; the first is stored.
    pub versions: &'static [&'static str],
    /// The kind.
    pub kind: &'static str,
    /// Name of its objects in paths.
    pub plural: &'static str,
    /// What `kubectl get` takes beside the names.
    pub short_names: &'static [&'static str],
    /// Groups of kinds that `kubectl get` takes.
    pub categories: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Columns of `kubectl get`.
    pub columns: &'static [Column],
    /// `metadata.annotations` of the definition.
    pub annotations: &'static [(&'static str, &'static str)],
    schema: fn() -> Value,
    status: Option<fn() -> Value>,
}

const AGE: Column = Column {
    name: "Age",
    kind: "date",
    path: ".metadata.creationTimestamp",
};
const VALID: Column = Column {
    name: "Valid",
    kind: "string",
    path: ".status.conditions[?(@.type=='Valid')].status",
};

/// Every definition.
pub const ALL: [Definition; 4] = [
    Definition {
        group: "cilium.io",
        versions: &["v2"],
        kind: "CiliumNetworkPolicy",
        plural: "ciliumnetworkpolicies",
        short_names: &["cnp", "ciliumnp"],
        categories: &["cilium", "ciliumpolicy"],
        namespaced: true,
        columns: &[AGE, VALID],
        annotations: &[],
        schema: schema::of::<CiliumNetworkPolicy>,
        status: Some(schema::of::<CiliumPolicyStatus>),
    },
    Definition {
        group: "cilium.io",
        versions: &["v2"],
        kind: "CiliumClusterwideNetworkPolicy",
        plural: "ciliumclusterwidenetworkpolicies",
        short_names: &["ccnp"],
        categories: &["cilium", "ciliumpolicy"],
        namespaced: false,
        columns: &[VALID],
        annotations: &[],
        schema: schema::of::<CiliumClusterwideNetworkPolicy>,
        status: Some(schema::of::<CiliumPolicyStatus>),
    },
    Definition {
        group: "cilium.io",
        versions: &["v2"],
        kind: "CiliumCIDRGroup",
        plural: "ciliumcidrgroups",
        short_names: &["ccg"],
        categories: &["cilium"],
        namespaced: false,
        columns: &[],
        annotations: &[],
        schema: schema::of::<CiliumCIDRGroup>,
        status: None,
    },
    Definition {
        group: "policy.networking.k8s.io",
        versions: &["v1beta1", "v1alpha2"],
        kind: "ClusterNetworkPolicy",
        plural: "clusternetworkpolicies",
        short_names: &["cnp"],
        categories: &[],
        namespaced: false,
        columns: &[
            Column {
                name: "Tier",
                kind: "string",
                path: ".spec.tier",
            },
            Column {
                name: "Priority",
                kind: "string",
                path: ".spec.priority",
            },
            AGE,
        ],
        // The API server takes definitions of groups below k8s.io only with the first.
        annotations: &[
            (
                "api-approved.kubernetes.io",
                "https://github.com/kubernetes-sigs/network-policy-api/pull/347",
            ),
            ("policy.networking.k8s.io/channel", "experimental"),
        ],
        schema: schema::of::<ClusterNetworkPolicy>,
        status: Some(schema::of::<ClusterNetworkPolicyStatus>),
    },
];

impl Definition {
    /// `metadata.name` of the definition.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// The definition as an object (`apiextensions.k8s.io/v1`).
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut schema = (self.schema)();
        let text = |description: &str| json!({"type": "string", "description": description});
        for (key, value) in [
            ("apiVersion", text("Version of the kind.")),
            ("kind", text("The kind.")),
            ("metadata", json!({"type": "object"})),
        ] {
            schema["properties"][key] = value;
        }
        if let Some(status) = self.status {
            schema["properties"]["status"] = status();
        }
        let mut metadata = json!({"name": self.name()});
        if !self.annotations.is_empty() {
            metadata["annotations"] = self.annotations.iter().copied().collect();
        }
        let mut names = json!({
            "kind": self.kind,
            "listKind": format!("{}List", self.kind),
            "plural": self.plural,
            "singular": self.kind.to_ascii_lowercase(),
            "shortNames": self.short_names,
        });
        if !self.categories.is_empty() {
            names["categories"] = json!(self.categories);
        }
        let mut version = json!({
            "served": true,
            "schema": {"openAPIV3Schema": schema},
        });
        if !self.columns.is_empty() {
            let column = |c: &Column| json!({"name": c.name, "type": c.kind, "jsonPath": c.path});
            version["additionalPrinterColumns"] = self.columns.iter().map(column).collect();
        }
        if self.status.is_some() {
            version["subresources"] = json!({"status": {}});
        }
        let versions: Vec<Value> = self
            .versions
            .iter()
            .enumerate()
            .map(|(position, name)| {
                let mut version = version.clone();
                version["name"] = json!(name);
                version["storage"] = json!(position == 0);
                version
            })
            .collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": metadata,
            "spec": {
                "group": self.group,
                "names": names,
                "scope": if self.namespaced { "Namespaced" } else { "Cluster" },
                "versions": versions,
            },
        })
    }
}
