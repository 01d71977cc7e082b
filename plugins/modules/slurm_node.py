"""Documentation of the action plugin `slurm_node` (plugins/action/slurm_node.py), for `ansible-doc`."""

DOCUMENTATION = r"""
module: slurm_node
short_description: Take a node out of Slurm for an incident, end or await its jobs, and give it back
description:
  - Runs on Slurm's controller. A node that a person drained, took down or put in maintenance is never touched, nor one
    that another incident holds; the task fails and says so. The command that changes the state asks again.
  - Only jobs that a run's launch.json names are ended; the jobs of others are waited for, until O(deadline_s).
  - Returns C(state_before), C(reason_before), C(state), C(ended_jobs).
options:
  node: {description: The node; empty where only a run's jobs are meant., type: str, default: ""}
  incident: {description: Stands in the node's reason as C(medllm-recover:INCIDENT)., type: str, required: true}
  run: {description: A run whose jobs count too wherever they are., type: str, default: ""}
  runs_directory: {description: Where the runs' directories are., type: str, required: true}
  state:
    description:
      - C(drained), C(down) (a drain while others' jobs are on it), C(in_service).
      - C(held) changes nothing and fails unless this incident holds the node and no job runs on it.
      - C(any) is for O(jobs) alone.
    type: str
    required: true
    choices: [drained, down, in_service, held, any]
  jobs:
    description: C(terminate) lets ranks write a checkpoint, O(grace_s) at most; C(kill) does not; C(leave) leaves them.
    type: str
    default: leave
    choices: [leave, terminate, kill]
  grace_s: {description: Seconds that ranks have to write a checkpoint., type: float, default: 60}
  deadline_s: {description: Seconds that all this may take., type: float, default: 120}
author: [medllm-cluster]
"""

EXAMPLES = r"""
- name: Drain the node, and let its training job write a checkpoint
  slurm_node:
    node: node2
    incident: inc-20261123-0001
    runs_directory: /mnt/lustre/checkpoints
    state: drained
    jobs: terminate
"""
