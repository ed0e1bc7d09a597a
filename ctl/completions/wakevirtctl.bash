# Completion of wakevirtctl(1) in bash. The program itself finds the candidates.
if source <(COMPLETE=bash wakevirtctl 2>/dev/null) && declare -F _clap_complete_wakevirtctl >/dev/null; then
    # Names of domains can contain spaces and other special characters.
    _wakevirtctl() {
        local place
        _clap_complete_wakevirtctl "$@" 2>/dev/null
        for place in "${!COMPREPLY[@]}"; do
            printf -v "COMPREPLY[place]" %q "${COMPREPLY[place]}"
        done
    }
    complete -o nospace -o bashdefault -F _wakevirtctl wakevirtctl
fi
