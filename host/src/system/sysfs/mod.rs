//! Files in sysfs, and `/proc/meminfo`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, read_dir};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use wakevirt_service::logs::{quoted, shown};

use super::mask;
use crate::model::{CpuSet, NodeId, PageSize, Pool, Topology};

/// The directory of NUMA nodes.
pub(super) const NODES: &str = "sys/devices/system/node";
/// The mask of unbound kernel work.
pub(super) const WORKQUEUE: &str = "sys/devices/virtual/workqueue/cpumask";
/// Exists if systemd is the first process: sd_booted(3).
const SYSTEMD: &str = "run/systemd/system";
const HUGE_PAGES: &str = "sys/kernel/mm/hugepages";
/// The maximum size of a file, in bytes. sysfs(5): at most one page, which is 64 KiB on some machines.
const MAX_SIZE: u64 = 64 * 1024;

/// `nr_overcommit_hugepages` of a page size, below the root directory.
pub(super) fn overcommit_file(size: PageSize) -> String {
    format!("{HUGE_PAGES}/hugepages-{}kB/nr_overcommit_hugepages", size.0)
}

/// `nr_hugepages` of a pool, below the root directory.
pub(super) fn pool_file(pool: Pool) -> String {
    format!("{NODES}/node{}/hugepages/hugepages-{}kB/nr_hugepages", pool.node, pool.size.0)
}

/// The kernel cannot provide huge pages.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    /// Not enough free memory.
    #[error(
        "the host has only {got} of {needed} free huge pages of {size}{}; stop other programs or domains, or start the domain soon after the host has booted",
        on_node(*node)
    )]
    TooFew {
        /// The size of a page.
        size: PageSize,
        /// The NUMA node, if the pages must be on one.
        node: Option<NodeId>,
        /// The number of pages that are missing.
        needed: u64,
        /// The number of pages that the kernel provided.
        got: u64,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] io::Error),
}

fn on_node(node: Option<NodeId>) -> String {
    node.map(|node| format!(" on NUMA node {node}")).unwrap_or_default()
}

/// The host's sysfs, and whether it runs systemd.
#[derive(Debug, Clone)]
pub struct Sysfs(PathBuf);

impl Default for Sysfs {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl Sysfs {
    /// Uses `sys` and `proc` in this directory.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self(root.to_owned())
    }

    /// Reads what the host has, and the values that it has now, except those of systemd.
    ///
    /// # Errors
    /// If a file cannot be read, or has an unknown format. Files that a kernel lacks are not an error.
    pub fn topology(&self) -> io::Result<Topology> {
        let possible = self.cpus("sys/devices/system/cpu/possible")?;
        let mut memory = BTreeMap::new();
        let mut pools = BTreeMap::new();
        for node in self.numbers(NODES, "node", "")? {
            let Ok(node) = NodeId::try_from(node) else { continue };
            memory.insert(node, self.memory(&format!("{NODES}/node{node}/meminfo"))?);
            for size in self.numbers(&format!("{NODES}/node{node}/hugepages"), "hugepages-", "kB")? {
                let pool = Pool { node, size: PageSize(size) };
                pools.insert(pool, self.pool(pool)?);
            }
        }
        if memory.is_empty() {
            // A kernel without NUMA has no nodes.
            memory.insert(0, self.memory("proc/meminfo")?);
        }
        let mut overcommit = BTreeMap::new();
        for size in self.numbers(HUGE_PAGES, "hugepages-", "kB")?.into_iter().map(PageSize) {
            overcommit.insert(size, self.number(&overcommit_file(size))?);
        }
        let workqueue = match self.read(WORKQUEUE) {
            Ok(text) => mask::parse(&text).ok_or_else(|| self.unknown(WORKQUEUE, &text))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => CpuSet::default(),
            Err(error) => return Err(error),
        };
        let default_page = self.default_page()?;
        let online = self.online()?;
        let without_systemd = !self.has_systemd();
        let units = Topology::default();
        Ok(Topology {
            possible,
            online,
            memory,
            overcommit,
            pools,
            default_page,
            workqueue,
            without_systemd,
            ..units
        })
    }

    /// Whether systemd is the first process.
    #[must_use]
    pub fn has_systemd(&self) -> bool {
        self.0.join(SYSTEMD).exists()
    }

    /// The CPUs that are online now.
    pub(super) fn online(&self) -> io::Result<CpuSet> {
        self.cpus("sys/devices/system/cpu/online")
    }

    /// `MemTotal` in KiB: proc_meminfo(5). In the file of a node, each line begins with `Node 0`.
    fn memory(&self, file: &str) -> io::Result<u64> {
        let text = self.read(file)?;
        let total = text.lines().find_map(|line| line.split_once("MemTotal:")?.1.trim().strip_suffix(" kB"));
        total.and_then(|total| total.parse().ok()).ok_or_else(|| self.unknown(file, &text))
    }

    /// The size of huge pages that the kernel uses by default: proc_meminfo(5).
    fn default_page(&self) -> io::Result<Option<PageSize>> {
        let text = self.read("proc/meminfo")?;
        let line = text.lines().find_map(|line| line.strip_prefix("Hugepagesize:"));
        Ok(line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .and_then(|size| size.parse().ok())
            .map(PageSize))
    }

