# SPDX-License-Identifier: MIT
# Sourced by the commands beside it: makes sure of what they need, then leaves $python behind.
# The second time there is nothing to do, and it takes no time.
set -euo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export GUESTPV_CACHE=${GUESTPV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/guestpv}
# A checkout has an environment of its own, since the project is installed in it as it stands there.
venv=$GUESTPV_CACHE/venv-$(printf %s "$checkout" | sha256sum | cut -c1-12)
python=$venv/bin/python
export PYTHONPATH=$checkout/tools

say() { printf 'guestpv: %s\n' "$*" >&2; }

install_packages() {
	# What builds and runs the machines, and what builds the package and the environment.
	local packages=(
		mmdebstrap e2fsprogs cpio kmod xz-utils zstd openssh-client util-linux
		gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-system-arm dropbear-bin
		gcc clang gccgo make libc6-dev python3 python3-dev python3-venv
		bc bison flex libelf-dev libssl-dev patchelf sparse
		rt-tests # has oslat, which jitter is compared with
		systemd  # installs and judges the service of the exporter
	)
	local installed missing as_root=() started=$SECONDS
	installed=$(dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' "${packages[@]}" 2>/dev/null |
		sed -n 's/^ii //p') || true
	missing=$(comm -23 <(printf '%s\n' "${packages[@]}" | sort) <(sort -u <<<"$installed"))
	[[ $missing ]] || return 0

	if ((EUID)); then
		as_root=(sudo)
		command -v sudo >/dev/null || {
			say "these Debian packages are missing, and without root or sudo they can't be installed:"
			say "$(tr '\n' ' ' <<<"$missing")"
			exit 1
		}
	fi
	say "installing Debian packages: $(tr '\n' ' ' <<<"$missing")"
	"${as_root[@]}" apt-get -qq update >&2
	# shellcheck disable=SC2086 # one word for each package
	"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
		--no-install-recommends -o Dpkg::Use-Pty=0 $missing >/dev/null
	say "installing Debian packages: $((SECONDS - started)) s"
}

install_environment() {
	# Its programs have its place in them, so in a cache that was copied it is made anew.
	# Debian's own Python, since the guests' is the same: byte code made here is valid there.
	local key started=$SECONDS
	key=$(cd "$checkout" && find pyproject.toml guestpv kmod/uapi -name '*.toml' -o -name '*.[ch]' | sort |
		xargs sha256sum | sha256sum)$venv
	! installed "$key" || return 0

	say "installing the Python environment"
	mkdir -p "$GUESTPV_CACHE"
	(
		flock 9
		! installed "$key" || exit 0
		[[ $(cat "$venv/key" 2>/dev/null) == *"$venv" ]] || /usr/bin/python3 -m venv --clear "$venv"
		"$python" -m pip -qq install 'setuptools>=77' >&2
		"$python" -m pip -qq install --no-build-isolation -e "$checkout[lab,lint,otel,test]" >&2
		printf %s "$key" >"$venv/key"
	) 9>"$venv.lock"
	say "installing the Python environment: $((SECONDS - started)) s"
}

# The environment is in the cache, and the extension that it imports in the checkout: either may
# be gone without the other, as after a fresh clone to the same place.
installed() {
	[[ $(cat "$venv/key" 2>/dev/null) == "$1" && -e $checkout/guestpv/_native.abi3.so ]]
}

install_packages
install_environment
