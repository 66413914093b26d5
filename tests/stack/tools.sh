# Sourced: puts prometheus, promtool, prometheus-alertmanager and amtool on the PATH.

# unpacked_tools FOLDER: unpacks the Debian packages into FOLDER where the programs are not installed.
unpacked_tools() {
    local folder=$1
    export PATH=$PATH:$folder/root/usr/bin
    command -v prometheus promtool prometheus-alertmanager amtool >/dev/null && return
    if ! command -v prometheus prometheus-alertmanager promtool amtool >/dev/null 2>&1; then
        mkdir -p "$folder/root"
        (
            cd "$folder"
            # The lists may be old or missing; only root can renew them.
            apt-get download prometheus prometheus-alertmanager >apt.log 2>&1 ||
                { apt-get update -qq >>apt.log 2>&1 && apt-get download prometheus prometheus-alertmanager >>apt.log 2>&1; } ||
                { tail -n 5 apt.log >&2; exit 1; }
            for package in ./*.deb; do dpkg -x "$package" root; done
        )
    fi
    prometheus --version 2>&1 | head -n 1
    prometheus-alertmanager --version 2>&1 | head -n 1
}
