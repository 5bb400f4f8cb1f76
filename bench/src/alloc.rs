//! Counts allocations: the crate's global allocator keeps a count for every thread.

/// Calls of the allocator (reallocations included) that `work` makes on this thread.
pub fn count(work: impl FnOnce()) -> u64 {
    allocation_counter::measure(work).count_total
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn every_allocation_of_the_thread_is_counted_and_no_other() {
        assert_eq!(count(|| ()), 0);
        assert_eq!(count(|| drop(black_box(Box::new(1_u64)))), 1);
        assert_eq!(
            count(|| {
                let mut bytes = black_box(Vec::<u8>::with_capacity(8));
                bytes.extend_from_slice(&[1; 8]);
                black_box(&mut bytes).reserve_exact(1 << 20);
            }),
            2
        );
        let elsewhere = std::thread::spawn(|| count(|| drop(black_box(vec![0_u8; 64]))));
        assert_eq!(elsewhere.join().ok(), Some(1));
    }
}
