//! Single-producer single-consumer ring between two workers.
//!
//! A packet whose flow another worker owns goes there through one of these. Never waits: a full ring hands the item back and the
//! caller counts [`policy::DropReason::HandoffFull`]. With one worker there is no ring at all.
//!
//! Atomics: `tail` is written by the producer with Release after the slot, read by the consumer with Acquire before it; `head` the
//! other way round. Each side keeps a copy of the other's index, so that a ring that is neither full nor empty costs no cache miss.
//! Checked with loom: `cargo test -p sluice-loom`, which compiles this file with `cfg(loom)` (`tests/loom`).

#[cfg(not(loom))]
use std::cell::UnsafeCell;
#[cfg(not(loom))]
use std::sync::Arc;
#[cfg(not(loom))]
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(loom)]
use loom::cell::UnsafeCell;
#[cfg(loom)]
use loom::sync::Arc;
#[cfg(loom)]
use loom::sync::atomic::{AtomicUsize, Ordering};

use std::fmt;
use std::mem::MaybeUninit;

/// One index per cache line (two, for the adjacent-line prefetcher).
#[repr(align(128))]
struct Index(AtomicUsize);

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    mask: usize,
    head: Index,
    tail: Index,
}

// SAFETY: a slot is accessed by the producer only while it is outside [head, tail) and by the consumer only while it is inside; the
// Release/Acquire pairs on the indices order the two.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: items move between threads, which `T: Send` allows.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    #[cfg(not(loom))]
    fn write(&self, index: usize, item: T) {
        // SAFETY: only the producer calls this, for a slot outside [head, tail).
        unsafe { (*self.slots[index & self.mask].get()).write(item) };
    }

    #[cfg(loom)]
    fn write(&self, index: usize, item: T) {
        // SAFETY: as above; loom checks it.
        self.slots[index & self.mask].with_mut(|slot| unsafe { (*slot).write(item) });
    }

    #[cfg(not(loom))]
    fn read(&self, index: usize) -> T {
        // SAFETY: only the consumer (or `drop`) calls this, once per slot inside [head, tail), which the producer initialised.
        unsafe { (*self.slots[index & self.mask].get()).assume_init_read() }
    }

    #[cfg(loom)]
    fn read(&self, index: usize) -> T {
        // SAFETY: as above; loom checks it.
        self.slots[index & self.mask].with(|slot| unsafe { (*slot).assume_init_read() })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        let tail = self.tail.0.load(Ordering::Acquire);
        let mut head = self.head.0.load(Ordering::Acquire);
        while head != tail {
            drop(self.read(head));
            head = head.wrapping_add(1);
        }
    }
}

/// The sending side.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    head_seen: usize,
}

/// The receiving side.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    tail_seen: usize,
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

/// A ring of at least `capacity` items (rounded up to a power of two).
#[must_use]
pub fn ring<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let capacity = capacity.max(1).next_power_of_two();
    let slots = (0..capacity)
        .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
        .collect();
    let shared = Arc::new(Shared {
        slots,
        mask: capacity - 1,
        head: Index(AtomicUsize::new(0)),
        tail: Index(AtomicUsize::new(0)),
    });
    let producer = Producer {
        shared: Arc::clone(&shared),
        tail: 0,
        head_seen: 0,
    };
    (
        producer,
        Consumer {
            shared,
            head: 0,
            tail_seen: 0,
        },
    )
}

impl<T: Send> Producer<T> {
    /// Sends `item`.
    ///
    /// # Errors
    /// Hands the item back when the ring is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        let capacity = self.shared.mask + 1;
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            self.head_seen = self.shared.head.0.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) == capacity {
                return Err(item);
            }
        }
        self.shared.write(self.tail, item);
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.0.store(self.tail, Ordering::Release);
        Ok(())
    }
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest item.
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.0.load(Ordering::Acquire);
            if self.head == self.tail_seen {
                return None;
            }
        }
        let item = self.shared.read(self.head);
        self.head = self.head.wrapping_add(1);
        self.shared.head.0.store(self.head, Ordering::Release);
        Some(item)
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn every_item_arrives_once_and_in_order() {
        loom::model(|| {
            let (mut producer, mut consumer) = ring::<Box<u32>>(2);
            let sender = loom::thread::spawn(move || {
                let mut lost = 0;
                for item in 0..3 {
                    if producer.push(Box::new(item)).is_err() {
                        lost += 1;
                    }
                }
                lost
            });
            let mut got = Vec::new();
            for _ in 0..3 {
                if let Some(item) = consumer.pop() {
                    got.push(*item);
                }
                loom::thread::yield_now();
            }
            let lost = sender.join().unwrap();
            while let Some(item) = consumer.pop() {
                got.push(*item);
            }
            assert_eq!(got.len() + lost, 3);
            assert!(got.is_sorted());
        });
    }

    #[test]
    fn items_left_behind_are_dropped_once() {
        loom::model(|| {
            let item = Arc::new(());
            let (mut producer, consumer) = ring(2);
            let copy = Arc::clone(&item);
            let sender = loom::thread::spawn(move || drop(producer.push(copy)));
            drop(consumer);
            sender.join().unwrap();
            assert_eq!(Arc::strong_count(&item), 1);
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn full_ring_hands_the_item_back() {
        let (mut producer, mut consumer) = ring(2);
        assert_eq!(producer.push(1), Ok(()));
        assert_eq!(producer.push(2), Ok(()));
        assert_eq!(producer.push(3), Err(3));
        assert_eq!(consumer.pop(), Some(1));
        assert_eq!(producer.push(3), Ok(()));
        assert_eq!(
            (consumer.pop(), consumer.pop(), consumer.pop()),
            (Some(2), Some(3), None)
        );
    }

    #[test]
    fn a_million_items_cross_threads_in_order() {
        let (mut producer, mut consumer) = ring(64);
        let sender = std::thread::spawn(move || {
            for item in 0..1_000_000_u32 {
                let mut item = item;
                while let Err(back) = producer.push(item) {
                    item = back;
                    std::hint::spin_loop();
                }
            }
        });
        for expected in 0..1_000_000_u32 {
            let item = loop {
                match consumer.pop() {
                    Some(item) => break item,
                    None => std::hint::spin_loop(),
                }
            };
            assert_eq!(item, expected);
        }
        sender.join().unwrap();
    }
}
