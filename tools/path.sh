# shellcheck shell=bash
# Sourced by lib.sh before any program is started: takes the folders out of PATH in which an agent, or
# another user, may write, and so choose what runs, and the variables out of the environment that lead there.
# It judges as package hostpath does. Until PATH is safe, only the system's programs are used. The scripts run
# under bash -p: bash itself reads BASH_ENV, and functions from the environment, before this file.

asked=$PATH
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/run/current-system/sw/bin

me=$(id -u)
# The folders that are or were an agent's working directory, as hostpath's registry has them: "device inode
# born path", where the path is quoted as Go does, in ASCII.
agents=() agent_ids=' '
agents_of() {
	local base=${POSTERN_HOME:-} device inode path
	if [ -z "$base" ]; then
		case ${XDG_STATE_HOME:-} in
		/*) base=$XDG_STATE_HOME/postern ;;
		*) if [ "$me" -eq 0 ]; then base=/var/lib/postern; else base=${HOME:-/nonexistent}/.local/state/postern; fi ;;
		esac
	fi
	[ -e "$base/workdirs" ] || return 0
	while read -r device inode _ _ path; do
		case $path in
		\"*\") ;;
		*) printf 'error: %s is damaged: %s\n' "$base/workdirs" "$path" >&2 && exit 1 ;;
		esac
		unquote "$path"
		agents+=("$unquoted") agent_ids+="$device:$inode "
	done <"$base/workdirs"
}

# unquote PATH: set $unquoted to what Go has quoted.
unquote() {
	local rest=${1#\"} out='' code
	rest=${rest%\"}
	while case $rest in *\\*) ;; *) false ;; esac do
		out+=${rest%%\\*} rest=${rest#*\\}
		case $rest in
		x* | [abfnrtv]* | [\\\"]*) # as bash's own
			code=${rest:0:1}
			[ "$code" != x ] || code=${rest:0:3}
			rest=${rest:${#code}}
			[ "$code" != \" ] || code='x22'
			out+="\\$code"
			;;
		u*) utf8 $((16#${rest:1:4})) && rest=${rest:5} && out+=$bytes ;;
		U*) utf8 $((16#${rest:1:8})) && rest=${rest:9} && out+=$bytes ;;
		*) printf 'error: this path of an agent cannot be read: %s\n' "$1" >&2 && exit 1 ;;
		esac
	done
	printf -v unquoted %b "$out$rest"
}

# utf8 NUMBER: set $bytes to the escapes of the character's bytes. Bash's own \u depends on the locale.
utf8() {
	local n=$1
	if [ "$n" -lt 128 ]; then
		printf -v bytes '\\x%02x' "$n"
	elif [ "$n" -lt 2048 ]; then
		printf -v bytes '\\x%02x' $((n >> 6 | 192)) $((n & 63 | 128))
	elif [ "$n" -lt 65536 ]; then
		printf -v bytes '\\x%02x' $((n >> 12 | 224)) $((n >> 6 & 63 | 128)) $((n & 63 | 128))
	else
		printf -v bytes '\\x%02x' $((n >> 18 | 240)) $((n >> 12 & 63 | 128)) $((n >> 6 & 63 | 128)) $((n & 63 | 128))
	fi
}
agents_of

# steps PATH: each folder, link and file on the way to the absolute path, ended by NUL.
steps() {
	local rest=$1 at='' name target links=0
	while [ -n "$rest" ]; do
		name=${rest%%/*}
		case $rest in */*) rest=${rest#*/} ;; *) rest='' ;; esac
		case $name in
		'' | .) continue ;;
		..) at=${at%/*} && continue ;;
		esac
		printf '%s\0' "$at/$name"
		if [ -L "$at/$name" ]; then
			[ $((links += 1)) -le 40 ] || return 1
			target=$(readlink -n -- "$at/$name" && echo x) || return 1
			target=${target%x}
			case $target in /*) at='' ;; esac
			rest=$target/$rest
		else
			at=$at/$name
		fi
	done
}

# unsafe PATH: print why the absolute path must not be used; nothing if it may be.
unsafe() {
	local way step device inode uid mode user group agent
	mapfile -d '' way < <(steps "$1")
	for step in "${way[@]}"; do
		[ -e "$step" ] || [ -L "$step" ] || continue
		read -r device inode uid mode user group < <(stat -c '%d %i %u %a %U %G' -- "$step") ||
			{ echo "$step cannot be looked at" && return; }
		for agent in "${agents[@]}"; do
			case $step/ in "$agent"/*) echo "an agent may write $agent" && return ;; esac
		done
		case $agent_ids in *" $device:$inode "*) echo "an agent may write $step" && return ;; esac
		[ "$uid" -eq 0 ] || [ "$uid" -eq "$me" ] || { echo "$step is another user's" && return; }
		mode=$((8#$mode))
		[ ! -L "$step" ] && [ $((mode & 01000)) -eq 0 ] || continue
		[ "$user" != "$group" ] || mode=$((mode & ~020)) # a group of one's own
		[ $((mode & 022)) -eq 0 ] || { echo "others may write $step" && return; }
	done
}

# unsafe_folder DIR: as unsafe, and an agent's folder must not be in it, nor a link to one.
unsafe_folder() {
	local why agent link
	why=$(unsafe "$1")
	for agent in "${agents[@]}"; do
		case $agent/ in "$1"/*) why=${why:-an agent may write $agent} ;; esac
	done
	# Of the system's own folders, packages make the links.
	case $1 in /usr/bin | /usr/sbin | /bin | /sbin) set -- "$1" ;; esac
	if [ -z "$why" ] && [ ${#agents[@]} -gt 0 ] && [ "${2:-}" = links ]; then
		while [ -z "$why" ] && IFS= read -r -d '' link; do
			why=$(unsafe "$link")
		done < <(find -H "$1" -maxdepth 1 -type l -user "$me" -print0 2>/dev/null)
	fi
	printf '%s' "$why"
}

# agent_at PATH: set $found to the agent's folder that the way to the absolute path leads through, or to nothing.
declare -A looked=()
agent_at() {
	local way step agent id
	found=${looked[$1]-}
	[ -z "${looked[$1]+x}" ] || return 0
	mapfile -d '' way < <(steps "$1")
	for step in "${way[@]}"; do
		for agent in "${agents[@]}"; do
			case $step/ in "$agent"/*) found=$agent ;; esac
		done
	done
	if [ -z "$found" ]; then
		while read -r id; do
			case $agent_ids in *" $id "*) found=$1 ;; esac
		done < <(stat -c '%d:%i' -- "${way[@]}" 2>/dev/null)
	fi
	looked[$1]=$found
}

# agent_in VALUE: set $found to an agent's folder that the value names anywhere, as in "-toolexec=/x/y" or
# "-I/x", or to nothing.
agent_in() {
	local agent part parts words
	for agent in "${agents[@]}"; do
		case $1 in *"$agent" | *"$agent"[!A-Za-z0-9._-]*) found=$agent && return ;; esac
	done
	IFS=: read -r -d '' -a parts < <(printf '%s\0' "$1")
	IFS=$':=,;"\' \t\n' read -r -d '' -a words < <(printf '%s\0' "$1")
	found=''
	for part in "${parts[@]}" "${words[@]}"; do
		case $part in */*) agent_at "/${part#*/}" ;; esac
		[ -z "$found" ] || return 0
	done
}

