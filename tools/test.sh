#!/usr/bin/env bash
# All tests, in two halves at once where there are two cores: test.sh PYTHON [options of pytest].  `make test` calls it.
#
# What mounts, or looks at all mounts of the machine, is one half, in order, with the machine's other core for its
# daemons.  The other half mounts nothing and is shown when the first is done.
set -uo pipefail

python=$1
shift
mounting=(tests/mount tests/tools tests/stress)
quiet=(tests/unit tests/fs tests/fuzz)

# What is in no half would be run by nobody.
for directory in tests/*/; do
    directory=${directory%/}
    case " ${mounting[*]} ${quiet[*]} tests/__pycache__ " in
        *" $directory "*) ;;
        *) echo "$0: $directory is in neither half" >&2; exit 1 ;;
    esac
done

if [ "$(nproc)" -lt 2 ]; then exec "$python" -m pytest "${mounting[@]}" "${quiet[@]}" "$@"; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'kill "$other" 2>/dev/null; exit 130' INT TERM
"$python" -m pytest -p no:cacheprovider "${quiet[@]}" "$@" > "$log" 2>&1 &
other=$!
"$python" -m pytest "${mounting[@]}" "$@"
first=$?
wait "$other"
second=$?
cat "$log"
exit "$(( first > second ? first : second ))"
