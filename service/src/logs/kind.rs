//! The kinds of messages that administrators see, each with the value of its `MESSAGE_ID` field.
//!
//! `systemd/wakevirt.catalog` explains each kind for `journalctl -x`, and wakevirt-journal(7) lists all kinds. The
//! meaning of an ID never changes. `journalctl --new-id128` creates an ID for a new kind.

/// A domain was started.
pub const WAKE_STARTED: &str = "fe9da63ebe2d4474a42a0518dbad89ba";
/// A paused domain was resumed.
pub const WAKE_RESUMED: &str = "69fb6c3fd0c14db0bc2d6064f2557e5b";
/// A suspended guest was woken up.
pub const WAKE_WOKEN: &str = "9747626185dc48658c1bf8cfdfa98963";
/// A domain was already running.
pub const WAKE_ALREADY_RUNNING: &str = "b36af36218524cbe8c9d7c6ad9cd2639";
/// A packet was denied because nothing allows it.
pub const WAKE_NOT_ALLOWED: &str = "9b9ecb9012b646f1bc3cd0cf932cecf8";
/// A packet was ignored during the cool-down.
pub const WAKE_COOLING_DOWN: &str = "76293a59de224ed4aad78cbf7a0bed18";
/// A packet was denied because its SecureOn password is wrong or missing.
pub const WAKE_BAD_PASSWORD: &str = "b53226acec28435b8d65f79e5d37c6e1";
/// More than one domain matches a request.
pub const WAKE_AMBIGUOUS: &str = "3f3957b3aca54f9a91cda48e1e9a9321";
/// A domain was not woken because it has migrated to another host.
pub const WAKE_MIGRATED_AWAY: &str = "ba0936c6891b4e10a31b332bf5ce3d10";
/// A wake or a held packet expired because a hypervisor was unavailable for too long.
pub const WAKE_EXPIRED: &str = "704031dd9acb456b8bd289cca8eb42ac";
/// A wake failed.
pub const WAKE_FAILED: &str = "aa395db66df548fd8af57e27d3ca73a0";
/// A packet is for a MAC address that no domain has.
pub const PACKET_UNKNOWN: &str = "0c99612b794d47ce86f473e87017c455";
/// A packet is held until a hypervisor is available.
pub const PACKET_HELD: &str = "550e9c08a8ab46dcb8152e7fa7c0c21d";
/// A held packet was dropped.
pub const PACKET_DROPPED: &str = "05112897a5d64488abe54b048f569cd3";
/// A wake is held until libvirt can start the domain.
pub const WAKE_HELD: &str = "31cc49e77bc74cf18143ceac3922f13b";
/// A wake or packet was abandoned after a crash.
pub const WAKE_ABANDONED: &str = "9c2726b46334472b90eba6aeddb02ad4";
/// Messages about packets were suppressed.
pub const LINES_SUPPRESSED: &str = "28f92fb56dd54d478c89c7e89a5cf775";
/// wakevirt-actor missed packets.
pub const PACKETS_MISSED: &str = "f5add5289f8f46ccb5727430010b091b";
/// A forged packet was dropped.
pub const PACKET_FORGED: &str = "fd7abe3b714340e28538312a176055a6";
/// Packets arrive faster than wakevirt-actor processes them.
pub const PACKET_QUEUE_FULL: &str = "e0710c5011cd4898a311ae81487bf0c5";
/// A rule does not match any domain.
pub const RULE_MATCHES_NOTHING: &str = "daecba61c1384af8b9b23c5960c9ea29";
/// The pattern in a rule is the exact name of a domain.
pub const RULE_IS_NAME: &str = "0c4ab40ec28c45eb94d32d312155cdbf";
/// A rule names an interface on which packets are not captured.
pub const RULE_INTERFACE_MISSING: &str = "9a9ff6a489c14fb5a8fe88185cdaf0d4";
/// No packet can wake a domain.
pub const NOTHING_ALLOWED: &str = "3489ff05951748099594c1227c1cdec4";
/// Only domain metadata allows wakes.
pub const METADATA_ALLOWS: &str = "3128f6b951dc4240b57ec878217d8635";
/// A domain in the autostart list does not exist.
pub const AUTOSTART_UNKNOWN: &str = "63ea3ba51b5447d4a030e5524dbcb35f";
/// The domains in the autostart list are not started.
pub const AUTOSTART_SKIPPED: &str = "587b473ccc35459fa8032bb4abd84f3f";
/// wakevirt-actor is connected to a hypervisor.
pub const HYPERVISOR_CONNECTED: &str = "5f1cc64f2c594753ae3b2eb4b0edb61c";
/// wakevirt-actor cannot connect to a hypervisor.
pub const HYPERVISOR_UNAVAILABLE: &str = "9df1075f730b44799e1b8fb79494cd80";
/// The connection to a hypervisor was lost.
pub const HYPERVISOR_LOST: &str = "3162feb2802a49d9b28516d1c270d3c8";
/// wakevirt-actor reports its permissions in libvirt.
pub const HYPERVISOR_PERMISSIONS: &str = "212ecfbdb80e476bbbbe3033cd584037";
/// A domain sleeps with the host.
pub const GUEST_ASLEEP: &str = "cbbb85e4ce134fc89c230a1271fa31d6";
/// A domain does not sleep with the host.
pub const GUEST_NOT_ASLEEP: &str = "414f236896ec408d8f6022f2a3c643bb";
/// A domain is awake again.
pub const GUEST_AWAKE: &str = "99108fee8dd249f6aaf7e0adb147cf23";
/// A domain cannot be brought back.
pub const GUEST_NOT_AWAKE: &str = "4ab67d7e605041ba89374ebf06bb33fc";
/// Running domains keep the host awake.
pub const HOST_KEPT_AWAKE: &str = "5e46bcfa2bfb452faca7b2aaac3fafb0";
/// Running domains cannot keep the host awake.
pub const HOST_NOT_KEPT_AWAKE: &str = "65606165f68d445d8ca0b2d95d9d8bbb";
/// No domain keeps the host awake.
pub const HOST_RELEASED: &str = "b810758c75d9419d8a9c7fdc8e920582";
/// Domains are not shut down because the host keeps running.
pub const HOST_NOT_STOPPING: &str = "eae74e343488479faee04c293c84c963";
/// wakevirt-sleep cannot connect to libvirt.
pub const LIBVIRT_UNAVAILABLE: &str = "b4902172bff442c0afa9aca488a4e1a7";
/// wakevirt-sleep is connected to libvirt again.
pub const LIBVIRT_CONNECTED: &str = "e5347f8c28504ebfb572a4c1803822e5";
/// A domain cannot be read.
pub const DOMAIN_UNREADABLE: &str = "dd801efc442b4d5e8e4092457f10d2c4";
/// The domains of a hypervisor cannot be listed.
pub const DOMAINS_UNREADABLE: &str = "543506c3463d4bd7bfb2fbf436b8345d";
/// Wakes are queued for a connection to a hypervisor.
pub const WAKES_QUEUED: &str = "bb7f40f3d7e748498573adb8ab12e8cf";
/// Wakes are no longer queued.
pub const WAKES_NOT_QUEUED: &str = "a13e727f14704403a8250984538ef542";
/// Decisions do not become Events of Kubernetes.
pub const EVENT_NOT_WRITTEN: &str = "685954f1c612471e960a5ff3476328ed";
/// wakevirt-actor receives packets from wakevirt-capture.
pub const ANNOUNCER_FOUND: &str = "c057dd93d6364a3397bc33bc94360a0f";
/// wakevirt-capture is not running.
pub const ANNOUNCER_MISSING: &str = "ab3dcf4494584863a4c4f546a7a6fc6a";
/// Missed packets cannot be requested.
pub const REPLAY_FAILED: &str = "86d5d641f2ea4af39325fa2bdae06d6f";
/// The MAC addresses of the domains cannot be reported to wakevirt-capture.
pub const INTEREST_FAILED: &str = "93c03a716d684255b40cff4aad67992c";
/// A service owns its name on the bus.
pub const NAME_ACQUIRED: &str = "6c8b7813dc7446de8b2cc40cfbb17fe7";
/// A service is not connected to the bus.
pub const BUS_UNAVAILABLE: &str = "94fa0263d9db4f0cb90e770638c87e6b";
/// Method calls were refused.
pub const CALLS_REFUSED: &str = "1ada382d66fc4f2884f95448543729d4";
/// polkit did not authorise a caller because of an error.
pub const AUTHORIZATION_FAILED: &str = "aa67a6a8703e4630bddb07453dd41df2";
/// Signals about decisions were not sent.
pub const SIGNALS_LOST: &str = "c32d0a68da314aef8aff8ddeb6208eb2";
/// A magic packet for a domain was announced.
pub const PACKET_ANNOUNCED: &str = "547b46c243c540979e5d123ab7c7c9a7";
/// Packets on an interface are not announced because there are too many.
pub const PACKET_LIMITED: &str = "d6524ea3ad6b4d6aa605bd93548dc82e";
/// Packets were lost because they arrived too fast.
pub const PACKETS_LOST: &str = "1b4ea639efb64273ad7026f539ab048a";
/// A payload was too long to be searched completely.
pub const PAYLOAD_TRUNCATED: &str = "1b8b6853ab7940bd991814730032ed3d";
/// wakevirt-capture receives frames with packet sockets.
pub const RECEIVING_FRAMES: &str = "bfc884df22a849e08cbd6b24eabeb180";
/// wakevirt-capture receives only UDP packets, as configured.
pub const RECEIVING_UDP: &str = "346e4583237e485396d7d49b1c7f5e77";
/// wakevirt-capture receives only UDP packets because it lacks CAP_NET_RAW.
pub const NO_NET_RAW: &str = "ef1d595c11b24e228a51f034b865dad1";
/// The sniffer runs without Landlock.
pub const NO_LANDLOCK: &str = "a272ded05f994aca81144c90715e29eb";
/// wakevirt-capture listens on a UDP address.
pub const SOCKET_OPENED: &str = "f4db19a77dfc4aaea16121feba77f977";
/// wakevirt-capture cannot listen on a UDP address.
pub const SOCKET_FAILED: &str = "816fd1afb46747eda919dddcc08722c5";
/// A socket from the service manager is ignored.
pub const SOCKET_IGNORED: &str = "cf6643b1dedb49fda1c6cfe6833df0d4";
/// Outgoing packets are captured on an interface.
pub const OUTGOING_CAPTURED: &str = "528fa6182b924976800bd553f2f3a545";
/// A configured interface does not exist.
pub const INTERFACE_MISSING: &str = "5d1232a8b2844ac88a8a12d1d30c28fd";
/// The sniffer did not exit cleanly.
pub const SNIFFER_FAILED: &str = "45c1a40ec0f3480693dde9ba28800674";
/// The configuration was reloaded.
pub const CONFIGURATION_RELOADED: &str = "6c7112d296f94732a2608d190a09804f";
/// A caller requested a reload of the configuration.
pub const RELOAD_REQUESTED: &str = "a188fcf2ad0b4d72bbbd52adb0245d23";
/// The configuration was not reloaded because it is invalid.
pub const RELOAD_FAILED: &str = "a89bc31478134d5485ab9990e1d0172b";
/// A change to the configuration requires a restart.
pub const RESTART_NEEDED: &str = "9acd4a1e87a94d99b5af2672907a4dd8";
/// The state of wakevirt-actor cannot be saved.
pub const STATE_NOT_SAVED: &str = "c23d87348b0f440e80962dad0d498259";
/// The state of wakevirt-actor cannot be restored.
pub const STATE_NOT_RESTORED: &str = "913c691e6fe24defaa4328c09679cb01";
/// The host is prepared for a domain.
pub const HOST_PREPARED: &str = "23e73eec4f074f12a3c97ee6d285a491";
/// The host has its previous values again.
pub const HOST_RESTORED: &str = "2092e75137e2464284e158146292f063";
/// The host is not completely prepared for a domain.
pub const PREPARATION_FAILED: &str = "3163ba4c7a084c62854f69bf57c01636";
/// The host's state cannot be changed.
pub const RESTORE_FAILED: &str = "27a1dd8bffcd470c8aeecf594a2e1ba6";
/// An event from libvirt cannot be read or removed.
pub const EVENT_UNREADABLE: &str = "51805deecc1c4ec7a76243e58c2c060e";
/// Domains ended without an event from libvirt.
pub const DOMAIN_GONE: &str = "ea69bc5538aa48a4bb1e4d17b729ad2d";
/// The configuration of wakevirt-host needs systemd.
pub const SYSTEMD_NEEDED: &str = "91c043c7da4a4cb491c9df5a1ea0d8bc";
/// The state of wakevirt-host cannot be saved.
pub const HOST_STATE_NOT_SAVED: &str = "852814fa341e46779ea0b6270b35848b";
/// The state of wakevirt-host cannot be restored.
pub const HOST_STATE_NOT_RESTORED: &str = "e37b498710b24165ac7b624e0d26d8ca";
/// A service exited because of an error.
pub const SERVICE_FAILED: &str = "cabb5402665e44f191e64ce7496e24ad";
/// The log level cannot be changed.
pub const LOG_LEVEL_UNCHANGED: &str = "d63d6808b3a249a3857fa5135e61fdac";
/// An internal error occurred.
pub const INTERNAL_ERROR: &str = "48cd199df0664001abc846ac79da5087";
