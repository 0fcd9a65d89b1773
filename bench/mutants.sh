#!/usr/bin/env bash
# Mutate what decides and sizes, and compare the mutants that no test kills with those that docs/mutants.md explains.
# Called by `make mutants`; takes about half an hour. What was mutated before is kept in mutants/ and not asked again.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${MUTMUT:=.venv/bin/mutmut}"

# All but the suggestions to rebalance (also in exposure.py), which block and size nothing.
mutants=('costs.*' 'edge.*' 'gates.*' 'sizing.*' 'verdict.*' 'exposure.xǁExposureǁ*')
mutants+=(exposure.x_{measure_exposure,mark_of,_marks,_stop_distance,_buckets_of}__'*')
nice -n 10 "$MUTMUT" run --max-children 1 "${mutants[@]/#/app.domain.}"

left=$("$MUTMUT" results | sed -n '/: not checked$/d; s/^ *app\.domain\.//p')
printf '\n%s\n' "${left:-Every mutant was killed.}"
unexplained=$(while read -r line; do
  grep -qF "\`${line%%:*}\`" docs/mutants.md || echo "$line"
done <<<"$left")
[ -z "$left" ] || [ -z "$unexplained" ] || { printf '\nNot in docs/mutants.md:\n%s\n' "$unexplained" >&2; exit 1; }
