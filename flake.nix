# wakevirt's package and module for Nix and NixOS. The files are in packaging/nix.
{
  description = "Wake-on-LAN for libvirt's virtual machines";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      each = nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ];
    in
    {
      packages = each (system: rec {
        wakevirt = nixpkgs.legacyPackages.${system}.callPackage ./packaging/nix/package.nix { };
        default = wakevirt;
      });
      overlays.default = final: _: { wakevirt = final.callPackage ./packaging/nix/package.nix { }; };
      nixosModules.default = import ./packaging/nix/module.nix self;
    };
}
