#!/usr/bin/env bash
# The first hour on a GPU: tests and measurements that only a device can give, in ten steps.
#
#     benchmarks/first_hour.sh              all steps
#     benchmarks/first_hour.sh 3 4          some of them
#
# Each step takes at most LIMIT seconds (600). The script ends at the first step that fails and says
# what to send to us. A folder, and a tar of it, have the logs, the device, driver and versions, and
# summary.md with the tables for docs/benchmarks.md.
#
# What each step proves:
#
#  1 devices    the driver, CuPy and NVRTC fit together, and a small kernel runs on each device
#  2 contract   the device's results are those of the reference and of the CPU backend, to the bit
#  3 tests      all other tests that need a device pass: streams, memory limits, damaged data, and
#               several devices where there are some
#  4 sanitizer  no access out of bounds (memcheck) and no race in shared memory (racecheck) in some
#               tests of the kernels; left out where compute-sanitizer is missing
#  5 stages     the time of each stage, its share of the copy bandwidth, against CuPy's own
#               functions and against the CPU
#  6 command    the whole command on the GPU and on the CPU, for contiguous and gzip frames: times,
#               and the same datasets to the bit
#  7 large      arrays of more than 2^31 values give right results
#  8 full card  the command gives the same results where another process leaves only FREE_MIB
#               (1024) of the device's memory
#  9 home       the command gives the same results where HOME cannot be written to, so that no
#               kernel can be kept there
# 10 decode     the time to decode bitshuffle with LZ4 on the device, against the copy and the host
#
# Variables: PYTHON; LIMIT; OUT (folder of the logs); DEVICE (0); FRAMES and SIZES of step 5;
# RUN_FRAMES and RUN_SIZE of steps 6, 8 and 9; RUNS of step 6 (2, the last one counts);
# DECODE_FRAMES of step 10; REPEATS; COPY_MIB (size of the copy that gives the bandwidth); FREE_MIB;
# PYTEST_ADDOPTS, as pytest knows it.
set -uo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
cd "$root" || exit 1

default_python() {
    if [[ -x .venv/bin/python ]]; then echo "$root/.venv/bin/python"; else command -v python3; fi
}
PYTHON=${PYTHON:-$(default_python)}
LIMIT=${LIMIT:-600} DEVICE=${DEVICE:-0} REPEATS=${REPEATS:-9} RUNS=${RUNS:-2}
COPY_MIB=${COPY_MIB:-1024} FREE_MIB=${FREE_MIB:-1024}
RUN_FRAMES=${RUN_FRAMES:-180} RUN_SIZE=${RUN_SIZE:-2048} DECODE_FRAMES=${DECODE_FRAMES:-64}
read -ra frames <<< "${FRAMES:-60 180 720}"
read -ra sizes <<< "${SIZES:-2048 3840}"
OUT=${OUT:-$root/first-hour-$(date +%Y%m%d-%H%M%S)}
names=(
    [1]=devices [2]=contract [3]=tests [4]=sanitizer [5]=stages
    [6]=command [7]=large [8]=full-card [9]=home [10]=decode
)
work=$(mktemp -d) || exit 1
filler=

