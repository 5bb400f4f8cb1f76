//! Verdicts, drop reasons and the words they share with Hubble.

use serde::{Deserialize, Serialize};

/// Policy direction, seen from the endpoint that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// The direction as users write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// IP protocol number as policy sees it (IANA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Any protocol; only in rules.
    pub const ANY: Self = Self(0);
    /// ICMPv4; the "port" of a decision is the ICMP type.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMPv6; the "port" of a decision is the ICMP type.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// Name as users write it, or the number.
    #[must_use]
    pub fn name(self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::ANY => "ANY".into(),
            Self::ICMP => "ICMP".into(),
            Self::TCP => "TCP".into(),
            Self::UDP => "UDP".into(),
            Self::ICMPV6 => "ICMPv6".into(),
            Self::SCTP => "SCTP".into(),
            Self(n) => n.to_string().into(),
        }
    }
}

/// What became of a packet or a request.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Sent on.
    Forwarded,
    /// Not sent on, and why.
    Dropped(DropReason),
}

macro_rules! drop_reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal;)*) => {
        /// Why a packet was dropped. Numbers up to 223 are Hubble's (`flow.proto`, `DropReason`), 224 and above are sluice's own.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $name = $code,)* }

        impl DropReason {
            /// Every reason, by rising number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Metric label and flow-log text.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

drop_reasons! {
    /// Source MAC or address is not the endpoint's.
    InvalidSourceIp = 132, "Invalid source ip";
    /// No rule allows it (default deny).
    PolicyDenied = 133, "Policy denied";
    /// Lengths or fields contradict each other.
    InvalidPacket = 134, "Invalid packet";
    /// Transport header truncated or malformed.
    TruncatedHeader = 135, "CT: Truncated or invalid header";
    /// Larger than the path MTU; an ICMP error was sent where allowed.
    FragmentationNeeded = 136, "Fragmentation needed";
    /// Ethertype without policy meaning.
    UnsupportedL3 = 139, "Unsupported L3 protocol";
    /// Transport protocol that conntrack does not track.
    UnknownL4 = 142, "Unknown L4 protocol";
    /// No endpoint or route for the destination.
    Unroutable = 151, "Stale or unroutable IP";
    /// Conntrack table full.
    ConntrackFull = 155, "CT: Map insertion failed";
    /// IPv6 extension header unknown, too many, or out of bounds.
    InvalidExtensionHeader = 156, "Invalid IPv6 extension header";
    /// Fragment that cannot be judged.
    FragmentUnsupported = 157, "IP fragmentation not supported";
    /// Service without a usable backend; a reset or ICMP error was sent where allowed.
    NoBackend = 158, "Service backend not found";
    /// Link-layer frame that is neither IP nor ARP.
    UnsupportedL2 = 166, "Unsupported L2 protocol";
    /// No free translation for a service flow.
    NoNatMapping = 167, "No mapping for NAT masquerade";
    /// Address of a service, but no such port; a reset or ICMP error was sent where allowed.
    IsClusterIp = 174, "Is a ClusterIP";
    /// Later fragment whose first fragment never came.
    FirstFragmentMissing = 175, "First logical datagram fragment not found";
    /// Neighbour discovery or other ICMPv6 that a pod may not send.
    ForbiddenIcmpv6 = 176, "Forbidden ICMPv6 message";
    /// Client outside a Service's `loadBalancerSourceRanges`.
    NotInSourceRange = 177, "Denied by LB src range check";
    /// A deny rule matches.
    PolicyDenyRule = 181, "Policy denied by denylist";
    /// TTL or hop limit used up.
    TtlExceeded = 196, "TTL exceeded";
    /// The host pair or the snapshot is not ready.
    HostNotReady = 202, "Host datapath not ready";
    /// The endpoint's policy is not compiled yet.
    EndpointNotReady = 203, "Endpoint policy program not available";
    /// L3 or L4 checksum wrong.
    BadChecksum = 224, "Invalid checksum";
    /// Multicast or broadcast.
    Multicast = 225, "Multicast or broadcast not supported";
    /// ARP or ND that claims an address which is not the sender's.
    ForgedNeighbour = 226, "Forged ARP or neighbour discovery";
    /// Fragments overlap.
    FragmentOverlap = 227, "Overlapping fragments";
    /// First fragment without the whole transport header, or offset 1.
    TinyFragment = 228, "Tiny fragment";
    /// IPv4 options (source routing, record route, ...).
    IpOptions = 229, "IP options not allowed";
    /// TCP without an entry that does not begin a connection.
    Midstream = 230, "TCP mid-stream without connection";
    /// TCP flags or sequence numbers impossible in the connection's state.
    InvalidTcp = 231, "Invalid TCP segment";
    /// The endpoint's flow quota is used up.
    FlowQuota = 232, "Flow quota exceeded";
    /// The endpoint's frame quota is used up, or the pool is empty.
    FrameQuota = 233, "Frame quota exceeded";
    /// Transmit ring or device queue full.
    TxFull = 234, "Transmit queue full";
    /// Hand-off ring of another worker full.
    HandoffFull = 235, "Hand-off queue full";
    /// The endpoint of the flow is gone or was replaced.
    StaleEndpoint = 236, "Endpoint replaced";
    /// A local endpoint's address came in from outside.
    SpoofedEndpoint = 237, "Local endpoint address from outside";
    /// ICMP error that belongs to no flow of its sender.
    UnrelatedIcmp = 238, "ICMP error without flow";
    /// Reply that came by another interface than the flow's.
    WrongInterface = 239, "Reply on wrong interface";
    /// HTTP request that no rule allows.
    HttpDenied = 240, "HTTP request denied";
    /// Bytes on an HTTP port that are not HTTP/1.1.
    NotHttp = 241, "Not HTTP";
    /// HTTP whose framing is ambiguous or beyond the limits.
    HttpMalformed = 242, "Malformed HTTP";
    /// Segment ahead of the bytes judged so far.
    L7OutOfOrder = 243, "L7 segment out of order";
    /// Retransmission that differs from the bytes judged.
    L7Mismatch = 244, "L7 retransmission differs";
    /// L7 flow that was closed by a verdict.
    L7Closed = 245, "L7 flow closed";
    /// L7 flow table full.
    L7Capacity = 246, "L7 flow table full";
    /// Fragment store full.
    FragmentCapacity = 247, "Fragment table full";
    /// Another packet of the flow is held until its peer is known.
    HeldDuplicate = 248, "Flow is held for an unknown peer";
    /// Peer not known yet, and too many packets are held already.
    HoldCapacity = 249, "Too many held for unknown peers";
    /// The Service's traffic policy is `Local` and none of its backends is on this node.
    NoLocalBackend = 250, "Service without local backend";
}
