"""The cluster: a scheduler, pools of worker jobs, and what keeps the two in step."""
