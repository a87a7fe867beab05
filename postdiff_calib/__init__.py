"""postdiff: the compute-optimal way to run a text-to-image diffusion model: fewer steps or cheaper steps."""
