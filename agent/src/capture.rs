//! Packets with their verdicts, for `sluice capture`: the tap in the agent and the pcapng file in the client.
//!
//! tcpdump on the host sees nothing of the packet path, so the workers copy packets here while somebody captures. The tap is
//! bounded and never waited for: a capture that is read too slowly loses packets and is told how many.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};
use pcap_file::{DataLink, Endianness, PcapError};
use policy::PodName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tokio::sync::broadcast;

use crate::flow_record::{FlowDropReason, FlowVerdict};

/// Bytes of a packet that are captured at most: a whole IP packet and its Ethernet header.
pub const MAX_SNAPLEN: u32 = 65_550;

/// Packets that a capture may be behind before it loses some. With whole packets that is 64 MiB at the very most.
const TAP_PACKETS: usize = 1024;

/// A captured packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturedPacket {
    /// Nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// Interface that it came in by.
    pub interface: String,
    /// The pods at either end that are local, the sender first.
    pub pods: Vec<PodName>,
    /// What became of it.
    pub verdict: FlowVerdict,
    /// Why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_reason: Option<FlowDropReason>,
    /// Length of the whole packet, bytes.
    pub original_len: u32,
    /// Its beginning, from the Ethernet header on.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub data: Vec<u8>,
}

fn to_base64<S: Serializer>(data: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(data))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    BASE64
        .decode(String::deserialize(deserializer)?)
        .map_err(de::Error::custom)
}

impl CapturedPacket {
    /// Verdict and reason as a packet comment.
    #[must_use]
    pub fn comment(&self) -> String {
        let mut comment = match self.verdict {
            FlowVerdict::Forwarded => "sluice: forwarded".to_owned(),
            FlowVerdict::Dropped => "sluice: dropped".to_owned(),
            FlowVerdict::Audit => "sluice: audit".to_owned(),
        };
        if let Some(reason) = &self.drop_reason {
            comment.push_str(&format!(": {} ({})", reason.text, reason.code));
        }
        comment
    }
}

/// Where workers' packets go in and captures come out; clones share it.
#[derive(Debug, Clone)]
pub struct CaptureTap {
    packets: broadcast::Sender<Arc<CapturedPacket>>,
    readers: Arc<AtomicUsize>,
}

impl Default for CaptureTap {
    fn default() -> Self {
        Self {
            packets: broadcast::Sender::new(TAP_PACKETS),
            readers: Arc::default(),
        }
    }
}

/// One running capture; ends when dropped.
#[derive(Debug)]
pub struct CaptureReader {
    /// The packets.
    pub packets: broadcast::Receiver<Arc<CapturedPacket>>,
    readers: Arc<AtomicUsize>,
}

impl Drop for CaptureReader {
    fn drop(&mut self) {
        self.readers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl CaptureTap {
    /// Whether anybody captures; only then is it worth copying packets.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.readers.load(Ordering::Acquire) != 0
    }

    /// Hands a packet to all captures.
    pub fn push(&self, packet: CapturedPacket) {
        // An error only says that nobody captures.
        let _nobody = self.packets.send(Arc::new(packet));
    }

    /// Begins a capture.
    #[must_use]
    pub fn subscribe(&self) -> CaptureReader {
        self.readers.fetch_add(1, Ordering::AcqRel);
        CaptureReader {
            packets: self.packets.subscribe(),
            readers: Arc::clone(&self.readers),
        }
    }
}

/// Writes a pcapng file (draft-ietf-opsawg-pcapng), one interface block per interface as it first appears.
pub struct CaptureFile<W: Write> {
    writer: PcapNgWriter<W>,
    interfaces: HashMap<String, u32>,
    snaplen: u32,
}

impl<W: Write> std::fmt::Debug for CaptureFile<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaptureFile")
            .field("interfaces", &self.interfaces)
            .finish_non_exhaustive()
    }
}

