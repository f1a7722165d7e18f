#!/bin/sh
# What a fitted head is worth, and what INT8 and INT4 cost it: PRMBench's pairs and 100 pools. Hours on two cores.
#
#     sh bench/fidelity/evaluate.sh BUNDLE DATA OUTPUT [CANDIDATES]
#
# BUNDLE: of the checkpoint that make_prm.py made, with int8, int4 and fp32. DATA: a folder with prmbench/ (the two files
# of PRMBench) and strictprm-bon/ (see pools.py). OUTPUT: a report for each; the same command goes on where it was stopped.
# CANDIDATES: the first so many of each pool, 8 where not given. make_prm.py fits the head on problems 101 to 250 of the
# pools; here are the first 50 of each file.
set -e
rfprm evaluate "$2/prmbench/prmbench_subset400.jsonl" "$2/prmbench/prm800k_test_p2_counterfactual.jsonl" \
    --model "$1" --variant int8,int4,fp32 -o "$3/prmbench"

mkdir -p "$3/cut"
for name in gsm8k math500; do
    python - "$2/strictprm-bon/${name}_bon32_qwenprm.jsonl.gz" "${4:-8}" > "$3/cut/$name.jsonl" <<'END'
import gzip, itertools, json, sys
for line in itertools.islice(gzip.open(sys.argv[1], "rt", encoding="utf-8"), 50):
    row = json.loads(line)
    print(json.dumps(row | {"candidates": row["candidates"][: int(sys.argv[2])]}))
END
done
rfprm evaluate "$3/cut/gsm8k.jsonl" "$3/cut/math500.jsonl" \
    --kind pools --problem-column question --correct-column is_correct --extracted-column extracted_answer \
    --model "$1" --variant int8,int4,fp32 -o "$3/pools"
