# Sourced: installs the extra 'ray' into .venv for its tests. Never fails: without it the tests of Ray skip, and this says why, here and again
# after the tests. Its tests end by themselves (pytest's time limits) and leave no processes, which they check.

RAY_IS_MISSING=""
if ! .venv/bin/python -c 'import ray' 2>/dev/null; then
    echo "Installing Ray for its tests"
    if ! _ray_said=$(timeout 300 .venv/bin/python -m pip install --quiet -c constraints.txt -e '.[ray]' 2>&1); then
        RAY_IS_MISSING="RAY IS NOT TESTED: its extra could not be installed within 5 minutes ($(tail -n 1 <<<"$_ray_said"))."
        echo "$RAY_IS_MISSING"
    fi
fi
