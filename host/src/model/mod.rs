//! Values that the other modules exchange.

mod cpu_set;
mod host;
mod record;

pub use cpu_set::{BadCpuSet, CpuSet, MAX_CPU};
pub use host::{DROP_INS, GIGANTIC, HostState, NodeId, PageSize, Pool, Topology};
pub use record::{Pages, Phase, Record};
