# Runs git outside the sandbox of the agent that has written the repository. The sandbox around this
# reaches what the agent reaches, so whatever the repository does to git gains the agent nothing. git
# should still do what was asked and nothing else: so it never reads the repository's settings.
set -eu
umask 022
ulimit -c 0
ulimit -v 8388608
part=$1 folder=$2
shift 2
home=$(mktemp -d /tmp/postern-git.XXXXXX)

fail() {
	echo "$*" >&2
	exit 2
}

# No setting of anybody's but these, no program but git's own, no protocol but HTTPS.
git() {
	env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C HOME="$home" \
		https_proxy=http://127.0.0.1:3128 GIT_SSL_CAINFO=/run/postern/bundle.pem \
		GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_ATTR_NOSYSTEM=1 GIT_ALLOW_PROTOCOL=https \
		GIT_TERMINAL_PROMPT=0 GIT_OPTIONAL_LOCKS=0 GIT_NO_LAZY_FETCH=1 GIT_NO_REPLACE_OBJECTS=1 \
		${repository:+GIT_DIR="$home/repository" GIT_OBJECT_DIRECTORY="$repository/objects"} \
		${index:+GIT_INDEX_FILE="$index" GIT_WORK_TREE="$work"} \
		git --no-pager --literal-pathspecs -c safe.directory='*' -c core.hooksPath=/dev/null \
		-c core.fsmonitor=false -c core.attributesFile=/dev/null -c credential.helper= \
		-c http.followRedirects=false -c protocol.version=2 -c submodule.recurse=false \
		-c fetch.recurseSubmodules=false -c gc.auto=0 -c maintenance.auto=false -c color.ui=false "$@"
}

# A git folder of our own has the repository's objects and names. Its settings and hooks are ours.
open() {
	cd -P -- "$folder"
	work=$PWD
	[ -d .git ] && [ ! -h .git ] || fail "$folder has no folder .git: is it a repository, and not a worktree?"
	[ -f .git/HEAD ] || fail "$folder/.git has no file HEAD"
	(cd "$home" && git init -q --bare --template= repository)
	rm -r "$home/repository/refs"
	ln -s "$work/.git/refs" "$home/repository/refs"
	for name in packed-refs shallow; do
		[ ! -f ".git/$name" ] || ln -s "$work/.git/$name" "$home/repository/$name"
	done
	head -c 4096 .git/HEAD >"$home/repository/HEAD"
	repository=$work/.git
}

repository='' index=''
case $part in
clone)
	work=$PWD
	cd "$home" # not in a repository of the agent's
	git clone --quiet --no-recurse-submodules --template= ${2:+--branch="$2"} -- "$1" "$work/$folder"
	;;
fetch)
	open
	git fetch --no-tags --no-recurse-submodules --no-write-fetch-head -- "$1" '+refs/heads/*:refs/remotes/origin/*'
	;;
push)
	open
	git push --porcelain --no-verify --no-signed --recurse-submodules=no -- "$1" "refs/heads/$2:refs/heads/$3"
	;;
branch)
	open
	if [ -n "$1" ]; then
		git branch --no-track -- "$1" "$2"
	else
		git for-each-ref --format='%(HEAD) %(refname:short) %(objectname:short)' -- refs/heads refs/remotes
	fi
	;;
log)
	open
	git log --no-show-signature --no-ext-diff --no-textconv --no-color -n "$2" \
		--format='%h %ad %an: %s' --date=iso-strict --end-of-options "$1" --
	;;
status)
	open
	index=$repository/index
	git status --porcelain --branch --ignore-submodules=all
	;;
esac
