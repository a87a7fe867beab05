"""Mixed-resolution fine-tuning of a denoiser (PostDiff, arXiv 2508.06160, supplementary material F)."""
