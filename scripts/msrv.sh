#!/usr/bin/env bash
# Checks the library, without dev-dependencies, on the oldest compiler that Cargo.toml promises.
#
# Uses that compiler where it is found: `MSRV_RUSTC`, rustup's tool chain, or a Debian package of the
# version, unpacked below the target folder. Else says SKIPPED, with the reason.
set -euo pipefail
cd "$(dirname "$0")/.."
want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
target=${CARGO_TARGET_DIR:-target}/msrv
mkdir -p "$target"
target=$(cd "$target" && pwd)

find_rustc() {
    if [ -n "${MSRV_RUSTC:-}" ]; then
        echo "$MSRV_RUSTC"
        return
    fi
    if command -v rustup >/dev/null && rustup toolchain list 2>/dev/null | grep -q "^$want"; then
        rustup which --toolchain "$want" rustc
        return
    fi
    local unpacked=$target/debian/usr/bin/rustc
    if [ ! -x "$unpacked" ] && command -v apt-get >/dev/null; then
        (
            cd "$target"
            apt-get update -qq || true
            # The compiler, its standard library and its LLVM, in the version that is wanted.
            version=$(apt-cache madison rustc-web | awk -v w="$want" '$3 ~ "^" w {print $3; exit}')
            [ -n "$version" ] || exit 0
            std=$(apt-cache show "libstd-rust-web-dev=$version" | sed -n 's/^Depends:.*\(libstd-rust-web-[0-9.]*\) .*/\1/p')
            llvm=$(apt-cache show "$std=$version" | grep -oE 'libllvm[0-9]+' | head -n 1)
            apt-get download -qq "rustc-web=$version" "libstd-rust-web-dev=$version" "$std=$version" "$llvm"
            for deb in *.deb; do [ -e "$deb" ] && dpkg -x "$deb" debian; done
        ) >"$target/debian.log" 2>&1 || true
    fi
    if [ -x "$unpacked" ]; then echo "$unpacked"; fi
}

rustc=$(find_rustc)
if [ -n "$rustc" ]; then
    export LD_LIBRARY_PATH="$target/debian/usr/lib/x86_64-linux-gnu:${LD_LIBRARY_PATH:-}"
    have=$("$rustc" --version 2>/dev/null | cut -d' ' -f2) || have=none
else
    have=none
fi
case $have in
"$want"*) ;;
*)
    echo "SKIPPED: no rustc $want here (found: $have)"
    exit 0
    ;;
esac

# Dev-dependencies may ask for newer compilers: check a copy of the manifest without them.
copy=$target/copy
rm -rf "$copy"
mkdir -p "$copy"
cp -r src README.md Cargo.lock "$copy"
awk '/^\[/{drop = /dev-dependencies/ || /^\[\[/} !drop' Cargo.toml >"$copy/Cargo.toml"
cd "$copy"
for features in "" --all-features --no-default-features; do
    RUSTC=$rustc CARGO_TARGET_DIR=$target/build cargo check --lib $features
done
echo "msrv: $("$rustc" --version)"
