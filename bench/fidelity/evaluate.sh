#!/bin/sh
# What a fitted head is worth, and what INT8 and INT4 cost it: PRMBench's pairs and 100 pools. Hours on two cores.
#
#     sh bench/fidelity/evaluate.sh BUNDLE DATA OUTPUT
#
# BUNDLE: of the checkpoint that make_prm.py made, with int8, int4 and fp32. DATA: a folder with prmbench/ (the two files
# of PRMBench) and strictprm-bon/ (see pools.py). OUTPUT: a report for each; the same command goes on where it was stopped.
# make_prm.py fits the head on problems 101 to 250 of the pools; --limit takes the first 50 of each file.
set -e
rfprm evaluate "$2/prmbench/prmbench_subset400.jsonl" "$2/prmbench/prm800k_test_p2_counterfactual.jsonl" \
    --model "$1" --variant int8,int4,fp32 -o "$3/prmbench"
rfprm evaluate "$2/strictprm-bon/gsm8k_bon32_qwenprm.jsonl.gz" "$2/strictprm-bon/math500_bon32_qwenprm.jsonl.gz" \
    --kind pools --problem-column question --correct-column is_correct --extracted-column extracted_answer \
    --limit 50 --model "$1" --variant int8,int4,fp32 -o "$3/pools"
