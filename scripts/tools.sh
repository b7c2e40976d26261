#!/usr/bin/env bash
# Unpacks the programs that some tests and the bench drive (a real Prometheus, wrk, a browser) from Debian's packages,
# without root and without installing anything: everything lands under .tools/, a wrapper for each in .tools/bin.
# A program that PATH already has is left alone. Run again, it does nothing. Called by `make tools`.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools="$root/.tools"
# program : the packages that it needs beside libc and OpenSSL, its own first
wanted=("prometheus:prometheus" "promtool:prometheus" "wrk:wrk libluajit-5.1-2"
    "chromium-headless-shell:chromium-headless-shell chromium-common fonts-dejavu-core libasound2 libasyncns0 libatk1.0-0
        libatspi2.0-0 libblkid1 libbrotli1 libbsd0 libdav1d6 libdbus-1-3 libdouble-conversion3 libdrm2 libexpat1 libffi8
        libflac12 libfontconfig1 libfreetype6 libgbm1 libgcrypt20 libglib2.0-0 libgpg-error0 libgraphite2-3
        libharfbuzz-subset0 libharfbuzz0b libjpeg62-turbo liblcms2-2 liblz4-1 libmd0 libminizip1 libmount1 libmp3lame0
        libmpg123-0 libnspr4 libnss3 libogg0 libopenh264-7 libopenjp2-7 libopus0 libpcre2-8-0 libpng16-16 libpulse0
        libselinux1 libsndfile1 libsqlite3-0 libstdc++6 libsystemd0 libudev1 libvorbis0a libvorbisenc2
        libwayland-server0 libx11-6 libx11-xcb1 libxau6 libxcb-randr0 libxcb1 libxcomposite1 libxdamage1 libxdmcp6
        libxext6 libxfixes3 libxi6 libxkbcommon0 libxnvctrl0 libxrandr2 libxrender1 libzstd1 libcap2 liblzma5 zlib1g")

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
        read -ra packages <<< "$(tr -s '[:space:]' ' ' <<< "${entry#*:}")"
        missing_packages+=("${packages[@]}")
    fi
done
[[ ${#missing_programs[@]} -eq 0 ]] && exit 0

if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null; then
    say "this machine has no apt, so these are not here: ${missing_programs[*]}"
    say "put them on PATH yourself; until then the tests that need them are skipped, with that reason"
    exit 1
fi

mkdir -p "$tools/apt/lists/partial" "$tools/apt/cache/archives/partial" "$tools/packages" "$tools/root/usr/lib" "$tools/root/lib" "$tools/bin"
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

# Debian's browser looks for fonts where Debian puts them.
cat > "$tools/fonts.conf" << FONTS
<fontconfig><dir>$tools/root/usr/share/fonts</dir><dir>/usr/share/fonts</dir><cachedir>$tools/fonts</cachedir></fontconfig>
FONTS

libraries=$(find "$tools/root/usr/lib" "$tools/root/lib" -maxdepth 3 -name '*.so*' -printf '%h\n' 2> /dev/null | sort -u | paste -sd: -)
for program in "${missing_programs[@]}"; do
    binary="$tools/root/usr/lib/chromium/$program" # what lies in usr/bin is a script for an installed one
    [[ -x "$binary" ]] || binary="$tools/root/usr/bin/$program"
    [[ -x "$binary" ]] || { say "Debian's package holds no $program"; exit 1; }
    cat > "$tools/bin/$program" << WRAPPER
#!/bin/sh
FONTCONFIG_FILE="$tools/fonts.conf" LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "$binary" "\$@"
WRAPPER
    chmod +x "$tools/bin/$program"
    say "$program is unpacked in .tools/"
done
rm -rf "$tools/apt" "$tools/packages"
