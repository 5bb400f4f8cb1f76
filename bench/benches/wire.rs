//! Wire formats: one packet's headers, and checksums of a small and a full-sized packet. The bytes are in the first-level cache.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use datapath::wire::checksum::Sum;
use datapath::wire::packet::{Headers, IpHeaders};
use datapath::wire::tcp::TcpFlags;
use sluice_bench::case::bench_loop;
use sluice_bench::node::{CLIENT, SERVER};
use sluice_bench::stream;

const STAGE: &str = "wire";

fn tcp(payload: usize, v6: bool) -> Vec<u8> {
    stream::tcp(
        CLIENT,
        SERVER,
        stream::ports(0),
        TcpFlags::ACK,
        &vec![0x5a; payload],
        v6,
    )
}

fn parsed(frame: &[u8]) -> IpHeaders {
    match Headers::parse(frame, frame.len()) {
        Ok(Headers::Ip(headers)) => headers,
        other => panic!("not an IP packet: {other:?}"),
    }
}

fn wire(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(STAGE);
    for (case, v6) in [("parse-v4-tcp", false), ("parse-v6-tcp", true)] {
        bench_loop(&mut group, STAGE, case, 1, || {
            let frame = tcp(4, v6);
            move || parsed(black_box(&frame))
        });
    }
    for (case, len) in [("checksum-64-bytes", 64), ("checksum-1460-bytes", 1460)] {
        bench_loop(&mut group, STAGE, case, 1, || {
            let bytes = vec![0x5a_u8; len];
            move || Sum::ZERO.append(black_box(&bytes)).checksum()
        });
    }
    for (case, len) in [("verify-64-bytes", 64), ("verify-1460-bytes", 1460)] {
        bench_loop(&mut group, STAGE, case, 1, || {
            let frame = tcp(len, false);
            let headers = parsed(&frame);
            move || headers.l4_checksum([black_box(frame.as_slice())])
        });
    }
    for (case, len) in [("complete-64-bytes", 64), ("complete-1460-bytes", 1460)] {
        bench_loop(&mut group, STAGE, case, 1, || {
            let mut frame = tcp(len, false);
            let headers = parsed(&frame);
            let at = headers.l4_checksum_offset().expect("TCP has a checksum");
            let partial = headers.pseudo().expect("a whole packet").fold().to_be_bytes();
            // Restoring the partial sum is two bytes of the timed part.
            move || {
                frame[at..at + 2].copy_from_slice(&partial);
                headers.complete_l4_checksum(black_box(&mut frame), [])
            }
        });
    }
}

criterion_group!(benches, wire);
criterion_main!(benches);
