//! Which NUMA nodes provide huge pages.

use std::collections::BTreeMap;

use super::needs::PagesNeed;
use crate::model::{GIGANTIC, NodeId, PageSize, Pages, Pool, Record, Topology};

/// The pages for these needs, with their nodes. A record keeps its nodes, so that the end of one domain does not move
/// the pages of another.
///
/// # Errors
/// Why the host cannot provide them. It does not know how much memory is free: the kernel decides this.
pub(super) fn pages(
    needs: &[PagesNeed],
    records: &[Record],
    topology: &Topology,
) -> Result<Vec<Pages>, String> {
    let mut room = Room::new(records, topology);
    let mut pages = Vec::new();
    for need in needs {
        if need.size < GIGANTIC {
            pages.push(room.anywhere(need)?);
        } else {
            pages.extend(room.on_nodes(need, topology)?);
        }
    }
    Ok(pages)
}

/// The memory in KiB that huge pages can still take.
struct Room {
    nodes: BTreeMap<NodeId, u64>,
    total: u64,
}

impl Room {
    fn new(records: &[Record], topology: &Topology) -> Self {
        let mut room = Self {
            nodes: topology.memory.clone(),
            total: topology.memory.values().fold(0, |sum: u64, kib| sum.saturating_add(*kib)),
        };
        for (pool, count) in &topology.pools {
            room.take(pool.size, *count, Some(pool.node));
        }
        for pages in records.iter().flat_map(|record| &record.pages) {
            room.take(pages.size, pages.count, pages.node);
        }
        room
    }

    fn take(&mut self, size: PageSize, count: u64, node: Option<NodeId>) {
        let kib = size.0.saturating_mul(count);
        self.total = self.total.saturating_sub(kib);
        if let Some(room) = node.and_then(|node| self.nodes.get_mut(&node)) {
            *room = room.saturating_sub(kib);
        }
    }

    /// Pages below 1 GiB, which the kernel allocates when the domain starts.
    fn anywhere(&mut self, need: &PagesNeed) -> Result<Pages, String> {
        let available = self.total.checked_div(need.size.0).unwrap_or(0);
        if need.count > available {
            return Err(too_many(need, available));
        }
        self.take(need.size, need.count, None);
        Ok(Pages { size: need.size, count: need.count, node: None })
    }

    /// Pages from the pools of nodes: of the first node that has room for all of them, otherwise of several nodes.
    fn on_nodes(&mut self, need: &PagesNeed, topology: &Topology) -> Result<Vec<Pages>, String> {
        let is_candidate = |node: NodeId| {
            topology.pools.contains_key(&Pool { node, size: need.size })
                && need.nodes.as_ref().is_none_or(|nodes| nodes.contains(node))
        };
        let room = |kib: &u64| (*kib).min(self.total).checked_div(need.size.0).unwrap_or(0);
        let candidates = self.nodes.iter().filter(|(node, _)| is_candidate(**node));
        let candidates: Vec<(NodeId, u64)> = candidates.map(|(node, kib)| (*node, room(kib))).collect();
        let first = candidates.iter().find(|(_, room)| *room >= need.count);
        let order = first.map_or(candidates.as_slice(), core::slice::from_ref);
        let (mut pages, mut missing) = (Vec::new(), need.count);
        for (node, room) in order {
            let count = missing.min(*room);
            if count > 0 {
                missing -= count;
                pages.push(Pages { size: need.size, count, node: Some(*node) });
            }
        }
        if missing > 0 {
            return Err(too_many(need, need.count - missing));
        }
        pages.iter().for_each(|pages| self.take(pages.size, pages.count, pages.node));
        Ok(pages)
    }
}

fn too_many(need: &PagesNeed, available: u64) -> String {
    let PagesNeed { size, count, nodes } = need;
    let place = nodes.as_ref().map_or_else(|| "the host".to_owned(), |nodes| format!("NUMA node {nodes}"));
    format!("hugepages: {count} pages of {size} are needed, but {place} has memory for {available}")
}
