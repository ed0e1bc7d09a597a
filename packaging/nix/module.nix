# The module for NixOS, with the flake as its first argument.
flake:
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.wakevirt;
  toml = pkgs.formats.toml { };
  configuration = service: toml.generate "${service}.toml" cfg.${service}.settings;
  settings =
    service:
    lib.mkOption {
      type = toml.type;
      default = { };
      description = "The content of {file}`/etc/wakevirt/${service}.toml`: {manpage}`wakevirt-${service}.toml(5)`.";
    };
  users = [
    "wakevirt-capture"
    "wakevirt-actor"
    "wakevirt-metrics"
  ];
in
{
  options.services.wakevirt = {
    enable = lib.mkEnableOption "wakevirt, which starts libvirt's domains for magic packets";
    package = lib.mkOption {
      type = lib.types.package;
      default = flake.packages.${pkgs.stdenv.hostPlatform.system}.default;
      defaultText = lib.literalExpression "wakevirt.packages.\${system}.default";
      description = "The package with the programs and the units.";
    };
    capture.settings = settings "capture";
    actor.settings = settings "actor";
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.etc."wakevirt/capture.toml".source = configuration "capture";
    environment.etc."wakevirt/actor.toml".source = configuration "actor";

    # NixOS ignores the [Install] sections of the package's units.
    systemd.packages = [ cfg.package ];
    systemd.services.wakevirt-capture = {
      wantedBy = [ "multi-user.target" ];
      reloadTriggers = [ (configuration "capture") ];
    };
    systemd.services.wakevirt-actor = {
      wantedBy = [ "multi-user.target" ];
      aliases = [ "dbus-org.wakevirt.Actor1.service" ];
      reloadTriggers = [ (configuration "actor") ];
    };
    systemd.tmpfiles.packages = [ cfg.package ];

    services.dbus.packages = [ cfg.package ];
    security.polkit.enable = true;

    # The users and groups in systemd/wakevirt.sysusers.conf.
    users.users = lib.genAttrs users (user: {
      isSystemUser = true;
      group = user;
    });
    users.groups = lib.genAttrs (
      users
      ++ [
        "wakevirt"
        "libvirt"
      ]
    ) (_: { });
  };
}
