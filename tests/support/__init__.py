"""What tests share: real processes, and a provider whose behaviour a test chooses."""
