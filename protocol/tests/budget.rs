//! Budgets allocate nothing after they were made, whatever comes.
#![expect(unsafe_code, reason = "the trait of allocators is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hash::RandomState;

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::budget::Budgets;

thread_local! {
    /// How often this thread has allocated.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, with a count.
struct Counting;

// SAFETY: each call is the system allocator's own, with the same arguments; the count is a plain
// number of this thread that is neither allocated nor dropped.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory came from the system's allocator, above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn is_kept_without_an_allocation() {
    let before = ALLOCATIONS.get();
    let mut budgets = Budgets::default_size(RandomState::new());
    assert!(ALLOCATIONS.get() > before, "allocations are counted");

    let before = ALLOCATIONS.get();
    let mut admitted = 0_u32;
    // More pairs and interfaces than there is room for, over a hundred seconds.
    for n in 0..200_000_u32 {
        let [_, a, b, c] = n.wrapping_mul(7919).to_be_bytes();
        let (interface, now) = (n % 3000, u64::from(n) * 500);
        admitted += u32::from(budgets.admit_known(interface, MacAddr::new([2, 0, 0, a, b, c]), now));
        admitted += u32::from(budgets.admit_unknown(interface, 100, now));
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert!(admitted > 0);
}
