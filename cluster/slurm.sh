#!/bin/bash
# One run on Slurm. Ray starts on every node of the allocation, the driver on the first node, and all stop after the run.
#
#   sbatch cluster/slurm.sh my.yaml resources.label.actors=8
#
# A preempted job is queued again and continues where it stopped. After a timeout, submit the same command again.
# Storage, data and models must be URIs or folders that every node mounts. Check the lines marked "change".
#SBATCH --job-name=semievol
#SBATCH --nodes=2                 # change
#SBATCH --ntasks-per-node=1       # one Ray node per machine
#SBATCH --exclusive               # Ray uses the whole machine, and stops all your Ray processes on it at the end
#SBATCH --gpus-per-node=8         # change
#SBATCH --time=24:00:00           # change
#SBATCH --requeue
#SBATCH --output=semievol-%j.log
set -euo pipefail

source .venv/bin/activate         # change: the same Python on every node

# Each job has its own token, so that others on the network cannot use the cluster. It is never on a command line.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):6379"

srun --kill-on-bad-exit=1 ray symmetric-run --address "$head" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_ON_NODE" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
  -- env RAY_ADDRESS="$head" python jobs/evolve.py "$@"
