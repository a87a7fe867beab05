"""What a user asks for, a file each: calibrate, worker, generate, verify, export, and what they share."""
