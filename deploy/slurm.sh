#!/bin/sh
# One task per variant and seed, each with a GPU: 3 variants with 3 seeds. Task number i trains run i in its own run
# folder, runs/shards/shard-00i, and resumes it if it was stopped.
#
#   sbatch deploy/slurm.sh                 # in a folder shared by all nodes
#   sbatch --array=4 deploy/slurm.sh       # only number 4, again
#
# deploy/slurm-all.sh does it all: download, this array, merge and grade. Times are compared, so
# request one kind of node (--constraint, --partition): folders from different GPUs, or from nodes with different numbers
# of cores, are not merged.
#SBATCH --job-name=finetune
#SBATCH --array=0-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=finetune-%A_%a.log
#SBATCH --signal=TERM@120
set -eu

# Not the array's own count, which is 1 when a single task is started again.
export RANK="$SLURM_ARRAY_TASK_ID" WORLD_SIZE=9

code=0
# FINETUNE may name a container: deploy/slurm-all.sh.
# shellcheck disable=SC2086 # several words
srun ${FINETUNE:-finetune} train --seeds 3 --parallel runs --out runs/shards || code=$?
# SLURM requeues tasks that were preempted or whose node failed; at the time limit the task must request it. 143: stopped
# by the SIGTERM that comes two minutes earlier, with a checkpoint.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
