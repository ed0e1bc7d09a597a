//! Budgets do not allocate memory after their creation.
#![expect(unsafe_code, reason = "the `GlobalAlloc` trait is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hash::RandomState;

use wakevirt_protocol::MacAddr;
use wakevirt_protocol::budget::{Budgets, Copies, CopyCheck, Rates};

thread_local! {
    /// The number of allocations by this thread.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// The system allocator, with a counter of its allocations.
struct Counting;

// SAFETY: each function calls the system allocator with the same arguments. The counter is a thread-local number, which
// needs neither an allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller fulfils the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory comes from the system allocator, see `alloc`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn allocates_nothing_after_creation() {
    let before = ALLOCATIONS.get();
    let mut budgets = Budgets::default_size(Rates::announced(100), RandomState::new());
    let mut copies = Copies::new(RandomState::new());
    assert!(ALLOCATIONS.get() > before, "the counter does not count");

    let before = ALLOCATIONS.get();
    let mut admitted = 0_u32;
    // More pairs and interfaces than the tables have room for, over a hundred seconds.
    for n in 0..200_000_u32 {
        let [_, a, b, c] = n.wrapping_mul(7919).to_be_bytes();
        let (interface, now) = (n % 3000, u64::from(n) * 500);
        admitted += u32::from(budgets.admit_known(interface, MacAddr::new([2, 0, 0, a, b, c]), now));
        admitted += u32::from(budgets.admit_unknown(interface, now));
        let within_interface = || budgets.admit_copy(interface, now);
        if copies.check(&(n % 7000), 10, now, within_interface) == CopyCheck::NotACopy {
            copies.admitted(&(n % 7000), now);
        }
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert!(admitted > 0);
}
