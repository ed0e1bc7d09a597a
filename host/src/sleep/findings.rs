//! Whether a domain can sleep as configured.

use super::{Abilities, ShutdownMode, SleepMode};

/// Why a domain cannot sleep in this way; `None` if it can. This is known before the attempt.
#[must_use]
pub const fn refusal(mode: SleepMode, abilities: &Abilities) -> Option<&'static str> {
    match mode {
        SleepMode::Suspend if !abilities.suspend => {
            Some("<pm> disables S3; set <suspend-to-mem enabled='yes'/> with virsh edit")
        }
        SleepMode::Hibernate if !abilities.hibernate => {
            Some("<pm> disables S4; set <suspend-to-disk enabled='yes'/> with virsh edit")
        }
        SleepMode::Suspend | SleepMode::Hibernate if !abilities.agent => Some(
            "libvirt needs the guest agent, and the domain has no channel for it; add the channel \
             org.qemu.guest_agent.0, and install qemu-guest-agent in the guest",
        ),
        SleepMode::Pause if abilities.passthrough => Some(
            "a paused guest does not prepare its PCI device of the host for sleep; use \"suspend\", \"hibernate\" or \
             \"shutdown\"",
        ),
        SleepMode::Save if abilities.passthrough => Some(
            "libvirt cannot save a guest that uses a PCI device of the host; use \"hibernate\" or \"shutdown\"",
        ),
        _ => None,
    }
}

/// The reasons why a domain cannot sleep or shut down with the host as `host.toml` says. Empty if it can.
#[must_use]
pub fn findings(
    abilities: &Abilities,
    sleep: Option<SleepMode>,
    shutdown: Option<ShutdownMode>,
) -> Vec<String> {
    let keys = [("sleep", sleep), ("shutdown", shutdown.map(SleepMode::from))];
    let finding = |(key, mode): (&str, Option<SleepMode>)| {
        let mode = mode?;
        Some(format!("{key} = \"{}\" has no effect: {}", mode.name(), refusal(mode, abilities)?))
    };
    keys.into_iter().filter_map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABLE: Abilities = Abilities { agent: true, suspend: true, hibernate: true, passthrough: false };
    const ALL: [SleepMode; 5] =
        [SleepMode::Suspend, SleepMode::Hibernate, SleepMode::Pause, SleepMode::Save, SleepMode::Shutdown];

    fn refused(abilities: Abilities) -> Vec<SleepMode> {
        ALL.into_iter().filter(|mode| refusal(*mode, &abilities).is_some()).collect()
    }

    #[test]
    fn refuses_what_the_definition_does_not_allow() {
        assert_eq!(refused(ABLE), []);
        assert_eq!(refused(Abilities { agent: false, ..ABLE }), [SleepMode::Suspend, SleepMode::Hibernate]);
        assert_eq!(refused(Abilities { suspend: false, ..ABLE }), [SleepMode::Suspend]);
        assert_eq!(refused(Abilities { hibernate: false, ..ABLE }), [SleepMode::Hibernate]);
        assert_eq!(refused(Abilities { passthrough: true, ..ABLE }), [SleepMode::Pause, SleepMode::Save]);
    }

    #[test]
    fn names_the_key_and_the_value() {
        let abilities = Abilities { hibernate: false, passthrough: true, ..ABLE };
        let found = findings(&abilities, Some(SleepMode::Hibernate), Some(ShutdownMode::Save));
        let [sleep, shutdown] = <[String; 2]>::try_from(found).unwrap();
        assert!(sleep.starts_with("sleep = \"hibernate\" has no effect: <pm> disables S4"), "{sleep}");
        assert!(shutdown.starts_with("shutdown = \"save\" has no effect: libvirt cannot save"), "{shutdown}");
        assert_eq!(findings(&abilities, None, None), Vec::<String>::new());
    }
}