    /// The number of pages that belong to a pool. `nr_hugepages` also counts those beyond it (surplus), but a value
    /// written to it does not.
    fn pool(&self, pool: Pool) -> io::Result<u64> {
        Ok(self.number(&pool_file(pool))?.saturating_sub(self.surplus(pool)?))
    }

    fn surplus(&self, pool: Pool) -> io::Result<u64> {
        self.number(&pool_file(pool).replace("nr_hugepages", "surplus_hugepages"))
    }

    /// Changes how many huge pages the kernel can provide on demand. If the number increases, checks that the kernel can
    /// provide the additional pages now.
    pub(super) fn set_overcommit(&self, size: PageSize, from: u64, to: u64) -> Result<(), PagesError> {
        let needed = to.saturating_sub(from);
        let mut got = self.attempt(size, needed)?;
        if got < needed {
            self.free_memory();
            got = self.attempt(size, needed)?;
        }
        if got < needed {
            return Err(PagesError::TooFew { size, node: None, needed, got });
        }
        Ok(self.write(&overcommit_file(size), &to.to_string())?)
    }

    /// Adds pages to the pools of all nodes and removes them again. Returns how many pages the kernel provided, at most
    /// `needed`. The memory of the removed pages is free and not fragmented.
    fn attempt(&self, size: PageSize, needed: u64) -> io::Result<u64> {
        let mut got = 0;
        let mut changed = Vec::new();
        for node in
            self.numbers(NODES, "node", "")?.into_iter().filter_map(|node| NodeId::try_from(node).ok())
        {
            let pool = Pool { node, size };
            if got >= needed || !self.0.join(pool_file(pool)).exists() {
                continue;
            }
            let (before, surplus) = (self.pool(pool)?, self.surplus(pool)?);
            // The kernel moves the surplus into the pool before it allocates pages.
            let enlarged = before.saturating_add(surplus);
            changed.push((pool, before));
            let written = self.write(&pool_file(pool), &enlarged.saturating_add(needed - got).to_string());
            let after = written.and_then(|()| self.pool(pool));
            got += after.unwrap_or_default().saturating_sub(enlarged);
        }
        if changed.is_empty() {
            // A kernel without NUMA has no such files.
            return Ok(needed);
        }
        for (pool, before) in changed {
            self.write(&pool_file(pool), &before.to_string())?;
        }
        Ok(got)
    }

    /// Changes the size of a pool, and checks the result. Undoes the change if the kernel provides too few pages.
    pub(super) fn set_pool(&self, pool: Pool, from: u64, to: u64) -> Result<(), PagesError> {
        let file = pool_file(pool);
        self.write(&file, &to.to_string())?;
        if to > from && self.pool(pool)? < to {
            self.free_memory();
            self.write(&file, &to.to_string())?;
            let got = self.pool(pool)?;
            if got < to {
                self.write(&file, &from.to_string())?;
                let (needed, got) = (to - from, got.saturating_sub(from));
                return Err(PagesError::TooFew { size: pool.size, node: Some(pool.node), needed, got });
            }
        }
        Ok(())
    }

    /// Writes the page cache to disk and compacts free memory. The kernel cannot move dirty pages.
    fn free_memory(&self) {
        rustix::fs::sync();
        // Without compaction, the second attempt can succeed as well.
        if let Err(error) = self.compact_all() {
            tracing::debug!("cannot compact memory: {error}");
        }
    }

    /// Compacts the free memory of all nodes.
    pub(super) fn compact_all(&self) -> io::Result<()> {
        self.numbers(NODES, "node", "")?
            .into_iter()
            .try_for_each(|node| self.write(&format!("{NODES}/node{node}/compact"), "1"))
    }

    /// Limits the kernel's unbound work to CPUs.
    pub(super) fn set_workqueue(&self, cpus: &CpuSet) -> io::Result<()> {
        self.write(WORKQUEUE, &mask::print(cpus))
    }

    fn cpus(&self, file: &str) -> io::Result<CpuSet> {
        let text = self.read(file)?;
        text.trim().parse().map_err(|_| self.unknown(file, &text))
    }

    fn number(&self, file: &str) -> io::Result<u64> {
        let text = self.read(file)?;
        text.trim().parse().map_err(|_| self.unknown(file, &text))
    }

    /// The numbers in the names of a directory's entries. Empty if there is no such directory.
    fn numbers(&self, directory: &str, prefix: &str, suffix: &str) -> io::Result<Vec<u64>> {
        let path = self.0.join(directory);
        let entries = match read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let number = |name: &str| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
        let mut numbers: Vec<_> =
            entries.flatten().filter_map(|entry| number(entry.file_name().to_str()?)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let path = self.0.join(file);
        let mut text = String::new();
        let result = File::open(&path).and_then(|file| file.take(MAX_SIZE).read_to_string(&mut text));
        result.map(|_| text).map_err(|error| failed("read", &path, &error))
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.0.join(file);
        let opened = OpenOptions::new().write(true).truncate(true).open(&path);
        let written = opened.and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|error| failed(&format!("write {value} to"), &path, &error))
    }

    fn unknown(&self, file: &str, text: &str) -> io::Error {
        let path = self.0.join(file);
        io::Error::other(format!(
            "cannot read {}: its content {} is unknown",
            shown(&path),
            quoted(text.trim())
        ))
    }
}

fn failed(action: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {action} {}: {error}", shown(path)))
}

#[cfg(test)]
mod tests;
