//! The policy objects as users write them, field by field, and their CustomResourceDefinitions.
//!
//! One description serves three ends: the schemas in `deploy/crds` are generated from these types, [`schema`] checks every document
//! against the same schemas, and the decoders read the types. A field that is in no type is a fault. What the API server would say
//! of an object, the agent says as well, whether the object comes from a server or from a folder.
//!
//! `networking.k8s.io/v1 NetworkPolicy` is not here: its types are `k8s-openapi`'s and its API is built into the API server.

pub mod cidr_group;
pub mod cluster;
pub mod definition;
pub mod http;
pub mod icmp;
pub mod peer;
pub mod port;
pub mod rule;
pub mod schema;
pub mod selector;
pub mod status;

pub use cidr_group::CiliumCIDRGroup;
pub use cluster::ClusterNetworkPolicy;
pub use rule::{CiliumClusterwideNetworkPolicy, CiliumNetworkPolicy};
