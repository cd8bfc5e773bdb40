"""What every script and method stands on; nothing here knows of them."""