impl<W: Write> CaptureFile<W> {
    /// Writes the section header.
    ///
    /// # Errors
    /// [`PcapError`] when `writer` fails.
    pub fn new(writer: W, snaplen: u32) -> Result<Self, PcapError> {
        let application = concat!("sluice ", env!("CARGO_PKG_VERSION"));
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(application))],
            ..SectionHeaderBlock::default()
        };
        let writer = PcapNgWriter::with_section_header(writer, section)?;
        Ok(Self {
            writer,
            interfaces: HashMap::new(),
            snaplen,
        })
    }

    /// Appends a packet with its verdict as comment.
    ///
    /// # Errors
    /// [`PcapError`] when the writer fails.
    pub fn write(&mut self, packet: &CapturedPacket) -> Result<(), PcapError> {
        let interface_id = match self.interfaces.get(&packet.interface) {
            Some(id) => *id,
            None => self.add_interface(&packet.interface)?,
        };
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(packet.time_ns),
            original_len: packet.original_len,
            data: Cow::Borrowed(&packet.data),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(packet.comment()))],
        };
        self.writer.write_block(&block.into_block())?;
        Ok(())
    }

    fn add_interface(&mut self, name: &str) -> Result<u32, PcapError> {
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(name.to_owned())),
                // Powers of ten: nanoseconds, the unit in which packet blocks are written.
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        self.writer.write_block(&block.into_block())?;
        // One per interface name of a running capture: far below u32::MAX.
        let id = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(name.to_owned(), id);
        Ok(id)
    }

    /// The writer, for flushing.
    pub fn get_mut(&mut self) -> &mut W {
        self.writer.get_mut()
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};
    use policy::DropReason;

    use super::*;

    fn packet(interface: &str, drop_reason: Option<DropReason>) -> CapturedPacket {
        CapturedPacket {
            time_ns: 1_763_911_275_123_456_789,
            interface: interface.into(),
            pods: vec!["db/a".parse().unwrap()],
            verdict: if drop_reason.is_some() {
                FlowVerdict::Dropped
            } else {
                FlowVerdict::Forwarded
            },
            drop_reason: drop_reason.map(Into::into),
            original_len: 1514,
            data: (0..61).collect(),
        }
    }

    #[test]
    fn file_reads_back_with_verdicts_nanoseconds_and_interfaces() {
        let mut bytes = Vec::new();
        let mut file = CaptureFile::new(&mut bytes, MAX_SNAPLEN).unwrap();
        let packets = [
            packet("veth-a", None),
            packet("sluice_fwd", Some(DropReason::PolicyDenied)),
            packet("veth-a", None),
        ];
        packets.iter().for_each(|packet| file.write(packet).unwrap());
        drop(file);

        let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
        let mut interfaces = Vec::new();
        let mut read = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::InterfaceDescription(block) => {
                    assert!(block.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
                    interfaces.push(block.into_owned());
                }
                Block::EnhancedPacket(block) => read.push(block.into_owned()),
                other => panic!("unexpected block {other:?}"),
            }
        }
        assert_eq!(interfaces.len(), 2);
        assert_eq!(read.iter().map(|p| p.interface_id).collect::<Vec<_>>(), [0, 1, 0]);
        for (read, written) in read.iter().zip(&packets) {
            assert_eq!(read.data, written.data);
            assert_eq!(read.original_len, written.original_len);
            assert_eq!(read.timestamp, Duration::from_nanos(written.time_ns));
        }
        assert_eq!(
            read[1].options,
            [EnhancedPacketOption::Comment(
                "sluice: dropped: Policy denied (133)".into()
            )]
        );
    }

    #[test]
    fn packet_survives_json() {
        let packet = packet("veth-a", Some(DropReason::BadChecksum));
        let json = serde_json::to_string(&packet).unwrap();
        assert_eq!(serde_json::from_str::<CapturedPacket>(&json).unwrap(), packet);
    }

    #[test]
    fn tap_is_active_only_while_somebody_captures() {
        let tap = CaptureTap::default();
        assert!(!tap.is_active());
        let (mut a, b) = (tap.subscribe(), tap.subscribe());
        tap.push(packet("veth-a", None));
        assert_eq!(a.packets.try_recv().unwrap().interface, "veth-a");
        drop(a);
        assert!(tap.is_active());
        drop(b);
        assert!(!tap.is_active());
    }
}
