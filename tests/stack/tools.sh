# Sourced: puts prometheus, promtool, prometheus-alertmanager and amtool on the PATH.

have_all() {
    local program
    for program in "$@"; do command -v "$program" >/dev/null || return 1; done
}

# unpacked_tools FOLDER: unpacks the Debian packages into FOLDER where the programs are not installed.
unpacked_tools() {
    local folder=$1
    if ! have_all prometheus promtool prometheus-alertmanager amtool; then
        mkdir -p "$folder/unpacked"
        (
            cd "$folder"
            # The lists may be old or missing; only root can renew them.
            apt-get download prometheus prometheus-alertmanager >apt.log 2>&1 ||
                { apt-get update -qq >>apt.log 2>&1 && apt-get download prometheus prometheus-alertmanager >>apt.log 2>&1; } ||
                { tail -n 5 apt.log >&2; exit 1; }
            for package in ./*.deb; do dpkg -x "$package" unpacked; done
        )
        export PATH=$folder/unpacked/usr/bin:$PATH
    fi
    prometheus --version 2>&1 | head -n 1
    prometheus-alertmanager --version 2>&1 | head -n 1
}
