#!/bin/bash -p
# Installs Postern below $PREFIX: /usr/local for root, ~/.local otherwise. `install.sh remove` removes it again.
# All programs are in libexec/postern, next to each other; bin/postern is a link. installed.txt there names every file.
. "${BASH_SOURCE[0]%/*}/lib.sh"

prefix=${PREFIX:-}
if [ -z "$prefix" ]; then
	prefix=/usr/local
	[ "$(id -u)" -eq 0 ] || prefix=$HOME/.local
fi
[[ $prefix == /* ]] || fail "PREFIX is $prefix, not an absolute path"
own=$prefix/libexec/postern
list=$own/installed.txt

# running: the processes that were started from the folder.
running() {
	local exe
	for exe in /proc/[0-9]*/exe; do
		case $(readlink "$exe" 2>/dev/null) in "$own"/*) basename "$(dirname "$exe")" ;; esac
	done
}

# safe: stop if an agent, or another user, may choose what is at a folder of ours, or where links on the way lead.
safe() {
	local folder why
	for folder in bin libexec/postern share/bash-completion/completions share/zsh/site-functions \
		share/fish/vendor_completions.d share/man/man1; do
		why=$(unsafe "$prefix/$folder")
		[ -z "$why" ] || fail "nothing was done: $why" "$1"
	done
}

if [ "${1:-}" = remove ]; then
	step "uninstall from $prefix"
	safe "correct that first, and look at what is there"
	[ -f "$list" ] || fail "Postern is not installed in $prefix" "PREFIX names another place"
	pids=$(running | paste -sd' ')
	[ -z "$pids" ] || fail "stacks still run (processes $pids)" "take each down first: $prefix/bin/postern down STACK"
	while IFS= read -r file; do
		rm -f -- "$prefix/$file"
	done <"$list"
	rm -f -- "$list"
	rmdir -- "$own" 2>/dev/null || true
	say "removed; stack files and state folders stay"
	exit 0
fi

use_tools
step "install into $prefix"
link=$prefix/bin/postern
if [ -e "$link" ] && [ "$(readlink "$link")" != ../libexec/postern/postern ]; then
	fail "$link is not Postern's" "move it away, or choose another PREFIX"
fi
safe "choose another PREFIX"
umask 022
mkdir -p "$prefix/bin" "$own"
files=()
# put FILE NAME [MODE]: install the file as $prefix/NAME. A program that runs stays what it is until it ends.
# The mode is fixed: a link's own is 777, and others may be able to write what was built under another umask.
put() {
	install -D -m "${3:-644}" "$(realpath "$1")" "$prefix/$2.new"
	mv -f "$prefix/$2.new" "$prefix/$2"
	files+=("$2")
}
work=$(mktemp -d "$cache/install.XXXXXX")
trap 'rm -rf "$work"' EXIT
for name in postern posternd postern-sandbox postern-stack postern-cloud posternd-cloud postern-stack-aws; do
	[ ! -e "bin/$name" ] || put "bin/$name" "libexec/postern/$name" 755
done
ln -sfn postern-stack "$own/pulumi-analyzer-policy-postern"
files+=(libexec/postern/pulumi-analyzer-policy-postern)
pwd -P >"$work/source" # no agent may work there
put "$work/source" libexec/postern/source
put bin/libguard.so libexec/postern/libguard.so
put "$ENVOY" libexec/postern/envoy 755
put "$PULUMI" libexec/postern/pulumi 755
bin/postern completion bash >"$work/bash" && put "$work/bash" share/bash-completion/completions/postern
bin/postern completion zsh >"$work/zsh" && put "$work/zsh" share/zsh/site-functions/_postern
bin/postern completion fish >"$work/fish" && put "$work/fish" share/fish/vendor_completions.d/postern.fish
mkdir "$work/man"
bin/postern man "$work/man"
for page in "$work"/man/*; do
	put "$page" "share/man/man1/$(basename "$page")"
done
ln -sf ../libexec/postern/postern "$link.new" && mv -fT "$link.new" "$link"
files+=(bin/postern)
printf '%s\n' "${files[@]}" >"$list.new" && mv -f "$list.new" "$list"
say "$("$link" --version)"

# lib.sh has taken folders out of PATH that are not safe.
case :$asked: in
*:"$prefix/bin":*) say "next: postern init" ;;
*) say "$prefix/bin is not on PATH; next: $link init" ;;
esac
