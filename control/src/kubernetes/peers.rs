//! Where the pods of other nodes are learnt from.

use super::Watch;
use crate::object::Kind;

/// A source of the pods of other nodes: their addresses and labels.
pub trait PeerSource: Send + Sync {
    /// What is to be watched for them on the node of this name.
    fn watches(&self, node_name: &str) -> Vec<Watch>;
}

/// All Pod objects of other nodes; the index keeps of each what policy needs. Every node watches every pod, which an API server
/// bears for some 500 nodes.
#[derive(Debug, Clone, Copy, Default)]
pub struct PodPeers;

impl PeerSource for PodPeers {
    fn watches(&self, node_name: &str) -> Vec<Watch> {
        vec![Watch {
            fields: Some(format!("spec.nodeName!={node_name}")),
            ..Watch::all(Kind::Pod)
        }]
    }
}
