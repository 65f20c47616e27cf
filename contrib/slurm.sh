#!/bin/bash
# Does a job in parts: an array of tasks, and a task after them that joins the parts. OUT is on a file system that all nodes have.
#   slurm.sh PARTS MODEL OUT [OPTION…]
#   slurm.sh 8 gemma-4-31B-it out --recipe q4_k_m
#   COMMAND=calibrate MEM=4G slurm.sh 8 gemma-4-31B-it out/imatrix.gguf --text calib.txt
#   MEM=10G slurm.sh 8 gemma-4-31B-it out --recipe q4_0-calibrated --set calibration.groups=8 --text calib.txt
#   COMMAND=verify MEM=2G JOIN="--max-kld 0.1 --html report.html" slurm.sh 8 out/model-q4_k_m.gguf parts \
#     --against gemma-4-31B-it --text eval.txt
# COMMAND is convert, calibrate, sensitivity or verify; JOIN has options for the command that joins, such as limits; CPUS and MEM are those
# of a task; AFTER is a job to wait for. Prints the job that joins.
# If a part fails, run it again and then join: the parts that are finished stay.
#   srun gemma-convert convert MODEL -o OUT OPTION… --part 3/8 && gemma-convert join OUT
set -euo pipefail
parts=${1:?parts} model=${2:?model} out=${3:?out} command=${COMMAND:-convert}
shift 3
join=(gemma-convert join "$out")
if [ "$command" = verify ]; then join=(gemma-convert verify "$model" "$@" --join "$out"); fi

array=$(sbatch --parsable --job-name=gemma-parts --array="1-$parts" ${AFTER:+--dependency="afterok:$AFTER"} --kill-on-invalid-dep=yes \
  --cpus-per-task="${CPUS:-4}" --mem="${MEM:-1G}" --output="%x-%A-%a.log" --wrap="$(printf '%q ' gemma-convert "$command" "$model" -o "$out" "$@" --part auto)")
# `afterok` of an array waits for all of its tasks
sbatch --parsable --job-name=gemma-join --dependency="afterok:$array" --kill-on-invalid-dep=yes --cpus-per-task=1 --mem="${MEM:-1G}" \
  --output="%x-%j.log" --wrap="$(printf '%q ' "${join[@]}") ${JOIN:-}"
