//! Host preparation in the virtual machine.

use super::Vm;

/// Prints the values that host preparation changes, with their names. A cgroup without a file has the values of the
/// cgroup above it, or the default.
const VALUES: &str = r#"
cd /sys
for file in kernel/mm/hugepages/*/nr_overcommit_hugepages devices/system/node/node*/hugepages/*/nr_hugepages \
    devices/virtual/workqueue/cpumask; do
    echo "$file=$(<$file)"
done
cd /sys/fs/cgroup
for unit in system.slice user.slice init.scope machine.slice; do
    cpus=$unit/cpuset.cpus.effective
    [[ -e $cpus ]] || cpus=cpuset.cpus.effective
    echo "AllowedCPUs of $unit=$(<$cpus)"
done
echo "CPUWeight of machine.slice=$(cat machine.slice/cpu.weight 2>/dev/null || echo 100)"
echo "CPUs of systemd=$(sed -n 's/^Cpus_allowed_list:\t//p' /proc/1/status)"
echo "units=$(systemctl list-units --no-legend --plain 'wakevirt-*@*' | cut -d ' ' -f 1 | paste -sd ' ')"
"#;

/// Prints the drop-ins that systemd has written, except those for the scopes of domains.
const DROP_INS: &str = "
find /run/systemd/system.control /run/systemd/transient /etc/systemd/system.control -path '*.d/*' \
    ! -path '*/machine-qemu*' 2>/dev/null | sort
";

/// Waits until the service has handled all events. It removes an event from the spool afterwards.
const WAIT_FOR_EVENTS: &str =
    "timeout 200 sh -c 'while ls /run/wakevirt-host/spool | grep --quiet .; do sleep 0.2; done'";

impl Vm {
    /// Starts the preparation of this host, with this configuration.
    ///
    /// # Panics
    /// If it does not start.
    pub fn prepare_host(&mut self, configuration: &str) {
        self.write("/etc/wakevirt/host.toml", configuration);
        self.sh("mkdir -p /etc/libvirt/hooks/qemu.d
                 ln -sf /usr/sbin/wakevirt-hook /etc/libvirt/hooks/qemu.d/50-wakevirt
                 systemctl enable --now wakevirt-host.socket wakevirt-host.service
                 systemctl try-reload-or-restart libvirtd.service");
    }

    /// Changes the configuration of the preparation.
    ///
    /// # Panics
    /// If the service does not accept it.
    pub fn configure_host(&mut self, configuration: &str) {
        self.write("/etc/wakevirt/host.toml", configuration);
        self.sh("systemctl reload wakevirt-host.service");
    }

    /// Waits until the service has handled all events of domains.
    ///
    /// # Panics
    /// If this takes longer than 200 seconds.
    pub fn wait_for_events(&mut self) {
        self.sh(WAIT_FOR_EVENTS);
    }

    /// Runs a virsh(1) command as root, and waits until the service has handled the events that it causes. libvirt's
    /// hook waits only for a limited time, unless the domain is about to start.
    ///
    /// # Panics
    /// If it fails.
    pub fn virsh_with_events(&mut self, line: &str) {
        self.virsh(line);
        self.wait_for_events();
    }

    /// The values that the preparation changes: a line for each, with its name.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn values(&mut self) -> String {
        self.sh(VALUES)
    }

    /// Waits until the values are these. The service checks every few seconds which domains run.
    ///
    /// # Panics
    /// If they are different after 30 seconds.
    pub fn wait_for_values(&mut self, expected: &str) {
        let mut values = String::new();
        for _ in 0..60 {
            values = self.values();
            if values == expected {
                return;
            }
            self.sh("sleep 0.5");
        }
        assert_eq!(values, expected);
    }

    /// The drop-ins that systemd has written, except those for the scopes of domains: a line with the path of each.
    pub fn drop_ins(&mut self) -> String {
        self.run(DROP_INS).output
    }

    /// One of [`Self::values`].
    ///
    /// # Panics
    /// If it does not exist.
    pub fn value(&mut self, name: &str) -> String {
        let values = self.values();
        let value = values.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("{name} is not among the values:\n{values}")).to_owned()
    }
}
