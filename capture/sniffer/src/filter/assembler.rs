//! An assembler for classic BPF programs.

use libc::sock_filter;

/// The address of a load.
#[derive(Debug, Clone, Copy)]
pub(super) enum Address {
    /// This offset.
    At(u32),
    /// X plus this offset.
    AtX(u32),
}

impl Address {
    pub(super) fn plus(self, offset: u32) -> Self {
        match self {
            Self::At(at) => Self::At(at + offset),
            Self::AtX(at) => Self::AtX(at + offset),
        }
    }
}

/// A jump target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

/// Assembles a program. Jumps are forward only, as the kernel requires.
#[derive(Default)]
pub(super) struct Assembler {
    code: Vec<sock_filter>,
    /// The position of each label.
    positions: Vec<Option<usize>>,
    /// The position and label of each long jump.
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u32, k: u32) {
        self.branch(code, k, 0, 0);
    }

    fn branch(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        // Operation codes are sums of small constants, which libc defines as u32.
        let code = u16::try_from(code).unwrap_or_default();
        self.code.push(sock_filter { code, jt, jf, k });
    }

    pub(super) fn label(&mut self) -> Label {
        self.positions.push(None);
        Label(self.positions.len() - 1)
    }

    pub(super) fn place(&mut self, label: Label) {
        if let Some(position) = self.positions.get_mut(label.0) {
            *position = Some(self.code.len());
        }
    }

    fn load(&mut self, size: u32, at: Address) {
        match at {
            Address::At(k) => self.push(libc::BPF_LD | size | libc::BPF_ABS, k),
            Address::AtX(k) => self.push(libc::BPF_LD | size | libc::BPF_IND, k),
        }
    }

    pub(super) fn load_byte(&mut self, at: Address) {
        self.load(libc::BPF_B, at);
    }

    pub(super) fn load_half(&mut self, at: Address) {
        self.load(libc::BPF_H, at);
    }

    pub(super) fn load_word(&mut self, at: Address) {
        self.load(libc::BPF_W, at);
    }

    pub(super) fn load_length(&mut self) {
        self.push(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0);
    }

    pub(super) fn load_number(&mut self, number: u32) {
        self.push(libc::BPF_LD | libc::BPF_IMM, number);
    }

    /// Loads the kernel's metadata about the frame, at a negative offset (linux/filter.h).
    pub(super) fn load_ancillary(&mut self, field: i32) -> Option<()> {
        let offset =
            u32::MAX.checked_add_signed(libc::SKF_AD_OFF)?.checked_add_signed(field)?.checked_add(1)?;
        self.load_word(Address::At(offset));
        Some(())
    }

    pub(super) fn load_x(&mut self, number: u32) {
        self.push(libc::BPF_LDX | libc::BPF_IMM, number);
    }

    pub(super) fn load_x_with_ipv4_header_length(&mut self, at: u32) {
        self.push(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, at);
    }

    pub(super) fn store(&mut self, slot: u32) {
        self.push(libc::BPF_ST, slot);
    }

    pub(super) fn load_stored(&mut self, slot: u32) {
        self.push(libc::BPF_LD | libc::BPF_MEM, slot);
    }

    pub(super) fn add(&mut self, number: u32) {
        self.push(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K, number);
    }

    pub(super) fn add_x(&mut self) {
        self.push(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0);
    }

    pub(super) fn shift_left(&mut self, bits: u32) {
        self.push(libc::BPF_ALU | libc::BPF_LSH | libc::BPF_K, bits);
    }

    pub(super) fn x_to_a(&mut self) {
        self.push(libc::BPF_MISC | libc::BPF_TXA, 0);
    }

    pub(super) fn a_to_x(&mut self) {
        self.push(libc::BPF_MISC | libc::BPF_TAX, 0);
    }

    pub(super) fn accept(&mut self, length: u32) {
        self.push(libc::BPF_RET | libc::BPF_K, length);
    }

    pub(super) fn go_to(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(libc::BPF_JMP | libc::BPF_JA, 0);
    }

    // A conditional jump spans at most 255 instructions. Each of these jumps therefore executes or skips a long jump.

    pub(super) fn if_equal(&mut self, k: u32, then: Label) {
        self.branch(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 0, 1);
        self.go_to(then);
    }

    pub(super) fn unless_equal(&mut self, k: u32, then: Label) {
        self.branch(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k, 1, 0);
        self.go_to(then);
    }

    pub(super) fn unless_at_least(&mut self, k: u32, then: Label) {
        self.branch(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, k, 1, 0);
        self.go_to(then);
    }

    pub(super) fn if_any_bit(&mut self, bits: u32, then: Label) {
        self.branch(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, bits, 0, 1);
        self.go_to(then);
    }

    /// Resolves the jumps and returns the program.
    pub(super) fn assemble(mut self) -> Option<Vec<sock_filter>> {
        for (from, label) in &self.jumps {
            let to = self.positions.get(label.0).copied().flatten()?;
            self.code.get_mut(*from)?.k = u32::try_from(to.checked_sub(from + 1)?).ok()?;
        }
        (self.code.len() <= usize::try_from(libc::BPF_MAXINSNS).ok()?).then_some(self.code)
    }
}
