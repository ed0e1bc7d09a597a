//! Whether polkit gives the actor the permissions in libvirt that a wake needs.

use crate::quoting::quote;
use crate::verbs::doctor::observe::polkit::PREFIX;
use crate::verbs::doctor::observe::{LIBVIRT_RULE, Observations, PKLA};
use crate::verbs::finding::Finding;

/// Reports permissions that polkit denies the actor, if libvirt's access driver asks polkit about each call.
#[must_use]
pub fn check(seen: &Observations) -> Vec<Finding> {
    let missing = missing(seen);
    // If the actor has no connection, a different check reports this.
    if missing.is_empty() || !seen.unconnected.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = missing.iter().map(|permission| format!("{PREFIX}{permission}")).collect();
    let problem =
        format!("polkit denies the actor permissions that it needs in libvirt: {}", names.join(", "));
    vec![add_grant(seen, Finding::error("libvirt-permission", problem), &missing)]
}

/// The denied permissions that prevent a wake.
#[must_use]
pub fn missing(seen: &Observations) -> Vec<&'static str> {
    let polkit = &seen.polkit;
    if polkit.access_driver.is_none() {
        // libvirt asks polkit only whether the actor is allowed to connect.
        let is_unconnected = !seen.unconnected.is_empty();
        return polkit.denied.iter().copied().filter(|it| is_unconnected && *it == "unix.manage").collect();
    }
    let has_rule = seen.policies.iter().any(|path| path.ends_with(LIBVIRT_RULE));
    let is_missing = |permission: &&'static str| {
        // Only some domains need the permissions for networks, storage and filters, and an administrator can revoke them:
        // docs/RESTRICTED.md.
        let is_for_devices =
            !["unix.", "api.connect.", "api.domain."].iter().any(|it| permission.starts_with(it));
        !has_rule || !is_for_devices || failed_devices(seen).any(|prefix| permission.starts_with(prefix))
    };
    polkit.denied.iter().copied().filter(is_missing).collect()
}

/// The prefixes of the permissions that can be missing, according to the latest failed wakes.
fn failed_devices(seen: &Observations) -> impl Iterator<Item = &'static str> {
    let decisions = seen.bus.decisions.iter().flatten().filter(|decision| decision.outcome == "failed");
    decisions.filter_map(|decision| {
        let reason = decision.details.reason.as_deref()?;
        // libvirt treats a denied query of a pool as an inactive pool.
        let parts = [
            ("access denied: 'network'", "api.network"),
            ("access denied: 'storage'", "api.storage"),
            ("storage pool", "api.storage"),
            ("access denied: 'nwfilter'", "api.nwfilter"),
        ];
        parts.into_iter().find(|(part, _)| reason.contains(part)).map(|(_, prefix)| prefix)
    })
}

/// Adds the evidence, and a command that grants these permissions.
#[must_use]
pub fn add_grant(seen: &Observations, mut finding: Finding, missing: &[&str]) -> Finding {
    if let Some(path) = seen.polkit.access_driver {
        finding = finding.seen(format!("{path} enables libvirt's access driver"));
    }
    for permission in missing {
        finding = finding.seen(format!("polkit: {PREFIX}{permission} is denied to the actor"));
    }
    let has_rule = seen.policies.iter().any(|path| path.ends_with(LIBVIRT_RULE));
    let finding = if has_rule {
        finding.advice(
            "A polkit rule whose file name sorts earlier overrides the shipped rule; see /usr/share/doc/wakevirt/RESTRICTED.md.",
        )
    } else {
        finding.seen(format!("{LIBVIRT_RULE} is missing")).advice(
            "Alternatively, restore the shipped rule, which also denies everything else: reinstall the package or, if \
             wakevirt was built from source, run make install again.",
        )
    };
    finding.fix(seen.caller.as_root(&grant(seen, missing)))
}

/// The command that grants permissions to the actor's user.
fn grant(seen: &Observations, missing: &[&str]) -> String {
    let actions: Vec<String> = missing.iter().map(|permission| format!("{PREFIX}{permission}")).collect();
    let write = if seen.polkit.is_old() {
        let lines = [
            "[The wakevirt actor can use libvirt]".to_owned(),
            "Identity=unix-user:wakevirt-actor".to_owned(),
            format!("Action={}", actions.join(";")),
            "ResultAny=yes".to_owned(),
            "ResultInactive=yes".to_owned(),
            "ResultActive=yes".to_owned(),
        ];
        let words: Vec<String> = lines.iter().map(|line| quote(line)).collect();
        format!("printf '%s\\n' {} >{}", words.join(" "), PKLA.replace("wakevirt", "wakevirt-actor"))
    } else {
        let rule = format!(
            "polkit.addRule(function (action, subject) {{ if (subject.user == \"wakevirt-actor\" && {actions:?}.indexOf(action.id) \
             >= 0) {{ return polkit.Result.YES; }} }});"
        );
        // polkit reads the files in the order of their names. A previous command may have created the file.
        format!("printf '%s\\n' {} >>/etc/polkit-1/rules.d/00-wakevirt-actor.rules", quote(&rule))
    };
    match seen.units {
        Ok(_) => format!("{write} && systemctl restart polkit wakevirt-actor"),
        Err(_) => write,
    }
}

/// The command that installs the permissions for a polkit without JavaScript rules.
#[must_use]
pub fn install_pkla(seen: &Observations) -> String {
    seen.caller
        .as_root(&format!("install -D -m 644 /usr/share/doc/wakevirt/examples/polkit/wakevirt.pkla {PKLA}"))
}
