//! The compiled eBPF programs, and the names and layouts that a loader needs of them.
//!
//! Owns the contract between `xdp-redirect/ebpf` (source of the programs, built by `scripts/build-ebpf.sh`) and the
//! loader. Invariants, proven by the tests below on the committed object: both programs exist and neither can return
//! anything that lets a packet pass; maps and globals have the layout stated here. There is no policy in the programs.
#![forbid(unsafe_code)]

/// XDP program (frags-capable): redirects each packet to the AF_XDP socket of its receive queue, or drops it.
pub const REDIRECT: &str = "sluice_redirect";

/// tc classifier: drops and counts everything that the kernel sends out of an interface.
pub const GUARD: &str = "sluice_guard";

/// `BPF_MAP_TYPE_XSKMAP` shared by all instances of [`REDIRECT`]: key `u32`, value socket; pinned by this name.
pub const XSK_MAP: &str = "SLUICE_XSK";

/// Keys of [`XSK_MAP`]: receive queues of all interfaces together.
pub const XSK_ENTRIES: u32 = 4096;

/// `BPF_MAP_TYPE_PERCPU_ARRAY` with one element: what [`GUARD`] dropped; pinned by this name.
pub const GUARD_MAP: &str = "SLUICE_GUARD";

/// Element of [`GUARD_MAP`], per CPU; see [`GUARD_PACKETS`] and [`GUARD_BYTES`].
pub type GuardCount = [u64; 2];

/// Index of the number of packets in a [`GuardCount`].
pub const GUARD_PACKETS: usize = 0;

/// Index of the number of bytes, link-layer header included, in a [`GuardCount`].
pub const GUARD_BYTES: usize = 1;

/// Global `u32` of [`REDIRECT`], set before loading: first key of the interface in [`XSK_MAP`].
pub const BASE_GLOBAL: &str = "SLUICE_BASE";

/// Global `u32` of [`REDIRECT`], set before loading: number of receive queues; packets of other queues are dropped.
pub const QUEUES_GLOBAL: &str = "SLUICE_QUEUES";

/// ELF headers are read in place, so the bytes need the alignment of their 64-bit fields.
#[repr(C, align(8))]
struct Aligned<B: ?Sized>(B);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!("../object/sluice.bpf.o"));

/// The object file with both programs (`bpfel`), as committed.
pub static OBJECT: &[u8] = &ALIGNED.0;

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSection, ObjectSymbol};

    use super::*;

    /// `BPF_ALU64 | BPF_MOV | BPF_K` (kernel `include/uapi/linux/bpf.h`).
    const MOV64_IMM: u8 = 0xb7;
    const CALL: u8 = 0x85;
    const EXIT: u8 = 0x95;
    const XDP_DROP: i32 = 1;
    const XDP_REDIRECT: i32 = 4;
    const TC_ACT_SHOT: i32 = 2;

    fn elf() -> object::File<'static> {
        object::File::parse(OBJECT).expect("an ELF file")
    }

    fn section(name: &str) -> Vec<u8> {
        elf()
            .section_by_name(name)
            .expect(name)
            .data()
            .expect(name)
            .to_vec()
    }

    /// Values that `R0` is set to by anything but a call, or `None` when one is not a constant.
    fn results(code: &[u8]) -> Option<Vec<i32>> {
        let mut found = Vec::new();
        for insn in code.chunks_exact(8) {
            let (opcode, dst) = (insn[0], insn[1] & 0xf);
            let class = opcode & 7;
            let writes = matches!(class, 0 | 1 | 4 | 7) && dst == 0 && !matches!(opcode, CALL | EXIT);
            // The second half of a 16-byte load has opcode 0.
            if !writes || opcode == 0 {
                continue;
            }
            if opcode != MOV64_IMM {
                return None;
            }
            found.push(i32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]]));
        }
        Some(found)
    }

    /// The five words of `struct bpf_map_def` that say what map is meant: type, key, value, entries, flags.
    fn map_definition(name: &str) -> Vec<u32> {
        let elf = elf();
        let symbol = elf.symbols().find(|s| s.name() == Ok(name)).expect(name);
        let start = usize::try_from(symbol.address()).expect("an offset");
        let maps = section("maps");
        maps[start..start + 20]
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect()
    }

    #[test]
    fn object_is_aligned_for_reading_in_place() {
        assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
    }

    #[test]
    fn programs_are_in_the_sections_that_give_their_type() {
        let elf = elf();
        for (program, section) in [(REDIRECT, "xdp.frags"), (GUARD, "classifier")] {
            let symbol = elf.symbols().find(|s| s.name() == Ok(program)).expect(program);
            let index = symbol.section_index().expect(program);
            assert_eq!(
                elf.section_by_index(index).expect(program).name(),
                Ok(section),
                "{program}"
            );
        }
    }

    #[test]
    fn redirect_returns_only_drop_or_redirect() {
        let mut found = results(&section("xdp.frags")).expect("constant results");
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, [XDP_DROP, XDP_REDIRECT]);
    }

    #[test]
    fn guard_returns_only_shot() {
        assert_eq!(
            results(&section("classifier")).expect("constant results"),
            [TC_ACT_SHOT]
        );
    }

    #[test]
    fn maps_have_the_stated_layout() {
        const XSKMAP: u32 = 17;
        const PERCPU_ARRAY: u32 = 6;
        assert_eq!(map_definition(XSK_MAP), [XSKMAP, 4, 4, XSK_ENTRIES, 0]);
        let count = u32::try_from(size_of::<GuardCount>()).expect("small");
        assert_eq!(map_definition(GUARD_MAP), [PERCPU_ARRAY, 4, count, 1, 0]);
    }

    #[test]
    fn globals_are_words_that_drop_until_set() {
        let elf = elf();
        for global in [BASE_GLOBAL, QUEUES_GLOBAL] {
            let symbol = elf.symbols().find(|s| s.name() == Ok(global)).expect(global);
            assert_eq!(symbol.size(), 4, "{global}");
        }
        assert!(section(".rodata").iter().all(|byte| *byte == 0));
    }

    #[test]
    fn object_names_no_path_of_the_building_machine() {
        let text = String::from_utf8_lossy(OBJECT);
        assert!(!text.contains('/'), "{text}");
    }
}
