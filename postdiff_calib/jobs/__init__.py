"""What a user asks for, a file each: calibrate, worker, verify, export, and what they share."""
