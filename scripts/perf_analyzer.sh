#!/usr/bin/env bash
# Unpacks NVIDIA's perf_analyzer into .tools/, without root and without installing anything, for
# tests/clients/test_perf_analyzer.py and docs/protocols/triton.md. The PyPI package of that name is empty; the program
# is in the wheel of an older tritonclient, and runs with the CUDA runtime of PyPI and a library of Debian's on its path.
# No GPU is needed. Not part of `make tools`: 18 MB that only this one test wants. Run again, it does nothing.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
tools="$root/.tools"
python=${PYTHON:-$root/.venv/bin/python}

say() { printf 'perf_analyzer: %s\n' "$*"; }

if [[ -x "$tools/bin/perf_analyzer" ]]; then
    say "is unpacked in .tools/"
    exit 0
fi
if ! command -v apt-get > /dev/null || ! command -v dpkg-deb > /dev/null || [[ $(uname -m) != x86_64 ]]; then
    say "needs apt and an x86_64 machine"
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wheel() {
    "$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: \
        --platform manylinux1_x86_64 --platform manylinux2014_x86_64 --dest "$work" "$1" 2> "$work/pip.log" \
        || { cat "$work/pip.log"; exit 1; }
}
say "downloading tritonclient 2.49.0 and nvidia-cuda-runtime-cu12"
wheel tritonclient==2.49.0
wheel nvidia-cuda-runtime-cu12

mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
private=(-o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=$(id -un)")
shared=(-o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=$(id -un)")
say "downloading libb64-0d"
if ! (cd "$work" && apt-get -qq "${shared[@]}" download libb64-0d) 2> "$work/apt.log"; then
    say "the system's package lists do not do; reading private ones"
    apt-get -qq "${private[@]}" update
    (cd "$work" && apt-get -qq "${private[@]}" download libb64-0d)
fi

home="$tools/perf_analyzer"
mkdir -p "$home" "$tools/bin" "$work/unpacked"
for archive in "$work"/*.whl; do "$python" -m zipfile -e "$archive" "$work/unpacked"; done
for archive in "$work"/*.deb; do dpkg-deb --extract "$archive" "$work/unpacked"; done
find "$work/unpacked" \( -path '*/data/bin/perf_analyzer' -o -name 'libb64.so.0d' -o -name 'libcudart.so.12' \) \
    -exec cp -L {} "$home" \;
chmod +x "$home/perf_analyzer"
cat > "$tools/bin/perf_analyzer" << WRAPPER
#!/bin/sh
LD_LIBRARY_PATH="$home\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}" exec "$home/perf_analyzer" "\$@"
WRAPPER
chmod +x "$tools/bin/perf_analyzer"
say "is unpacked in .tools/"
