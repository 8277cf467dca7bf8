#!/bin/bash
# One run on Slurm: Ray starts on every node of the allocation, the driver on the first, and all ends with the run.
#
#   sbatch cluster/slurm.sh my.yaml resources.label.actors=8
#
# A job that is preempted is queued again and goes on where it stopped; so does the same command after a timeout.
# Storage, data and models are URIs or folders that every node sees. Lines to look at are marked "change".
#SBATCH --job-name=semievol
#SBATCH --nodes=2                 # change
#SBATCH --ntasks-per-node=1       # one Ray node on each
#SBATCH --exclusive               # Ray takes the machine, and stops every Ray of yours on it at the end
#SBATCH --gpus-per-node=8         # change
#SBATCH --time=24:00:00           # change
#SBATCH --requeue
#SBATCH --output=semievol-%j.log
set -euo pipefail

source .venv/bin/activate         # change: the same Python on every node

# Nobody else on the network may use this cluster: a token of its own for each job, never on a command line.
export RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_TOKEN
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

head="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):6379"

srun --kill-on-bad-exit=1 ray symmetric-run --address "$head" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_ON_NODE" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
  -- env RAY_ADDRESS="$head" python jobs/evolve.py "$@"
