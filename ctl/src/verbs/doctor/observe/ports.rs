//! The sockets on UDP port 9, and the processes that hold them, read from /proc.

use std::collections::BTreeMap;
use std::fs;

use crate::verbs::PORT;

/// A socket on UDP port 9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpSocket {
    /// The user.
    pub user: u32,
    /// The process that holds it. `None` if the caller is not allowed to see it.
    pub process: Option<Holder>,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its ID.
    pub pid: u32,
    /// The name of its program.
    pub name: String,
    /// Its unit, if systemd started it.
    pub unit: Option<String>,
}

/// The sockets on the port.
#[must_use]
pub fn read() -> Vec<UdpSocket> {
    let tables = ["/proc/net/udp", "/proc/net/udp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let sockets: Vec<(u32, u64)> = tables.iter().flat_map(|table| parse(table)).collect();
    let holders = if sockets.is_empty() { BTreeMap::new() } else { holders() };
    let socket = |(user, inode)| UdpSocket { user, process: holders.get(&inode).cloned() };
    sockets.into_iter().map(socket).collect()
}

/// The user and the inode of each socket on the port: proc_net_udp(5).
fn parse(table: &str) -> Vec<(u32, u64)> {
    let row = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, port) = fields.get(1)?.rsplit_once(':')?;
        let is_ours = u16::from_str_radix(port, 16).ok()? == PORT;
        is_ours.then_some((fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// The processes by the inodes of their sockets. If systemd and a service hold the same socket, the service is
/// returned.
fn holders() -> BTreeMap<u64, Holder> {
    let mut holders = BTreeMap::new();
    let Ok(processes) = fs::read_dir("/proc") else { return holders };
    let ids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in ids {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for file in files.flatten() {
            let target = fs::read_link(file.path()).unwrap_or_default();
            let inode =
                target.to_str().and_then(|it| it.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
            if let Some(inode) = inode {
                holders
                    .entry(inode)
                    .and_modify(|holder: &mut Holder| {
                        if holder.pid == 1 {
                            *holder = process(pid);
                        }
                    })
                    .or_insert_with(|| process(pid));
            }
        }
    }
    holders
}

/// What is known about a process.
fn process(pid: u32) -> Holder {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let cgroup = read("cgroup");
    let unit =
        cgroup.lines().filter_map(|line| line.rsplit('/').next()).find(|name| name.ends_with(".service"));
    Holder { pid, name: read("comm").trim().to_owned(), unit: unit.map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_port_in_the_table_of_the_kernel() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  91: 00000000:0009 00000000:0000 07 00000000:00000000 00:00000000 00000000   998        0 4711 2 0000000000000000 0
  92: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0
";
        assert_eq!(parse(table), [(998, 4711)]);
    }
}
