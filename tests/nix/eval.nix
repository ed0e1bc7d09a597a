# Evaluates the flake with stand-ins for the few functions of nixpkgs that it uses: the result is the content of the
# package and of the module. With nixpkgs' own module system, the types of the options would be checked as well.
let
  root = ../..;
  lib = {
    cleanSource = source: source;
    genAttrs = names: value: builtins.listToAttrs (map (name: { inherit name; value = value name; }) names);
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    licenses = { asl20 = "Apache-2.0"; mit = "MIT"; };
    literalExpression = text: text;
    mkEnableOption = description: { inherit description; default = false; };
    mkIf = condition: content: assert condition; content;
    mkOption = option: option;
    types.package = "package";
  };
  pkgs = {
    inherit lib;
    formats.toml = _: { type = "toml"; generate = name: _: "/nix/store/${name}"; };
    libvirt = "/nix/store/libvirt";
    pkg-config = "/nix/store/pkg-config";
    rustPlatform.buildRustPackage = package: package;
    stdenv.hostPlatform = { system = "x86_64-linux"; rust.cargoShortTarget = "x86_64-unknown-linux-gnu"; };
    util-linux = "/nix/store/util-linux";
    callPackage = file: _: let function = import file; in function (builtins.intersectAttrs (builtins.functionArgs function) pkgs);
  };
  flake = (import (root + "/flake.nix")).outputs {
    self = flake;
    nixpkgs = { inherit lib; legacyPackages = { x86_64-linux = pkgs; aarch64-linux = pkgs; }; };
  };
  module = flake.nixosModules.default {
    inherit lib pkgs;
    config.services.wakevirt = {
      enable = true;
      package = "/nix/store/wakevirt";
      capture.settings = { };
      actor.settings = { };
    };
  };
in
{
  package = builtins.removeAttrs flake.packages.x86_64-linux.default [ "src" ];
  overlay = (flake.overlays.default pkgs { }).wakevirt.version;
  inherit (module) config options;
}