clean_up() {
    if [[ -n $filler ]]; then kill "$filler" 2> /dev/null; fi
    chmod -R u+w "$work"
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# A command within what is left of the step's time.
within() { timeout --kill-after=30 "$((deadline > SECONDS ? deadline - SECONDS : 1))" "$@"; }
python() { within "$PYTHON" -u "$@"; }
helper() { python "$here/first_hour.py" "$@"; }
# A command of the package, as installed beside the interpreter.
spots() { within "$(dirname "$PYTHON")/gpu-spots" "$@"; }
tests() { python -m pytest -q "$@"; }

# Run tests; a test that was skipped because no device could be used is a failure.
tests_on_device() {
    tests "$@" | tee "$work/tests.txt"
    local status=${PIPESTATUS[0]}
    # where there is one device, tests with two are left out
    if grep "SKIPPED.*backend gpu:" "$work/tests.txt" | grep -qv "there is no such device"; then
        echo "tests were left out, as no device could be used"
        return 1
    fi
    return "$status"
}

# A run to work on, made once: simulate NAME [OPTION...]
simulate() {
    local file=$work/$1__mccd.h5
    [[ -e $file ]] || spots simulate "$file" --dark --size "$RUN_SIZE" --angles "$RUN_FRAMES" \
        --frames-per-angle 1 "${@:2}"
}
# find_spots RUN OUTPUT OPTION...: with the defaults of the manual; the second line from the end has the times of the stages.
find_spots() { spots find --manual "$work/$1__mccd.h5" -o "$work/$2" --force "${@:3}"; }
# What the CPU finds in the contiguous run, once.
on_cpu() {
    simulate contiguous --compression none || return 1
    [[ -e $work/cpu.h5 ]] || find_spots contiguous cpu.h5 --backend cpu
}

step_devices() {
    spots devices | tee "$work/devices.txt"
    grep -q "^$DEVICE: .*can be used" "$work/devices.txt"
}

step_contract() {
    tests_on_device -m "gpu and not large" tests/test_contract.py tests/test_backend.py
}

step_tests() {
    tests_on_device -m "gpu and not large" --ignore tests/test_contract.py \
        --ignore tests/test_backend.py
}

step_sanitizer() {
    local sanitizer tool chosen="kruskal_run or (dark_run and uint16) or sizes_decoded or made_up"
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    if [[ ! -x $sanitizer ]]; then
        echo "LEFT OUT: compute-sanitizer is not installed; it is part of the CUDA toolkit"
        return 0
    fi
    for tool in memcheck racecheck; do
        echo "$tool"
        within "$sanitizer" --tool "$tool" --error-exitcode 9 \
            "$PYTHON" -m pytest -q -x -m "gpu and not large" \
            -k "$chosen" tests/test_contract.py tests/cuda/test_cuda_bitshuffle.py || return 1
    done
}

step_stages() {
    local size number
    for size in "${sizes[@]}"; do
        for number in "${frames[@]}"; do
            python benchmarks/gpu.py --frames "$number" --sizes "$size" --repeats "$REPEATS" \
                --device "$DEVICE" --copy-mib "$COPY_MIB" --no-command || return 1
        done
    done
}

step_command() {
    local layout backend output start run taken
    on_cpu && simulate gzip --compression gzip || return 1
    echo "| $RUN_FRAMES frames of $RUN_SIZE x $RUN_SIZE, the whole command | wall, s | stages |"
    echo "|---|---|---|"
    for layout in contiguous gzip; do
        for backend in gpu cpu; do
            local chosen=(--backend "$backend")
            [[ $backend == gpu ]] && chosen+=(--device "$DEVICE")
            # kernels are compiled by the first run, which does not count
            for ((run = 0; run < RUNS; run++)); do
                start=$(date +%s.%N)
                output=$layout-$backend.h5
                if ! find_spots "$layout" "$output" "${chosen[@]}" &> "$work/find.txt"; then
                    cat "$work/find.txt"
                    return 1
                fi
            done
            taken=$(date +%s.%N | awk -v start="$start" '{ printf "%.2f", $1 - start }')
            echo "| $layout, $backend | $taken | $(tail -n 2 "$work/find.txt" | head -n 1) |"
        done
    done
    for layout in contiguous gzip; do
        helper compare "$work/$layout-gpu.h5" "$work/$layout-cpu.h5" || return 1
    done
}

step_large() {
    local files
    mapfile -t files < <(grep -rl --include="test_*.py" "mark.large" tests)
    tests_on_device -m large "${files[@]}"
}

step_full-card() {
    on_cpu || return 1
    "$PYTHON" -u "$here/first_hour.py" fill "$FREE_MIB" "$DEVICE" > "$work/fill.txt" 2>&1 &
    filler=$!
    until grep -q "^filled" "$work/fill.txt"; do
        if ! kill -0 "$filler" 2> /dev/null || ((SECONDS > deadline)); then
            cat "$work/fill.txt"
            return 1
        fi
        sleep 0.2
    done
    cat "$work/fill.txt"
    find_spots contiguous full.h5 --backend gpu --device "$DEVICE"
    local status=$?
    kill "$filler"
    wait "$filler" 2> /dev/null
    filler=
    [[ $status == 0 ]] && helper compare "$work/full.h5" "$work/cpu.h5"
}

step_home() {
    on_cpu || return 1
    local home=$work/home
    mkdir -p "$home" && chmod 500 "$home"
    # root may write anywhere; nothing can be made below a file
    if [[ -w $home ]]; then home=$work/file/home && touch "$work/file"; fi
    echo "HOME=$home"
    (
        unset CUPY_CACHE_DIR XDG_CACHE_HOME
        HOME=$home find_spots contiguous home.h5 --backend gpu --device "$DEVICE"
    ) && helper compare "$work/home.h5" "$work/cpu.h5"
}

step_decode() {
    python benchmarks/decode.py --frames "$DECODE_FRAMES" --size "$RUN_SIZE" --rounds "$REPEATS" \
        --device "$DEVICE" --copy-mib "$COPY_MIB" | tee "$work/decode.txt" || return 1
    ! grep -q "^Device: not measured" "$work/decode.txt"
}

pack() {
    helper summary "$OUT" > "$OUT/summary.md"
    tar -czf "$OUT.tar.gz" -C "$(dirname "$OUT")" "$(basename "$OUT")"
}

# In a function, which bash reads as a whole: the script may be replaced while it runs.
main() {
    steps=("$@")
    [[ $# -gt 0 ]] || steps=("${!names[@]}")
    for number in "${steps[@]}"; do
        if [[ ! $number =~ ^[0-9]+$ || -z ${names[$number]:-} ]]; then
            echo "first_hour.sh: $number: no such step, expected some of ${!names[*]}" >&2
            exit 2
        fi
    done
    mkdir -p "$OUT" && : > "$OUT/results.txt" || exit 1
    deadline=$((SECONDS + 60))
    helper versions > "$OUT/versions.txt" 2>&1
    nvidia-smi -q > "$OUT/nvidia-smi.txt" 2>&1
    for number in "${steps[@]}"; do
        name=${names[$number]} log=$OUT/step-$number-${names[$number]}.log
        echo "step $number, $name"
        began=$SECONDS deadline=$((SECONDS + LIMIT))
        if "step_$name" > "$log" 2>&1; then result=passed; else result=FAILED; fi
        if [[ $result == passed ]] && grep -q "^LEFT OUT" "$log"; then result="left out"; fi
        if [[ $result == FAILED ]] && ((SECONDS >= deadline)); then
            result="FAILED: more than $LIMIT s"
        fi
        echo "| $number $name | $result | $((SECONDS - began)) |" >> "$OUT/results.txt"
        echo "    $result, $((SECONDS - began)) s"
        if [[ $result == FAILED* ]]; then
            deadline=$((SECONDS + 60))
            pack
            tail -n 15 "$log" | sed 's/^/    /'
            echo "Step $number failed. Send us $OUT.tar.gz: it has the logs, device and versions."
            rest=$(printf '%s\n' "${steps[@]}" | sed -n "/^$number\$/,\$p" | tr '\n' ' ')
            echo "After a correction, continue with: benchmarks/first_hour.sh ${rest% }"
            exit 1
        fi
    done
    deadline=$((SECONDS + 60))
    pack
    echo "All done. The tables are in $OUT/summary.md. Send us $OUT.tar.gz."
}

main "$@"
