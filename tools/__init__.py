"""Scripts to run from a checkout: a starter for each tool, and `dev` for developers."""
