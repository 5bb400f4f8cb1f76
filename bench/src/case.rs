//! How a case is timed and its allocations are counted.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Throughput};

use crate::alloc;

/// Rounds before allocations are counted, and rounds they are counted over.
const COUNTED_ROUNDS: u64 = 256;

/// Work that must be made ready and cleared away; only [`Batch::run`] is timed and counted.
pub trait Batch {
    /// Makes one batch ready.
    fn prepare(&mut self);

    /// Does the work of one batch.
    fn run(&mut self);

    /// Checks what came out and clears it away.
    fn clear(&mut self);
}

fn report(name: &str, allocations: u64, elements: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    let each = allocations as f64 / elements as f64;
    eprintln!("{name}: {each:.4} allocations per element ({allocations} in {elements})");
}

/// Benches batches of `size` elements. `setup` runs only if the case is selected; the time includes reading the clock once per
/// batch (some 25 ns).
pub fn bench_batches<B: Batch>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    stage: &str,
    case: &str,
    size: u64,
    setup: impl FnOnce() -> B,
) {
    let mut setup = Some(setup);
    let mut state: Option<B> = None;
    group.throughput(Throughput::Elements(size));
    group.bench_function(BenchmarkId::new(case, size), |bencher| {
        if let Some(setup) = setup.take() {
            let batch = state.insert(setup());
            let mut allocations = 0;
            for round in 0..2 * COUNTED_ROUNDS {
                batch.prepare();
                let counted = alloc::count(|| batch.run());
                batch.clear();
                allocations += if round < COUNTED_ROUNDS { 0 } else { counted };
            }
            report(
                &format!("{stage}/{case}/{size}"),
                allocations,
                COUNTED_ROUNDS * size,
            );
        }
        let Some(batch) = &mut state else { return };
        bencher.iter_custom(|rounds| {
            let mut elapsed = Duration::ZERO;
            for _ in 0..rounds {
                batch.prepare();
                let start = Instant::now();
                batch.run();
                elapsed += start.elapsed();
                batch.clear();
            }
            elapsed
        });
    });
}

/// Benches a routine that needs no preparation and handles `size` elements. `setup` runs only if the case is selected.
pub fn bench_loop<T, R: FnMut() -> T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    stage: &str,
    case: &str,
    size: u64,
    setup: impl FnOnce() -> R,
) {
    let mut setup = Some(setup);
    let mut state: Option<R> = None;
    group.throughput(Throughput::Elements(size));
    group.bench_function(BenchmarkId::new(case, size), |bencher| {
        if let Some(setup) = setup.take() {
            let routine = state.insert(setup());
            let mut rounds = || {
                for _ in 0..COUNTED_ROUNDS {
                    std::hint::black_box(routine());
                }
            };
            rounds();
            report(
                &format!("{stage}/{case}/{size}"),
                alloc::count(rounds),
                COUNTED_ROUNDS * size,
            );
        }
        let Some(routine) = &mut state else { return };
        bencher.iter(routine);
    });
}
