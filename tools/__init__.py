"""What runs from a checkout: a starter for each tool, and `dev` for developers."""
