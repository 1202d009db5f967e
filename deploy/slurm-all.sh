#!/bin/sh
# Download, train, merge and grade, each as a job that waits for the one before it. Run it on a login node, in a folder
# shared by all nodes; options go to sbatch, for every job:
#
#   deploy/slurm-all.sh --partition gpu --account me
#
# Other images, weights or epochs, as a preset says, a TOML file in the format of a run's config.toml:
#
#   FINETUNE_TRAIN_PRESET=mine.toml deploy/slurm-all.sh
#
# With Apptainer instead of an installation on the nodes (also: GRADER, of a grade image):
#
#   apptainer build train.sif docker-daemon:finetune:train       # or docker://YOUR/REGISTRY:VERSION-train
#   FINETUNE="apptainer exec --nv --bind $PWD train.sif finetune" GRADER="apptainer exec --bind $PWD train.sif grader" \
#     deploy/slurm-all.sh
#
# The grade is in finetune-grade-ID.log. A job whose predecessor failed is cancelled.
set -eu
here=$(dirname "$0")
export FINETUNE="${FINETUNE:-finetune}" GRADER="${GRADER:-grader}"
export FINETUNE_DATA_PREPARE_PRESET="${FINETUNE_TRAIN_PRESET:-}" # an empty variable counts as unset

# --parsable: ID, or ID;CLUSTER.
submit() {
    id=$(sbatch --parsable --kill-on-invalid-dep=yes "$@")
    echo "${id%%;*}"
}

prepare=$(submit "$@" --job-name finetune-prepare --output finetune-prepare-%j.log --cpus-per-task 4 --mem 8G \
    --time 02:00:00 --wrap "$FINETUNE data prepare")
shards=$(submit --dependency "afterok:$prepare" "$@" "$here/slurm.sh")
grade=$(submit --dependency "afterok:$shards" "$@" --job-name finetune-grade --output finetune-grade-%j.log \
    --cpus-per-task 1 --mem 4G --time 00:30:00 \
    --wrap "$FINETUNE merge runs/shards/shard-* --out runs/merged && $GRADER runs/merged")
echo "prepare $prepare, then shards $shards, then grade $grade: squeue --me; finetune-grade-$grade.log"