# Takes the variables out of the environment that name something where an agent may write, whatever they are
# called: what TMPDIR, GOFLAGS, CC, LD_PRELOAD or GIT_CONFIG_GLOBAL name is run. Starts the script again without them.
safe_environ() {
	local variable name drop=()
	while IFS= read -r -d '' variable; do
		name=${variable%%=*}
		case $name in
		PATH | PWD | OLDPWD | _) continue ;;                                           # judged below; choose nothing
		GOROOT | GOPATH | GOMODCACHE | GOCACHE | GOBIN | GOTMPDIR | GOENV) continue ;; # refused below
		esac
		case ${variable#*=} in */*) ;; *) continue ;; esac
		agent_in "${variable#*=}"
		[ -n "$found" ] || continue
		case $name in
		HOME | POSTERN_HOME | XDG_STATE_HOME)
			printf 'error: %s leads to where an agent may write: %s\n       set %s to another folder\n' \
				"$name" "$found" "$name" >&2
			exit 1
			;;
		esac
		printf '      not used: %s: an agent may write %s\n' "$name" "$found" >&2
		drop+=(-u "$name")
	done < <(env -0)
	[ ${#drop[@]} -eq 0 ] || exec env "${drop[@]}" PATH="$asked" /bin/bash -p "$0" "$@"
}
[ ${#agents[@]} -eq 0 ] || safe_environ "$@"

safe_path() {
	local dir why good='' rest=$asked:
	while [ -n "$rest" ]; do
		dir=${rest%%:*} rest=${rest#*:}
		case $dir in /*) ;; *) continue ;; esac # in another one, the working directory decides
		[ -d "$dir" ] || continue
		case :$good: in *":$dir:"*) continue ;; esac
		why=$(unsafe_folder "$dir" links)
		if [ -z "$why" ]; then
			good=${good:+$good:}$dir
		else
			printf '      not used from PATH: %s: %s\n' "$dir" "$why" >&2
		fi
	done
	PATH=${good:+$good:}$PATH
}
safe_path

# Go compiles and runs what is in its caches.
if [ ${#agents[@]} -gt 0 ] && command -v go >/dev/null; then
	for name in GOROOT GOPATH GOMODCACHE GOCACHE GOBIN GOTMPDIR GOENV; do
		value=$(cd / && GOTOOLCHAIN=local GOFLAGS='' go env $name) || value=''
		case $value in /*) ;; *) continue ;; esac
		why=$(unsafe_folder "${value%%:*}")
		[ -z "$why" ] || {
			printf 'error: %s is %s: %s\n       set %s to another folder: go env -w %s=DIR, or the variable\n' \
				"$name" "$value" "$why" "$name" "$name" >&2
			exit 1
		}
	done
fi
