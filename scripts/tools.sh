#!/usr/bin/env bash
# Unpacks the programs that some tests and the bench drive (a real Prometheus, wrk) from Debian's packages, without root
# and without installing anything: everything lands under .tools/, a wrapper for each program in .tools/bin.
# A program that PATH already has is left alone. Run again, it does nothing. Called by `make tools`.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools="$root/.tools"
# program : the packages that it needs beside libc and OpenSSL, its own first
wanted=("prometheus:prometheus" "promtool:prometheus" "wrk:wrk libluajit-5.1-2")

say() { printf 'tools: %s\n' "$*"; }

missing_programs=()
missing_packages=()
for entry in "${wanted[@]}"; do
    program=${entry%%:*}
    if [[ -x "$tools/bin/$program" ]]; then
        say "$program is unpacked in .tools/"
    elif command -v "$program" > /dev/null; then
        say "$program is $(command -v "$program")"
    else
        missing_programs+=("$program")
        read -ra packages <<< "${entry#*:}"
        missing_packages+=("${packages[@]}")
    fi
done
[[ ${#missing_programs[@]} -eq 0 ]] && exit 0

if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
    say "this machine has no apt, so these are not here: ${missing_programs[*]}"
    say "put them on PATH yourself; until then the tests that need them are skipped, with that reason"
    exit 1
fi

mkdir -p "$tools/apt/lists/partial" "$tools/apt/cache/archives/partial" "$tools/packages" "$tools/root/usr/lib" "$tools/bin"
readarray -t packages < <(printf '%s\n' "${missing_packages[@]}" | sort -u)

# The system's package lists may be absent, or so old that the files are gone from the mirror; then private ones are made.
# As root, apt would hand the download to a user that may not write here: the sandbox user is the caller.
private=(-o "Dir::State::Lists=$tools/apt/lists" -o "Dir::Cache=$tools/apt/cache" -o "APT::Sandbox::User=$(id -un)")
shared=(-o "Dir::Cache=$tools/apt/cache" -o "APT::Sandbox::User=$(id -un)")
download() { (cd "$tools/packages" && apt-get -qq "$@" download "${packages[@]}"); }

say "downloading ${packages[*]}"
if ! download "${shared[@]}" 2> "$tools/apt/first-try.log"; then
    say "the system's package lists do not do; reading private ones"
    apt-get -qq "${private[@]}" update
    download "${private[@]}"
fi

for archive in "$tools"/packages/*.deb; do
    dpkg-deb --extract "$archive" "$tools/root"
done

libraries=$(find "$tools/root/usr/lib" -maxdepth 2 -name '*.so*' -printf '%h\n' 2> /dev/null | sort -u | paste -sd: -)
for program in "${missing_programs[@]}"; do
    binary="$tools/root/usr/bin/$program"
    [[ -x "$binary" ]] || { say "Debian's package holds no $program"; exit 1; }
    cat > "$tools/bin/$program" << WRAPPER
#!/bin/sh
LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "$binary" "\$@"
WRAPPER
    chmod +x "$tools/bin/$program"
    say "$program is unpacked in .tools/"
done
rm -rf "$tools/apt" "$tools/packages"
