"""What scripts and methods share; nothing here imports them."""
