#!/bin/bash -p
# Runs every fuzz test for a while, each by itself. FUZZTIME is how long: 10s by default.
. "${BASH_SOURCE[0]%/*}/lib.sh"

step "fuzzing"
broken=0
while IFS=: read -r file line; do
	name=${line#func }
	name=${name%%(*}
	package=$(dirname "$file")
	log=$cache/log/fuzz.log
	say "$package: $name"
	go test -run '^$' -fuzz "^$name\$" -fuzztime "${FUZZTIME:-10s}" -fuzzminimizetime 3s "$package" >"$log" 2>&1 || {
		broken=1
		tail -n 20 "$log"
	}
done < <(grep -rHo --include='*_test.go' --exclude-dir=.cache '^func Fuzz[A-Za-z0-9]*(' . | sort)
[ "$broken" -eq 0 ] || fail "an input was found that breaks something" "it is in testdata/fuzz of the package now: keep it as a case, together with the fix"
