#!/bin/sh
# One task for each pair of variant and seed, a GPU each: 3 variants with 3 seeds. Task number i trains pair i in a run
# folder of its own, runs/shards/shard-00i, and goes on there if it was stopped.
#
#   sbatch deploy/slurm.sh                 # in a folder that all nodes share
#   sbatch --array=4 deploy/slurm.sh       # number 4 alone, again
#
# Then join the folders into one run folder for the grader:
#
#   finetune merge runs/shards/shard-* --out runs/merged
#
# Fetch the data set first (a run with --epochs 1 does), so that the tasks do not all download it. Times are compared,
# so ask for one kind of node (--constraint, --partition): folders from different GPUs, or with more and fewer cores,
# are not joined.
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

# Not the array's own count, which is 1 for one task that is started again.
export RANK="$SLURM_ARRAY_TASK_ID" WORLD_SIZE=9

code=0
srun finetune train --seeds 3 --parallel runs --out runs/shards || code=$?
# SLURM requeues what it preempts and what a dead node ran; at the time limit the job must ask for it. 143: ended by
# the SIGTERM that comes two minutes before, with a checkpoint.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
